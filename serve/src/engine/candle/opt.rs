//! OPT (arXiv 2205.01068) as in `transformers`' `modeling_opt.py`: learned positions, LayerNorm before or behind each
//! part, ReLU, biases throughout, and in the 350M model an embedding narrower than the residual stream.

use candle_core::{Device, Module, Result, Tensor};
use candle_nn::{LayerNorm, Linear, VarBuilder, layer_norm, linear, linear_no_bias};
use orpo_model::{ModelConfig, NormPlacement};

use super::attention::{Attention, Projections, causal_mask};
use super::decoder::Decoder;

/// The first rows of the position table belong to no position (`OPTLearnedPositionalEmbedding`).
const POSITION_OFFSET: usize = 2;
/// torch's default, which OPT uses.
const LAYER_NORM_EPS: f64 = 1e-5;

/// An OPT model with its key-value cache.
pub struct Opt {
    embed_tokens: Tensor,
    embed_positions: Tensor,
    project_in: Option<Linear>,
    layers: Vec<Layer>,
    final_layer_norm: Option<LayerNorm>,
    project_out: Option<Linear>,
    head: Linear,
    /// How many ids the cache holds.
    seen: usize,
}

impl Opt {
    /// Loads the model.
    ///
    /// # Errors
    /// candle's, for a tensor that is missing or of another shape.
    pub fn load(config: &ModelConfig, weights: &VarBuilder<'_>) -> Result<Self> {
        let decoder = weights.pp("model.decoder");
        let (hidden, embedded) = (config.hidden_size, config.embedding_size);
        let embed_tokens = decoder.pp("embed_tokens").get((config.vocab_size, embedded), "weight")?;
        let positions = config.max_position_embeddings + POSITION_OFFSET;
        let projection = |inputs, outputs, name| {
            (hidden != embedded).then(|| linear_no_bias(inputs, outputs, decoder.pp(name))).transpose()
        };
        let head = if config.tie_word_embeddings {
            Linear::new(embed_tokens.clone(), None)
        } else {
            linear_no_bias(embedded, config.vocab_size, weights.pp("lm_head"))?
        };
        let layers = decoder.pp("layers");
        let final_layer_norm = config.final_norm.then(|| norm(hidden, &decoder, "final_layer_norm")).transpose()?;
        Ok(Self {
            embed_tokens,
            embed_positions: decoder.pp("embed_positions").get((positions, hidden), "weight")?,
            project_in: projection(embedded, hidden, "project_in")?,
            layers: (0..config.num_hidden_layers)
                .map(|index| Layer::load(config, &layers.pp(index)))
                .collect::<Result<_>>()?,
            final_layer_norm,
            project_out: projection(hidden, embedded, "project_out")?,
            head,
            seen: 0,
        })
    }
}

impl Decoder for Opt {
    fn clear(&mut self) {
        self.seen = 0;
        for layer in &mut self.layers {
            layer.attention.clear();
        }
    }

    fn hidden(&mut self, ids: &[u32]) -> Result<Tensor> {
        let tokens = self.embed_tokens.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?;
        let tokens = apply(self.project_in.as_ref(), &tokens)?;
        let positions = self.embed_positions.narrow(0, self.seen + POSITION_OFFSET, ids.len())?;
        let mut hidden = (tokens + positions)?;
        let mask = causal_mask(ids.len(), self.seen)?;
        for layer in &mut self.layers {
            hidden = layer.forward(&hidden, mask.as_ref())?;
        }
        self.seen += ids.len();
        Ok(hidden)
    }

    fn head(&self, hidden: &Tensor) -> Result<Tensor> {
        let hidden = apply(self.final_layer_norm.as_ref(), hidden)?;
        self.head.forward(&apply(self.project_out.as_ref(), &hidden)?)
    }
}

struct Layer {
    norm_before: bool,
    self_attn_layer_norm: LayerNorm,
    attention: Attention,
    final_layer_norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl Layer {
    fn load(config: &ModelConfig, weights: &VarBuilder<'_>) -> Result<Self> {
        let hidden = config.hidden_size;
        let attention = |name| linear(hidden, hidden, weights.pp("self_attn").pp(name));
        let projections = Projections {
            query: attention("q_proj")?,
            key: attention("k_proj")?,
            value: attention("v_proj")?,
            output: attention("out_proj")?,
        };
        Ok(Self {
            norm_before: config.norm_placement == NormPlacement::Pre,
            self_attn_layer_norm: norm(hidden, weights, "self_attn_layer_norm")?,
            attention: Attention::new(projections, config.num_attention_heads, config.num_attention_heads),
            final_layer_norm: norm(hidden, weights, "final_layer_norm")?,
            fc1: linear(hidden, config.intermediate_size, weights.pp("fc1"))?,
            fc2: linear(config.intermediate_size, hidden, weights.pp("fc2"))?,
        })
    }

    fn forward(&mut self, hidden: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        if self.norm_before {
            let hidden = (hidden + self.attention.forward(&self.self_attn_layer_norm.forward(hidden)?, None, mask)?)?;
            return &hidden + self.feed_forward(&self.final_layer_norm.forward(&hidden)?)?;
        }
        let hidden = (hidden + self.attention.forward(hidden, None, mask)?)?;
        let hidden = self.self_attn_layer_norm.forward(&hidden)?;
        let hidden = (&hidden + self.feed_forward(&hidden)?)?;
        self.final_layer_norm.forward(&hidden)
    }

    fn feed_forward(&self, input: &Tensor) -> Result<Tensor> {
        self.fc2.forward(&self.fc1.forward(input)?.relu()?)
    }
}

fn norm(width: usize, weights: &VarBuilder<'_>, name: &str) -> Result<LayerNorm> {
    layer_norm(width, LAYER_NORM_EPS, weights.pp(name))
}

fn apply(module: Option<&impl Module>, input: &Tensor) -> Result<Tensor> {
    module.map_or_else(|| Ok(input.clone()), |module| module.forward(input))
}
