//! What the user can set: flags, each with an environment variable.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use crate::engine::EngineChoice;
use crate::state::Limits;

/// How large a request body may be. A context of a million tokens is about 4 MB of text.
const MAX_BODY_BYTES: usize = 8 << 20;

/// Serve a Hugging Face checkpoint directory over an OpenAI-compatible HTTP API.
///
/// Prints `listening on http://HOST:PORT` on stdout once the model is loaded; logs go to stderr (RUST_LOG sets their
/// level). Stops on SIGINT and SIGTERM: running requests are finished first.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "orpo-serve", version, after_help = EXAMPLES)]
pub struct ServeArgs {
    /// Checkpoint directory: config.json, model.safetensors (or shards), tokenizer.json
    #[arg(long, env = "ORPO_SERVE_MODEL", value_name = "DIR")]
    pub model: PathBuf,

    /// Address to listen on
    #[arg(long, env = "ORPO_SERVE_HOST", default_value = "127.0.0.1")]
    pub host: String,

    /// Port to listen on; 0 picks a free one
    #[arg(long, env = "ORPO_SERVE_PORT", default_value_t = 8000)]
    pub port: u16,

    /// Name that clients ask for [default: the name of the model directory]
    #[arg(long, env = "ORPO_SERVE_SERVED_MODEL_NAME", value_name = "NAME")]
    pub served_model_name: Option<String>,

    /// Chat template (jinja) to use in place of the model's
    #[arg(long, env = "ORPO_SERVE_CHAT_TEMPLATE", value_name = "FILE")]
    pub chat_template: Option<PathBuf>,

    /// What computes the tokens
    #[arg(long, env = "ORPO_SERVE_ENGINE", value_name = "ENGINE", value_enum, default_value_t)]
    pub engine: EngineChoice,

    /// Requests that generate at a time; on a CPU more than one is not faster, and only with one is a reply the same
    /// to the bit whatever runs beside it
    #[arg(long, env = "ORPO_SERVE_MAX_CONCURRENT", value_name = "N", default_value = "1")]
    pub max_concurrent: NonZeroUsize,

    /// Requests that may wait; more are answered with 429
    #[arg(long, env = "ORPO_SERVE_MAX_QUEUE", value_name = "N", default_value_t = 64)]
    pub max_queue: usize,

    /// Seconds a request may take, waiting included
    #[arg(long, env = "ORPO_SERVE_REQUEST_TIMEOUT_SECS", value_name = "N", default_value = "600")]
    pub request_timeout_secs: NonZeroU64,

    /// Seconds that running requests get to finish when the server is told to stop
    #[arg(long, env = "ORPO_SERVE_DRAIN_TIMEOUT_SECS", value_name = "N", default_value_t = 10)]
    pub drain_timeout_secs: u64,

    /// Stop when stdin reaches its end, so that the server cannot outlive the program that holds the pipe
    #[arg(long, hide = true)]
    pub exit_with_stdin: bool,
}

const EXAMPLES: &str = "\
Examples:
  orpo-serve --model out/checkpoint
  orpo-serve --model out/checkpoint --port 0 --served-model-name tuned
  orpo-serve --model base --chat-template template.jinja --max-queue 8";

impl ServeArgs {
    /// What bounds a request.
    pub fn limits(&self) -> Limits {
        Limits {
            max_concurrent: self.max_concurrent.get(),
            max_queue: self.max_queue,
            request_timeout: Duration::from_secs(self.request_timeout_secs.get()),
            max_body_bytes: MAX_BODY_BYTES,
        }
    }

    /// The name clients ask for: as given, else that of the model directory.
    pub fn model_name(&self) -> String {
        self.served_model_name.clone().unwrap_or_else(|| {
            let dir = self.model.canonicalize().unwrap_or_else(|_| self.model.clone());
            dir.file_name().map_or_else(|| "model".to_string(), |name| name.to_string_lossy().into_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[test]
    fn every_visible_flag_has_an_environment_variable() {
        for argument in ServeArgs::command().get_arguments().filter(|argument| !argument.is_hide_set()) {
            let Some(long) = argument.get_long() else { continue };
            let expected = format!("ORPO_SERVE_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(argument.get_env(), Some(expected.as_ref()), "--{long}");
        }
    }

    #[test]
    fn the_model_is_named_after_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("tuned");
        std::fs::create_dir(&model).unwrap();
        let arguments =
            |model: PathBuf| ServeArgs::parse_from(["orpo-serve".into(), "--model".into(), model.into_os_string()]);
        assert_eq!(arguments(model.clone()).model_name(), "tuned");
        assert_eq!(arguments(model.join("../tuned/.")).model_name(), "tuned");
    }
}
