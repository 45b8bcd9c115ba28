//! `orpo run` and `orpo plan`: base model and preference data → variants, trained, served, measured, compared, reported.
//!
//! A [`file::Pipeline`] becomes a list of [`stages::Stage`]s. What decides on a stage's result is hashed into its
//! [`record::Inputs`], which are compared with the [`record::Record`] of its last run: [`record::decide`] says whether there
//! is anything to do, and why. [`run`] does it, [`plan`] only tells.

mod estimate;
pub mod file;
mod inputs;
pub mod manifest;
pub mod options;
pub mod plan;
pub mod record;
pub mod run;
pub mod stages;
mod validate;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};

use self::file::Pipeline;
use self::stages::Kind;

/// What a person can say about one invocation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The last kind of stages that is run.
    pub until: Option<Kind>,
    /// Models that are served elsewhere, and where.
    pub endpoints: BTreeMap<String, String>,
    /// Where people reach the server and the report, for the closing lines.
    pub public_url: Option<String>,
}

impl Options {
    /// Checks that the models exist.
    ///
    /// # Errors
    /// With the name that does not.
    pub fn check(&self, pipeline: &Pipeline) -> Result<()> {
        let models = pipeline.models();
        for name in self.endpoints.keys() {
            ensure!(
                models.contains(&name.as_str()),
                "--endpoint: there is no model `{name}`; the models are {}",
                models.join(", ")
            );
        }
        Ok(())
    }

    /// Whether stages of this kind are wanted.
    pub fn wants(&self, kind: Kind) -> bool {
        self.until.is_none_or(|until| kind <= until)
    }
}

/// The error of a base model in `dir` without the chat template that something needs.
fn no_template(dir: &Path) -> anyhow::Error {
    anyhow!("the base model `{}` has no chat template; name a file with one as `base.chat_template`", dir.display())
}

/// A model and its address, as `--endpoint` has it.
///
/// # Errors
/// When the text is something else.
pub fn endpoint(text: &str) -> Result<(String, String), String> {
    let parsed = text.split_once('=').context("no `=`").and_then(|(model, url)| {
        ensure!(!model.is_empty() && (url.starts_with("http://") || url.starts_with("https://")), "no address");
        Ok((model.to_owned(), url.to_owned()))
    });
    parsed.map_err(|_| "it must be written MODEL=URL, as in orpo=http://127.0.0.1:8000".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_model_and_an_address() {
        assert_eq!(endpoint("orpo=http://h:1"), Ok(("orpo".into(), "http://h:1".into())));
        for wrong in ["orpo", "=http://h", "orpo=h:1", "http://h:1"] {
            assert!(endpoint(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn until_is_the_last_kind_that_is_wanted() {
        let options = Options { until: Some(Kind::Ifeval), ..Options::default() };
        assert!(options.wants(Kind::Train) && options.wants(Kind::Ifeval) && !options.wants(Kind::Compare));
        assert!(Options::default().wants(Kind::Report));
    }
}
