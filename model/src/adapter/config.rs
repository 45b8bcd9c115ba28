//! `adapter_config.json`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::names::{Pattern, Targets};
use super::{ADAPTER_CONFIG, MERGE_WITH_PEFT};
use crate::config::read_json;
use crate::error::ModelError;

/// An adapter's hyper-parameters, under PEFT's names.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    /// The product of both matrices is scaled by `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Share of a layer's input that is dropped while training.
    pub lora_dropout: f64,
    /// The linear layers that get an adapter.
    pub target_modules: Targets,
    /// Scale by `lora_alpha / sqrt(r)` (Kalajdzievski 2023).
    pub use_rslora: bool,
    /// Layers with another rank: the first pattern that matches the end of a layer's name counts.
    pub rank_pattern: Vec<(Pattern, usize)>,
    /// Layers with another `lora_alpha`, likewise.
    pub alpha_pattern: Vec<(Pattern, f64)>,
}

/// What an adapter's configuration calls the model that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BaseName {
    /// A directory, or a repository of the hub: `owner/name`.
    pub name: String,
    /// The repository's revision, where it is not the usual one.
    pub revision: Option<String>,
}

/// Fields that, unless empty, make the adapter something else than `W + scale B A`.
const UNSUPPORTED: [&str; 12] = [
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "modules_to_save",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "megatron_config",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
];

impl LoraConfig {
    /// A configuration that is the same for all of the layers `targets`.
    pub fn new(r: usize, lora_alpha: f64, targets: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            r,
            lora_alpha,
            lora_dropout: 0.0,
            target_modules: targets.into_iter().collect(),
            use_rslora: false,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
        }
    }

    /// Rank of the layer `module`.
    pub fn rank(&self, module: &str) -> usize {
        first_match(&self.rank_pattern, module).unwrap_or(self.r)
    }

    /// Factor on the product of both matrices of the layer `module`.
    pub fn scale(&self, module: &str) -> f32 {
        let rank = self.rank(module) as f64;
        let alpha = first_match(&self.alpha_pattern, module).unwrap_or(self.lora_alpha);
        (alpha / if self.use_rslora { rank.sqrt() } else { rank }) as f32
    }

    /// Reads the configuration in a PEFT directory, with the name of the model that the adapter belongs to (empty where
    /// none is stated).
    ///
    /// # Errors
    /// When it is missing, or asks for what is not computed here, by name.
    pub fn from_dir(dir: &Path) -> Result<(Self, BaseName), ModelError> {
        let path = dir.join(ADAPTER_CONFIG);
        let json = read_json(&path)?;
        let config = Self::from_json(&json).map_err(|reason| ModelError::invalid(&path, reason))?;
        let text = |field: &str| json[field].as_str().map(str::to_string);
        let name = text("base_model_name_or_path").unwrap_or_default();
        Ok((config, BaseName { name, revision: text("revision") }))
    }

    pub(super) fn from_json(json: &Value) -> Result<Self, String> {
        if json["peft_type"] != "LORA" {
            return Err(format!("`peft_type` is {}; supported: \"LORA\"", json["peft_type"]));
        }
        if let Some(field) = UNSUPPORTED.into_iter().find(|field| !is_empty(&json[*field])) {
            return Err(format!("`{field}` = {} is not supported; {MERGE_WITH_PEFT}", json[field]));
        }
        if !matches!(json["bias"].as_str(), Some("none")) && !json["bias"].is_null() {
            return Err(format!("`bias` = {} is not supported; {MERGE_WITH_PEFT}", json["bias"]));
        }
        // The other initialisations (PiSSA, OLoRA, ...) take the adapter out of the base's weights and change these.
        if !matches!(json["init_lora_weights"].as_str(), None | Some("gaussian" | "eva" | "orthogonal")) {
            return Err(format!(
                "`init_lora_weights` = {} means a base with other weights; save the adapter with PEFT's \
                 `path_initial_model_for_weight_conversion`, or {MERGE_WITH_PEFT}",
                json["init_lora_weights"]
            ));
        }
        // `fan_in_fan_out` is about GPT-2's layers, and none of these models has one: PEFT does not use it here either.
        Ok(Self {
            r: rank(&json["r"]).ok_or("`r` must be a positive whole number")?,
            lora_alpha: json["lora_alpha"].as_f64().ok_or("`lora_alpha` must be a number")?,
            lora_dropout: json["lora_dropout"].as_f64().unwrap_or(0.0),
            target_modules: Targets::parse(&json["target_modules"])?,
            use_rslora: json["use_rslora"].as_bool().unwrap_or(false),
            rank_pattern: patterns(json, "rank_pattern", rank, "a positive whole number")?,
            alpha_pattern: patterns(json, "alpha_pattern", alpha, "a positive number")?,
        })
    }

    /// `adapter_config.json` as PEFT reads it; `targets` are the names that got an adapter.
    pub fn to_json(&self, base: &BaseName, targets: &[String]) -> Value {
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base.name,
            "revision": base.revision,
            "r": self.r,
            "lora_alpha": self.lora_alpha,
            "lora_dropout": self.lora_dropout,
            "target_modules": targets,
            "use_rslora": self.use_rslora,
            "use_dora": false,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "modules_to_save": null,
            "rank_pattern": object(&self.rank_pattern),
            "alpha_pattern": object(&self.alpha_pattern),
        })
    }
}

