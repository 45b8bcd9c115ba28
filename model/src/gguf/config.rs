//! What a GGUF file says of its model, as the `config.json` that `transformers` has for it.

use serde_json::{Value, json};

use super::head::Head;
use super::names::{BLOCK, EMBEDDING, HEAD};
use crate::config::{Family, ModelConfig, NormKind};

/// The architectures that are read, with the families whose names and block they have. llama.cpp has no name of its own for
/// Mistral.
const ARCHITECTURES: [(&str, Family); 5] = [
    ("llama", Family::Llama),
    ("qwen2", Family::Qwen2),
    ("qwen3", Family::Qwen3),
    ("gemma2", Family::Gemma2),
    ("phi2", Family::Phi),
];
/// Layers of the one Gemma-2 whose queries are not scaled by the width of a head.
const GEMMA2_27B_LAYERS: usize = 46;

/// The model of a file.
///
/// # Errors
/// What of it is not computed here, or is missing.
pub(super) fn config(head: &Head) -> Result<ModelConfig, String> {
    let architecture = head.architecture();
    let Some((_, family)) = ARCHITECTURES.iter().find(|(name, _)| *name == architecture) else {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|(name, _)| *name).collect();
        return Err(format!(
            "the architecture `{architecture}` is not supported in GGUF; supported: {}",
            known.join(", ")
        ));
    };
    let mut config = ModelConfig::from_json(&config_json(head, *family)?)?;
    // The file's norms are whole weights, also where a checkpoint has differences from 1.
    if config.norm == NormKind::RmsPlusOne {
        config.norm = NormKind::Rms;
    }
    let biased = |stem: &str| head.contains(&format!("{BLOCK}0.{stem}.bias"));
    config.qkv_bias = biased("attn_q") || biased("attn_qkv");
    config.attention_output_bias = biased("attn_output");
    config.mlp_bias = biased("ffn_up");
    config.head_bias = head.contains(&format!("{HEAD}.bias"));
    Ok(config)
}

fn config_json(head: &Head, family: Family) -> Result<Value, String> {
    let architecture = head.architecture();
    let key = |name: &str| format!("{architecture}.{name}");
    let optional = |name: &str| head.count(&key(name));
    let count =
        |name: &str| optional(name).ok_or_else(|| format!("`{}` is missing, or no positive whole number", key(name)));
    if optional("expert_count").is_some() {
        return Err("mixtures of experts are not supported in GGUF".into());
    }
    let (hidden, heads, layers) = (count("embedding_length")?, count("attention.head_count")?, count("block_count")?);
    let head_dim = optional("attention.key_length").unwrap_or(hidden / heads);
    if optional("attention.value_length").is_some_and(|length| length != head_dim) {
        return Err(format!(
            "`{}` differs from that of the keys, which is not supported",
            key("attention.value_length")
        ));
    }
    let rotated = optional("rope.dimension_count").unwrap_or(head_dim);
    if rotated != head_dim && family != Family::Phi {
        return Err(format!(
            "`{}` = {rotated} is not supported: heads are {head_dim} wide",
            key("rope.dimension_count")
        ));
    }
    let embedding = head.tensors.get(&format!("{EMBEDDING}.weight"));
    let vocab = embedding.and_then(|tensor| tensor.shape.first()).ok_or("`token_embd.weight` is missing")?;
    let activation = if family == Family::Phi { "gelu_new" } else { "silu" };
    let mut json = json!({
        "architectures": [family.architecture()],
        "hidden_size": hidden,
        "intermediate_size": count("feed_forward_length")?,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": optional("attention.head_count_kv").unwrap_or(heads),
        "head_dim": head_dim,
        "max_position_embeddings": count("context_length")?,
        "vocab_size": vocab,
        "hidden_act": activation,
        "rope_theta": head.number(&key("rope.freq_base")).map_or(10_000.0, shortest),
        "rope_scaling": rope_scaling(head)?,
        "tie_word_embeddings": !head.contains(&format!("{HEAD}.weight")),
    });
    let epsilon = |name: &str| {
        let epsilon = head.number(&key(name)).map(shortest);
        epsilon.ok_or_else(|| format!("`{}` is missing", key(name)))
    };
    match family {
        Family::Phi => {
            json["layer_norm_eps"] = epsilon("attention.layer_norm_epsilon")?.into();
            json["partial_rotary_factor"] = (rotated as f64 / head_dim as f64).into();
        }
        _ => json["rms_norm_eps"] = epsilon("attention.layer_norm_rms_epsilon")?.into(),
    }
    if family == Family::Gemma2 {
        let softcap = |name: &str| head.number(&key(name)).map(shortest);
        // The file leaves this to the reader, as llama.cpp does.
        json["query_pre_attn_scalar"] = if layers == GEMMA2_27B_LAYERS { hidden / heads } else { head_dim }.into();
        json["hidden_activation"] = "gelu_pytorch_tanh".into();
        for (field, name) in [
            ("attn_logit_softcapping", "attn_logit_softcapping"),
            ("final_logit_softcapping", "final_logit_softcapping"),
        ] {
            if let Some(cap) = softcap(name) {
                json[field] = cap.into();
            }
        }
        if let Some(window) = optional("attention.sliding_window") {
            json["sliding_window"] = window.into();
        }
    } else if optional("attention.sliding_window").is_some() {
        return Err(format!("`{}` is not supported", key("attention.sliding_window")));
    }
    Ok(json)
}

/// How the rotation is stretched, but for the factors that a file has as a tensor.
fn rope_scaling(head: &Head) -> Result<Value, String> {
    let key = |name: &str| format!("{}.rope.{name}", head.architecture());
    let kind = head.text(&key("scaling.type"));
    // An older name for a linear stretch.
    let linear = head.number(&key("scale_linear")).filter(|factor| *factor != 1.0);
    match (kind, head.number(&key("scaling.factor")).or(linear)) {
        (None | Some("none"), None) | (Some("none"), Some(_)) => Ok(Value::Null),
        (None | Some("linear"), Some(factor)) => Ok(json!({"rope_type": "linear", "factor": shortest(factor)})),
        (Some("linear"), None) => Err(format!("`{}` is missing", key("scaling.factor"))),
        (Some(kind), _) => Err(format!("`{}` = {kind} is not supported; supported: none, linear", key("scaling.type"))),
    }
}

/// The number that was meant by a single-precision one: that of the fewest digits.
fn shortest(number: f64) -> f64 {
    (number as f32).to_string().parse().unwrap_or(number)
}
