//! The fields of each family's `config.json`, with the defaults of its class in `transformers` 5.

use serde_json::{Value, json};

use super::fields::{count, flag, optional_count, optional_number, require};
use super::rope::partial_rotary_factor;
use super::{Activation, Family, ModelConfig, NormKind, NormPlacement, Positions, RopeConfig, RopeScaling};

/// Reads the fields of any family.
pub fn parse(json: &Value) -> Result<ModelConfig, String> {
    let family = Family::of(json)?;
    let json = &with_defaults(json, family);
    if !json["quantization_config"].is_null() {
        return Err("`quantization_config`: quantised checkpoints are not supported; use the unquantised model".into());
    }
    match family {
        Family::Llama => llama(json),
        Family::Mistral => mistral(json),
        Family::Qwen2 => qwen2(json),
        Family::Qwen3 => qwen3(json),
        Family::Gemma2 => gemma2(json),
        Family::Phi => phi(json),
        Family::Opt => opt(json),
    }
}

/// Adds what `transformers` takes for fields that are not there at all; `null` stays `null`. Sizes that every file has are
/// left out: a file without them is refused.
fn with_defaults(json: &Value, family: Family) -> Value {
    let defaults = match family {
        Family::Llama | Family::Phi => json!({"max_position_embeddings": 2048}),
        Family::Mistral => {
            json!({"max_position_embeddings": 131_072, "num_key_value_heads": 8, "sliding_window": 4096})
        }
        Family::Qwen2 => json!({"max_position_embeddings": 32_768, "num_key_value_heads": 32, "sliding_window": 4096,
                                "max_window_layers": 28}),
        Family::Qwen3 => json!({"max_position_embeddings": 32_768, "num_key_value_heads": 32, "sliding_window": 4096,
                                "max_window_layers": 28, "head_dim": 128}),
        Family::Gemma2 => json!({"max_position_embeddings": 8192, "num_key_value_heads": 4, "sliding_window": 4096,
                                 "head_dim": 256, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
                                 "pad_token_id": 0}),
        Family::Opt => json!({"max_position_embeddings": 2048, "pad_token_id": 1}),
    };
    let mut json = json.clone();
    for (field, default) in defaults.as_object().into_iter().flatten() {
        if json.get(field).is_none() {
            json[field] = default.clone();
        }
    }
    json
}

/// What a Llama has, and nearly all of what the others have.
fn base(json: &Value, family: Family) -> Result<ModelConfig, String> {
    let heads = count(json, "num_attention_heads")?;
    let hidden_size = count(json, "hidden_size")?;
    let head_dim = match optional_count(json, "head_dim")? {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            return Err(format!("`hidden_size` = {hidden_size} is not a multiple of `num_attention_heads` = {heads}"));
        }
    };
    let num_hidden_layers = count(json, "num_hidden_layers")?;
    let vocab_size = count(json, "vocab_size")?;
    Ok(ModelConfig {
        family,
        hidden_size,
        embedding_size: hidden_size,
        intermediate_size: count(json, "intermediate_size")?,
        num_hidden_layers,
        num_attention_heads: heads,
        num_key_value_heads: optional_count(json, "num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        vocab_size,
        max_position_embeddings: count(json, "max_position_embeddings")?,
        pad_token_id: pad_token_id(json, vocab_size),
        norm: NormKind::Rms,
        norm_placement: NormPlacement::Pre,
        norm_eps: optional_number(json, "rms_norm_eps")?.unwrap_or(1e-6),
        final_norm: true,
        qk_norm: false,
        positions: Positions::Rope(rope(json, head_dim)?),
        attention_scale: (head_dim as f64).sqrt().recip(),
        attention_softcap: None,
        windows: vec![None; num_hidden_layers],
        qkv_bias: false,
        attention_output_bias: false,
        activation: Activation::Silu,
        gated_mlp: true,
        mlp_bias: false,
        embedding_scale: 1.0,
        tie_word_embeddings: flag(json, "tie_word_embeddings", false)?,
        head_bias: false,
        final_softcap: None,
        initializer_range: optional_number(json, "initializer_range")?.unwrap_or(0.02),
    })
}

