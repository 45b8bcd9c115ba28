//! Phi-3, which only mistralrs computes: its `config.json` in the spelling that mistralrs reads.

use serde_json::{Map, Value, json};

use super::{CACHE_STEP, EngineConfig, PHI3, whole_cache_steps};
use crate::engine::unsupported::UnsupportedModel;

/// Rewrites a `config.json` of transformers 4 or 5.
///
/// # Errors
/// [`UnsupportedModel`] for what would be computed incorrectly.
pub(super) fn rewritten(config: &Map<String, Value>) -> Result<EngineConfig, UnsupportedModel> {
    let mut config = Rewrite(config.clone());
    config.defaults()?;
    config.rope()?;
    for (key, neutral) in [("mlp_bias", json!(false)), ("attention_bias", json!(false))] {
        config.require(key, &neutral)?;
    }
    config.require("quantization_config", &Value::Null)?;
    config.require("head_dim", &json!(config.positive("hidden_size")? / config.positive("num_attention_heads")?))?;
    let positions = config.positive("max_position_embeddings")?;
    let context_length = config.bound_context(positions);
    Ok(EngineConfig { config: config.0, positions, context_length })
}

struct Rewrite(Map<String, Value>);

impl Rewrite {
    fn get(&self, key: &str) -> &Value {
        self.0.get(key).unwrap_or(&Value::Null)
    }

    fn default(&mut self, key: &str, value: Value) {
        if self.get(key).is_null() {
            self.0.insert(key.to_string(), value);
        }
    }

    fn positive(&self, key: &'static str) -> Result<usize, UnsupportedModel> {
        let number = self.get(key).as_u64().filter(|&value| value > 0);
        number.and_then(|number| usize::try_from(number).ok()).ok_or(UnsupportedModel::Key { key })
    }

    fn refuse(key: &'static str, value: &Value) -> UnsupportedModel {
        UnsupportedModel::Feature { key, value: value.to_string(), architecture: PHI3.into() }
    }

    /// Refuses what mistralrs passes over, unless it says what mistralrs does.
    fn require(&self, key: &'static str, neutral: &Value) -> Result<(), UnsupportedModel> {
        let value = self.get(key);
        if value.is_null() || value == neutral { Ok(()) } else { Err(Self::refuse(key, value)) }
    }

    /// Keys that `transformers` leaves out where they have its default, and mistralrs requires.
    fn defaults(&mut self) -> Result<(), UnsupportedModel> {
        let heads = self.positive("num_attention_heads")?;
        let positions = self.positive("max_position_embeddings")?;
        self.positive("num_hidden_layers")?;
        self.default("num_key_value_heads", json!(heads));
        self.default("rms_norm_eps", json!(1e-6));
        self.default("hidden_act", json!("silu"));
        self.default("original_max_position_embeddings", json!(positions));
        self.0.insert("architectures".into(), json!([PHI3]));
        self.0.insert("torch_dtype".into(), json!("float32"));
        self.0.remove("dtype");
        Ok(())
    }

    /// transformers 5 writes `rope_parameters: {rope_type, rope_theta, ...}` for what 4 wrote as `rope_theta` and
    /// `rope_scaling: {rope_type or type, ...}`. What `rope_parameters` says comes first, unless `rope_scaling` stands for
    /// all of it.
    fn rope(&mut self) -> Result<(), UnsupportedModel> {
        let older = self.0.remove("rope_scaling").filter(|value| value.as_object().is_none_or(|map| !map.is_empty()));
        let newer = self.0.remove("rope_parameters");
        let mut scaling = match older.filter(|value| !value.is_null()).or(newer).unwrap_or(Value::Null) {
            Value::Null => Map::new(),
            Value::Object(scaling) => scaling,
            other => return Err(Self::refuse("rope_scaling", &other)),
        };
        for key in ["rope_theta", "partial_rotary_factor"] {
            if let Some(value) = scaling.remove(key) {
                self.0.insert(key.into(), value);
            }
        }
        self.default("rope_theta", json!(10_000.0));
        let kind = scaling.get("rope_type").or_else(|| scaling.get("type")).cloned().unwrap_or(Value::Null);
        match kind.as_str() {
            None if scaling.is_empty() => Ok(()),
            Some("default") => Ok(()),
            Some("longrope" | "su") => {
                scaling.insert("rope_type".into(), kind.clone());
                scaling.insert("type".into(), kind);
                self.0.insert("rope_scaling".into(), Value::Object(scaling));
                Ok(())
            }
            _ => Err(Self::refuse("rope_scaling", &Value::Object(scaling))),
        }
    }

    /// Bounds the context where mistralrs would be wrong or fail beyond it.
    fn bound_context(&mut self, positions: usize) -> usize {
        // A window smaller than the context is not computed exactly; within the window it has no effect.
        let window = self.get("sliding_window").as_u64().and_then(|window| usize::try_from(window).ok());
        self.0.insert("sliding_window".into(), Value::Null);
        let context = window.unwrap_or(positions).min(positions);
        if self.get("rope_scaling").is_null() {
            self.0.insert("max_position_embeddings".into(), json!(whole_cache_steps(positions)));
            return context;
        }
        // Here the rotary frequencies depend on the number of positions, which must stay.
        if positions > CACHE_STEP { context.min(positions / CACHE_STEP * CACHE_STEP) } else { context }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(extra: Value) -> Result<EngineConfig, UnsupportedModel> {
        let mut config = json!({
            "architectures": [PHI3], "hidden_size": 64, "num_attention_heads": 8, "num_hidden_layers": 2,
            "max_position_embeddings": 1000, "vocab_size": 512, "intermediate_size": 172
        });
        for (key, value) in extra.as_object().unwrap() {
            config[key] = value.clone();
        }
        rewritten(config.as_object().unwrap())
    }

    #[test]
    fn transformers_5_spelling_becomes_that_of_4() {
        let staged = config(json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_theta": 1e4}));
        let staged = staged.unwrap();
        assert_eq!((&staged.config["rope_theta"], &staged.config["num_key_value_heads"]), (&json!(5e5), &json!(8)));
        assert!(!staged.config.contains_key("rope_scaling") && !staged.config.contains_key("rope_parameters"));
        // With no base of the frequencies, which transformers leaves out where it is the default.
        let staged = config(json!({"rope_parameters": {"rope_type": "default"}})).unwrap();
        assert_eq!(staged.config["rope_theta"], 10_000.0);
    }

    #[test]
    fn the_context_ends_where_the_engine_would_be_wrong() {
        for (extra, context, positions) in [
            (json!({}), 1000, 1024),
            (json!({"sliding_window": 100}), 100, 1024),
            (json!({"rope_scaling": {"type": "longrope"}}), 512, 1000),
        ] {
            let staged = config(extra).unwrap();
            assert_eq!(
                (staged.context_length, &staged.config["max_position_embeddings"]),
                (context, &json!(positions))
            );
            assert!(staged.config["sliding_window"].is_null());
        }
    }

    #[test]
    fn what_would_be_computed_wrongly_is_refused() {
        for (extra, words) in [
            (json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), "rope_scaling"),
            (json!({"attention_bias": true}), "attention_bias"),
            (json!({"head_dim": 16}), "head_dim"),
            (json!({"quantization_config": {"bits": 4}}), "quantization_config"),
            (json!({"max_position_embeddings": null}), "max_position_embeddings"),
        ] {
            let refused = config(extra).unwrap_err().to_string();
            assert!(refused.contains(words), "{refused}");
        }
    }
}
