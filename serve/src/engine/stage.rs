//! A checkpoint as mistralrs must see it: links to the weights beside a config that it reads rightly.
//!
//! mistralrs takes a `config.json` at its word where it knows a key and passes over what it does not know, also where
//! that changes the model. So the config is rewritten into the spelling it knows, and what it would compute wrongly is
//! refused here with the reason.

mod phi3;

use std::path::Path;
use std::{fmt, io};

use orpo_chat::ChatTokenizer;
use orpo_model::{Family, ModelConfig, Positions, RopeConfig, RopeScaling};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::unsupported::UnsupportedModel;
use crate::checkpoint::{self, Checkpoint};
use crate::files::link;
use crate::quantization::Quantization;

/// Architectures whose logits were compared with those of `transformers`.
pub const ARCHITECTURES: [&str; 6] =
    ["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", PHI3, "Gemma2ForCausalLM"];
/// The one of them that [`ModelConfig`] does not know.
const PHI3: &str = "Phi3ForCausalLM";

/// mistralrs grows its key-value cache by so many positions at a time, and fails when that steps over
/// `max_position_embeddings` (`NormalCache::CACHE_GROW_SIZE`).
const CACHE_STEP: usize = 512;

/// A config in the spelling mistralrs knows.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineConfig {
    /// `config.json` for the engine.
    pub config: Map<String, Value>,
    /// The model's `max_position_embeddings`.
    pub positions: usize,
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
pub fn stage_gguf(file: &Path, context_length: usize, tokenizer: &ChatTokenizer) -> io::Result<Staged> {
    let dir = tempfile::Builder::new().prefix("orpo-serve-").tempdir()?;
    link(file, &dir.path().join(GGUF_FILE))?;
    tokenizer.tokenizer().save(dir.path().join("tokenizer.json"), false).map_err(io::Error::other)?;
    std::fs::write(
        dir.path().join("generation_config.json"),
        json!({ "eos_token_id": tokenizer.eos_ids() }).to_string(),
    )?;
    Ok(Staged { dir, context_length, format: Format::Gguf })
}

/// Makes a directory of links to `checkpoint`'s weights and tokenizer, with a rewritten config and the end tokens. The
/// chat template stays out: the engine never renders one, and would look into it for reasoning formats.
///
/// # Errors
/// Those of the file system.
pub fn stage(checkpoint: &Checkpoint, config: EngineConfig, eos_ids: &[u32]) -> io::Result<Staged> {
    let sliding_window = checkpoint.config.get("sliding_window").and_then(Value::as_u64);
    if config.positions > config.context_length {
        tracing::warn!(
            context_length = config.context_length,
            max_position_embeddings = config.positions,
            sliding_window,
            "the engine computes this model exactly only as far as context_length; longer prompts are refused"
        );
    }
    let dir = tempfile::Builder::new().prefix("orpo-serve-").tempdir()?;
    for file in checkpoint.weights.iter().chain([&checkpoint.dir.join("tokenizer.json")]) {
        let target = dir.path().join(file.file_name().expect("a checkpoint file has a name"));
        let is_weights = checkpoint.weights.contains(file);
        if is_weights && !checkpoint.renamed.is_empty() {
            checkpoint::copy_renaming(file, &target, &checkpoint.renamed)?;
        } else {
            link(file, &target)?;
        }
    }
    let write = |name: &str, value: &Value| std::fs::write(dir.path().join(name), value.to_string());
    let vocab_size = config.config.get("vocab_size").and_then(Value::as_u64).map_or(usize::MAX, |rows| rows as usize);
    write("config.json", &Value::Object(config.config))?;
    // mistralrs panics on an id that the model does not have.
    let eos_ids: Vec<u32> = eos_ids.iter().copied().filter(|id| (*id as usize) < vocab_size).collect();
    write("generation_config.json", &json!({ "eos_token_id": eos_ids }))?;
    Ok(Staged { dir, context_length: config.context_length, format: Format::Safetensors(None) })
}

