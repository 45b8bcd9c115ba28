//! One decoder block over the rows of a batch.

use super::attention::Attention;
use super::batch::Part;
use super::linear::{Adapted, Linear};
use super::rows::{self, Norm};
use super::workspace::{LayerSpace, Workspace, sized};
use crate::config::{ModelConfig, NormPlacement};
use crate::kv::{PAGE, Pages};
use crate::lanes::Isa;

/// A block's weights.
#[derive(Debug)]
pub(super) struct Block {
    pub attention_norm: Norm,
    pub attention_post_norm: Option<Norm>,
    /// None where it shares the attention's.
    pub mlp_norm: Option<Norm>,
    pub mlp_post_norm: Option<Norm>,
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub output: Linear,
    pub q_norm: Option<Norm>,
    pub k_norm: Option<Norm>,
    pub gate: Option<Linear>,
    pub up: Linear,
    pub down: Linear,
    /// The group of layers whose pages hold its keys and values, and its index there.
    pub group: usize,
    pub index: usize,
}

/// What all blocks of a pass share.
pub(super) struct Context<'a> {
    pub config: &'a ModelConfig,
    pub parts: &'a [Part<'a>],
    pub adapted: &'a [Adapted<'a>],
    pub isa: Isa,
}

impl Block {
    pub(super) fn norms(&self) -> impl Iterator<Item = &Norm> {
        let optional = [&self.attention_post_norm, &self.mlp_norm, &self.mlp_post_norm, &self.q_norm, &self.k_norm];
        std::iter::once(&self.attention_norm).chain(optional.into_iter().flatten())
    }

    pub(super) fn linears(&self) -> impl Iterator<Item = &Linear> {
        [&self.q, &self.k, &self.v, &self.output, &self.up, &self.down].into_iter().chain(&self.gate)
    }

    /// Takes the residual stream `workspace.x` through the block.
    pub(super) fn forward(&self, context: &Context<'_>, pages: &mut Pages, workspace: &mut Workspace) {
        let Workspace { x, h, added, layer, .. } = workspace;
        let h = sized(h, x.len());
        match (context.config.norm_placement, &self.mlp_norm) {
            (NormPlacement::Post, mlp_norm) => {
                h.copy_from_slice(x);
                self.attention(h, x, true, context, pages, layer);
                self.attention_norm.apply_in_place(x);
                h.copy_from_slice(x);
                self.mlp(h, x, true, context, layer);
                mlp_norm.iter().for_each(|norm| norm.apply_in_place(x));
            }
            (NormPlacement::Sandwich, mlp_norm) => {
                let added = sized(added, x.len());
                self.attention_norm.apply(x, h);
                self.attention(h, added, false, context, pages, layer);
                self.attention_post_norm.iter().for_each(|norm| norm.apply_in_place(added));
                rows::add(x, added);
                mlp_norm.iter().for_each(|norm| norm.apply(x, h));
                self.mlp(h, added, false, context, layer);
                self.mlp_post_norm.iter().for_each(|norm| norm.apply_in_place(added));
                rows::add(x, added);
            }
            // In parallel blocks both read the same norm.
            (NormPlacement::Pre | NormPlacement::Parallel, mlp_norm) => {
                self.attention_norm.apply(x, h);
                self.attention(h, x, true, context, pages, layer);
                mlp_norm.iter().for_each(|norm| norm.apply(x, h));
                self.mlp(h, x, true, context, layer);
            }
        }
    }

    /// The attention to `h`, written to `y` or added to it.
    fn attention(
        &self,
        h: &[f32],
        y: &mut [f32],
        accumulate: bool,
        context: &Context<'_>,
        pages: &mut Pages,
        space: &mut LayerSpace,
    ) {
        let config = context.config;
        let (heads, kv_heads, head_dim) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
        let rows = h.len() / config.hidden_size;
        let LayerSpace { q, k, v, attended, blocks, rope, lora, .. } = space;
        let (q, kv) = (sized(q, rows * heads * head_dim), rows * kv_heads * head_dim);
        let (k, v) = (sized(k, kv), sized(v, kv));
        Linear::forward_all([(&self.q, &mut *q), (&self.k, &mut *k), (&self.v, &mut *v)], h, context.adapted, lora);
        for (norm, x) in [(&self.q_norm, &mut *q), (&self.k_norm, &mut *k)] {
            norm.iter().for_each(|norm| norm.apply_in_place(x));
        }
        rope.rotate(q, heads, head_dim);
        rope.rotate(k, kv_heads, head_dim);
        for part in context.parts {
            for (i, row) in part.rows.clone().enumerate() {
                let position = part.start + i;
                let page = part.table.page(self.group, position / PAGE).expect("the batch was checked");
                let row = row * kv_heads * head_dim..(row + 1) * kv_heads * head_dim;
                pages.write(self.group, page, self.index, position % PAGE, &k[row.clone()], &v[row]);
            }
        }
        let attention = Attention {
            heads,
            kv_heads,
            head_dim,
            scale: config.attention_scale as f32,
            softcap: config.attention_softcap.map(|cap| cap as f32),
            group: self.group,
            layer: self.index,
            pages,
            parts: context.parts,
            isa: context.isa,
        };
        let attended = sized(attended, q.len());
        attention.forward(q, attended, blocks);
        self.output.forward(attended, y, accumulate, context.adapted, lora);
    }

    /// The feed-forward layer of `h`, written to `y` or added to it.
    fn mlp(&self, h: &[f32], y: &mut [f32], accumulate: bool, context: &Context<'_>, space: &mut LayerSpace) {
        let config = context.config;
        let len = h.len() / config.hidden_size * config.intermediate_size;
        let LayerSpace { gate, up, lora, .. } = space;
        let up = sized(up, len);
        let inner = match &self.gate {
            Some(layer) => {
                let gate = sized(gate, len);
                Linear::forward_all([(&self.up, &mut *up), (layer, &mut *gate)], h, context.adapted, lora);
                rows::gate(config.activation, gate, up);
                gate
            }
            None => {
                self.up.forward(h, up, false, context.adapted, lora);
                rows::activate(config.activation, up);
                up
            }
        };
        self.down.forward(inner, y, accumulate, context.adapted, lora);
    }
}
