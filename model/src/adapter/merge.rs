//! An adapter's product on top of a weight.

use rayon::prelude::*;

use crate::kernels::matmul::{Output, Threads, View, ViewMut, matmul};

/// `weight += scale B A`, for a weight `(outputs, inputs)`, B `(outputs, rank)` and A `(rank, inputs)`, all by rows. The
/// product is rounded to f32 before it is scaled and added.
pub fn add_product(weight: &mut [f32], a: &[f32], b: &[f32], rank: usize, scale: f32) {
    let (outputs, inputs) = (b.len() / rank, a.len() / rank);
    let mut product = vec![0f32; weight.len()];
    let (a, b) = (View::new(a, rank, inputs), View::new(b, outputs, rank));
    matmul(ViewMut::new(&mut product, outputs, inputs), Output::Overwrite, 1.0, b, a, Threads::All);
    weight.par_iter_mut().zip(&product).with_min_len(1 << 14).for_each(|(weight, product)| *weight += product * scale);
}
