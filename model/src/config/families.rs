//! The fields of each family's `config.json`.

use serde_json::{Value, json};

use super::fields::{count, flag, optional_count, optional_number, require};
use super::{Activation, Family, ModelConfig, NormKind, NormPlacement, Positions, RopeConfig};

/// Reads the fields of any family.
pub fn parse(json: &Value) -> Result<ModelConfig, String> {
    let model_type = json["model_type"].as_str().ok_or("`model_type` is missing")?;
    match model_type {
        "llama" => llama(json, Family::Llama),
        "mistral" => llama(json, Family::Mistral),
        "qwen2" => qwen2(json),
        "qwen3" => qwen3(json),
        "gemma2" => gemma2(json),
        "phi" => phi(json),
        "opt" => opt(json),
        other => Err(format!("`model_type` is `{other}`; supported: llama, mistral, qwen2, qwen3, gemma2, phi, opt")),
    }
}

fn llama(json: &Value, family: Family) -> Result<ModelConfig, String> {
    require(json, "hidden_act", &["silu".into()])?;
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
    let window = if family == Family::Mistral { optional_count(json, "sliding_window")? } else { None };
    let attention_bias = flag(json, "attention_bias", false)?;
    Ok(ModelConfig {
        family,
        hidden_size,
        embedding_size: hidden_size,
        intermediate_size: count(json, "intermediate_size")?,
        num_hidden_layers,
        num_attention_heads: heads,
        num_key_value_heads: optional_count(json, "num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        vocab_size: count(json, "vocab_size")?,
        max_position_embeddings: count(json, "max_position_embeddings")?,
        pad_token_id: json["pad_token_id"].as_u64().map(|id| id as u32),
        norm: NormKind::Rms,
        norm_placement: NormPlacement::Pre,
        norm_eps: optional_number(json, "rms_norm_eps")?.unwrap_or(1e-6),
        final_norm: true,
        qk_norm: false,
        positions: Positions::Rope(RopeConfig::from_json(json, head_dim)?),
        attention_scale: (head_dim as f64).sqrt().recip(),
        attention_softcap: None,
        windows: windows(json, num_hidden_layers, |_| window)?,
        qkv_bias: attention_bias,
        attention_output_bias: attention_bias,
        activation: Activation::Silu,
        gated_mlp: true,
        mlp_bias: flag(json, "mlp_bias", false)?,
        embedding_scale: 1.0,
        tie_word_embeddings: flag(json, "tie_word_embeddings", false)?,
        head_bias: false,
        final_softcap: None,
        initializer_range: optional_number(json, "initializer_range")?.unwrap_or(0.02),
    })
}

fn qwen2(json: &Value) -> Result<ModelConfig, String> {
    let base = llama(json, Family::Qwen2)?;
    Ok(ModelConfig {
        qkv_bias: true,
        attention_output_bias: false,
        windows: qwen_windows(json, base.num_hidden_layers)?,
        ..base
    })
}

fn qwen3(json: &Value) -> Result<ModelConfig, String> {
    let base = llama(json, Family::Qwen3)?;
    Ok(ModelConfig { qk_norm: true, windows: qwen_windows(json, base.num_hidden_layers)?, ..base })
}

fn qwen_windows(json: &Value, layers: usize) -> Result<Vec<Option<usize>>, String> {
    let window = if flag(json, "use_sliding_window", false)? { optional_count(json, "sliding_window")? } else { None };
    let first = json["max_window_layers"].as_u64().unwrap_or(0) as usize;
    windows(json, layers, |layer| window.filter(|_| layer >= first))
}

fn gemma2(json: &Value) -> Result<ModelConfig, String> {
    require(json, "hidden_activation", &["gelu_pytorch_tanh".into()])?;
    require(json, "use_bidirectional_attention", &[json!(false)])?;
    let mut neutral = json.clone();
    // Gemma's `hidden_act` is ignored in favour of `hidden_activation`.
    neutral["hidden_act"] = Value::Null;
    let base = llama(&neutral, Family::Gemma2)?;
    let window = optional_count(json, "sliding_window")?;
    let scalar = optional_number(json, "query_pre_attn_scalar")?.unwrap_or(256.0);
    Ok(ModelConfig {
        norm: NormKind::RmsPlusOne,
        norm_placement: NormPlacement::Sandwich,
        attention_scale: scalar.sqrt().recip(),
        attention_softcap: optional_number(json, "attn_logit_softcapping")?,
        final_softcap: optional_number(json, "final_logit_softcapping")?,
        windows: windows(json, base.num_hidden_layers, |layer| window.filter(|_| layer % 2 == 0))?,
        activation: Activation::GeluTanh,
        embedding_scale: (base.hidden_size as f64).sqrt(),
        tie_word_embeddings: flag(json, "tie_word_embeddings", true)?,
        ..base
    })
}

fn phi(json: &Value) -> Result<ModelConfig, String> {
    require(json, "hidden_act", &["gelu_new".into(), "gelu_pytorch_tanh".into()])?;
    require(json, "qk_layernorm", &[json!(false)])?;
    let mut neutral = json.clone();
    neutral["hidden_act"] = Value::Null;
    let base = llama(&neutral, Family::Phi)?;
    let partial = optional_number(&json["rope_parameters"], "partial_rotary_factor")?
        .or(optional_number(json, "partial_rotary_factor")?)
        .unwrap_or(0.5);
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
    let mut neutral = json.clone();
    neutral["intermediate_size"] = json["ffn_dim"].clone();
    if neutral["intermediate_size"].is_null() {
        return Err("`ffn_dim` is missing".into());
    }
    let base = llama(&neutral, Family::Opt)?;
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

/// The window of each layer: where `layer_types` is given, `sliding_window` in the layers that it says; otherwise the
/// family's rule.
fn windows(json: &Value, layers: usize, rule: impl Fn(usize) -> Option<usize>) -> Result<Vec<Option<usize>>, String> {
    let Some(types) = json.get("layer_types").and_then(Value::as_array) else {
        return Ok((0..layers).map(rule).collect());
    };
    if types.len() != layers {
        return Err(format!("`layer_types` has {} entries for {layers} layers", types.len()));
    }
    let window = optional_count(json, "sliding_window")?;
    types
        .iter()
        .map(|kind| match kind.as_str() {
            Some("full_attention") => Ok(None),
            Some("sliding_attention") => match window {
                Some(window) => Ok(Some(window)),
                None => Err("`layer_types` asks for a `sliding_window`, which is missing".into()),
            },
            _ => Err(format!("`layer_types` has {kind}; supported: full_attention, sliding_attention")),
        })
        .collect()
}
