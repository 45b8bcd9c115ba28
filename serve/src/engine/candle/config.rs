//! What candle's decoders read of a `config.json`, and what is refused because they would compute it wrongly.

use serde_json::{Map, Value, json};

use crate::engine::stage::UnsupportedModel;

const PHI: &str = "PhiForCausalLM";
const OPT: &str = "OPTForCausalLM";

/// Architectures whose logits were compared with those of `transformers`.
pub const ARCHITECTURES: [&str; 2] = [PHI, OPT];

/// A model that candle can run.
#[derive(Debug, Clone, PartialEq)]
pub struct CandleConfig {
    /// Its architecture and sizes.
    pub model: CandleModel,
    /// How many tokens prompt and reply may have together.
    pub context_length: usize,
}

/// The architecture of a [`CandleConfig`].
#[derive(Debug, Clone, PartialEq)]
pub enum CandleModel {
    /// Phi-1, 1.5 and 2.
    Phi(PhiConfig),
    /// OPT.
    Opt(OptConfig),
}

/// The sizes of a Phi model, in the names of its `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct PhiConfig {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Heads of keys and values, which neighbouring attention heads share.
    pub num_key_value_heads: usize,
    /// Positions there are.
    pub max_position_embeddings: usize,
    /// Added to a variance.
    pub layer_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Columns of a head that are rotated: `partial_rotary_factor` of them.
    pub rotary_columns: usize,
    /// Whether the head's matrix is the embedding.
    pub tie_word_embeddings: bool,
}

/// The sizes of an OPT model, in the names of its `config.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptConfig {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the embedding; where it is not `hidden_size`, projections lie between.
    pub word_embed_proj_dim: usize,
    /// Width of the feed-forward layer.
    pub ffn_dim: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Rows of the position embedding, without its offset.
    pub max_position_embeddings: usize,
    /// Whether a layer's norms stand before its parts or behind them (the 350M model).
    pub do_layer_norm_before: bool,
    /// Whether a norm stands before the head.
    pub final_layer_norm: bool,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
}

/// Reads the `config.json` of transformers 4 or 5.
///
/// # Errors
/// [`UnsupportedModel`] for another architecture and for what would be computed wrongly.
pub fn candle_config(config: &Map<String, Value>) -> Result<CandleConfig, UnsupportedModel> {
    let found = UnsupportedModel::architecture_of(config);
    let reader = Reader { config, architecture: &found };
    reader.require("quantization_config", &[], Value::Null)?;
    let model = match found.as_str() {
        PHI => CandleModel::Phi(phi(&reader)?),
        OPT => CandleModel::Opt(opt(&reader)?),
        _ => {
            let supported = format!("{} by candle", ARCHITECTURES.join(", "));
            return Err(UnsupportedModel::Architecture { found, supported });
        }
    };
    Ok(CandleConfig { model, context_length: reader.count("max_position_embeddings")? })
}

struct Reader<'a> {
    config: &'a Map<String, Value>,
    architecture: &'a str,
}

impl Reader<'_> {
    fn get(&self, key: &str) -> &Value {
        self.config.get(key).unwrap_or(&Value::Null)
    }

    fn count(&self, key: &'static str) -> Result<usize, UnsupportedModel> {
        let count = self.get(key).as_u64().filter(|&count| count > 0);
        count.and_then(|count| usize::try_from(count).ok()).ok_or(UnsupportedModel::Key { key })
    }

    fn flag(&self, key: &'static str, default: bool) -> Result<bool, UnsupportedModel> {
        match self.get(key) {
            Value::Null => Ok(default),
            value => value.as_bool().ok_or_else(|| self.refuse(key, value)),
        }
    }

    fn refuse(&self, key: &'static str, value: &Value) -> UnsupportedModel {
        UnsupportedModel::Feature { key, value: value.to_string(), architecture: self.architecture.to_string() }
    }

    /// Refuses all but `accepted` and, where the key is absent, the value that transformers takes then.
    fn require(&self, key: &'static str, accepted: &[Value], default: Value) -> Result<(), UnsupportedModel> {
        let value = if self.get(key).is_null() { &default } else { self.get(key) };
        if accepted.contains(value) || *value == default { Ok(()) } else { Err(self.refuse(key, value)) }
    }

    /// Sizes of the heads.
    fn heads(&self) -> Result<usize, UnsupportedModel> {
        let heads = self.count("num_attention_heads")?;
        if !self.count("hidden_size")?.is_multiple_of(heads) {
            return Err(self.refuse("num_attention_heads", &json!(heads)));
        }
        Ok(heads)
    }
}

