//! The options of every command that asks a judge.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;

use super::requests::at_least_one;
use crate::asking::Party;
use crate::body::Edit;
use crate::client::{ApiKey, Client, ClientError, Retry};
use crate::jsonl;
use crate::judge::annotator::Annotator;
use crate::judge::cost::{Estimate, Prices};
use crate::judge::verdicts::VerdictStore;
use crate::judge::way::Wanted;
use crate::judge::{Judge, Pace};
use crate::reasoning::{Format, Reasoning};
use crate::table::count;

/// The file in an output directory that keeps what a judge said.
const VERDICTS: &str = "verdicts.jsonl";

/// A judge and the limits of asking it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Judge")]
pub(super) struct JudgeArgs {
    /// Address of an OpenAI-compatible server that judges, with or without /v1
    #[arg(long, value_name = "URL")]
    pub judge_endpoint: Option<String>,
    /// Model that judges
    #[arg(long, value_name = "MODEL")]
    pub judge_model: Option<String>,
    /// Environment variable with the judge's key [default: ORPO_JUDGE_API_KEY, else OPENAI_API_KEY]
    #[arg(long, value_name = "NAME", conflicts_with = "judge_api_key_file")]
    judge_api_key_env: Option<String>,
    /// File with the judge's key
    #[arg(long, value_name = "FILE")]
    judge_api_key_file: Option<PathBuf>,
    /// Requests to the judge in flight at the same time
    #[arg(long, value_name = "N", default_value = "8", value_parser = at_least_one)]
    judge_concurrency: usize,
    /// Seconds that one try of a request to the judge may take
    #[arg(long, value_name = "N", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    judge_timeout_secs: u64,
    /// Repetitions of a request to the judge that fails with 429, 5xx, or no connection
    #[arg(long, value_name = "N", default_value_t = Retry::default().retries, value_parser = clap::value_parser!(u32).range(..=100))]
    judge_retries: u32,
    /// Set a field of every request to the judge: the value is JSON or a word; `KEY=` leaves out a field that would be sent.
    /// Reasoning models of OpenAI take `--judge-body max_tokens= --judge-body max_completion_tokens=16000 --judge-body
    /// temperature=`
    #[arg(long, value_name = "KEY=VALUE")]
    judge_body: Vec<Edit>,
    /// Reasoning that is taken out of the judge's replies before a verdict is read: `auto` (all known marks), `think`,
    /// `harmony`, START...END, or `none` [default: auto]
    #[arg(long, value_name = "FORMAT")]
    judge_strip_reasoning: Vec<StripArg>,
    /// How a verdict is got where the annotator reads log-probabilities. `auto` tries one way after the other with the first
    /// request; the results say which it was, and only log-probabilities give the official, weighted numbers
    #[arg(long, value_enum, value_name = "WAY", default_value = "auto")]
    judge_verdict: Wanted,
    /// Verdicts on each pair where they are not weighted by log-probabilities: the preference is their mean, or with letters
    /// the verdict of most of them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub judge_samples: u32,
    /// Ask again where the judge's reply is kept but no verdict could be read from it: a refusal, a reply that was cut off,
    /// none or two different verdicts
    #[arg(long)]
    retry_unscored: bool,
    /// Most requests to the judge per minute
    #[arg(long, value_name = "N", value_parser = above_zero)]
    rpm: Option<f64>,
    /// Most tokens to and from the judge per minute
    #[arg(long, value_name = "N", value_parser = above_zero)]
    tpm: Option<f64>,
    /// Price of the judge in US dollars per million prompt tokens
    #[arg(long, value_name = "USD", value_parser = not_negative, requires = "price_out")]
    price_in: Option<f64>,
    /// Price of the judge in US dollars per million reply tokens
    #[arg(long, value_name = "USD", value_parser = not_negative, requires = "price_in")]
    price_out: Option<f64>,
    /// Stop asking before the judge costs more than this many US dollars in this run
    #[arg(long, value_name = "USD", value_parser = not_negative, requires = "price_in")]
    max_cost: Option<f64>,
    /// Agree to the estimated cost
    #[arg(long, short)]
    yes: bool,
    /// File that keeps every request to the judge and its reply; what it holds is not asked again [default: verdicts.jsonl in --out]
    #[arg(long, value_name = "FILE")]
    verdicts: Option<PathBuf>,
}

/// A value of --judge-strip-reasoning.
#[derive(Debug, Clone)]
enum StripArg {
    Nothing,
    Format(Format),
}

impl FromStr for StripArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" { Ok(Self::Nothing) } else { text.parse().map(Self::Format) }
    }
}

fn above_zero(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err("a number above 0 is needed".into()),
    }
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number >= 0.0 && number.is_finite() => Ok(number),
        _ => Err("a number of at least 0 is needed".into()),
    }
}

impl JudgeArgs {
    /// The judge. Its reasoning is taken out in the formats that were named, else in that of `otherwise`.
    ///
    /// # Errors
    /// When its address or its key cannot be used.
    pub(super) fn judge(&self, otherwise: Option<Format>) -> anyhow::Result<Judge> {
        let endpoint = self.judge_endpoint.as_deref().context("--judge-endpoint is needed")?;
        let retry = Retry { retries: self.judge_retries, ..Retry::default() };
        Ok(Judge {
            client: Client::new(endpoint, self.key()?, Duration::from_secs(self.judge_timeout_secs), retry)?,
            party: Party::Judge,
            concurrency: self.judge_concurrency,
            pace: Pace::new(self.rpm, self.tpm),
            prices: self.price_in.zip(self.price_out).map(|(prompt, completion)| Prices { prompt, completion }),
            max_cost: self.max_cost,
            edits: self.judge_body.iter().cloned().collect(),
            reasoning: self.reasoning(otherwise),
            retry_unscored: self.retry_unscored,
            used: Mutex::default(),
        })
    }

