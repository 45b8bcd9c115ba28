//! `config.json`, in Hugging Face's spelling.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::TrainError;

/// What the decoder needs to know of a `config.json`. Architecture: `llama`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Positions the model can use.
    pub max_position_embeddings: usize,
    /// Added to the mean square in the norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Standard deviation of a random initialisation.
    pub initializer_range: f64,
}

impl ModelConfig {
    /// Reads `config.json` of a checkpoint directory.
    ///
    /// # Errors
    /// When it is missing or is not JSON, or as [`ModelConfig::from_json`].
    pub fn from_dir(dir: &Path) -> Result<(Self, Value), TrainError> {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|e| TrainError::read(&path, e))?;
        let json: Value = serde_json::from_str(&text).map_err(|e| TrainError::invalid(&path, e))?;
        let config = Self::from_json(&json).map_err(|reason| TrainError::invalid(&path, reason))?;
        Ok((config, json))
    }

    /// Reads and checks the fields.
    ///
    /// # Errors
    /// A sentence that names the field and what is wrong with it.
    pub fn from_json(json: &Value) -> Result<Self, String> {
        let model_type = json["model_type"].as_str().ok_or("`model_type` is missing")?;
        if model_type != "llama" {
            return Err(format!("`model_type` is `{model_type}`; supported: `llama`"));
        }
        for (field, neutral) in
            [("attention_bias", Value::Bool(false)), ("mlp_bias", Value::Bool(false)), ("hidden_act", "silu".into())]
        {
            if json.get(field).is_some_and(|value| !value.is_null() && *value != neutral) {
                return Err(format!("`{field}` is {}; supported: {neutral}", json[field]));
            }
        }
        let count = |field: &str| optional_count(json, field)?.ok_or(format!("`{field}` is missing"));
        let heads = count("num_attention_heads")?;
        let hidden_size = count("hidden_size")?;
        let rope = &json["rope_parameters"];
        for (field, kind) in [
            ("rope_scaling", json["rope_scaling"].get("rope_type").or(json["rope_scaling"].get("type"))),
            ("rope_parameters", rope.get("rope_type")),
        ] {
            if let Some(kind) = kind.filter(|kind| *kind != "default") {
                return Err(format!("`{field}` asks for rope type {kind}; supported: \"default\""));
            }
        }
        let rope_theta = rope["rope_theta"].as_f64().or(json["rope_theta"].as_f64()).unwrap_or(10_000.0);
        let config = Self {
            hidden_size,
            intermediate_size: count("intermediate_size")?,
            num_hidden_layers: count("num_hidden_layers")?,
            num_attention_heads: heads,
            num_key_value_heads: optional_count(json, "num_key_value_heads")?.unwrap_or(heads),
            head_dim: optional_count(json, "head_dim")?.unwrap_or(hidden_size / heads),
            vocab_size: count("vocab_size")?,
            max_position_embeddings: count("max_position_embeddings")?,
            rms_norm_eps: json["rms_norm_eps"].as_f64().unwrap_or(1e-6),
            rope_theta,
            tie_word_embeddings: json["tie_word_embeddings"].as_bool().unwrap_or(false),
            initializer_range: json["initializer_range"].as_f64().unwrap_or(0.02),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return Err(format!(
                "`num_attention_heads` = {} is not a multiple of `num_key_value_heads` = {}",
                self.num_attention_heads, self.num_key_value_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("`head_dim` = {} is odd, which rotary positions do not allow", self.head_dim));
        }
        Ok(())
    }

    /// The `config.json` of a new model, loadable by `transformers.AutoModelForCausalLM`.
    pub fn to_json(&self) -> Value {
        serde_json::json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "attention_bias": false,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": null,
            "mlp_bias": false,
            "pretraining_tp": 1,
            "tie_word_embeddings": self.tie_word_embeddings,
            "initializer_range": self.initializer_range,
            "torch_dtype": "float32",
            "use_cache": true,
        })
    }
}

fn optional_count(json: &Value, field: &str) -> Result<Option<usize>, String> {
    match json.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0) {
            Some(n) => Ok(Some(n)),
            None => Err(format!("`{field}` must be a positive whole number, got {value}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config() -> Value {
        json!({"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
               "num_attention_heads": 2, "vocab_size": 10, "max_position_embeddings": 32})
    }

    #[test]
    fn what_is_written_is_read_again() {
        let config = ModelConfig::from_json(&config()).unwrap();
        assert_eq!((config.num_key_value_heads, config.head_dim), (2, 4));
        assert_eq!(ModelConfig::from_json(&config.to_json()).unwrap(), config);
    }

    #[test]
    fn both_spellings_of_rope_theta_are_read() {
        let mut json = config();
        json["rope_theta"] = json!(5e5);
        assert_eq!(ModelConfig::from_json(&json).unwrap().rope_theta, 5e5);
        json["rope_parameters"] = json!({"rope_theta": 1e6, "rope_type": "default"});
        assert_eq!(ModelConfig::from_json(&json).unwrap().rope_theta, 1e6);
    }

    #[test]
    fn what_cannot_be_computed_is_refused_by_name() {
        for (field, value) in [
            ("model_type", json!("opt")),
            ("hidden_act", json!("gelu")),
            ("attention_bias", json!(true)),
            ("num_key_value_heads", json!(3)),
            ("vocab_size", json!(0)),
            ("hidden_size", Value::Null),
            ("head_dim", json!(3)),
            ("rope_scaling", json!({"type": "linear", "factor": 2.0})),
            ("rope_scaling", json!({"rope_type": "llama3"})),
        ] {
            let mut json = config();
            json[field] = value;
            let error = ModelConfig::from_json(&json).unwrap_err();
            assert!(error.contains(&format!("`{field}`")), "{field}: {error}");
        }
    }
}
