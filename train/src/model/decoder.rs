//! A Llama decoder over packed rows.

use std::sync::Arc;

use candle_core::{Result as TensorResult, Tensor, Var};

use super::{ModelConfig, WeightSource};
use crate::error::TrainError;
use crate::model::weights::RandomWeights;
use crate::ops::{self, AttentionSpec, Param, RopeTables, Segment};

/// Sequences laid one after another without padding.
#[derive(Debug, Clone)]
pub struct PackedRows {
    /// Token of each row.
    pub ids: Vec<u32>,
    /// Its position in its sequence.
    pub positions: Arc<Vec<u32>>,
    /// Which rows see which.
    pub groups: Arc<Vec<Vec<Segment>>>,
}

impl PackedRows {
    /// One sequence by itself.
    pub fn single(ids: Vec<u32>) -> Self {
        let rows = 0..ids.len();
        let positions = Arc::new(rows.clone().map(|p| p as u32).collect());
        Self { ids, positions, groups: Arc::new(vec![vec![Segment { rows, prefix: 0..0 }]]) }
    }
}

const EMBED_TOKENS: &str = "model.embed_tokens.weight";
const LM_HEAD: &str = "lm_head.weight";

/// One block's weights.
#[derive(Debug)]
struct Block {
    input_layernorm: Arc<Param>,
    q_proj: Arc<Param>,
    k_proj: Arc<Param>,
    v_proj: Arc<Param>,
    o_proj: Arc<Param>,
    post_attention_layernorm: Arc<Param>,
    gate_proj: Arc<Param>,
    up_proj: Arc<Param>,
    down_proj: Arc<Param>,
}

/// A decoder whose weights can be trained.
#[derive(Debug)]
pub struct Decoder {
    config: ModelConfig,
    embed_tokens: Arc<Param>,
    blocks: Vec<Block>,
    norm: Arc<Param>,
    /// The embedding itself where the head is tied to it.
    lm_head: Arc<Param>,
    rope: Arc<RopeTables>,
    params: Vec<Arc<Param>>,
}

impl Decoder {
    /// A decoder with weights from `source`, trainable or frozen as a whole.
    ///
    /// # Errors
    /// When a weight is missing or has another shape.
    pub fn load(config: &ModelConfig, source: &impl WeightSource, trainable: bool) -> Result<Self, TrainError> {
        let mut params = Vec::new();
        // Some checkpoints store a tied matrix under the head's name only.
        let only_head = config.tie_word_embeddings && !source.contains(EMBED_TOKENS) && source.contains(LM_HEAD);
        let mut load = |name: String, shape: &[usize]| -> Result<Arc<Param>, TrainError> {
            let stored = if only_head && name == EMBED_TOKENS { LM_HEAD } else { &name };
            let weight = source.tensor(stored, shape)?;
            let param = if trainable { Param::trainable(name, weight)? } else { Param::frozen(name, weight)? };
            params.push(param.clone());
            Ok(param)
        };
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let queries = config.num_attention_heads * config.head_dim;
        let keys = config.num_key_value_heads * config.head_dim;
        let embed_tokens = load(EMBED_TOKENS.into(), &[vocab, hidden])?;
        let mut blocks = Vec::with_capacity(config.num_hidden_layers);
        for i in 0..config.num_hidden_layers {
            let mut of = |name: &str, shape: &[usize]| load(format!("model.layers.{i}.{name}.weight"), shape);
            blocks.push(Block {
                input_layernorm: of("input_layernorm", &[hidden])?,
                q_proj: of("self_attn.q_proj", &[queries, hidden])?,
                k_proj: of("self_attn.k_proj", &[keys, hidden])?,
                v_proj: of("self_attn.v_proj", &[keys, hidden])?,
                o_proj: of("self_attn.o_proj", &[hidden, queries])?,
                post_attention_layernorm: of("post_attention_layernorm", &[hidden])?,
                gate_proj: of("mlp.gate_proj", &[config.intermediate_size, hidden])?,
                up_proj: of("mlp.up_proj", &[config.intermediate_size, hidden])?,
                down_proj: of("mlp.down_proj", &[hidden, config.intermediate_size])?,
            });
        }
        let norm = load("model.norm.weight".into(), &[hidden])?;
        let lm_head =
            if config.tie_word_embeddings { embed_tokens.clone() } else { load(LM_HEAD.into(), &[vocab, hidden])? };
        let rope = Arc::new(RopeTables::new(config.max_position_embeddings, config.head_dim, config.rope_theta));
        Ok(Self { config: config.clone(), embed_tokens, blocks, norm, lm_head, rope, params })
    }