/// PEFT takes the first key that, as a regular expression, matches the end of the layer's name (`get_pattern_key`).
fn first_match<T: Copy>(patterns: &[(Pattern, T)], module: &str) -> Option<T> {
    patterns.iter().find_map(|(pattern, value)| pattern.matches(module).then_some(*value))
}

fn patterns<T>(
    json: &Value,
    field: &str,
    parse: impl Fn(&Value) -> Option<T>,
    kind: &str,
) -> Result<Vec<(Pattern, T)>, String> {
    let entry = |(key, value): (&String, &Value)| {
        let value = parse(value).ok_or_else(|| format!("`{field}.{key}` must be {kind}"))?;
        Ok((Pattern::end(key).map_err(|reason| format!("`{field}`: {reason}"))?, value))
    };
    json[field].as_object().into_iter().flatten().map(entry).collect()
}

fn rank(value: &Value) -> Option<usize> {
    value.as_u64().filter(|rank| *rank > 0).map(|rank| rank as usize)
}

fn alpha(value: &Value) -> Option<f64> {
    value.as_f64().filter(|alpha| *alpha > 0.0)
}

fn object<T: Copy + Into<Value>>(patterns: &[(Pattern, T)]) -> Value {
    let entry = |(pattern, value): &(Pattern, T)| (pattern.text().to_string(), (*value).into());
    Value::Object(patterns.iter().map(entry).collect::<Map<_, _>>())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q: &str = "model.layers.0.self_attn.q_proj";
    const Q1: &str = "model.layers.1.self_attn.q_proj";

    fn config(extra: Value) -> Result<LoraConfig, String> {
        let mut config =
            json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "mlp.up_proj"]});
        for (key, value) in extra.as_object().unwrap() {
            config[key] = value.clone();
        }
        LoraConfig::from_json(&config)
    }

    #[test]
    fn layers_scale_as_peft_scales_them() {
        let scale = |extra: Value, module: &str| config(extra).unwrap().scale(module);
        assert_eq!(scale(json!({}), Q), 2.0);
        assert_eq!(scale(json!({"use_rslora": true}), Q), 4.0);
        let patterns = json!({"rank_pattern": {"layers.0.self_attn.q_proj": 2}, "alpha_pattern": {"q_proj": 6}});
        assert_eq!(scale(patterns.clone(), Q), 3.0);
        assert_eq!(scale(patterns.clone(), Q1), 1.5);
        let config = config(patterns).unwrap();
        assert_eq!((config.rank(Q), config.rank(Q1)), (2, 4));
        // A key is a regular expression, and begins where a part of the name begins.
        assert_eq!(scale(json!({"alpha_pattern": {"proj": 1, r"layers\.[01]\..*": 4}}), Q), 1.0);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let patterns =
            json!({"rank_pattern": {"layers.0.self_attn.q_proj": 2, "v": 3}, "alpha_pattern": {"q_proj": 6}});
        for config in [LoraConfig::new(4, 8.0, ["q_proj"]), config(patterns).unwrap()] {
            let targets: Vec<String> = match &config.target_modules {
                Targets::Names(names) => names.clone(),
                Targets::Matching(_) => unreachable!("names were given"),
            };
            assert_eq!(LoraConfig::from_json(&config.to_json(&BaseName::default(), &targets)).unwrap(), config);
        }
    }

    #[test]
    fn what_is_more_than_two_matrices_is_refused_by_name() {
        for (extra, words) in [
            (json!({"peft_type": "IA3"}), "`peft_type`"),
            (json!({"modules_to_save": ["lm_head"]}), "`modules_to_save`"),
            (json!({"use_dora": true}), "`use_dora`"),
            (json!({"bias": "lora_only"}), "`bias`"),
            (json!({"init_lora_weights": "pissa_niter_4"}), "`init_lora_weights`"),
            (json!({"r": 0}), "`r`"),
            (json!({"lora_alpha": null}), "`lora_alpha`"),
            (json!({"target_modules": []}), "`target_modules`"),
            (json!({"target_modules": "("}), "`target_modules`"),
            (json!({"rank_pattern": {"q": 0}}), "rank_pattern.q"),
            (json!({"alpha_pattern": {"(": 1}}), "alpha_pattern"),
        ] {
            let refused = config(extra).unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
        let empty = json!({"modules_to_save": null, "use_dora": false, "bias": "none", "fan_in_fan_out": true});
        assert!(config(empty).is_ok());
    }
}
