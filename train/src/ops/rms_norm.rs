//! Root-mean-square normalisation (Zhang and Sennrich 2019).

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::math::dot;
use super::{Param, slice, tensor_like, with_slice};

/// Rows handled by one task. Fixed, so that the sum over rows has the same order whatever the number of threads.
const TASK_ROWS: usize = 64;

/// `x * w / sqrt(mean(x^2) + eps)` over the last axis of `(rows, hidden)`.
///
/// # Errors
/// When the shapes do not match.
pub fn rms_norm(x: &Tensor, weight: &Arc<Param>, eps: f64) -> Result<Tensor> {
    x.contiguous()?.apply_op1(RmsNorm { weight: weight.clone(), eps: eps as f32 })
}

struct RmsNorm {
    weight: Arc<Param>,
    eps: f32,
}

impl RmsNorm {
    fn inverse_rms(&self, x: &[f32]) -> f32 {
        1.0 / (dot(x, x) / x.len() as f32 + self.eps).sqrt()
    }
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(storage, layout)?;
        let hidden = self.weight.weight().dims1()?;
        let mut y = vec![0f32; x.len()];
        with_slice(self.weight.weight(), |w| {
            let tasks = y.par_chunks_mut(hidden * TASK_ROWS).zip(x.par_chunks(hidden * TASK_ROWS));
            tasks.for_each(|(y, x)| {
                for (y, x) in y.chunks_exact_mut(hidden).zip(x.chunks_exact(hidden)) {
                    let r = self.inverse_rms(x);
                    for i in 0..hidden {
                        y[i] = x[i] * r * w[i];
                    }
                }
            });
        })?;
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let hidden = self.weight.weight().dims1()?;
        let mut dx = vec![0f32; x.elem_count()];
        let task = |dx: &mut [f32], x: &[f32], dy: &[f32], w: &[f32]| {
            let mut dw = vec![0f32; hidden];
            let rows = dx.chunks_exact_mut(hidden).zip(x.chunks_exact(hidden)).zip(dy.chunks_exact(hidden));
            for ((dx, x), dy) in rows {
                let r = self.inverse_rms(x);
                for i in 0..hidden {
                    dw[i] += dy[i] * x[i] * r;
                    dx[i] = dy[i] * w[i];
                }
                let c = dot(dx, x) * r * r / hidden as f32;
                for i in 0..hidden {
                    dx[i] = r * (dx[i] - x[i] * c);
                }
            }
            dw
        };
        let size = hidden * TASK_ROWS;
        let partial: Vec<Vec<f32>> = with_slice(x, |x| {
            with_slice(dy, |dy| {
                with_slice(self.weight.weight(), |w| {
                    let tasks = dx.par_chunks_mut(size).zip(x.par_chunks(size)).zip(dy.par_chunks(size));
                    tasks.map(|((dx, x), dy)| task(dx, x, dy, w)).collect()
                })
            })
        })???;
        if self.weight.is_trainable() {
            let mut slot = self.weight.slot();
            for dw in partial {
                slot.grad.iter_mut().zip(dw).for_each(|(sum, d)| *sum += d);
            }
        }
        Ok(Some(tensor_like(dx, x)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn gradients() {
        let x = random_var(&[130, 6], 1);
        check_gradients(&[x], &[random_param(&[6], 2)], |x, p| rms_norm(&x[0], &p[0], 1e-5).unwrap());
    }

    #[test]
    fn equals_candle() {
        let x = random_var(&[4, 9], 1);
        let weight = random_param(&[9], 2);
        let ours = rms_norm(x.as_tensor(), &weight, 1e-5).unwrap();
        let theirs = candle_nn::ops::rms_norm_slow(x.as_tensor(), weight.weight(), 1e-5).unwrap();
        let difference = (ours - theirs).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(difference < 1e-6, "{difference}");
    }
}
