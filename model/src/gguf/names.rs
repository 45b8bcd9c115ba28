//! Where a GGUF file has what `transformers` calls by another name.

use std::ops::Range;

use super::head::Head;
use crate::config::{Family, ModelConfig};
use crate::names::{LM_HEAD, Names};

/// What stands before a block's number.
pub(super) const BLOCK: &str = "blk.";
/// The token embedding.
pub(super) const EMBEDDING: &str = "token_embd";
/// The head.
pub(super) const HEAD: &str = "output";
/// What the frequencies of the rotation are divided by.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Where the rows of a tensor are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The tensor's name in the file.
    pub tensor: String,
    /// The part of its rows; none for all.
    pub rows: Option<Range<usize>>,
    /// The width of the heads whose rows are in llama.cpp's order; none where they are in that of `transformers`.
    pub turned: Option<usize>,
}

/// The place of a tensor of `config`'s model.
pub(super) fn place(config: &ModelConfig, head: &Head, name: &str) -> Place {
    let names = Names::of(config.family);
    let (module, kind) = name.rsplit_once('.').unwrap_or((name, ""));
    let inner = module.strip_prefix(names.prefix).unwrap_or(module);
    let whole = |stem: String| Place { tensor: format!("{stem}.{kind}"), rows: None, turned: None };
    let Some((layer, module)) = inner.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) else {
        return whole(match inner {
            "embed_tokens" => EMBEDDING.into(),
            LM_HEAD => HEAD.into(),
            _ => "output_norm".into(),
        });
    };
    let mut place = whole(format!("{BLOCK}{layer}.{}", stem(config.family, module)));
    let fused = format!("{BLOCK}{layer}.attn_qkv.{kind}");
    let heads = (config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim);
    let rows = match module {
        "self_attn.q_proj" => 0..heads.0,
        "self_attn.k_proj" => heads.0..heads.0 + heads.1,
        "self_attn.v_proj" => heads.0 + heads.1..heads.0 + 2 * heads.1,
        _ => return place,
    };
    if head.contains(&fused) {
        (place.tensor, place.rows) = (fused, Some(rows));
    }
    // llama.cpp turns neighbouring columns of a head of a Llama, where transformers turns halves.
    if config.family == Family::Llama && module != "self_attn.v_proj" {
        place.turned = Some(config.head_dim);
    }
    place
}

/// What llama.cpp calls a module of a block.
fn stem(family: Family, module: &str) -> &str {
    match module {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" if family == Family::Gemma2 => "post_attention_norm",
        "post_attention_layernorm" | "pre_feedforward_layernorm" => "ffn_norm",
        "post_feedforward_layernorm" => "post_ffw_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" | "self_attn.dense" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" | "mlp.fc1" => "ffn_up",
        "mlp.down_proj" | "mlp.fc2" => "ffn_down",
        other => other,
    }
}

/// Puts rows of `row` bytes in llama.cpp's order into that of `transformers`: of a head's `width` rows those with an even
/// number first, then the others.
pub(super) fn turned_back(bytes: &[u8], row: usize, width: usize) -> Vec<u8> {
    let mut turned = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact(row * width) {
        for first in 0..2 {
            head.chunks_exact(row).skip(first).step_by(2).for_each(|row| turned.extend_from_slice(row));
        }
    }
    turned
}
