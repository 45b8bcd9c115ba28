//! One decoder block: attention and feed-forward layer, with the norms where the architecture has them. Its backward pass
//! calls the operations' backward functions in reverse order.

use std::sync::Arc;

use crate::array::Array;
use crate::config::{ModelConfig, NormPlacement};
use crate::decoder::PackedRows;
use crate::error::ModelError;
use crate::kernels::{
    Activation, Attended, AttentionSpec, Input, Linear, Norm, RopeTables, activation_backward, add, attention,
    attention_backward, gate_backward, linear, linear_backward, norm, norm_backward,
};

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

/// What a block's backward pass needs besides its input, by the placement of the norms. In the order of the forward pass;
/// `check/memory.rs` of the trainer counts it.
#[derive(Debug)]
pub enum Saved {
    Pre {
        attention_input: Array,
        attention: AttentionSaved,
        middle: Array,
        mlp_input: Array,
        mlp: MlpSaved,
    },
    Sandwich {
        attention_input: Array,
        attention: AttentionSaved,
        attended: Array,
        middle: Array,
        mlp_input: Array,
        mlp: MlpSaved,
        fed: Array,
    },
    Post {
        attention: AttentionSaved,
        attended: Array,
        middle: Array,
        mlp: MlpSaved,
        fed: Array,
    },
    Parallel {
        input: Array,
        attention: AttentionSaved,
        mlp: MlpSaved,
    },
}

impl Block {
    /// `(rows, hidden)` to `(rows, hidden)`; with `keep` also what the backward pass needs.
    pub fn forward(&self, x: &Array, context: &Context<'_>, keep: bool) -> Result<(Array, Option<Saved>), ModelError> {
        // What is not kept is dropped as soon as it is no longer needed.
        match self.placement {
            NormPlacement::Pre => {
                let attention_input = norm(x, &self.attention_norm)?;
                let (middle, attention) = self.attention.forward(&attention_input, Some(x), context)?;
                let kept = keep.then_some((attention_input, attention));
                let mlp_input = norm(&middle, self.mlp_norm()?)?;
                let (y, mlp) = self.mlp.forward(&mlp_input, Some(&middle), context)?;
                let saved = kept.map(|(attention_input, attention)| Saved::Pre {
                    attention_input,
                    attention,
                    middle,
                    mlp_input,
                    mlp,
                });
                Ok((y, saved))
            }
            NormPlacement::Sandwich => {
                let attention_input = norm(x, &self.attention_norm)?;
                let (attended, attention) = self.attention.forward(&attention_input, None, context)?;
                let middle = on_top(x, post(&attended, &self.attention_post_norm)?)?;
                let kept = keep.then_some((attention_input, attention, attended));
                let mlp_input = norm(&middle, self.mlp_norm()?)?;
                let (fed, mlp) = self.mlp.forward(&mlp_input, None, context)?;
                let y = on_top(&middle, post(&fed, &self.mlp_post_norm)?)?;
                let saved = kept.map(|(attention_input, attention, attended)| Saved::Sandwich {
                    attention_input,
                    attention,
                    attended,
                    middle,
                    mlp_input,
                    mlp,
                    fed,
                });
                Ok((y, saved))
            }
            NormPlacement::Post => {
                let (attended, attention) = self.attention.forward(x, Some(x), context)?;
                let middle = norm(&attended, &self.attention_norm)?;
                let kept = keep.then_some((attention, attended));
                let (fed, mlp) = self.mlp.forward(&middle, Some(&middle), context)?;
                let y = norm(&fed, self.mlp_norm()?)?;
                let saved = kept.map(|(attention, attended)| Saved::Post { attention, attended, middle, mlp, fed });
                Ok((y, saved))
            }
            NormPlacement::Parallel => {
                let input = norm(x, &self.attention_norm)?;
                let (attended, attention) = self.attention.forward(&input, Some(x), context)?;
                let kept = keep.then_some(attention);
                let (y, mlp) = self.mlp.forward(&input, Some(&attended), context)?;
                Ok((y, kept.map(|attention| Saved::Parallel { input, attention, mlp })))
            }
        }
    }

