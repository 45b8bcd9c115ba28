//! One decoder block: attention and feed-forward layer, with the norms where the architecture has them.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::{ModelConfig, NormPlacement, PackedRows};
use crate::ops::{self, Activation, AttentionSpec, Linear, Norm, RopeTables};

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
        let optional = |norm: &Option<Norm>, x: Tensor| match norm {
            Some(norm) => ops::norm(&x, norm),
            None => Ok(x),
        };
        let pre = |norm: &Norm, x: &Tensor| ops::norm(x, norm);
        match (self.placement, &self.mlp_norm) {
            (NormPlacement::Pre | NormPlacement::Sandwich, Some(mlp_norm)) => {
                let attended = self.attention.forward(&pre(&self.attention_norm, x)?, context)?;
                let x = (x + optional(&self.attention_post_norm, attended)?)?;
                let fed = self.mlp.forward(&pre(mlp_norm, &x)?, context)?;
                &x + optional(&self.mlp_post_norm, fed)?
            }
            (NormPlacement::Post, Some(mlp_norm)) => {
                let x = ops::norm(&(x + self.attention.forward(x, context)?)?, &self.attention_norm)?;
                ops::norm(&(&x + self.mlp.forward(&x, context)?)?, mlp_norm)
            }
            (NormPlacement::Parallel, _) => {
                let h = pre(&self.attention_norm, x)?;
                (x + self.attention.forward(&h, context)?)? + self.mlp.forward(&h, context)?
            }
            (_, None) => candle_core::bail!("a block without a norm for its feed-forward layer"),
        }
    }
}

impl Attention {
    fn forward(&self, h: &Tensor, context: &Context<'_>) -> Result<Tensor> {
        let Context { config, rows, rope } = context;
        let count = h.dim(0)?;
        let heads = |layer: &Linear, heads: usize, norm: &Option<Norm>, rotated: bool| -> Result<Tensor> {
            let x = ops::linear(h, layer, rows.dropout_seed)?.reshape((count, heads, config.head_dim))?;
            let x = match norm {
                Some(norm) => ops::norm(&x, norm)?,
                None => x,
            };
            match rope {
                Some(tables) if rotated => ops::rope(&x, tables),
                _ => Ok(x),
            }
        };
        let q = heads(&self.q, config.num_attention_heads, &self.q_norm, true)?;
        let k = heads(&self.k, config.num_key_value_heads, &self.k_norm, true)?;
        let v = heads(&self.v, config.num_key_value_heads, &None, false)?;
        let spec = AttentionSpec {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            scale: config.attention_scale as f32,
            window: self.window,
            softcap: config.attention_softcap.map(|cap| cap as f32),
            groups: rows.groups.clone(),
        };
        let attended = ops::attention(&q, &k, &v, &spec)?.flatten_from(1)?;
        ops::linear(&attended, &self.output, rows.dropout_seed)
    }
}

impl Mlp {
    fn forward(&self, h: &Tensor, context: &Context<'_>) -> Result<Tensor> {
        let seed = context.rows.dropout_seed;
        let up = ops::linear(h, &self.up, seed)?;
        let inner = match &self.gate {
            Some(gate) => ops::gated(&ops::linear(h, gate, seed)?, &up, self.activation)?,
            None => ops::activate(&up, self.activation)?,
        };
        ops::linear(&inner, &self.down, seed)
    }
}