    /// A trainable decoder with random weights (normal with `initializer_range`, norms 1).
    ///
    /// # Errors
    /// When the configuration's `initializer_range` is no standard deviation.
    pub fn random(config: &ModelConfig, seed: u64) -> Result<Self, TrainError> {
        let source = RandomWeights { seed, standard_deviation: config.initializer_range };
        Self::load(config, &source, true)
    }

    /// Its configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Every weight once, in the order of the forward pass.
    pub fn params(&self) -> &[Arc<Param>] {
        &self.params
    }

    /// The weight `(vocab, hidden)` of the output layer.
    pub fn head(&self) -> &Arc<Param> {
        &self.lm_head
    }

    /// Embeds the tokens: a tracked `(rows, hidden)` variable, the input of [`Decoder::hidden_states`].
    ///
    /// # Errors
    /// When a token is not in the vocabulary.
    pub fn embed(&self, rows: &PackedRows) -> TensorResult<Var> {
        ops::embedding(&rows.ids, &self.embed_tokens)
    }

    /// Ends a backward pass: adds the gradient of the embedded rows to the embedding.
    ///
    /// # Errors
    /// When the shapes do not match.
    pub fn backward_embedding(&self, rows: &PackedRows, grad: &Tensor) -> TensorResult<()> {
        ops::accumulate_embedding_grad(&rows.ids, grad, &self.embed_tokens)
    }

    /// The normalised hidden states `(rows, hidden)` before the head.
    ///
    /// # Errors
    /// When a position is beyond `max_position_embeddings`.
    pub fn hidden_states(&self, embedded: &Tensor, rows: &PackedRows) -> TensorResult<Tensor> {
        let mut x = embedded.clone();
        for block in &self.blocks {
            x = self.block(block, &x, rows)?;
        }
        ops::rms_norm(&x, &self.norm, self.config.rms_norm_eps)
    }

    /// Logits `(rows, vocab)`.
    ///
    /// # Errors
    /// As [`Decoder::embed`] and [`Decoder::hidden_states`].
    pub fn logits(&self, rows: &PackedRows) -> TensorResult<Tensor> {
        let embedded = self.embed(rows)?.as_detached_tensor();
        ops::linear(&self.hidden_states(&embedded, rows)?, &self.lm_head)
    }

    fn block(&self, block: &Block, x: &Tensor, rows: &PackedRows) -> TensorResult<Tensor> {
        let config = &self.config;
        let count = x.dim(0)?;
        let eps = config.rms_norm_eps;
        let h = ops::rms_norm(x, &block.input_layernorm, eps)?;
        let queries = (count, config.num_attention_heads, config.head_dim);
        let keys = (count, config.num_key_value_heads, config.head_dim);
        let q = ops::linear(&h, &block.q_proj)?.reshape(queries)?;
        let k = ops::linear(&h, &block.k_proj)?.reshape(keys)?;
        let v = ops::linear(&h, &block.v_proj)?.reshape(keys)?;
        let q = ops::rope(&q, &self.rope, &rows.positions)?;
        let k = ops::rope(&k, &self.rope, &rows.positions)?;
        let spec = AttentionSpec {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            scale: (config.head_dim as f32).sqrt().recip(),
            groups: rows.groups.clone(),
        };
        let attended = ops::attention(&q, &k, &v, &spec)?.flatten_from(1)?;
        let x = (x + ops::linear(&attended, &block.o_proj)?)?;
        let h = ops::rms_norm(&x, &block.post_attention_layernorm, eps)?;
        let gated = ops::swiglu(&ops::linear(&h, &block.gate_proj)?, &ops::linear(&h, &block.up_proj)?)?;
        &x + ops::linear(&gated, &block.down_proj)?
    }
}
