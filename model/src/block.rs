//! One decoder block: attention and feed-forward layer, with the norms where the architecture has them.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use crate::config::{ModelConfig, NormPlacement};
use crate::decoder::PackedRows;
use crate::kernels::{self, Activation, AttentionSpec, Input, Linear, Norm, RopeTables};

/// A block's weights and what it does with them.
#[derive(Debug)]
pub struct Block {
    pub placement: NormPlacement,
    pub attention_norm: Norm,
    pub attention_post_norm: Option<Norm>,
    pub mlp_norm: Option<Norm>,
    pub mlp_post_norm: Option<Norm>,
    pub attention: Attention,
    pub mlp: Mlp,
}

/// Self-attention.
#[derive(Debug)]
pub struct Attention {
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub output: Linear,
    pub q_norm: Option<Norm>,
    pub k_norm: Option<Norm>,
    pub window: Option<usize>,
}

/// The feed-forward layer.
#[derive(Debug)]
pub struct Mlp {
    pub gate: Option<Linear>,
    pub up: Linear,
    pub down: Linear,
    pub activation: Activation,
}

/// What is the same for every block of a forward pass.
#[derive(Debug)]
pub struct Context<'a> {
    pub config: &'a ModelConfig,
    pub rows: &'a PackedRows,
    /// None where positions are learnt.
    pub rope: Option<Arc<RopeTables>>,
}

impl Block {
    /// `(rows, hidden)` to `(rows, hidden)`.
    pub fn forward(&self, x: &Tensor, context: &Context<'_>) -> Result<Tensor> {
        match (self.placement, &self.mlp_norm) {
            (NormPlacement::Pre, Some(mlp_norm)) => {
                let x = self.attention.forward(&kernels::norm(x, &self.attention_norm)?, Some(x), context)?;
                self.mlp.forward(&kernels::norm(&x, mlp_norm)?, Some(&x), context)
            }
            (NormPlacement::Sandwich, Some(mlp_norm)) => {
                let post = |norm: &Option<Norm>, x: Tensor| {
                    norm.as_ref().map_or(Ok(x.clone()), |norm| kernels::norm(&x, norm))
                };
                let attended = self.attention.forward(&kernels::norm(x, &self.attention_norm)?, None, context)?;
                let x = (x + post(&self.attention_post_norm, attended)?)?;
                let fed = self.mlp.forward(&kernels::norm(&x, mlp_norm)?, None, context)?;
                &x + post(&self.mlp_post_norm, fed)?
            }
            (NormPlacement::Post, Some(mlp_norm)) => {
                let x = kernels::norm(&self.attention.forward(x, Some(x), context)?, &self.attention_norm)?;
                kernels::norm(&self.mlp.forward(&x, Some(&x), context)?, mlp_norm)
            }
            (NormPlacement::Parallel, _) => {
                let h = kernels::norm(x, &self.attention_norm)?;
                let attended = self.attention.forward(&h, Some(x), context)?;
                self.mlp.forward(&h, Some(&attended), context)
            }
            (_, None) => candle_core::bail!("a block without a norm for its feed-forward layer"),
        }
    }
}

impl Attention {
    /// The attention to `h`, on top of `residual`.
    fn forward(&self, h: &Tensor, residual: Option<&Tensor>, context: &Context<'_>) -> Result<Tensor> {
        let Context { config, rows, rope } = context;
        let count = h.dim(0)?;
        let heads = |layer: &Linear, heads: usize, norm: &Option<Norm>| -> Result<Tensor> {
            let x = kernels::linear(Input::Plain(h), None, layer, rows.dropout_seed)?;
            let x = x.reshape((count, heads, config.head_dim))?;
            norm.as_ref().map_or(Ok(x.clone()), |norm| kernels::norm(&x, norm))
        };
        let q = heads(&self.q, config.num_attention_heads, &self.q_norm)?;
        let k = heads(&self.k, config.num_key_value_heads, &self.k_norm)?;
        let v = heads(&self.v, config.num_key_value_heads, &None)?;
        let spec = AttentionSpec {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            scale: config.attention_scale as f32,
            window: self.window,
            softcap: config.attention_softcap.map(|cap| cap as f32),
            rope: rope.clone(),
            groups: rows.groups.clone(),
        };
        let attended = kernels::attention(&q, &k, &v, &spec)?.flatten_from(1)?;
        kernels::linear(Input::Plain(&attended), residual, &self.output, rows.dropout_seed)
    }
}

impl Mlp {
    /// The feed-forward layer of `h`, on top of `residual`.
    fn forward(&self, h: &Tensor, residual: Option<&Tensor>, context: &Context<'_>) -> Result<Tensor> {
        let seed = context.rows.dropout_seed;
        let up = kernels::linear(Input::Plain(h), None, &self.up, seed)?;
        match &self.gate {
            Some(gate) => {
                let gate = kernels::linear(Input::Plain(h), None, gate, seed)?;
                kernels::linear(Input::Gated(&gate, &up, self.activation), residual, &self.down, seed)
            }
            None => kernels::linear(Input::Activated(&up, self.activation), residual, &self.down, seed),
        }
    }
}
