//! A checkpoint as mistralrs must see it: links to the weights beside a config that it reads rightly.
//!
//! mistralrs takes a `config.json` at its word where it knows a key and passes over what it does not know, also where
//! that changes the model. So the config is rewritten into the spelling it knows, and what it would compute wrongly is
//! refused here with the reason.

use std::path::Path;
use std::{fmt, io};

use orpo_chat::ChatTokenizer;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::checkpoint::{self, Checkpoint};
use crate::config::Quantization;
use crate::files::link;
use crate::load::gguf::Gguf;

/// Architectures whose logits were compared with those of `transformers`.
pub const ARCHITECTURES: [&str; 6] = [
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Phi3ForCausalLM",
    "Gemma2ForCausalLM",
];

/// mistralrs grows its key-value cache by so many positions at a time, and fails when that steps over
/// `max_position_embeddings` (`NormalCache::CACHE_GROW_SIZE`).
const CACHE_STEP: u64 = 512;

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
    /// A feature of the config would be computed wrongly.
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
    /// The architecture that a `config.json` names, or `none`.
    pub fn architecture_of(config: &Map<String, Value>) -> String {
        config.get("architectures").and_then(|names| names[0].as_str()).unwrap_or("none").to_string()
    }
}

/// A config in the spelling mistralrs knows.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineConfig {
    /// `config.json` for the engine.
    pub config: Map<String, Value>,
    /// How many tokens prompt and reply may have together, so that all of it is computed as `transformers` does.
    pub context_length: usize,
}

/// A directory for the engine. It is removed when dropped.
#[derive(Debug)]
pub struct Staged {
    dir: TempDir,
    /// As in [`EngineConfig`].
    pub context_length: usize,
    /// What lies in it.
    pub format: Format,
}

/// How the weights of a [`Staged`] directory are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// In safetensors, to be quantised while loading where a type is given.
    Safetensors(Option<Quantization>),
    /// In the file [`GGUF_FILE`].
    Gguf,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Safetensors(None) => f.write_str("safetensors"),
            Self::Safetensors(Some(quantization)) => write!(f, "safetensors, quantised to {quantization:?}"),
            Self::Gguf => f.write_str("GGUF"),
        }
    }
}

/// The name of a staged GGUF file.
pub const GGUF_FILE: &str = "model.gguf";

impl Staged {
    /// The directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Has the weights quantised while they are loaded.
    pub fn quantized(self, quantization: Option<Quantization>) -> Self {
        Self { format: Format::Safetensors(quantization), ..self }
    }
}

/// Makes a directory of a link to a GGUF file, and the tokenizer as `tokenizer` has it.
///
/// # Errors
/// Those of the file system.
pub fn stage_gguf(gguf: &Gguf, tokenizer: &ChatTokenizer) -> io::Result<Staged> {
    let dir = tempfile::Builder::new().prefix("orpo-serve-").tempdir()?;
    link(&gguf.file, &dir.path().join(GGUF_FILE))?;
    tokenizer.tokenizer().save(dir.path().join("tokenizer.json"), false).map_err(io::Error::other)?;
    std::fs::write(
        dir.path().join("generation_config.json"),
        json!({ "eos_token_id": tokenizer.eos_ids() }).to_string(),
    )?;
    Ok(Staged { dir, context_length: gguf.context_length, format: Format::Gguf })
}

/// Makes a directory of links to `checkpoint`'s weights and tokenizer, with a rewritten config and the end tokens. The
/// chat template stays out: the engine never renders one, and would look into it for reasoning formats.
///
/// # Errors
/// Those of the file system.
pub fn stage(checkpoint: &Checkpoint, config: EngineConfig, eos_ids: &[u32]) -> io::Result<Staged> {
    let key = |key: &str| checkpoint.config.get(key).and_then(Value::as_u64);
    if let Some(positions) = key("max_position_embeddings").filter(|&all| all > config.context_length as u64) {
        tracing::warn!(
            context_length = config.context_length,
            max_position_embeddings = positions,
            sliding_window = key("sliding_window"),
            "the engine computes this model exactly only as far as context_length; longer prompts are refused"
        );
    }
    let dir = tempfile::Builder::new().prefix("orpo-serve-").tempdir()?;
    let tied = config.config.get("tie_word_embeddings") == Some(&json!(true));
    let renamed = if tied { checkpoint.holder_of_lone_head()? } else { None };
    for file in checkpoint.weights.iter().chain([&checkpoint.dir.join("tokenizer.json")]) {
        let target = dir.path().join(file.file_name().expect("a checkpoint file has a name"));
        if renamed == Some(file) { checkpoint::copy_renaming_head(file, &target)? } else { link(file, &target)? }
    }
    let write = |name: &str, value: &Value| std::fs::write(dir.path().join(name), value.to_string());
    write("config.json", &Value::Object(config.config))?;
    write("generation_config.json", &json!({ "eos_token_id": eos_ids }))?;
    Ok(Staged { dir, context_length: config.context_length, format: Format::Safetensors(None) })
}