    /// The annotator in each of the ways that the flags allow.
    ///
    /// # Errors
    /// When it cannot be used so.
    pub(super) fn ways(&self, annotator: &Annotator) -> anyhow::Result<Vec<Annotator>> {
        annotator.ways(self.judge_verdict, self.judge_samples).map_err(anyhow::Error::msg)
    }

    /// Refuses a way of getting verdicts other than from the judge's text, which is all that `prompts` allow.
    ///
    /// # Errors
    /// When there is one.
    pub(super) fn check_text(&self, prompts: &str) -> anyhow::Result<()> {
        ensure!(
            matches!(self.judge_verdict, Wanted::Auto | Wanted::Text),
            "{prompts} give verdicts in the judge's text; leave out --judge-verdict"
        );
        Ok(())
    }

    fn reasoning(&self, otherwise: Option<Format>) -> Reasoning {
        let named = self.judge_strip_reasoning.iter().filter_map(|arg| match arg {
            StripArg::Nothing => None,
            StripArg::Format(format) => Some(format.clone()),
        });
        if self.judge_strip_reasoning.is_empty() { Reasoning::new(otherwise) } else { Reasoning::new(named) }
    }

    /// Says on stderr how to ask again for verdicts that could not be read.
    pub(super) fn advise_on_unread(&self) {
        if !self.retry_unscored {
            eprintln!("note: --retry-unscored asks the judge again where its reply holds no verdict");
        }
    }

    /// Finds out whether the judge is there and takes the key. One that has no list of models is taken to be.
    ///
    /// # Errors
    /// When it is not there, or refuses.
    pub(super) fn check(&self, runtime: &tokio::runtime::Runtime) -> anyhow::Result<()> {
        match runtime.block_on(self.judge(None)?.client.models_soon()) {
            Err(error @ (ClientError::Unreachable { .. } | ClientError::Status { status: 401 | 403, .. })) => {
                Err(error).context("the judge cannot be asked")
            }
            _ => Ok(()),
        }
    }

    fn key(&self) -> anyhow::Result<Option<ApiKey>> {
        if let Some(path) = &self.judge_api_key_file {
            let key = jsonl::read_text(path)?;
            ensure!(!key.trim().is_empty(), "cannot use `{}`: it holds no key", path.display());
            return Ok(Some(ApiKey::new(key.trim())));
        }
        let set = |name: &str| std::env::var(name).ok().map(|key| key.trim().to_owned()).filter(|key| !key.is_empty());
        if let Some(name) = &self.judge_api_key_env {
            let key = set(name).with_context(|| format!("--judge-api-key-env: `{name}` is not set"))?;
            return Ok(Some(ApiKey::new(key)));
        }
        Ok(set("ORPO_JUDGE_API_KEY").or_else(|| set("OPENAI_API_KEY")).map(ApiKey::new))
    }

    /// The verdict store: the file that was named, else one in the output directory, else none that lasts.
    ///
    /// # Errors
    /// When it cannot be used.
    pub(super) fn open_verdicts(&self, out: Option<&Path>) -> anyhow::Result<VerdictStore> {
        let path = match (&self.verdicts, out) {
            (Some(path), _) => path.clone(),
            (None, Some(out)) => {
                std::fs::create_dir_all(out).with_context(|| format!("cannot use `{}`", out.display()))?;
                out.join(VERDICTS)
            }
            (None, None) => return Ok(VerdictStore::in_memory()),
        };
        Ok(VerdictStore::open(&path)?)
    }

    /// Says on stderr what the judge will be asked, and what it costs at most. Where it costs something, goes on only if
    /// the user agrees, by `--yes` or at the terminal.
    ///
    /// # Errors
    /// When the user does not agree.
    pub(super) fn confirm(&self, estimate: &Estimate, cached: usize) -> anyhow::Result<()> {
        eprintln!("{}", describe(estimate, cached, self.max_cost));
        if self.yes || estimate.dollars.is_none_or(|dollars| dollars == 0.0) {
            return Ok(());
        }
        if !io::stdin().is_terminal() {
            bail!("this costs money; add --yes to agree, and --max-cost to limit it");
        }
        eprint!("go on? [y/N] ");
        io::stderr().flush().context("cannot write to stderr")?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
        ensure!(matches!(answer.trim(), "y" | "Y" | "yes"), "not agreed; nothing was asked");
        Ok(())
    }
}

fn describe(estimate: &Estimate, cached: usize, cap: Option<f64>) -> String {
    let Estimate { requests, prompt_tokens, reply_tokens, dollars } = estimate;
    let mut text = format!("judge: {} to ask, {cached} answered before", count(*requests, "request"));
    if *requests > 0 {
        text += &format!("; about {prompt_tokens} tokens to send, at most {reply_tokens} to get");
        if let Some(dollars) = dollars {
            text += &format!("; at most {dollars:.2} US dollars");
        }
        if let Some(cap) = cap {
            text += &format!(", stopping at {cap:.2}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_described() {
        let estimate = Estimate { requests: 3, prompt_tokens: 900, reply_tokens: 6, dollars: Some(1.234) };
        assert_eq!(
            describe(&estimate, 2, Some(5.0)),
            "judge: 3 requests to ask, 2 answered before; about 900 tokens to send, at most 6 to get; at most 1.23 US \
             dollars, stopping at 5.00"
        );
        let nothing = Estimate::default();
        assert_eq!(describe(&nothing, 2, None), "judge: 0 requests to ask, 2 answered before");
    }
}
