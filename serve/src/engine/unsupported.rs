//! Why an engine does not compute a model.

use serde_json::Value;

use crate::checkpoint::Checkpoint;

/// Why a model cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedModel {
    /// The architecture is unknown or untested.
    #[error("architecture `{found}` is not supported; serve a model of one of {supported}")]
    Architecture {
        /// `architectures` of config.json.
        found: String,
        /// Those that are, and by what.
        supported: String,
    },
    /// A feature of the config would be computed incorrectly.
    #[error("`{key}` = {value} in config.json is not supported for {architecture}")]
    Feature {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// The architecture.
        architecture: String,
    },
    /// A required key is absent or of the wrong type.
    #[error("`{key}` in config.json is missing or not a positive number")]
    Key {
        /// The key.
        key: &'static str,
    },
}

impl UnsupportedModel {
    /// The architecture that a checkpoint has, or what its `config.json` says instead, or `none`.
    pub fn architecture_of(checkpoint: &Checkpoint) -> String {
        if let Some(model) = &checkpoint.model {
            return model.family.architecture().to_string();
        }
        let config = &checkpoint.config;
        let text = |key: &str| config.get(key).and_then(Value::as_str);
        match config.get("architectures").and_then(|names| names[0].as_str()).or(text("model_type")) {
            Some("phi3") => "Phi3ForCausalLM".to_string(),
            found => found.unwrap_or("none").to_string(),
        }
    }
}