/// Fills in the defaults of `PhiConfig`.
fn phi(reader: &Reader<'_>) -> Result<PhiConfig, UnsupportedModel> {
    reader.require("qk_layernorm", &[], json!(false))?;
    reader.require("hidden_act", &[json!("gelu_pytorch_tanh")], json!("gelu_new"))?;
    reader.require("rope_scaling", &[json!({})], Value::Null)?;
    let heads = reader.heads()?;
    let shared = reader.get("num_key_value_heads");
    let num_key_value_heads = if shared.is_null() { heads } else { reader.count("num_key_value_heads")? };
    if !heads.is_multiple_of(num_key_value_heads) {
        return Err(reader.refuse("num_key_value_heads", shared));
    }
    // transformers 5 keeps what concerns the rotation here.
    let rope = reader.get("rope_parameters");
    if !matches!(rope["rope_type"].as_str(), None | Some("default")) {
        return Err(reader.refuse("rope_parameters", rope));
    }
    let rotation = |key, default| {
        let value = if rope[key].is_null() { reader.get(key) } else { &rope[key] };
        if value.is_null() { Ok(default) } else { value.as_f64().ok_or(UnsupportedModel::Key { key }) }
    };
    let hidden_size = reader.count("hidden_size")?;
    let head_dim = hidden_size / heads;
    let factor = rotation("partial_rotary_factor", 0.5)?;
    let rotary_columns = (factor * head_dim as f64) as usize;
    if rotary_columns == 0 || rotary_columns > head_dim || !rotary_columns.is_multiple_of(2) {
        return Err(reader.refuse("partial_rotary_factor", &json!(factor)));
    }
    let eps = reader.get("layer_norm_eps");
    let layer_norm_eps = if eps.is_null() { Some(1e-5) } else { eps.as_f64() };
    Ok(PhiConfig {
        vocab_size: reader.count("vocab_size")?,
        hidden_size,
        intermediate_size: reader.count("intermediate_size")?,
        num_hidden_layers: reader.count("num_hidden_layers")?,
        num_attention_heads: heads,
        num_key_value_heads,
        max_position_embeddings: reader.count("max_position_embeddings")?,
        layer_norm_eps: layer_norm_eps.ok_or(UnsupportedModel::Key { key: "layer_norm_eps" })?,
        rope_theta: rotation("rope_theta", 10_000.0)?,
        rotary_columns,
        tie_word_embeddings: reader.flag("tie_word_embeddings", false)?,
    })
}