/// Rewrites a `config.json` of transformers 4 or 5.
///
/// # Errors
/// [`UnsupportedModel`] for what would be computed wrongly.
pub fn engine_config(config: &Map<String, Value>) -> Result<EngineConfig, UnsupportedModel> {
    let architecture = UnsupportedModel::architecture_of(config);
    if !ARCHITECTURES.contains(&architecture.as_str()) {
        let supported = format!("{} by mistralrs", ARCHITECTURES.join(", "));
        return Err(UnsupportedModel::Architecture { found: architecture, supported });
    }
    let mut rewrite = Rewrite { config: config.clone(), architecture };
    rewrite.defaults()?;
    rewrite.rope()?;
    rewrite.refuse_unknown_features()?;
    let context_length = rewrite.context_length()?;
    Ok(EngineConfig { config: rewrite.config, context_length })
}

struct Rewrite {
    config: Map<String, Value>,
    architecture: String,
}

impl Rewrite {
    fn get(&self, key: &str) -> &Value {
        self.config.get(key).unwrap_or(&Value::Null)
    }

    fn default(&mut self, key: &str, value: Value) {
        if self.get(key).is_null() {
            self.config.insert(key.to_string(), value);
        }
    }

    fn positive(&self, key: &'static str) -> Result<u64, UnsupportedModel> {
        self.get(key).as_u64().filter(|&value| value > 0).ok_or(UnsupportedModel::Key { key })
    }

    fn is(&self, architecture: &str) -> bool {
        self.architecture == architecture
    }

    fn refuse(&self, key: &'static str, value: &Value) -> UnsupportedModel {
        UnsupportedModel::Feature { key, value: value.to_string(), architecture: self.architecture.clone() }
    }

    /// Keys that `transformers` leaves out where they have its default, and mistralrs requires.
    fn defaults(&mut self) -> Result<(), UnsupportedModel> {
        let heads = self.positive("num_attention_heads")?;
        let layers = self.positive("num_hidden_layers")?;
        self.default("num_key_value_heads", json!(heads));
        self.default("rms_norm_eps", json!(1e-6));
        self.default("hidden_act", json!("silu"));
        self.config.insert("torch_dtype".into(), json!("float32"));
        self.config.remove("dtype");
        match self.architecture.as_str() {
            "Qwen2ForCausalLM" | "Qwen3ForCausalLM" => {
                self.default("use_sliding_window", json!(false));
                self.default("max_window_layers", json!(layers));
            }
            "Phi3ForCausalLM" => {
                let positions = self.positive("max_position_embeddings")?;
                self.default("original_max_position_embeddings", json!(positions));
            }
            "Gemma2ForCausalLM" => {
                self.default("attention_bias", json!(false));
                self.default("tie_word_embeddings", json!(true));
            }
            _ => {}
        }
        Ok(())
    }