/// torch counts negative ids from the end.
fn pad_token_id(json: &Value, vocab_size: usize) -> Option<u32> {
    let id = json["pad_token_id"].as_i64()?;
    let id = if id < 0 { id + i64::try_from(vocab_size).ok()? } else { id };
    u32::try_from(id).ok()
}

/// The rotation of whole heads. A part of them is what these families' unscaled rotation does not know, and takes for all.
fn rope(json: &Value, head_dim: usize) -> Result<RopeConfig, String> {
    let rope = RopeConfig::from_json(json, head_dim)?;
    match partial_rotary_factor(json)? {
        Some(factor) if factor != 1.0 && rope.scaling != RopeScaling::Default => {
            Err(format!("`partial_rotary_factor` = {factor} is not supported with a scaled rotation"))
        }
        _ => Ok(rope),
    }
}

fn require_silu(json: &Value) -> Result<(), String> {
    require(json, "hidden_act", &["silu".into(), "swish".into()])
}

fn llama(json: &Value) -> Result<ModelConfig, String> {
    require_silu(json)?;
    let attention_bias = flag(json, "attention_bias", false)?;
    Ok(ModelConfig {
        qkv_bias: attention_bias,
        attention_output_bias: attention_bias,
        mlp_bias: flag(json, "mlp_bias", false)?,
        ..base(json, Family::Llama)?
    })
}

/// With `layer_types` it is what `transformers` calls Ministral.
fn mistral(json: &Value) -> Result<ModelConfig, String> {
    require_silu(json)?;
    let base = base(json, Family::Mistral)?;
    let window = optional_count(json, "sliding_window")?;
    Ok(ModelConfig { windows: windows(json, window, base.num_hidden_layers, |_| true)?, ..base })
}

fn qwen2(json: &Value) -> Result<ModelConfig, String> {
    require_silu(json)?;
    let base = base(json, Family::Qwen2)?;
    Ok(ModelConfig { qkv_bias: true, windows: qwen_windows(json, base.num_hidden_layers)?, ..base })
}

fn qwen3(json: &Value) -> Result<ModelConfig, String> {
    require_silu(json)?;
    let base = base(json, Family::Qwen3)?;
    let attention_bias = flag(json, "attention_bias", false)?;
    Ok(ModelConfig {
        qk_norm: true,
        qkv_bias: attention_bias,
        attention_output_bias: attention_bias,
        windows: qwen_windows(json, base.num_hidden_layers)?,
        ..base
    })
}

fn qwen_windows(json: &Value, layers: usize) -> Result<Vec<Option<usize>>, String> {
    let window = if flag(json, "use_sliding_window", false)? { optional_count(json, "sliding_window")? } else { None };
    let first = json["max_window_layers"].as_u64().ok_or("`max_window_layers` must be a whole number")? as usize;
    windows(json, window, layers, |layer| layer >= first)
}

fn gemma2(json: &Value) -> Result<ModelConfig, String> {
    // `hidden_act` is of no meaning here, whatever it says.
    require(json, "hidden_activation", &["gelu_pytorch_tanh".into()])?;
    require(json, "use_bidirectional_attention", &[json!(false)])?;
    let base = base(json, Family::Gemma2)?;
    let window = optional_count(json, "sliding_window")?;
    let scalar = optional_number(json, "query_pre_attn_scalar")?.unwrap_or(256.0);
    let attention_bias = flag(json, "attention_bias", false)?;
    Ok(ModelConfig {
        norm: NormKind::RmsPlusOne,
        norm_placement: NormPlacement::Sandwich,
        attention_scale: scalar.sqrt().recip(),
        attention_softcap: optional_number(json, "attn_logit_softcapping")?,
        final_softcap: optional_number(json, "final_logit_softcapping")?,
        windows: windows(json, window, base.num_hidden_layers, |layer| layer % 2 == 0)?,
        qkv_bias: attention_bias,
        attention_output_bias: attention_bias,
        activation: Activation::GeluTanh,
        embedding_scale: (base.hidden_size as f64).sqrt(),
        tie_word_embeddings: flag(json, "tie_word_embeddings", true)?,
        ..base
    })
}

