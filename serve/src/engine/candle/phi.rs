//! Phi-1, 1.5 and 2 as in `transformers`' `modeling_phi.py`: attention and feed-forward side by side behind one LayerNorm,
//! rotary positions on a part of each head, tanh-approximated GELU, biases throughout, the head's included.

use candle_core::{Device, Module, Result, Tensor};
use candle_nn::{LayerNorm, Linear, VarBuilder, layer_norm, linear};
use orpo_model::{ModelConfig, Positions};

use super::attention::{Attention, Projections, causal_mask};
use super::decoder::Decoder;
use super::rotary::Rotary;

/// A Phi model with its key-value cache.
pub struct Phi {
    embed_tokens: Tensor,
    rotary: Rotary,
    layers: Vec<Layer>,
    final_layernorm: LayerNorm,
    lm_head: Linear,
    /// How many ids the cache holds.
    seen: usize,
}

impl Phi {
    /// Loads the model.
    ///
    /// # Errors
    /// candle's, for a tensor that is missing or of another shape.
    pub fn load(config: &ModelConfig, weights: &VarBuilder<'_>) -> Result<Self> {
        let (model, hidden, vocab) = (weights.pp("model"), config.hidden_size, config.vocab_size);
        let embed_tokens = model.pp("embed_tokens").get((vocab, hidden), "weight")?;
        let Positions::Rope(rope) = &config.positions else { candle_core::bail!("a Phi has rotary positions") };
        let head = weights.pp("lm_head");
        let lm_head = if config.tie_word_embeddings {
            Linear::new(embed_tokens.clone(), Some(head.get(vocab, "bias")?))
        } else {
            linear(hidden, vocab, head)?
        };
        let layers = model.pp("layers");
        Ok(Self {
            embed_tokens,
            rotary: Rotary::new(&rope.frequencies(), config.max_position_embeddings)?,
            layers: (0..config.num_hidden_layers)
                .map(|index| Layer::load(config, &layers.pp(index)))
                .collect::<Result<_>>()?,
            final_layernorm: layer_norm(hidden, config.norm_eps, model.pp("final_layernorm"))?,
            lm_head,
            seen: 0,
        })
    }
}

impl Decoder for Phi {
    fn clear(&mut self) {
        self.seen = 0;
        for layer in &mut self.layers {
            layer.attention.clear();
        }
    }

    fn hidden(&mut self, ids: &[u32]) -> Result<Tensor> {
        let mut hidden = self.embed_tokens.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?;
        let rotary = self.rotary.narrow(self.seen, ids.len())?;
        let mask = causal_mask(ids.len(), self.seen)?;
        for layer in &mut self.layers {
            hidden = layer.forward(&hidden, &rotary, mask.as_ref())?;
        }
        self.seen += ids.len();
        Ok(hidden)
    }

    fn head(&self, hidden: &Tensor) -> Result<Tensor> {
        self.lm_head.forward(&self.final_layernorm.forward(hidden)?)
    }
}

struct Layer {
    input_layernorm: LayerNorm,
    attention: Attention,
    fc1: Linear,
    fc2: Linear,
}

impl Layer {
    fn load(config: &ModelConfig, weights: &VarBuilder<'_>) -> Result<Self> {
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        let (query_width, key_value_width) = (heads * config.head_dim, config.num_key_value_heads * config.head_dim);
        let (attention, mlp) = (weights.pp("self_attn"), weights.pp("mlp"));
        let projections = Projections {
            query: linear(hidden, query_width, attention.pp("q_proj"))?,
            key: linear(hidden, key_value_width, attention.pp("k_proj"))?,
            value: linear(hidden, key_value_width, attention.pp("v_proj"))?,
            output: linear(query_width, hidden, attention.pp("dense"))?,
        };
        Ok(Self {
            input_layernorm: layer_norm(hidden, config.norm_eps, weights.pp("input_layernorm"))?,
            attention: Attention::new(projections, heads, config.num_key_value_heads),
            fc1: linear(hidden, config.intermediate_size, mlp.pp("fc1"))?,
            fc2: linear(config.intermediate_size, hidden, mlp.pp("fc2"))?,
        })
    }

    fn forward(&mut self, hidden: &Tensor, rotary: &Rotary, mask: Option<&Tensor>) -> Result<Tensor> {
        let input = self.input_layernorm.forward(hidden)?;
        let attended = self.attention.forward(&input, Some(rotary), mask)?;
        let fed_forward = self.fc2.forward(&self.fc1.forward(&input)?.gelu()?)?;
        (attended + fed_forward)? + hidden
    }
}
