//! Operations on one row at a time, by the [formulas] that the trainer has: norms, activations, sums.

use rayon::prelude::*;

use crate::config::Activation;
use crate::formulas::{self, RowNorm};

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
    /// `x / sqrt(mean(x^2) + eps) * (offset + weight)`.
    Rms { weight: Vec<f32>, offset: f32, eps: f32 },
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
        let formula = self.formula();
        let width = formula.weight.len();
        for_rows(y, width, |i, y| {
            y.copy_from_slice(&x[i * width..(i + 1) * width]);
            formula.apply(y);
        });
    }

    /// The norm of every row of `x` in its place.
    pub(super) fn apply_in_place(&self, x: &mut [f32]) {
        let formula = self.formula();
        for_rows(x, formula.weight.len(), |_, x| formula.apply(x));
    }

    fn formula(&self) -> RowNorm<'_> {
        match self {
            Self::Rms { weight, offset, eps } => RowNorm { weight, bias: None, offset: *offset, eps: *eps },
            Self::Layer { weight, bias, eps } => RowNorm { weight, bias: Some(bias), offset: 0.0, eps: *eps },
        }
    }
}

/// The activation of every element of `x`, in its place.
pub(super) fn activate(activation: Activation, x: &mut [f32]) {
    in_tasks(x, |_, x| formulas::activate(activation, x));
}

/// `activation(gate) * up`, element by element, written to `gate`.
pub(super) fn gate(activation: Activation, gate: &mut [f32], up: &[f32]) {
    in_tasks(gate, |at, gate| formulas::gate(activation, gate, &up[at..]));
}

/// Calls `f` with pieces of `x` and where they begin.
fn in_tasks(x: &mut [f32], f: impl Fn(usize, &mut [f32]) + Sync) {
    const TASK: usize = SERIAL / 4;
    match x.len() < SERIAL {
        true => f(0, x),
        false => x.par_chunks_mut(TASK).enumerate().for_each(|(task, x)| f(task * TASK, x)),
    }
}

/// `x + y`, written to `x`.
pub(super) fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
