//! Differentiable operations with hand-written backward passes, on the CPU in f32.
//!
//! A weight is a [`Param`](crate::Param): a plain tensor that candle's graph never sees, with a *gradient slot* beside it. An
//! operation that uses a weight is a custom operation of its activations only; its backward returns the gradient of
//! the activations and adds the gradient of the weight to the slot. Nothing is allocated for a weight's gradient
//! after the start, tied weights share one slot, accumulation over micro-batches needs no code, and a frozen weight
//! costs nothing. (candle's own fused operations are no alternative: `rms_norm`, `rope`, `softmax_last_dim` and
//! others return from `backward` without a gradient and without an error.)
//!
//! Activations are *packed rows*, `(rows, hidden)`: sequences follow one another without padding, and
//! [`attention`] is told by [`Segment`]s which rows belong together.

mod activation;
mod attention;
mod dropout;
mod embedding;
mod linear;
mod linear_logp;
pub(crate) mod math;
pub(crate) mod matmul;
mod norm;
mod rope;
mod seed;

pub use activation::Activation;
pub use attention::{AttentionSpec, Segment, attention};
pub use embedding::{accumulate_embedding_grad, embedding};
pub use linear::{Input, Linear, LoraWeights, linear};
pub use linear_logp::{Head, linear_logp};
pub use norm::{Norm, norm};
pub use rope::RopeTables;
pub use seed::backward_from;

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor};
use rayon::prelude::*;

/// The elements of a contiguous f32 tensor on the CPU.
fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&storage.as_slice::<f32>()?[from..to]),
        None => candle_core::bail!("a contiguous tensor is required, got strides {:?}", layout.stride()),
    }
}

/// Calls `f` with the elements of `tensor` (made contiguous first).
pub(crate) fn with_slice<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(f(slice(storage, layout)?)),
        _ => candle_core::bail!("this operation runs on the CPU only"),
    }
}

/// A tensor with the shape and device of `like`.
fn tensor_like(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape().clone(), like.device())
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

    use super::*;
    use crate::param::Param;
    use candle_core::{Device, Var};
    use rand::{Rng, SeedableRng};

    /// `n` values in -1..1.
    pub fn random(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    /// A tracked random tensor.
    pub fn random_var(shape: &[usize], seed: u64) -> Var {
        let n = shape.iter().product();
        Var::from_tensor(&Tensor::from_vec(random(n, seed), shape, &Device::Cpu).unwrap()).unwrap()
    }

    pub fn random_param(shape: &[usize], seed: u64) -> std::sync::Arc<Param> {
        let n = shape.iter().product();
        let weight = Tensor::from_vec(random(n, seed), shape, &Device::Cpu).unwrap();
        Param::trainable("weight", weight).unwrap()
    }

    /// `sum(y * c)` in f64 for fixed random c.
    fn probe(y: &Tensor) -> f64 {
        let weights = random(y.elem_count(), 99);
        with_slice(y, |y| y.iter().zip(&weights).map(|(y, c)| *y as f64 * *c as f64).sum()).unwrap()
    }

    /// Checks the gradients of every input and parameter of `f` against central differences, at up to 40 elements
    /// of each. `f` gets the inputs as tensors, so that it can be called with perturbed ones.
    pub fn check_gradients(
        inputs: &[Var],
        params: &[std::sync::Arc<Param>],
        f: impl Fn(&[Tensor], &[std::sync::Arc<Param>]) -> Tensor,
    ) {
        const STEP: f32 = 1e-2;
        const TOLERANCE: f64 = 2e-3;
        let tracked: Vec<Tensor> = inputs.iter().map(|v| v.as_tensor().clone()).collect();
        let y = f(&tracked, params);
        let dy = tensor_like(random(y.elem_count(), 99), &y).unwrap();
        let grads = backward_from(&y, &dy).unwrap();

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
        let nudge = |t: &Tensor, i: usize, by: f32| {
            let mut values = t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            values[i] += by;
            tensor_like(values, t).unwrap()
        };
        for (k, input) in inputs.iter().enumerate() {
            let grad = grads.get(input).expect("every input has a gradient");
            let grad = grad.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            compare(&format!("input {k}"), &grad, &|i, by| {
                let mut nudged: Vec<Tensor> = inputs.iter().map(|v| v.as_detached_tensor()).collect();
                nudged[k] = nudge(input.as_tensor(), i, by);
                probe(&f(&nudged, params))
            });
        }
        let detached: Vec<Tensor> = inputs.iter().map(|v| v.as_detached_tensor()).collect();
        for (k, param) in params.iter().enumerate() {
            let grad = param.slot().grad.clone();
            compare(&format!("parameter {k}"), &grad, &|i, by| {
                let mut nudged = params.to_vec();
                nudged[k] = Param::frozen(param.name(), nudge(&param.weight().unwrap(), i, by)).unwrap();
                probe(&f(&detached, &nudged))
            });
        }
    }
}
