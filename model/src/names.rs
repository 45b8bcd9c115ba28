//! What each family calls its tensors, and what tensors a model has.

use std::collections::BTreeSet;

use crate::config::{Family, ModelConfig, NormKind, Positions};

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

impl ModelConfig {
    /// Every tensor of the model with its shape, by the names that `transformers` gives them.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let names = Names::of(self.family);
        let prefix = names.prefix;
        let (hidden, narrow, vocab) = (self.hidden_size, self.embedding_size, self.vocab_size);
        let mut list = Tensors(Vec::new());
        list.add(names.embed_tokens(), &[vocab, narrow]);
        if let Positions::Learned { offset } = self.positions {
            list.add(format!("{prefix}embed_positions.weight"), &[self.max_position_embeddings + offset, hidden]);
        }
        if narrow != hidden {
            list.linear(&format!("{prefix}project_in"), hidden, narrow, false);
            list.linear(&format!("{prefix}project_out"), narrow, hidden, false);
        }
        for layer in 0..self.num_hidden_layers {
            self.block(&names.block, &format!("{prefix}layers.{layer}."), &mut list);
        }
        if self.final_norm {
            list.norm(&format!("{prefix}{}", names.final_norm), hidden, self.norm);
        }
        if !self.tie_word_embeddings {
            list.add(format!("{LM_HEAD}.weight"), &[vocab, narrow]);
        }
        if self.head_bias {
            list.add(format!("{LM_HEAD}.bias"), &[vocab]);
        }
        list.0
    }

    fn block(&self, names: &BlockNames, prefix: &str, list: &mut Tensors) {
        let hidden = self.hidden_size;
        let queries = self.num_attention_heads * self.head_dim;
        let keys = self.num_key_value_heads * self.head_dim;
        let norms = [Some(names.attention_norm), names.attention_post_norm, names.mlp_norm, names.mlp_post_norm];
        for name in norms.into_iter().flatten() {
            list.norm(&format!("{prefix}{name}"), hidden, self.norm);
        }
        if self.qk_norm {
            for name in ["q_norm", "k_norm"] {
                list.norm(&format!("{prefix}self_attn.{name}"), self.head_dim, self.norm);
            }
        }
        for (name, outputs) in [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)] {
            list.linear(&format!("{prefix}self_attn.{name}"), outputs, hidden, self.qkv_bias);
        }
        list.linear(&format!("{prefix}{}", names.attention_output), hidden, queries, self.attention_output_bias);
        for name in names.gate.into_iter().chain([names.up]) {
            list.linear(&format!("{prefix}{name}"), self.intermediate_size, hidden, self.mlp_bias);
        }
        list.linear(&format!("{prefix}{}", names.down), hidden, self.intermediate_size, self.mlp_bias);
    }

    /// The name that a checkpoint has for what `transformers` calls `name`. A model that was saved without its head has
    /// names without `model.`, and a tied matrix may be there under the head's name only.
    pub fn stored_name(&self, name: &str, contains: impl Fn(&str) -> bool) -> String {
        let head = format!("{LM_HEAD}.weight");
        let without_model = name.strip_prefix("model.").unwrap_or(name);
        let is_tied = self.tie_word_embeddings && name == Names::of(self.family).embed_tokens();
        let stored = if contains(name) {
            name
        } else if contains(without_model) {
            without_model
        } else if is_tied && contains(&head) {
            &head
        } else {
            name
        };
        stored.to_string()
    }

    /// Refuses tensors for which the model has no use: they mean that config.json describes another model.
    ///
    /// # Errors
    /// A sentence that names the first such tensor.
    pub fn refuse_unused<'a>(&self, names: impl Iterator<Item = &'a str>) -> Result<(), String> {
        let names: BTreeSet<&str> = names.collect();
        let stored = |(name, _): (String, Vec<usize>)| self.stored_name(&name, |name| names.contains(name));
        let used: BTreeSet<String> = self.tensors().into_iter().map(stored).collect();
        // The tied head, and tables that older programs stored.
        let harmless = |name: &str| {
            name == format!("{LM_HEAD}.weight")
                || name.ends_with("rotary_emb.inv_freq")
                || name.ends_with("attn.masked_bias")
        };
        match names.into_iter().find(|name| !used.contains(*name) && !harmless(name)) {
            None => Ok(()),
            Some(name) => Err(format!(
                "the weights have a tensor `{name}`, for which the model that config.json describes has no use"
            )),
        }
    }
}

/// Names and shapes, in the order of a forward pass as far as that is one.
struct Tensors(Vec<(String, Vec<usize>)>);

impl Tensors {
    fn add(&mut self, name: String, shape: &[usize]) {
        self.0.push((name, shape.to_vec()));
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize, bias: bool) {
        self.add(format!("{name}.weight"), &[outputs, inputs]);
        if bias {
            self.add(format!("{name}.bias"), &[outputs]);
        }
    }

    fn norm(&mut self, name: &str, width: usize, kind: NormKind) {
        self.add(format!("{name}.weight"), &[width]);
        if kind == NormKind::Layer {
            self.add(format!("{name}.bias"), &[width]);
        }
    }
}
