//! What each family calls its tensors.

use super::Family;

/// Names below a block's prefix, without `.weight` and `.bias`.
#[derive(Debug, Clone, Copy)]
pub struct BlockNames {
    /// The norm before the attention; after it where norms stand behind.
    pub attention_norm: &'static str,
    /// The second norm of the attention (sandwich).
    pub attention_post_norm: Option<&'static str>,
    /// The norm of the feed-forward layer; none where it shares the attention's.
    pub mlp_norm: Option<&'static str>,
    /// The second norm of the feed-forward layer (sandwich).
    pub mlp_post_norm: Option<&'static str>,
    /// The projection of the attention's output.
    pub attention_output: &'static str,
    /// The projection that gates.
    pub gate: Option<&'static str>,
    /// The projection into the feed-forward layer.
    pub up: &'static str,
    /// The projection out of it.
    pub down: &'static str,
}

/// Names of a family's tensors.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    /// What stands before everything but the head.
    pub prefix: &'static str,
    /// The norm before the head.
    pub final_norm: &'static str,
    /// A block's tensors, after `{prefix}layers.{i}.`.
    pub block: BlockNames,
}

/// The head's weight.
pub const LM_HEAD: &str = "lm_head";

impl Names {
    /// The names of `family`.
    pub fn of(family: Family) -> Self {
        let llama = BlockNames {
            attention_norm: "input_layernorm",
            attention_post_norm: None,
            mlp_norm: Some("post_attention_layernorm"),
            mlp_post_norm: None,
            attention_output: "self_attn.o_proj",
            gate: Some("mlp.gate_proj"),
            up: "mlp.up_proj",
            down: "mlp.down_proj",
        };
        let (prefix, final_norm, block) = match family {
            Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => ("model.", "norm", llama),
            Family::Gemma2 => {
                let block = BlockNames {
                    attention_post_norm: Some("post_attention_layernorm"),
                    mlp_norm: Some("pre_feedforward_layernorm"),
                    mlp_post_norm: Some("post_feedforward_layernorm"),
                    ..llama
                };
                ("model.", "norm", block)
            }
            Family::Phi => {
                let block = BlockNames {
                    mlp_norm: None,
                    attention_output: "self_attn.dense",
                    gate: None,
                    up: "mlp.fc1",
                    down: "mlp.fc2",
                    ..llama
                };
                ("model.", "final_layernorm", block)
            }
            Family::Opt => {
                let block = BlockNames {
                    attention_norm: "self_attn_layer_norm",
                    mlp_norm: Some("final_layer_norm"),
                    attention_output: "self_attn.out_proj",
                    gate: None,
                    up: "fc1",
                    down: "fc2",
                    ..llama
                };
                ("model.decoder.", "final_layer_norm", block)
            }
        };
        Self { prefix, final_norm, block }
    }

    /// The token embedding's weight.
    pub fn embed_tokens(&self) -> String {
        format!("{}embed_tokens.weight", self.prefix)
    }
}
