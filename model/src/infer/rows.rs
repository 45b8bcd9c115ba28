//! Operations on one row at a time: norms, rotary positions, activations. Each has one order of its own, the trainer's.

use rayon::prelude::*;

use crate::config::Activation;
use crate::kernels::math::{dot, gelu_tanh, silu, sum, tanh};

/// Elements below which the threads are not asked.
const SERIAL: usize = 1 << 14;

/// Calls `f` with every row of `y` and its number.
fn for_rows(y: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if y.len() < SERIAL {
        y.chunks_exact_mut(width).enumerate().for_each(|(i, y)| f(i, y));
    } else {
        let rows = (SERIAL / 4 / width).max(1);
        y.par_chunks_mut(width * rows).enumerate().for_each(|(task, y)| {
            y.chunks_exact_mut(width).enumerate().for_each(|(i, y)| f(task * rows + i, y));
        });
    }
}

/// A norm with its weights.
#[derive(Debug)]
pub(super) enum Norm {
    /// `x / sqrt(mean(x^2) + eps) * weight`, where `weight` is what the file has plus 1 for Gemma.
    Rms { weight: Vec<f32>, eps: f32 },
    /// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias`.
    Layer { weight: Vec<f32>, bias: Vec<f32>, eps: f32 },
}

impl Norm {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Rms { weight, .. } => size_of_val(&weight[..]),
            Self::Layer { weight, bias, .. } => size_of_val(&weight[..]) + size_of_val(&bias[..]),
        }
    }

    /// The norm of every row of `x`, written to `y`.
    pub(super) fn apply(&self, x: &[f32], y: &mut [f32]) {
        let width = self.width();
        for_rows(y, width, |i, y| {
            y.copy_from_slice(&x[i * width..(i + 1) * width]);
            self.row(y);
        });
    }

    /// The norm of every row of `x` in its place.
    pub(super) fn apply_in_place(&self, x: &mut [f32]) {
        for_rows(x, self.width(), |_, x| self.row(x));
    }

    fn width(&self) -> usize {
        match self {
            Self::Rms { weight, .. } | Self::Layer { weight, .. } => weight.len(),
        }
    }

    fn row(&self, x: &mut [f32]) {
        let n = x.len() as f32;
        match self {
            Self::Rms { weight, eps } => {
                let factor = 1.0 / (dot(x, x) / n + eps).sqrt();
                x.iter_mut().zip(weight).for_each(|(x, weight)| *x = *x * factor * weight);
            }
            Self::Layer { weight, bias, eps } => {
                let mean = sum(x) / n;
                let squares = x.iter().map(|x| (x - mean) * (x - mean));
                // In f64: large activations leave little of the difference.
                let variance = squares.map(f64::from).sum::<f64>() / f64::from(n);
                let factor = 1.0 / (variance as f32 + eps).sqrt();
                let weights = weight.iter().zip(bias);
                x.iter_mut().zip(weights).for_each(|(x, (weight, bias))| *x = (*x - mean) * factor * weight + bias);
            }
        }
    }
}

/// Cosines and sines of the rows of a batch, `(rows, frequencies)` each.
#[derive(Debug, Default)]
pub(super) struct RopeTables {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTables {
    /// Row `r` is rotated by `positions[r] * frequencies[i]` in its `i`-th pair of columns.
    pub(super) fn fill(&mut self, positions: impl Iterator<Item = usize>, frequencies: &[f32]) {
        self.cos.clear();
        self.sin.clear();
        for position in positions {
            for frequency in frequencies {
                // An f32 angle, as transformers computes it: that of a late position is rounded in the same way.
                let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
                self.cos.push(cos as f32);
                self.sin.push(sin as f32);
            }
        }
    }

    /// Rotates the first columns of every head of `(rows, heads, head_dim)`, in halves as Hugging Face's checkpoints have
    /// them.
    pub(super) fn rotate(&self, x: &mut [f32], heads: usize, head_dim: usize) {
        let width = heads * head_dim;
        let half = self.cos.len() / (x.len() / width);
        for_rows(x, width, |i, x| {
            let (cos, sin) = (&self.cos[i * half..(i + 1) * half], &self.sin[i * half..(i + 1) * half]);
            for head in x.chunks_exact_mut(head_dim) {
                let (left, right) = head[..2 * half].split_at_mut(half);
                for i in 0..half {
                    let (a, b) = (left[i], right[i]);
                    left[i] = a * cos[i] - b * sin[i];
                    right[i] = b * cos[i] + a * sin[i];
                }
            }
        });
    }
}

/// The activation of every element of `x`, in its place.
pub(super) fn activate(activation: Activation, x: &mut [f32]) {
    each(activation, x, |_, value| value);
}

/// `activation(gate) * up`, element by element, written to `gate`.
pub(super) fn gate(activation: Activation, gate: &mut [f32], up: &[f32]) {
    each(activation, gate, |i, value| value * up[i]);
}

/// `x[i] = f(i, activation(x[i]))`, with a loop for each activation.
fn each(activation: Activation, x: &mut [f32], f: impl Fn(usize, f32) -> f32 + Sync) {
    const TASK: usize = SERIAL / 4;
    let run = |f: &(dyn Fn(usize, &mut [f32]) + Sync), x: &mut [f32]| match x.len() < SERIAL {
        true => f(0, x),
        false => x.par_chunks_mut(TASK).enumerate().for_each(|(task, x)| f(task * TASK, x)),
    };
    match activation {
        Activation::Silu => run(&|at, x| (0..x.len()).for_each(|i| x[i] = f(at + i, silu(x[i]))), x),
        Activation::GeluTanh => run(&|at, x| (0..x.len()).for_each(|i| x[i] = f(at + i, gelu_tanh(x[i]))), x),
        Activation::Relu => {
            run(&|at, x| (0..x.len()).for_each(|i| x[i] = f(at + i, if x[i] > 0.0 { x[i] } else { 0.0 })), x)
        }
    }
}

/// `x + y`, written to `x`.
pub(super) fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// `cap * tanh(x / cap)` of every element.
pub(super) fn soft_cap(x: &mut [f32], cap: f32) {
    x.iter_mut().for_each(|x| *x = cap * tanh(*x / cap));
}
