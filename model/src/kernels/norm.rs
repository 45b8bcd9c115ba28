//! Normalisation over the last axis: root mean square (Zhang and Sennrich 2019) and layer norm (Ba et al. 2016).

use std::sync::Arc;

use rayon::prelude::*;

use super::math::{dot, sum};
use super::refuse;
use crate::array::Array;
use crate::error::ModelError;
use crate::formulas::RowNorm;
use crate::param::Param;

/// Rows handled by one task. Fixed, so that the sum over rows has the same order whatever the number of threads.
const TASK_ROWS: usize = 64;

/// A norm with its weights, each `(hidden)`.
#[derive(Debug, Clone)]
pub enum Norm {
    /// `x / sqrt(mean(x^2) + eps) * (offset + weight)`.
    Rms {
        /// The factor.
        weight: Arc<Param>,
        /// 1 where the weights are stored as differences from 1 (Gemma), 0 otherwise.
        offset: f32,
        /// Added to the mean square.
        eps: f32,
    },
    /// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias`.
    Layer {
        /// The factor.
        weight: Arc<Param>,
        /// What is added at the end.
        bias: Arc<Param>,
        /// Added to the variance.
        eps: f32,
    },
}

impl Norm {
    /// The factor, what is added at the end, the offset of the factor, and epsilon.
    fn parts(&self) -> (&Arc<Param>, Option<&Arc<Param>>, f32, f32) {
        match self {
            Self::Rms { weight, offset, eps } => (weight, None, *offset, *eps),
            Self::Layer { weight, bias, eps } => (weight, Some(bias), 0.0, *eps),
        }
    }

    /// Calls `f` with the formula for a row.
    fn with_formula<R>(&self, f: impl FnOnce(RowNorm<'_>) -> R) -> Result<R, ModelError> {
        let (weight, bias, offset, eps) = self.parts();
        match bias {
            None => weight.with_values(|weight| f(RowNorm { weight, bias: None, offset, eps })),
            Some(bias) => weight
                .with_values(|weight| bias.with_values(|bias| f(RowNorm { weight, bias: Some(bias), offset, eps })))?,
        }
    }
}

/// The norm of every row of `(rows, hidden)`, or of each of the heads that a row consists of.
///
/// # Errors
/// When the shapes do not match.
pub fn norm(x: &Array, norm: &Norm) -> Result<Array, ModelError> {
    let (weight, ..) = norm.parts();
    check(x, weight)?;
    let mut y = Array::zeros(x.rows(), x.width());
    norm.with_formula(|formula| {
        let hidden = formula.weight.len();
        let tasks = y.values_mut().par_chunks_mut(hidden * TASK_ROWS).zip(x.values().par_chunks(hidden * TASK_ROWS));
        tasks.for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(hidden).zip(x.chunks_exact(hidden)) {
                y.copy_from_slice(x);
                formula.apply(y);
            }
        });
    })?;
    Ok(y)
}

/// The gradient of `x`, given that of its norm; those of the weights go to their slots.
///
/// # Errors
/// When the shapes do not match.
pub fn norm_backward(x: &Array, norm: &Norm, dy: &Array) -> Result<Array, ModelError> {
    let (weight, bias, ..) = norm.parts();
    check(x, weight)?;
    if dy.shape() != x.shape() {
        return refuse(format!("a gradient {:?} of a norm of {:?}", dy.shape(), x.shape()));
    }
    let mut dx = Array::zeros(x.rows(), x.width());
    let partial: Vec<(Vec<f32>, Vec<f32>)> = norm.with_formula(|formula| {
        let size = formula.weight.len() * TASK_ROWS;
        let tasks = dx.values_mut().par_chunks_mut(size).zip(x.values().par_chunks(size));
        let tasks = tasks.zip(dy.values().par_chunks(size));
        tasks.map(|((dx, x), dy)| backward_rows(dx, x, dy, formula)).collect()
    })?;
    let add = |param: &Arc<Param>, parts: &mut dyn Iterator<Item = &Vec<f32>>| {
        if param.is_trainable() {
            let mut slot = param.slot();
            parts.for_each(|part| slot.grad.iter_mut().zip(part).for_each(|(sum, d)| *sum += d));
        }
    };
    add(weight, &mut partial.iter().map(|(dw, _)| dw));
    if let Some(bias) = bias {
        add(bias, &mut partial.iter().map(|(_, db)| db));
    }
    Ok(dx)
}