fn opt(reader: &Reader<'_>) -> Result<OptConfig, UnsupportedModel> {
    reader.require("activation_function", &[], json!("relu"))?;
    reader.require("enable_bias", &[], json!(true))?;
    reader.require("layer_norm_elementwise_affine", &[], json!(true))?;
    let hidden_size = reader.count("hidden_size")?;
    let projected = !reader.get("word_embed_proj_dim").is_null();
    let do_layer_norm_before = reader.flag("do_layer_norm_before", true)?;
    Ok(OptConfig {
        vocab_size: reader.count("vocab_size")?,
        hidden_size,
        word_embed_proj_dim: if projected { reader.count("word_embed_proj_dim")? } else { hidden_size },
        ffn_dim: reader.count("ffn_dim")?,
        num_hidden_layers: reader.count("num_hidden_layers")?,
        num_attention_heads: reader.heads()?,
        max_position_embeddings: reader.count("max_position_embeddings")?,
        do_layer_norm_before,
        final_layer_norm: do_layer_norm_before && !reader.flag("_remove_final_layer_norm", false)?,
        tie_word_embeddings: reader.flag("tie_word_embeddings", true)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(architecture: &str, extra: Value) -> Result<CandleConfig, UnsupportedModel> {
        let mut config = json!({
            "architectures": [architecture], "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
            "max_position_embeddings": 256, "vocab_size": 512, "intermediate_size": 128, "ffn_dim": 128
        });
        for (key, value) in extra.as_object().unwrap() {
            config[key] = value.clone();
        }
        candle_config(config.as_object().unwrap())
    }

    #[test]
    fn phi_is_read_in_both_spellings() {
        let old = json!({"rope_theta": 5e3, "partial_rotary_factor": 0.4});
        let new = json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5e3, "partial_rotary_factor": 0.4}});
        for spelling in [old, new] {
            let CandleModel::Phi(phi) = config(PHI, spelling).unwrap().model else { panic!() };
            // As `int(16 * 0.4)` in Python.
            assert_eq!((phi.rope_theta, phi.rotary_columns), (5e3, 6));
        }
        let CandleModel::Phi(phi) = config(PHI, json!({})).unwrap().model else { panic!() };
        assert_eq!((phi.rope_theta, phi.rotary_columns), (10_000.0, 8));
        assert_eq!((phi.num_key_value_heads, phi.layer_norm_eps, phi.tie_word_embeddings), (4, 1e-5, false));
    }

    #[test]
    fn opt_has_the_defaults_of_transformers() {
        let read = config(OPT, json!({})).unwrap();
        assert_eq!(read.context_length, 256);
        let CandleModel::Opt(opt) = read.model else { panic!() };
        assert!(opt.do_layer_norm_before && opt.final_layer_norm && opt.tie_word_embeddings);
        assert_eq!(opt.word_embed_proj_dim, 64);
        let post = json!({"do_layer_norm_before": false, "word_embed_proj_dim": 32, "tie_word_embeddings": false});
        let CandleModel::Opt(opt) = config(OPT, post).unwrap().model else { panic!() };
        assert!(!opt.do_layer_norm_before && !opt.final_layer_norm && !opt.tie_word_embeddings);
        assert_eq!(opt.word_embed_proj_dim, 32);
    }

    #[test]
    fn what_would_be_computed_wrongly_is_refused() {
        for (architecture, extra, words) in [
            ("LlamaForCausalLM", json!({}), "LlamaForCausalLM"),
            (PHI, json!({"qk_layernorm": true}), "qk_layernorm"),
            (PHI, json!({"hidden_act": "gelu"}), "hidden_act"),
            (PHI, json!({"rope_scaling": {"type": "linear", "factor": 2.0}}), "rope_scaling"),
            (PHI, json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}), "rope_parameters"),
            (PHI, json!({"num_attention_heads": 5}), "num_attention_heads"),
            (PHI, json!({"num_key_value_heads": 3}), "num_key_value_heads"),
            (PHI, json!({"partial_rotary_factor": 0.3125}), "partial_rotary_factor"),
            (PHI, json!({"partial_rotary_factor": 0.0}), "partial_rotary_factor"),
            (PHI, json!({"layer_norm_eps": "small"}), "layer_norm_eps"),
            (PHI, json!({"quantization_config": {"bits": 4}}), "quantization_config"),
            (OPT, json!({"activation_function": "gelu"}), "activation_function"),
            (OPT, json!({"enable_bias": false}), "enable_bias"),
            (OPT, json!({"layer_norm_elementwise_affine": false}), "layer_norm_elementwise_affine"),
            (OPT, json!({"ffn_dim": null}), "ffn_dim"),
            (OPT, json!({"max_position_embeddings": 0}), "max_position_embeddings"),
        ] {
            let refused = config(architecture, extra).unwrap_err().to_string();
            assert!(refused.contains(words), "{refused}");
        }
    }
}
