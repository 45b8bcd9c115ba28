//! Products of activations and weights, bit-identical on every processor.
//!
//! `y[row][output]` is one chain: fused multiply-adds in f32 over ascending inputs, starting at zero. Then the bias is added, and
//! the sum is written, or added to what `y` holds. Nothing else enters, so that a row's result depends on that row alone: not on
//! the other rows, the number of threads, or the instruction set. The lanes of the vector units lie along outputs (weights are
//! kept in panels of 16), which leaves the chains whole. A weight stored narrow is widened to f32 first, exactly as ggml's
//! dequantisation does.
//!
//! AVX-512 and AVX2 are chosen at run time; elsewhere the compiler vectorises plain Rust.

mod drive;
mod isa;
mod lanes;
mod matrix;
mod quantize;
mod scratch;
mod storage;
mod tile;
mod widen;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
mod tests;

use drive::{Finish, K_BLOCK, Weights, drive};
use isa::Isa;

pub use matrix::Matrix;
pub use storage::Storage;

/// `y = x W^T`, plus the bias where there is one: `x` (rows, inputs) and `y` (rows, outputs) are row-major. With `accumulate`
/// that is added to `y` (a residual).
///
/// Uses the threads of rayon's current pool. A caller that makes many small products does so from inside that pool: from outside
/// each call waits for a worker to wake up.
///
/// # Panics
/// If the lengths do not fit the matrix.
pub fn product(x: &[f32], w: &Matrix, bias: Option<&[f32]>, y: &mut [f32], accumulate: bool) {
    check(x, (w.outputs(), w.inputs()), bias, y);
    drive(Isa::best(), x, Weights::Packed(w), Finish { bias, accumulate }, y);
}

/// [`product`] with weights (outputs, inputs) in f32, row-major, that change too often to be laid out: they are packed on the way.
/// The same bits.
///
/// # Panics
/// If the lengths do not fit each other.
pub fn product_unpacked(
    x: &[f32],
    w: &[f32],
    (outputs, inputs): (usize, usize),
    bias: Option<&[f32]>,
    y: &mut [f32],
    accumulate: bool,
) {
    assert_eq!(w.len(), outputs * inputs, "weights of ({outputs}, {inputs})");
    check(x, (outputs, inputs), bias, y);
    drive(Isa::best(), x, Weights::Rows { values: w, outputs, inputs }, Finish { bias, accumulate }, y);
}

fn check(x: &[f32], (outputs, inputs): (usize, usize), bias: Option<&[f32]>, y: &[f32]) {
    assert!(inputs > 0 && x.len().is_multiple_of(inputs), "{} values are not rows of {inputs}", x.len());
    assert_eq!(y.len(), x.len() / inputs * outputs, "rows of {outputs} outputs");
    assert!(bias.is_none_or(|bias| bias.len() == outputs), "a bias of {outputs} outputs");
}
