//! Differentiable operations with hand-written backward passes, on the CPU in f32.
//!
//! An operation is a pair of functions. The forward one takes [`Array`](crate::Array)s and returns one, with whatever
//! else its backward pass needs; the backward one takes the same arguments and the gradient of the result, and returns the
//! gradients of the arrays. Nothing records what was called: a block calls the backward functions itself, in reverse
//! order.
//!
//! A weight is a [`Param`](crate::Param) with a *gradient slot*: the backward function of an operation that uses a weight
//! adds the weight's gradient to its slot. Nothing is allocated for a weight's gradient after the start, tied weights share
//! one slot, accumulation over micro-batches needs no code, and a frozen weight costs nothing.
//!
//! Activations are *packed rows*, `(rows, hidden)`: sequences follow one another without padding, and
//! [`attention`] is told by [`Segment`]s which rows belong together.

mod activation;
mod attend;
mod attention;
mod dropout;
mod embedding;
mod linear;
mod linear_logp;
pub(crate) mod math;
pub(crate) mod matmul;
mod norm;
mod rope;
mod rows;

pub use activation::{Activation, activation_backward, gate_backward};
pub use attention::{Attended, AttentionSpec, Segment, attention, attention_backward};
pub use embedding::{accumulate_embedding_grad, embedding};
pub use linear::{Input, Linear, LoraWeights, linear, linear_backward};
pub use linear_logp::{Head, LabelLogps, linear_logp, linear_logp_backward, logits};
pub use norm::{Norm, norm, norm_backward};
pub use rope::RopeTables;
pub use rows::{add, scale, select_rows, spread_rows};

use rayon::prelude::*;

use crate::error::ModelError;

/// The error of an operation whose arguments do not match.
fn refuse<T>(reason: String) -> Result<T, ModelError> {
    Err(ModelError::Refused(reason))
}

/// Adds the sum of the rows of `(rows, sums.len())` to `sums`, in an order that does not depend on the threads.
fn column_sums(rows: &[f32], sums: &mut [f32]) {
    const TASK_ROWS: usize = 256;
    let width = sums.len();
    let partial: Vec<Vec<f32>> = rows
        .par_chunks(width * TASK_ROWS)
        .map(|rows| {
            let mut sums = vec![0f32; width];
            for row in rows.chunks_exact(width) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            sums
        })
        .collect();
    for part in partial {
        sums.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
    }
}

/// A hash of a name (FNV-1a), for seeds.
pub(crate) fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
pub(crate) mod testing {
    //! Finite differences against a backward pass.

    use std::sync::Arc;

    use crate::array::Array;
    use crate::param::Param;
    use crate::values::Values;
    use rand::{Rng, SeedableRng};

    /// `n` values in -1..1.
    pub fn random(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    pub fn random_array(rows: usize, width: usize, seed: u64) -> Array {
        Array::new(rows, width, random(rows * width, seed))
    }

    pub fn random_param(shape: &[usize], seed: u64) -> Arc<Param> {
        Param::trainable("weight", shape, random(shape.iter().product(), seed))
    }

    /// The weight as a tensor, for candle's operations.
    pub fn tensor(param: &Param) -> candle_core::Tensor {
        candle_core::Tensor::from_vec(param.values().unwrap(), param.shape(), &candle_core::Device::Cpu).unwrap()
    }

    /// `sum(y * c)` in f64 for fixed random c.
    fn probe(y: &Array) -> f64 {
        let weights = random(y.values().len(), 99);
        y.values().iter().zip(&weights).map(|(y, c)| *y as f64 * *c as f64).sum()
    }

    /// Checks the gradients of every input and parameter of `forward` that `backward` gives for that of its result against
    /// central differences, at up to 40 elements of each.
    pub fn check_gradients(
        inputs: &[Array],
        params: &[Arc<Param>],
        forward: impl Fn(&[Array], &[Arc<Param>]) -> Array,
        backward: impl Fn(&[Array], &[Arc<Param>], &Array) -> Vec<Array>,
    ) {
        const STEP: f32 = 1e-2;
        const TOLERANCE: f64 = 2e-3;
        let y = forward(inputs, params);
        let grads = backward(inputs, params, &random_array(y.rows(), y.width(), 99));
        assert_eq!(grads.len(), inputs.len(), "every input has a gradient");

        let compare = |what: &str, analytic: &[f32], perturbed: &dyn Fn(usize, f32) -> f64| {
            let stride = analytic.len().div_ceil(40);
            let scale = analytic.iter().fold(1f64, |m, g| m.max(g.abs() as f64));
            assert!(analytic.iter().any(|g| *g != 0.0), "the gradient of {what} is zero");
            for i in (0..analytic.len()).step_by(stride) {
                let numeric = (perturbed(i, STEP) - perturbed(i, -STEP)) / (2.0 * STEP as f64);
                let difference = (numeric - analytic[i] as f64).abs();
                assert!(
                    difference <= TOLERANCE * scale,
                    "{what}[{i}]: backward {} against difference quotient {numeric}",
                    analytic[i]
                );
            }
        };
        for (k, grad) in grads.iter().enumerate() {
            assert_eq!(grad.shape(), inputs[k].shape());
            compare(&format!("input {k}"), grad.values(), &|i, by| {
                let mut nudged = inputs.to_vec();
                nudged[k].values_mut()[i] += by;
                probe(&forward(&nudged, params))
            });
        }
        for (k, param) in params.iter().enumerate() {
            let grad = param.slot().grad.clone();
            compare(&format!("parameter {k}"), &grad, &|i, by| {
                let mut values = param.values().unwrap();
                values[i] += by;
                let mut nudged = params.to_vec();
                nudged[k] = Param::frozen(param.name(), param.shape(), Values::F32(values));
                probe(&forward(inputs, &nudged))
            });
        }
    }
}