/// The config of a checkpoint for mistralrs: of [`ModelConfig`] where that knows the family, so that nothing is read twice.
///
/// # Errors
/// [`UnsupportedModel`] for what would be computed incorrectly.
pub fn engine_config(checkpoint: &Checkpoint) -> Result<EngineConfig, UnsupportedModel> {
    let found = UnsupportedModel::architecture_of(checkpoint);
    match &checkpoint.model {
        Some(model) if ARCHITECTURES.contains(&found.as_str()) => written(model),
        None if found == PHI3 => phi3::rewritten(&checkpoint.config),
        _ => {
            let supported = format!("{} by mistralrs", ARCHITECTURES.join(", "));
            Err(UnsupportedModel::Architecture { found, supported })
        }
    }
}

/// Rewrites the config of a model.
fn written(model: &ModelConfig) -> Result<EngineConfig, UnsupportedModel> {
    refuse_what_is_passed_over(model)?;
    let Positions::Rope(rope) = &model.positions else {
        unreachable!("every family among ARCHITECTURES has rotary positions")
    };
    let positions = model.max_position_embeddings;
    let mut config = json!({
        "architectures": [model.family.architecture()],
        "torch_dtype": "float32",
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "num_hidden_layers": model.num_hidden_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_key_value_heads,
        "head_dim": model.head_dim,
        "max_position_embeddings": whole_cache_steps(positions),
        "rms_norm_eps": model.norm_eps,
        "rope_theta": rope.theta,
        "rope_scaling": rope_scaling(rope),
        "tie_word_embeddings": model.tie_word_embeddings,
        "sliding_window": null,
    });
    let more = match model.family {
        Family::Gemma2 => json!({
            "hidden_activation": "gelu_pytorch_tanh",
            "attention_bias": model.qkv_bias,
            "attn_logit_softcapping": model.attention_softcap,
            "final_logit_softcapping": model.final_softcap,
            "query_pre_attn_scalar": query_pre_attn_scalar(model)?,
            // Never reached, and never none.
            "sliding_window": model.windows.iter().flatten().min().unwrap_or(&positions),
        }),
        _ => json!({"hidden_act": "silu", "use_sliding_window": false, "max_window_layers": model.num_hidden_layers}),
    };
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    let Value::Object(config) = config else { unreachable!("it was written as an object") };
    // A window smaller than the context is not computed exactly; within the window it has no effect.
    let context_length = model.windows.iter().flatten().copied().chain([positions]).min().unwrap_or(positions);
    Ok(EngineConfig { config, positions, context_length })
}

fn refuse(model: &ModelConfig, key: &'static str, value: impl fmt::Display) -> UnsupportedModel {
    let architecture = format!("{} by mistralrs", model.family.architecture());
    UnsupportedModel::Feature { key, value: value.to_string(), architecture }
}

/// What mistralrs does not look at although it changes the model.
fn refuse_what_is_passed_over(model: &ModelConfig) -> Result<(), UnsupportedModel> {
    let derived = model.hidden_size / model.num_attention_heads;
    if model.mlp_bias {
        return Err(refuse(model, "mlp_bias", true));
    }
    if model.attention_output_bias && model.family != Family::Gemma2 {
        return Err(refuse(model, "attention_bias", true));
    }
    if matches!(model.family, Family::Llama | Family::Qwen2) && model.head_dim != derived {
        return Err(refuse(model, "head_dim", model.head_dim));
    }
    if model.family == Family::Gemma2 && !model.tie_word_embeddings {
        return Err(refuse(model, "tie_word_embeddings", false));
    }
    match &model.positions {
        Positions::Rope(rope) if rope.scaling != RopeScaling::Default && model.family != Family::Llama => {
            Err(refuse(model, "rope_scaling", rope_scaling(rope)))
        }
        _ => Ok(()),
    }
}

/// In the spelling of transformers 4.
fn rope_scaling(rope: &RopeConfig) -> Value {
    match rope.scaling {
        RopeScaling::Default => Value::Null,
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
    }
}

/// mistralrs wants a whole number where a scale is derived from it.
fn query_pre_attn_scalar(model: &ModelConfig) -> Result<u64, UnsupportedModel> {
    let scalar = model.attention_scale.powi(-2);
    let whole = scalar.round();
    if whole < 1.0 || (scalar - whole).abs() > 1e-6 * whole {
        return Err(refuse(model, "query_pre_attn_scalar", scalar));
    }
    Ok(whole as u64)
}

