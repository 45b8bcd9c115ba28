//! Normalisation over the last axis: root mean square (Zhang and Sennrich 2019) and layer norm (Ba et al. 2016).

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::math::{dot, sum};
use super::{slice, tensor_like, with_slice};
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

/// The norm of every row of `(..., hidden)`.
///
/// # Errors
/// When the shapes do not match.
pub fn norm(x: &Tensor, norm: &Norm) -> Result<Tensor> {
    let (Norm::Rms { weight, .. } | Norm::Layer { weight, .. }) = norm;
    if x.dims().last() != Some(&weight.dims1()?) {
        candle_core::bail!("`{}` of shape {:?} for rows of {:?}", weight.name(), weight.shape(), x.shape());
    }
    x.contiguous()?.apply_op1(NormOp(norm.clone()))
}

struct NormOp(Norm);

/// Mean (0 for RMS) and factor of a row.
#[inline(always)]
fn statistics(x: &[f32], eps: f32, centred: bool) -> (f32, f32) {
    let n = x.len() as f32;
    if !centred {
        return (0.0, 1.0 / (dot(x, x) / n + eps).sqrt());
    }
    let mean = sum(x) / n;
    let square = x.iter().map(|v| (v - mean) * (v - mean));
    // In f64: large activations leave little of the difference.
    let variance = square.map(f64::from).sum::<f64>() / f64::from(n);
    (mean, 1.0 / (variance as f32 + eps).sqrt())
}

/// `y = (x - mean) * factor * (offset + w) + b` of one task's rows.
fn forward_rows(y: &mut [f32], x: &[f32], w: &[f32], b: Option<&[f32]>, offset: f32, eps: f32) {
    let hidden = w.len();
    for (y, x) in y.chunks_exact_mut(hidden).zip(x.chunks_exact(hidden)) {
        let (mean, r) = statistics(x, eps, b.is_some());
        match b {
            None => (0..hidden).for_each(|i| y[i] = x[i] * r * (offset + w[i])),
            Some(b) => (0..hidden).for_each(|i| y[i] = (x[i] - mean) * r * w[i] + b[i]),
        }
    }
}

/// Gradients of one task's rows: `dx` is written; those of weight and bias are returned.
fn backward_rows(
    dx: &mut [f32],
    x: &[f32],
    dy: &[f32],
    w: &[f32],
    centred: bool,
    offset: f32,
    eps: f32,
) -> (Vec<f32>, Vec<f32>) {
    let hidden = w.len();
    let n = hidden as f32;
    let (mut dw, mut db) = (vec![0f32; hidden], vec![0f32; if centred { hidden } else { 0 }]);
    for ((dx, x), dy) in dx.chunks_exact_mut(hidden).zip(x.chunks_exact(hidden)).zip(dy.chunks_exact(hidden)) {
        let (mean, r) = statistics(x, eps, centred);
        for i in 0..hidden {
            dw[i] += dy[i] * (x[i] - mean) * r;
            dx[i] = dy[i] * (offset + w[i]);
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

impl CustomOp1 for NormOp {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(storage, layout)?;
        let mut y = vec![0f32; x.len()];
        let mut run = |w: &[f32], b: Option<&[f32]>, offset: f32, eps: f32| {
            let size = w.len() * TASK_ROWS;
            y.par_chunks_mut(size).zip(x.par_chunks(size)).for_each(|(y, x)| forward_rows(y, x, w, b, offset, eps));
        };
        match &self.0 {
            Norm::Rms { weight, offset, eps } => weight.with_values(|w| run(w, None, *offset, *eps))?,
            Norm::Layer { weight, bias, eps } => {
                weight.with_values(|w| bias.with_values(|b| run(w, Some(b), 0.0, *eps)))??
            }
        }
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (weight, bias, offset, eps) = match &self.0 {
            Norm::Rms { weight, offset, eps } => (weight, None, *offset, *eps),
            Norm::Layer { weight, bias, eps } => (weight, Some(bias), 0.0, *eps),
        };
        let mut dx = vec![0f32; x.elem_count()];
        let size = weight.dims1()? * TASK_ROWS;
        let partial: Vec<(Vec<f32>, Vec<f32>)> = with_slice(x, |x| {
            with_slice(dy, |dy| {
                weight.with_values(|w| {
                    let tasks = dx.par_chunks_mut(size).zip(x.par_chunks(size)).zip(dy.par_chunks(size));
                    tasks.map(|((dx, x), dy)| backward_rows(dx, x, dy, w, bias.is_some(), offset, eps)).collect()
                })
            })
        })???;
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
        Ok(Some(tensor_like(dx, x)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::*;

    fn rms(p: &[Arc<Param>], offset: f32) -> Norm {
        Norm::Rms { weight: p[0].clone(), offset, eps: 1e-5 }
    }

    fn layer(p: &[Arc<Param>]) -> Norm {
        Norm::Layer { weight: p[0].clone(), bias: p[1].clone(), eps: 1e-5 }
    }

    #[test]
    fn gradients() {
        for offset in [0.0, 1.0] {
            check_gradients(&[random_var(&[130, 6], 1)], &[random_param(&[6], 2)], |x, p| {
                norm(&x[0], &rms(p, offset)).unwrap()
            });
        }
        let params = [random_param(&[6], 2), random_param(&[6], 3)];
        check_gradients(&[random_var(&[130, 6], 1)], &params, |x, p| norm(&x[0], &layer(p)).unwrap());
        // The heads of a layer, each normalised by itself.
        check_gradients(&[random_var(&[7, 3, 6], 1)], &[random_param(&[6], 2)], |x, p| {
            norm(&x[0], &rms(p, 0.0)).unwrap()
        });
    }

    #[test]
    fn equals_candle() {
        let x = (random_var(&[4, 9], 1).as_tensor() + 3.0).unwrap();
        let params = [random_param(&[9], 2), random_param(&[9], 3)];
        let [w, b] = params.each_ref().map(|p| p.weight().unwrap());
        let difference = |ours: Tensor, theirs: Tensor| {
            (ours - theirs).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap()
        };
        let theirs = candle_nn::ops::rms_norm_slow(&x, &w, 1e-5).unwrap();
        assert!(difference(norm(&x, &rms(&params, 0.0)).unwrap(), theirs) < 1e-6);
        let theirs = candle_nn::ops::rms_norm_slow(&x, &(&w + 1.0).unwrap(), 1e-5).unwrap();
        assert!(difference(norm(&x, &rms(&params, 1.0)).unwrap(), theirs) < 1e-6);
        let theirs = candle_nn::ops::layer_norm_slow(&x, &w, &b, 1e-5).unwrap();
        assert!(difference(norm(&x, &layer(&params)).unwrap(), theirs) < 2e-6);
    }
}
