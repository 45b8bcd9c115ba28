//! What the user can set: flags, each with an environment variable.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use orpo_chat::RESERVED_VARIABLES;
use serde_json::{Map, Value};

use crate::engine::{EngineChoice, Options};
use crate::host::host_name;
use crate::limits::Limits;
use crate::load::{NamedAdapter, Request, hub};
use crate::origin::Origin;
use crate::quantization::Quantization;

/// A context of a million tokens is about 4 MB of text.
const MAX_BODY_BYTES: &str = "8388608";

/// Serve a Hugging Face checkpoint directory over an OpenAI-compatible HTTP API.
///
/// Prints `listening on http://HOST:PORT` on stdout once the model is loaded; logs go to stderr (RUST_LOG sets their
/// level). Stops on SIGINT and SIGTERM: running requests are finished first.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "orpo-serve", version, after_help = EXAMPLES)]
pub struct ServeArgs {
    /// Checkpoint directory (config.json, model.safetensors or shards, tokenizer.json), a GGUF file, or a model of the
    /// Hugging Face hub: owner/name[@revision]
    #[arg(long, env = "ORPO_SERVE_MODEL", value_name = "DIR|FILE|HF_ID")]
    pub model: PathBuf,

    /// Address to listen on
    #[arg(long, env = "ORPO_SERVE_HOST", default_value = "127.0.0.1")]
    pub host: String,

    /// Port to listen on; 0 picks a free one
    #[arg(long, env = "ORPO_SERVE_PORT", default_value_t = 8000)]
    pub port: u16,

    /// Name that clients ask for; repeated (or with commas) further names for the same model, while answers carry the
    /// first [default: the name of the model directory, or the hub id]
    #[arg(long, env = "ORPO_SERVE_SERVED_MODEL_NAME", value_name = "NAME", value_delimiter = ',')]
    pub served_model_name: Vec<String>,

    /// LoRA adapter of the model, in PEFT's layout, served beside it under NAME; repeated (or with commas) several.
    /// They are computed from one copy of the weights; with mistralrs each is merged into a copy of its own, in memory and,
    /// while the server runs, below TMPDIR
    #[arg(long, env = "ORPO_SERVE_ADAPTER", value_name = "NAME=DIR", value_delimiter = ',', value_parser = named_adapter)]
    pub adapter: Vec<NamedAdapter>,

    /// Load and unload adapters while the server runs, by POST to /v1/load_lora_adapter and /v1/unload_lora_adapter: whoever
    /// has a key may then name any directory that the server can read. Not with mistralrs
    #[arg(long, env = "ORPO_SERVE_ALLOW_ADAPTER_UPDATES", requires = "api_key_file", value_parser = clap::builder::BoolishValueParser::new())]
    pub allow_adapter_updates: bool,

    /// Directory of the tokenizer and chat template of a GGUF file [default: that of the file]
    #[arg(long, env = "ORPO_SERVE_TOKENIZER", value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,

    /// Quantise the weights while loading: less memory and faster decoding, at the price of other log-probabilities
    #[arg(long, env = "ORPO_SERVE_QUANTIZE", value_name = "TYPE")]
    pub quantize: Option<Quantization>,

    /// Do not check the files against the hashes of orpo_manifest.json
    #[arg(long, env = "ORPO_SERVE_NO_VERIFY", value_parser = clap::builder::BoolishValueParser::new())]
    pub no_verify: bool,

    /// Chat template (jinja) to use in place of the model's
    #[arg(long, env = "ORPO_SERVE_CHAT_TEMPLATE", value_name = "FILE")]
    pub chat_template: Option<PathBuf>,

    /// Variables of the chat template where a request's `chat_template_kwargs` do not set them, as a JSON object, for example
    /// '{"enable_thinking": false}'
    #[arg(long, env = "ORPO_SERVE_DEFAULT_CHAT_TEMPLATE_KWARGS", value_name = "JSON", value_parser = variables)]
    pub default_chat_template_kwargs: Option<Map<String, Value>>,

    /// What computes the tokens: native, the decoder that trains, for every family that trains and its GGUF files; mistralrs
    /// for others, in builds with the feature of that name
    #[arg(long, env = "ORPO_SERVE_ENGINE", value_name = "ENGINE", value_enum, default_value_t)]
    pub engine: EngineChoice,

    /// Requests that generate at a time. They share each step, and every reply is bit-identical whatever else runs; with
    /// mistralrs that holds only for one, and more are not faster [default: 16, and 1 with mistralrs]
    #[arg(long, env = "ORPO_SERVE_MAX_CONCURRENT", value_name = "N")]
    pub max_concurrent: Option<NonZeroUsize>,

    /// Bytes of the cache for keys and values. What requests do not need just now keeps the beginnings of earlier ones
    /// [default: a quarter of the available memory, but no more than --max-concurrent full contexts]
    #[arg(long, env = "ORPO_SERVE_KV_CACHE_BYTES", value_name = "N")]
    pub kv_cache_bytes: Option<NonZeroUsize>,

    /// Requests that may wait; more are answered with 429
    #[arg(long, env = "ORPO_SERVE_MAX_QUEUE", value_name = "N", default_value_t = 64)]
    pub max_queue: usize,

    /// Seconds a request may take, waiting included
    #[arg(long, env = "ORPO_SERVE_REQUEST_TIMEOUT_SECS", value_name = "N", default_value = "600")]
    pub request_timeout_secs: NonZeroU64,

