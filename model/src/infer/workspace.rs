//! The arrays of a forward pass, kept from one to the next.

use crate::kernels::RopeTables;

/// Intermediate arrays; they grow to the largest batch and then nothing is allocated any more. One for each thread that
/// calls [`super::Inference::forward`].
#[derive(Debug, Default)]
pub struct Workspace {
    /// The residual stream, `(rows, hidden_size)`.
    pub(super) x: Vec<f32>,
    /// A normalised copy of it.
    pub(super) h: Vec<f32>,
    /// What a layer adds to it, where a norm comes in between.
    pub(super) added: Vec<f32>,
    pub(super) layer: LayerSpace,
    /// `(rows, embedding_size)`, where that is not `hidden_size`.
    pub(super) narrow: Vec<f32>,
}

/// The arrays inside a layer.
#[derive(Debug, Default)]
pub(super) struct LayerSpace {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    /// The attention's output, `(rows, heads, head_dim)`.
    pub attended: Vec<f32>,
    /// The same by blocks of rows.
    pub blocks: Vec<f32>,
    pub gate: Vec<f32>,
    pub up: Vec<f32>,
    pub rope: RopeTables,
    /// An adapter's two products.
    pub lora: [Vec<f32>; 2],
}

/// `array` with `len` elements, whose values mean nothing.
pub(super) fn sized(array: &mut Vec<f32>, len: usize) -> &mut [f32] {
    array.resize(len, 0.0);
    array
}