fn check(x: &Array, weight: &Param) -> Result<(), ModelError> {
    let width = weight.dims1()?;
    match width > 0 && x.width().is_multiple_of(width) {
        true => Ok(()),
        false => refuse(format!("`{}` of shape {:?} for rows of {:?}", weight.name(), weight.shape(), x.shape())),
    }
}

/// Gradients of one task's rows: `dx` is written; those of weight and bias are returned.
fn backward_rows(dx: &mut [f32], x: &[f32], dy: &[f32], formula: RowNorm<'_>) -> (Vec<f32>, Vec<f32>) {
    let RowNorm { weight, offset, .. } = formula;
    let (hidden, centred) = (weight.len(), formula.bias.is_some());
    let n = hidden as f32;
    let (mut dw, mut db) = (vec![0f32; hidden], vec![0f32; if centred { hidden } else { 0 }]);
    for ((dx, x), dy) in dx.chunks_exact_mut(hidden).zip(x.chunks_exact(hidden)).zip(dy.chunks_exact(hidden)) {
        let (mean, r) = formula.statistics(x);
        for i in 0..hidden {
            dw[i] += dy[i] * (x[i] - mean) * r;
            dx[i] = dy[i] * (offset + weight[i]);
        }
        db.iter_mut().zip(dy).for_each(|(sum, d)| *sum += d);
        // dx now holds the gradient of the normalised row; taken through the division and the subtraction of the mean.
        let along = (dot(dx, x) - mean * sum(dx)) * r * r / n;
        let shift = if centred { sum(dx) / n } else { 0.0 };
        for i in 0..hidden {
            dx[i] = r * (dx[i] - shift - (x[i] - mean) * along);
        }
    }
    (dw, db)
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use candle_core::{Device, Tensor};

    fn rms(p: &[Arc<Param>], offset: f32) -> Norm {
        Norm::Rms { weight: p[0].clone(), offset, eps: 1e-5 }
    }

    fn layer(p: &[Arc<Param>]) -> Norm {
        Norm::Layer { weight: p[0].clone(), bias: p[1].clone(), eps: 1e-5 }
    }

    fn check_norm(x: Array, params: &[Arc<Param>], of: impl Fn(&[Arc<Param>]) -> Norm) {
        check_gradients(
            &[x],
            params,
            |x, p| norm(&x[0], &of(p)).unwrap(),
            |x, p, dy| vec![norm_backward(&x[0], &of(p), dy).unwrap()],
        );
    }

    #[test]
    fn gradients() {
        for offset in [0.0, 1.0] {
            check_norm(random_array(130, 6, 1), &[random_param(&[6], 2)], |p| rms(p, offset));
        }
        check_norm(random_array(130, 6, 1), &[random_param(&[6], 2), random_param(&[6], 3)], layer);
        // The heads of a layer, each normalised by itself.
        check_norm(random_array(7, 18, 1), &[random_param(&[6], 2)], |p| rms(p, 0.0));
    }

    #[test]
    fn equals_candle() {
        let x = Array::new(4, 9, random(36, 1).iter().map(|x| x + 3.0).collect());
        let params = [random_param(&[9], 2), random_param(&[9], 3)];
        let [w, b] = params.each_ref().map(|p| tensor(p));
        let assert_near = |ours: Norm, theirs: Tensor, tolerance: f32| {
            let theirs = theirs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let ours = norm(&x, &ours).unwrap();
            assert!(ours.values().iter().zip(theirs).all(|(a, b)| (a - b).abs() < tolerance));
        };
        let x = Tensor::from_slice(x.values(), (4, 9), &Device::Cpu).unwrap();
        assert_near(rms(&params, 0.0), candle_nn::ops::rms_norm_slow(&x, &w, 1e-5).unwrap(), 1e-6);
        let theirs = candle_nn::ops::rms_norm_slow(&x, &(&w + 1.0).unwrap(), 1e-5).unwrap();
        assert_near(rms(&params, 1.0), theirs, 1e-6);
        assert_near(layer(&params), candle_nn::ops::layer_norm_slow(&x, &w, &b, 1e-5).unwrap(), 2e-6);
    }
}