    /// The gradient of the block's input `x`, given that of its output; those of the weights go to their slots.
    pub fn backward(&self, x: &Array, saved: Saved, dy: Array, context: &Context<'_>) -> Result<Array, ModelError> {
        match saved {
            Saved::Pre { attention_input, attention, middle, mlp_input, mlp } => {
                let d = self.mlp.backward(&mlp_input, mlp, &dy, None, context)?;
                let mut dmiddle = norm_backward(&middle, self.mlp_norm()?, &d)?;
                add(&mut dmiddle, &dy)?;
                drop((mlp_input, middle, d, dy));
                let d = self.attention.backward(&attention_input, attention, &dmiddle, None, context)?;
                let mut dx = norm_backward(x, &self.attention_norm, &d)?;
                add(&mut dx, &dmiddle)?;
                Ok(dx)
            }
            Saved::Sandwich { attention_input, attention, attended, middle, mlp_input, mlp, fed } => {
                let dfed = post_backward(&fed, &self.mlp_post_norm, &dy)?;
                let d = self.mlp.backward(&mlp_input, mlp, &dfed, None, context)?;
                let mut dmiddle = norm_backward(&middle, self.mlp_norm()?, &d)?;
                add(&mut dmiddle, &dy)?;
                drop((mlp_input, middle, fed, d, dfed, dy));
                let dattended = post_backward(&attended, &self.attention_post_norm, &dmiddle)?;
                let d = self.attention.backward(&attention_input, attention, &dattended, None, context)?;
                let mut dx = norm_backward(x, &self.attention_norm, &d)?;
                add(&mut dx, &dmiddle)?;
                Ok(dx)
            }
            Saved::Post { attention, attended, middle, mlp, fed } => {
                let dfed = norm_backward(&fed, self.mlp_norm()?, &dy)?;
                let dmiddle = self.mlp.backward(&middle, mlp, &dfed, Some(dfed.clone()), context)?;
                let dattended = norm_backward(&attended, &self.attention_norm, &dmiddle)?;
                drop((middle, fed, dfed, dmiddle, dy));
                self.attention.backward(x, attention, &dattended, Some(dattended.clone()), context)
            }
            Saved::Parallel { input, attention, mlp } => {
                let d = self.attention.backward(&input, attention, &dy, None, context)?;
                let d = self.mlp.backward(&input, mlp, &dy, Some(d), context)?;
                let mut dx = norm_backward(x, &self.attention_norm, &d)?;
                add(&mut dx, &dy)?;
                Ok(dx)
            }
        }
    }

    fn mlp_norm(&self) -> Result<&Norm, ModelError> {
        let missing = || ModelError::Refused("a block without a norm for its feed-forward layer".into());
        self.mlp_norm.as_ref().ok_or_else(missing)
    }
}

/// `x + y`.
fn on_top(x: &Array, mut y: Array) -> Result<Array, ModelError> {
    add(&mut y, x)?;
    Ok(y)
}

/// A norm that an architecture may have behind a layer.
fn post(x: &Array, post_norm: &Option<Norm>) -> Result<Array, ModelError> {
    post_norm.as_ref().map_or_else(|| Ok(x.clone()), |post_norm| norm(x, post_norm))
}

fn post_backward(x: &Array, post_norm: &Option<Norm>, dy: &Array) -> Result<Array, ModelError> {
    post_norm.as_ref().map_or_else(|| Ok(dy.clone()), |post_norm| norm_backward(x, post_norm, dy))
}

/// Adds to a gradient what another use of the same array contributes.
fn sum(onto: Option<Array>, grad: Array) -> Result<Array, ModelError> {
    let Some(mut sum) = onto else { return Ok(grad) };
    add(&mut sum, &grad)?;
    Ok(sum)
}

/// What the attention's backward pass needs besides its input.
#[derive(Debug)]
pub struct AttentionSaved {
    q: Heads,
    k: Heads,
    v: Array,
    attended: Attended,
}

/// Queries or keys of all heads.
#[derive(Debug)]
struct Heads {
    /// Before the norm, where there is one.
    projected: Option<Array>,
    /// What attention takes.
    used: Array,
}

impl Heads {
    fn new(projected: Array, head_norm: &Option<Norm>) -> Result<Self, ModelError> {
        Ok(match head_norm {
            Some(head_norm) => Self { used: norm(&projected, head_norm)?, projected: Some(projected) },
            None => Self { used: projected, projected: None },
        })
    }

    /// From the gradient of what attention took to that of the projection.
    fn backward(self, head_norm: &Option<Norm>, grad: Array) -> Result<Array, ModelError> {
        match (head_norm, self.projected) {
            (Some(head_norm), Some(projected)) => norm_backward(&projected, head_norm, &grad),
            _ => Ok(grad),
        }
    }
}