    /// transformers 5 writes `rope_parameters: {rope_type, rope_theta, ...}` for what 4 wrote as `rope_theta` and
    /// `rope_scaling: {rope_type or type, ...}`.
    fn rope(&mut self) -> Result<(), UnsupportedModel> {
        if let Some(parameters) = self.config.remove("rope_parameters").filter(|value| !value.is_null()) {
            let Value::Object(mut scaling) = parameters else {
                return Err(self.refuse("rope_parameters", &parameters));
            };
            for key in ["rope_theta", "partial_rotary_factor"] {
                if let Some(value) = scaling.remove(key) {
                    self.default(key, value);
                }
            }
            self.default("rope_scaling", Value::Object(scaling));
        }
        self.default("rope_theta", json!(10_000.0));
        let scaling = self.config.remove("rope_scaling").unwrap_or(Value::Null);
        let kind = scaling.get("rope_type").or_else(|| scaling.get("type")).unwrap_or(&Value::Null).clone();
        let supported = match kind.as_str() {
            None => scaling.as_object().is_none_or(Map::is_empty),
            Some("default") => true,
            Some("llama3" | "linear") => self.is("LlamaForCausalLM"),
            Some("longrope" | "su") => self.is("Phi3ForCausalLM"),
            Some(_) => false,
        };
        if !supported {
            return Err(self.refuse("rope_scaling", &scaling));
        }
        if kind.is_string() && kind != "default" {
            let mut scaling = scaling;
            scaling["rope_type"] = kind.clone();
            scaling["type"] = kind;
            self.config.insert("rope_scaling".into(), scaling);
        }
        Ok(())
    }

    /// Keys that mistralrs passes over although they change the model.
    fn refuse_unknown_features(&self) -> Result<(), UnsupportedModel> {
        let asks = |key: &str, neutral: &[Value]| !neutral.contains(self.get(key));
        let off = [Value::Null, json!(false)];
        if asks("mlp_bias", &off) {
            return Err(self.refuse("mlp_bias", self.get("mlp_bias")));
        }
        if !self.is("Gemma2ForCausalLM") && !self.is("Qwen2ForCausalLM") && asks("attention_bias", &off) {
            return Err(self.refuse("attention_bias", self.get("attention_bias")));
        }
        if !self.is("Phi3ForCausalLM") && asks("partial_rotary_factor", &[Value::Null, json!(1.0), json!(1)]) {
            return Err(self.refuse("partial_rotary_factor", self.get("partial_rotary_factor")));
        }
        if asks("quantization_config", &[Value::Null]) {
            return Err(self.refuse("quantization_config", self.get("quantization_config")));
        }
        let derived = self.positive("hidden_size")? / self.positive("num_attention_heads")?;
        let reads_head_dim = ["MistralForCausalLM", "Qwen3ForCausalLM", "Gemma2ForCausalLM"];
        if !reads_head_dim.contains(&self.architecture.as_str()) && asks("head_dim", &[Value::Null, json!(derived)]) {
            return Err(self.refuse("head_dim", self.get("head_dim")));
        }
        Ok(())
    }

