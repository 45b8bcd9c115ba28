//! What the user can set: flags, each with an environment variable.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use crate::layers::Origin;
use crate::state::Limits;

/// A context of a million tokens is about 4 MB of text.
const MAX_BODY_BYTES: &str = "8388608";

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

    /// Bytes that a request body may have; more is answered with 413
    #[arg(long, env = "ORPO_SERVE_MAX_BODY_BYTES", value_name = "N", default_value = MAX_BODY_BYTES)]
    pub max_body_bytes: NonZeroUsize,

    /// File with API keys, one a line as NAME:KEY or KEY; every route but /health, /ready and the page at / then wants
    /// one as `Authorization: Bearer KEY` [default: no key is asked for]
    #[arg(long, env = "ORPO_SERVE_API_KEY_FILE", value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,

    /// Origin whose pages may ask from a browser, as https://example.org; repeat it or separate by commas; * for all
    /// [default: none but the server's own]
    #[arg(long, env = "ORPO_SERVE_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    pub cors_origin: Vec<Origin>,

    /// Certificate chain (PEM): serve HTTPS
    #[arg(long, env = "ORPO_SERVE_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of --tls-cert (PEM)
    #[arg(long, env = "ORPO_SERVE_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Form of the log on stderr
    #[arg(long, env = "ORPO_SERVE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Write request bodies, prompts included, to the log
    #[arg(long, env = "ORPO_SERVE_LOG_PROMPTS")]
    pub log_prompts: bool,

    /// Seconds that running requests get to finish when the server is told to stop
    #[arg(long, env = "ORPO_SERVE_DRAIN_TIMEOUT_SECS", value_name = "N", default_value_t = 10)]
    pub drain_timeout_secs: u64,

    /// Stop when stdin reaches its end, so that the server cannot outlive the program that holds the pipe
    #[arg(long, hide = true)]
    pub exit_with_stdin: bool,
}

/// Forms of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// A JSON object a line.
    Json,
}

const EXAMPLES: &str = "\
Examples:
  orpo-serve --model out/checkpoint
  orpo-serve --model out/checkpoint --port 0 --served-model-name tuned
  orpo-serve --model base --chat-template template.jinja --max-queue 8
  orpo-serve --model out/checkpoint --host 0.0.0.0 --api-key-file keys --tls-cert cert.pem --tls-key key.pem";

impl ServeArgs {
    /// What bounds a request.
    pub fn limits(&self) -> Limits {
        Limits {
            max_concurrent: self.max_concurrent.get(),
            max_queue: self.max_queue,
            request_timeout: Duration::from_secs(self.request_timeout_secs.get()),
            max_body_bytes: self.max_body_bytes.get(),
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