fn phi(json: &Value) -> Result<ModelConfig, String> {
    require(json, "hidden_act", &["gelu_new".into(), "gelu_pytorch_tanh".into()])?;
    require(json, "qk_layernorm", &[json!(false)])?;
    // The part of the heads that is rotated is read here, not refused.
    let mut whole = json.clone();
    for field in ["rope_parameters", "rope_scaling", "partial_rotary_factor"] {
        whole[field] = Value::Null;
    }
    let base = base(&whole, Family::Phi)?;
    let partial = partial_rotary_factor(json)?.unwrap_or(0.5);
    let rotary_dim = (partial * base.head_dim as f64) as usize;
    Ok(ModelConfig {
        norm: NormKind::Layer,
        norm_placement: NormPlacement::Parallel,
        norm_eps: optional_number(json, "layer_norm_eps")?.unwrap_or(1e-5),
        positions: Positions::Rope(RopeConfig::from_json(json, rotary_dim)?),
        qkv_bias: true,
        attention_output_bias: true,
        activation: Activation::GeluTanh,
        gated_mlp: false,
        mlp_bias: true,
        head_bias: true,
        ..base
    })
}

fn opt(json: &Value) -> Result<ModelConfig, String> {
    require(json, "activation_function", &["relu".into()])?;
    require(json, "enable_bias", &[json!(true)])?;
    require(json, "layer_norm_elementwise_affine", &[json!(true)])?;
    let intermediate_size = count(json, "ffn_dim")?;
    let mut named = json.clone();
    named["intermediate_size"] = intermediate_size.into();
    // What other families have and this one does not look at.
    for field in ["head_dim", "num_key_value_heads", "rope_parameters", "rope_scaling", "rope_theta"] {
        named[field] = Value::Null;
    }
    let base = base(&named, Family::Opt)?;
    let before = flag(json, "do_layer_norm_before", true)?;
    Ok(ModelConfig {
        embedding_size: optional_count(json, "word_embed_proj_dim")?.unwrap_or(base.hidden_size),
        norm: NormKind::Layer,
        norm_placement: if before { NormPlacement::Pre } else { NormPlacement::Post },
        norm_eps: 1e-5,
        final_norm: before && !flag(json, "_remove_final_layer_norm", false)?,
        positions: Positions::Learned { offset: 2 },
        qkv_bias: true,
        attention_output_bias: true,
        activation: Activation::Relu,
        gated_mlp: false,
        mlp_bias: true,
        tie_word_embeddings: flag(json, "tie_word_embeddings", true)?,
        initializer_range: optional_number(json, "init_std")?.unwrap_or(0.02),
        ..base
    })
}

/// The window of each layer: in the layers that `layer_types` names where it is given, else in those of the family's rule.
fn windows(
    json: &Value,
    window: Option<usize>,
    layers: usize,
    rule: impl Fn(usize) -> bool,
) -> Result<Vec<Option<usize>>, String> {
    let Some(types) = json.get("layer_types").and_then(Value::as_array) else {
        return Ok((0..layers).map(|layer| window.filter(|_| rule(layer))).collect());
    };
    if types.len() != layers {
        return Err(format!("`layer_types` has {} entries for {layers} layers", types.len()));
    }
    types
        .iter()
        .map(|kind| match (kind.as_str(), window) {
            (Some("full_attention"), _) => Ok(None),
            (Some("sliding_attention"), Some(window)) => Ok(Some(window)),
            (Some("sliding_attention"), None) => {
                Err("`layer_types` asks for a `sliding_window`, which is missing or not in use".into())
            }
            _ => Err(format!("`layer_types` has {kind}; supported: full_attention, sliding_attention")),
        })
        .collect()
}