/// Positions that mistralrs' cache can grow to.
fn whole_cache_steps(positions: usize) -> usize {
    if positions > CACHE_STEP { positions.next_multiple_of(CACHE_STEP) } else { positions }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(extra: Value) -> ModelConfig {
        let mut config = json!({
            "model_type": "llama", "hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 8,
            "num_hidden_layers": 2, "max_position_embeddings": 512, "vocab_size": 512, "intermediate_size": 172
        });
        for (key, value) in extra.as_object().unwrap() {
            config[key] = value.clone();
        }
        ModelConfig::from_json(&config).unwrap()
    }

    fn staged(extra: Value) -> EngineConfig {
        written(&model(extra)).unwrap()
    }

    #[test]
    fn the_config_is_written_in_the_engine_s_spelling() {
        let plain = staged(json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_theta": 1e4}));
        assert_eq!(plain.config["rope_theta"], 5e5);
        assert_eq!(plain.config["torch_dtype"], "float32");
        assert_eq!(plain.config["architectures"], json!(["LlamaForCausalLM"]));
        assert!(plain.config["rope_scaling"].is_null() && !plain.config.contains_key("rope_parameters"));

        let llama3 = json!({"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
        let scaled = staged(json!({ "rope_parameters": llama3 }));
        assert_eq!(scaled.config["rope_scaling"]["factor"], 8.0);
        assert_eq!(scaled.config["rope_theta"], 5e5);

        let gemma = staged(json!({"model_type": "gemma2", "query_pre_attn_scalar": 224, "head_dim": 8,
            "final_logit_softcapping": null, "sliding_window": 16, "hidden_act": "gelu"}));
        assert_eq!(gemma.config["query_pre_attn_scalar"], 224);
        assert_eq!(gemma.config["attn_logit_softcapping"], 50.0);
        assert!(gemma.config["final_logit_softcapping"].is_null() && !gemma.config.contains_key("hidden_act"));
        assert_eq!((&gemma.config["sliding_window"], gemma.context_length), (&json!(16), 16));
    }

    #[test]
    fn the_context_ends_where_the_engine_would_be_wrong() {
        let mistral = |positions: usize, window: Value| json!({"model_type": "mistral", "max_position_embeddings": positions, "sliding_window": window});
        let qwen = json!({"model_type": "qwen2", "max_position_embeddings": 4096, "sliding_window": 1024});
        let mut windowed = qwen.clone();
        windowed["use_sliding_window"] = json!(true);
        windowed["max_window_layers"] = json!(1);
        for (extra, context, positions) in [
            (json!({"max_position_embeddings": 256}), 256, 256),
            (json!({"max_position_embeddings": 1000}), 1000, 1024),
            (json!({"max_position_embeddings": 4096, "sliding_window": 1024}), 4096, 4096),
            (mistral(4096, json!(1024)), 1024, 4096),
            (mistral(4096, json!(null)), 4096, 4096),
            (qwen, 4096, 4096),
            (windowed, 1024, 4096),
        ] {
            let staged = staged(extra);
            assert_eq!(staged.context_length, context);
            assert_eq!(staged.config["max_position_embeddings"], positions);
            assert!(staged.config["sliding_window"].is_null());
        }
    }

    #[test]
    fn what_would_be_computed_wrongly_is_refused() {
        let linear = json!({"type": "linear", "factor": 2.0});
        for (extra, words) in [
            (json!({"model_type": "qwen2", "rope_scaling": linear}), "rope_scaling"),
            (json!({"attention_bias": true}), "attention_bias"),
            (json!({"mlp_bias": true}), "mlp_bias"),
            (json!({"head_dim": 16}), "head_dim"),
            (json!({"model_type": "gemma2", "head_dim": 8, "tie_word_embeddings": false}), "tie_word_embeddings"),
            (json!({"model_type": "gemma2", "head_dim": 8, "query_pre_attn_scalar": 0.3}), "query_pre_attn_scalar"),
        ] {
            let refused = written(&model(extra)).unwrap_err().to_string();
            assert!(refused.contains(words) && refused.contains("mistralrs"), "{refused}");
        }
    }
}