impl Attention {
    fn spec(&self, context: &Context<'_>) -> AttentionSpec {
        let Context { config, rows, rope } = context;
        AttentionSpec {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            scale: config.attention_scale as f32,
            window: self.window,
            softcap: config.attention_softcap.map(|cap| cap as f32),
            rope: rope.clone(),
            groups: rows.groups.clone(),
        }
    }

    /// The attention to `h`, on top of `residual`.
    fn forward(
        &self,
        h: &Array,
        residual: Option<&Array>,
        context: &Context<'_>,
    ) -> Result<(Array, AttentionSaved), ModelError> {
        let seed = context.rows.dropout_seed;
        let q = Heads::new(linear(Input::Plain(h), None, &self.q, seed)?, &self.q_norm)?;
        let k = Heads::new(linear(Input::Plain(h), None, &self.k, seed)?, &self.k_norm)?;
        let v = linear(Input::Plain(h), None, &self.v, seed)?;
        let attended = attention(&q.used, &k.used, &v, &self.spec(context))?;
        let y = linear(Input::Plain(&attended.output), residual, &self.output, seed)?;
        Ok((y, AttentionSaved { q, k, v, attended }))
    }

    /// The gradient of `h` on top of `onto`, given that of the output.
    fn backward(
        &self,
        h: &Array,
        saved: AttentionSaved,
        dy: &Array,
        onto: Option<Array>,
        context: &Context<'_>,
    ) -> Result<Array, ModelError> {
        let seed = context.rows.dropout_seed;
        let AttentionSaved { q, k, v, attended } = saved;
        let dout = linear_backward(Input::Plain(&attended.output), &self.output, seed, dy)?;
        let [dq, dk, dv] = attention_backward(&q.used, &k.used, &v, &self.spec(context), &attended, &dout)?;
        drop((v, attended, dout));
        let mut dh = sum(onto, linear_backward(Input::Plain(h), &self.v, seed, &dv)?)?;
        drop(dv);
        for (layer, head_norm, heads, grad) in [(&self.k, &self.k_norm, k, dk), (&self.q, &self.q_norm, q, dq)] {
            let grad = heads.backward(head_norm, grad)?;
            add(&mut dh, &linear_backward(Input::Plain(h), layer, seed, &grad)?)?;
        }
        Ok(dh)
    }
}

/// What the feed-forward layer's backward pass needs besides its input.
#[derive(Debug)]
pub struct MlpSaved {
    gate: Option<Array>,
    up: Array,
}

impl MlpSaved {
    /// What the last projection multiplies.
    fn product(&self, activation: Activation) -> Input<'_> {
        match &self.gate {
            Some(gate) => Input::Gated(gate, &self.up, activation),
            None => Input::Activated(&self.up, activation),
        }
    }
}

impl Mlp {
    /// The feed-forward layer of `h`, on top of `residual`.
    fn forward(
        &self,
        h: &Array,
        residual: Option<&Array>,
        context: &Context<'_>,
    ) -> Result<(Array, MlpSaved), ModelError> {
        let seed = context.rows.dropout_seed;
        let up = linear(Input::Plain(h), None, &self.up, seed)?;
        let gate = self.gate.as_ref().map(|gate| linear(Input::Plain(h), None, gate, seed)).transpose()?;
        let saved = MlpSaved { gate, up };
        let y = linear(saved.product(self.activation), residual, &self.down, seed)?;
        Ok((y, saved))
    }

    /// The gradient of `h` on top of `onto`, given that of the output.
    fn backward(
        &self,
        h: &Array,
        saved: MlpSaved,
        dy: &Array,
        onto: Option<Array>,
        context: &Context<'_>,
    ) -> Result<Array, ModelError> {
        let seed = context.rows.dropout_seed;
        let d = linear_backward(saved.product(self.activation), &self.down, seed, dy)?;
        let (dup, gated) = match (&saved.gate, &self.gate) {
            (Some(gate), Some(layer)) => {
                let (dgate, dup) = gate_backward(gate, &saved.up, self.activation, &d)?;
                (dup, Some((layer, dgate)))
            }
            _ => (activation_backward(&saved.up, self.activation, &d)?, None),
        };
        drop((saved, d));
        let mut dh = sum(onto, linear_backward(Input::Plain(h), &self.up, seed, &dup)?)?;
        drop(dup);
        if let Some((layer, dgate)) = gated {
            add(&mut dh, &linear_backward(Input::Plain(h), layer, seed, &dgate)?)?;
        }
        Ok(dh)
    }
}
