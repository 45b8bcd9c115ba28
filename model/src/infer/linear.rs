//! A linear layer with the adapters of a batch's rows.

use std::ops::Range;

use super::adapter::Adapter;
use crate::product::{Matrix, Product, products};

/// A linear layer.
#[derive(Debug)]
pub(super) struct Linear {
    /// Its number among the model's linear layers, by which adapters find it.
    pub number: usize,
    pub weight: Matrix,
    pub bias: Option<Vec<f32>>,
}

/// Rows with an adapter.
pub(super) type Adapted<'a> = (Range<usize>, &'a Adapter);

impl Linear {
    pub(super) fn bytes(&self) -> usize {
        self.weight.bytes() + self.bias.as_ref().map_or(0, |bias| size_of_val(&bias[..]))
    }

    /// The layer of every row of `x`, written to `y` or added to it; then what the rows' adapters add.
    pub(super) fn forward(
        &self,
        x: &[f32],
        y: &mut [f32],
        accumulate: bool,
        adapted: &[Adapted<'_>],
        space: &mut [Vec<f32>; 2],
    ) {
        products(x, [self.product(y, accumulate)]);
        self.add_adapters(x, y, adapted, space);
    }

    /// Several layers of the same rows.
    pub(super) fn forward_all<const N: usize>(
        layers: [(&Self, &mut [f32]); N],
        x: &[f32],
        adapted: &[Adapted<'_>],
        space: &mut [Vec<f32>; 2],
    ) {
        let mut layers = layers;
        products(x, layers.each_mut().map(|(layer, y)| layer.product(y, false)));
        for (layer, y) in layers {
            layer.add_adapters(x, y, adapted, space);
        }
    }

    fn product<'a>(&'a self, y: &'a mut [f32], accumulate: bool) -> Product<'a> {
        Product { w: &self.weight, bias: self.bias.as_deref(), y, accumulate }
    }

    fn add_adapters(&self, x: &[f32], y: &mut [f32], adapted: &[Adapted<'_>], space: &mut [Vec<f32>; 2]) {
        let (inputs, outputs) = (self.weight.inputs(), self.weight.outputs());
        for (rows, adapter) in adapted {
            let x = &x[rows.start * inputs..rows.end * inputs];
            adapter.add(self.number, x, &mut y[rows.start * outputs..rows.end * outputs], space);
        }
    }
}