    /// Seconds that a request body may take to arrive
    #[arg(long, env = "ORPO_SERVE_BODY_TIMEOUT_SECS", value_name = "N", default_value = "60")]
    pub body_timeout_secs: NonZeroU64,

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

    /// Further name by which clients may call the server, in addition to localhost, IP addresses and --host; repeat it or separate
    /// by commas. Only for a server without API keys [default: any name, unless the server listens on loopback]
    #[arg(long, env = "ORPO_SERVE_ALLOWED_HOST", value_name = "NAME", value_delimiter = ',', value_parser = host_name)]
    pub allowed_host: Vec<String>,

    /// HTML file to offer at /report, as `orpo-eval report` writes it; it may appear later
    #[arg(long, env = "ORPO_SERVE_REPORT", value_name = "FILE")]
    pub report: Option<PathBuf>,

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

fn named_adapter(text: &str) -> Result<NamedAdapter, String> {
    match text.split_once('=') {
        Some((name, dir)) if !name.is_empty() && !dir.is_empty() => {
            Ok(NamedAdapter { name: name.into(), dir: dir.into() })
        }
        _ => Err("it must be written NAME=DIR".into()),
    }
}

/// Variables of a chat template.
fn variables(text: &str) -> Result<Map<String, Value>, String> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    let variables: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| format!("it must be a JSON object: {error}"))?;
    match RESERVED_VARIABLES.iter().find(|name| variables.contains_key(**name)) {
        Some(name) => Err(format!("`{name}` is for each request to say")),
        None => Ok(variables),
    }
}

const EXAMPLES: &str = "\
Examples:
  orpo-serve --model out/checkpoint
  orpo-serve --model out/checkpoint --port 0 --served-model-name tuned
  orpo-serve --model owner/base --adapter tuned=out/adapter
  orpo-serve --model out/checkpoint --quantize q8_0
  orpo-serve --model base --chat-template template.jinja --max-queue 8
  orpo-serve --model out/checkpoint --host 0.0.0.0 --api-key-file keys --tls-cert cert.pem --tls-key key.pem";

impl ServeArgs {
    /// What bounds a request.
    pub fn limits(&self) -> Limits {
        Limits {
            max_concurrent: self.max_concurrent.map_or(1, NonZeroUsize::get),
            max_queue: self.max_queue,
            request_timeout: Duration::from_secs(self.request_timeout_secs.get()),
            body_timeout: Duration::from_secs(self.body_timeout_secs.get()),
            max_body_bytes: self.max_body_bytes.get(),
        }
    }

    /// What is to be loaded.
    pub fn request(&self) -> Request {
        Request {
            model: self.model.clone(),
            names: self.model_names(),
            adapters: self.adapter.clone(),
            tokenizer: self.tokenizer.clone(),
            chat_template: self.chat_template.clone(),
            template_variables: self.default_chat_template_kwargs.clone(),
            engine: self.engine,
            quantize: self.quantize,
            verify: !self.no_verify,
            options: Options {
                max_concurrent: self.max_concurrent,
                kv_cache_bytes: self.kv_cache_bytes.map(NonZeroUsize::get),
            },
        }
    }

    /// The names of the model, at least one: as given, else the hub id or that of the directory or file.
    pub fn model_names(&self) -> Vec<String> {
        if !self.served_model_name.is_empty() {
            return self.served_model_name.clone();
        }
        if !self.model.exists() && hub::is_id(&self.model) {
            let id = self.model.to_string_lossy();
            let id = id.strip_prefix("hub:").unwrap_or(&id);
            return vec![id.split('@').next().unwrap_or(id).to_string()];
        }
        let path = self.model.canonicalize().unwrap_or_else(|_| self.model.clone());
        let name = if path.is_file() { path.file_stem() } else { path.file_name() };
        vec![name.map_or_else(|| "model".to_string(), |name| name.to_string_lossy().into_owned())]
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
        assert_eq!(arguments(model.clone()).model_names(), ["tuned"]);
        assert_eq!(arguments(model.join("../tuned/.")).model_names(), ["tuned"]);
        assert_eq!(arguments("hub:acme/tiny@v2".into()).model_names(), ["acme/tiny"]);
    }

    #[test]
    fn variables_of_the_template_are_an_object() {
        let parsed = |json: &str| {
            let line = ["orpo-serve", "--model", "m", "--default-chat-template-kwargs", json];
            ServeArgs::try_parse_from(line).map(|args| args.default_chat_template_kwargs.unwrap())
        };
        let given = parsed(r#"{"enable_thinking": false}"#).unwrap();
        assert_eq!(Value::Object(given), serde_json::json!({"enable_thinking": false}));
        assert!(parsed("").unwrap().is_empty());
        for wrong in ["[]", "enable_thinking=false", r#"{"tools": []}"#] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_and_adapters_are_repeated_or_listed() {
        let line = "orpo-serve --model m --served-model-name a,b --served-model-name c --adapter x=d/x --adapter y=e=f";
        let args = ServeArgs::parse_from(line.split(' '));
        assert_eq!(args.model_names(), ["a", "b", "c"]);
        let adapter = |name: &str, dir: &str| NamedAdapter { name: name.into(), dir: dir.into() };
        assert_eq!(args.adapter, [adapter("x", "d/x"), adapter("y", "e=f")]);
        for wrong in ["x", "=d", "x="] {
            assert!(ServeArgs::try_parse_from(["orpo-serve", "--model", "m", "--adapter", wrong]).is_err());
        }
    }
}
