//! What is to be loaded, whoever asks for it.

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::engine::{EngineChoice, Options};
use crate::quantization::Quantization;

/// A model with its adapters, and how it is to be served.
#[derive(Debug, Clone)]
pub struct Request {
    /// A checkpoint directory, a GGUF file, or an id of the hub.
    pub model: PathBuf,
    /// The names of the model, at least one.
    pub names: Vec<String>,
    /// Adapters of it.
    pub adapters: Vec<NamedAdapter>,
    /// The directory of a GGUF file's tokenizer; none for that of the file.
    pub tokenizer: Option<PathBuf>,
    /// A chat template in place of the model's.
    pub chat_template: Option<PathBuf>,
    /// Variables of the chat template.
    pub template_variables: Option<Map<String, Value>>,
    /// The engine.
    pub engine: EngineChoice,
    /// The type to which weights are quantised.
    pub quantize: Option<Quantization>,
    /// Whether files are checked against the hashes of a manifest.
    pub verify: bool,
    /// How the engine is to run.
    pub options: Options,
}

/// An adapter and the name that clients ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedAdapter {
    /// The name.
    pub name: String,
    /// Its PEFT directory.
    pub dir: PathBuf,
}