    /// Bounds the context where mistralrs would be wrong or fail beyond it.
    fn context_length(&mut self) -> Result<usize, UnsupportedModel> {
        let positions = self.positive("max_position_embeddings")?;
        let mut context = positions;
        // A window smaller than the context is not computed exactly; within the window it has no effect.
        let uses_window = self.get("use_sliding_window") != &json!(false);
        let window = self.get("sliding_window").as_u64().filter(|_| uses_window);
        if let Some(window) = window {
            context = context.min(window);
        }
        if !self.is("Gemma2ForCausalLM") {
            self.config.insert("sliding_window".into(), Value::Null);
        }
        if positions > CACHE_STEP && !positions.is_multiple_of(CACHE_STEP) {
            if self.get("rope_scaling").is_null() || self.is("LlamaForCausalLM") {
                let room = positions.next_multiple_of(CACHE_STEP);
                self.config.insert("max_position_embeddings".into(), json!(room));
            } else {
                // Here the rotary frequencies depend on the number of positions, which must stay.
                context = context.min(positions / CACHE_STEP * CACHE_STEP);
            }
        }
        Ok(usize::try_from(context).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(extra: Value) -> Map<String, Value> {
        let mut config = json!({
            "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_attention_heads": 8, "num_hidden_layers": 2,
            "max_position_embeddings": 512, "vocab_size": 512, "intermediate_size": 172
        });
        for (key, value) in extra.as_object().unwrap() {
            config[key] = value.clone();
        }
        config.as_object().unwrap().clone()
    }

    fn rewritten(extra: Value) -> EngineConfig {
        engine_config(&config(extra)).unwrap()
    }

    #[test]
    fn transformers_5_spelling_becomes_that_of_4() {
        let staged =
            rewritten(json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "dtype": "bfloat16"}));
        assert_eq!(staged.config["rope_theta"], 5e5);
        assert_eq!(staged.config["torch_dtype"], "float32");
        assert_eq!(staged.config["num_key_value_heads"], 8);
        assert!(!staged.config.contains_key("rope_scaling") && !staged.config.contains_key("rope_parameters"));

        // With no base of the frequencies, which transformers leaves out where it is the default.
        let staged = rewritten(json!({"rope_parameters": {"rope_type": "default"}}));
        assert_eq!(staged.config["rope_theta"], 10_000.0);

        let llama3 = json!({"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
        let staged = rewritten(json!({ "rope_parameters": llama3 }));
        assert_eq!(staged.config["rope_scaling"]["factor"], 8.0);
        assert_eq!(staged.config["rope_theta"], 5e5);
    }

    #[test]
    fn the_context_ends_where_the_engine_would_be_wrong() {
        for (extra, context, positions) in [
            (json!({"max_position_embeddings": 256}), 256, 256),
            (json!({"max_position_embeddings": 1000}), 1000, 1024),
            (json!({"max_position_embeddings": 4096, "sliding_window": 1024}), 1024, 4096),
            (json!({"max_position_embeddings": 4096, "sliding_window": 1024, "use_sliding_window": false}), 4096, 4096),
            (
                json!({"architectures": ["Phi3ForCausalLM"], "max_position_embeddings": 1000,
                       "rope_scaling": {"type": "longrope"}}),
                512,
                1000,
            ),
        ] {
            let staged = rewritten(extra);
            assert_eq!(staged.context_length, context);
            assert_eq!(staged.config["max_position_embeddings"], positions);
            assert!(staged.config["sliding_window"].is_null());
        }
    }

    #[test]
    fn a_tied_matrix_stored_as_the_head_only_is_staged_as_the_embedding() {
        let source = tempfile::tempdir().unwrap();
        let header = json!({
            "a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]},
            "lm_head.weight": {"dtype": "F32", "shape": [1, 2], "data_offsets": [2, 10]}
        })
        .to_string();
        let data: Vec<u8> = (0..10).collect();
        let weights = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
        std::fs::write(source.path().join("tokenizer.json"), "{}").unwrap();
        std::fs::write(source.path().join("model.safetensors"), weights).unwrap();
        for (tied, expected) in [(true, "model.embed_tokens.weight"), (false, "lm_head.weight")] {
            let config = Value::Object(config(json!({ "tie_word_embeddings": tied })));
            std::fs::write(source.path().join("config.json"), config.to_string()).unwrap();
            let checkpoint = Checkpoint::open(source.path()).unwrap();
            let staged = stage(&checkpoint, engine_config(&checkpoint.config).unwrap(), &[2]).unwrap();
            let staged = staged.path();
            // Still a valid file, with the same bytes under the other name.
            assert!(Checkpoint::open(staged).is_ok());
            let bytes = std::fs::read(staged.join("model.safetensors")).unwrap();
            assert!(bytes.ends_with(&data) && String::from_utf8_lossy(&bytes).contains(expected));
            let generation = std::fs::read_to_string(staged.join("generation_config.json")).unwrap();
            assert_eq!(generation, r#"{"eos_token_id":[2]}"#);
        }
    }

    #[test]
    fn what_would_be_computed_wrongly_is_refused() {
        for (extra, words) in [
            (json!({"architectures": ["OPTForCausalLM"]}), "OPTForCausalLM"),
            (json!({"architectures": null}), "none"),
            (json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), "rope_scaling"),
            (json!({"architectures": ["Qwen2ForCausalLM"], "rope_scaling": {"rope_type": "yarn"}}), "rope_scaling"),
            (json!({"attention_bias": true}), "attention_bias"),
            (json!({"mlp_bias": true}), "mlp_bias"),
            (json!({"head_dim": 16}), "head_dim"),
            (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
            (json!({"quantization_config": {"bits": 4}}), "quantization_config"),
            (json!({"max_position_embeddings": null}), "max_position_embeddings"),
        ] {
            let refused = engine_config(&config(extra)).unwrap_err().to_string();
            assert!(refused.contains(words), "{refused}");
        }
    }
}
