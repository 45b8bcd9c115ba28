//! `y = x W^T + b`, with a low-rank adapter in the same operation.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::dropout::Dropout;
use super::matmul::{Output, Threads, View, ViewMut, matmul};
use super::{Param, column_sums, slice, tensor_like, with_slice};

/// The weights of a linear layer.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `(out, in)`.
    pub weight: Arc<Param>,
    /// `(out)`.
    pub bias: Option<Arc<Param>>,
    /// What is added to the weight without being merged into it.
    pub lora: Option<LoraWeights>,
}

/// A low-rank adapter (Hu et al. 2021): `y += scale * dropout(x) A^T B^T`.
#[derive(Debug, Clone)]
pub struct LoraWeights {
    /// `(rank, in)`.
    pub a: Arc<Param>,
    /// `(out, rank)`.
    pub b: Arc<Param>,
    /// `alpha / rank`, or with rank stabilisation `alpha / sqrt(rank)`.
    pub scale: f32,
    /// Share of the input that is dropped while training.
    pub dropout: f32,
}

impl Linear {
    /// A layer without bias and adapter.
    pub fn plain(weight: Arc<Param>) -> Self {
        Self { weight, bias: None, lora: None }
    }
}

/// `(rows, in)` through the layer: `(rows, out)`. A `dropout_seed` drops input elements of the adapter.
///
/// # Errors
/// When the shapes do not match.
pub fn linear(x: &Tensor, layer: &Linear, dropout_seed: Option<u64>) -> Result<Tensor> {
    let dropout = match (&layer.lora, dropout_seed) {
        (Some(lora), Some(seed)) if lora.dropout > 0.0 => Some(Dropout::new(lora.dropout, seed, lora.a.name())),
        _ => None,
    };
    x.contiguous()?.apply_op1(LinearOp { layer: layer.clone(), dropout })
}

struct LinearOp {
    layer: Linear,
    dropout: Option<Dropout>,
}

/// `x A^T`: `(rows, rank)`.
fn down(x: View<'_>, a: &Param, rows: usize) -> Result<Vec<f32>> {
    let (rank, inputs) = a.dims2()?;
    let mut u = vec![0f32; rows * rank];
    a.with_values(|a| {
        let a = View::new(a, rank, inputs);
        matmul(ViewMut::new(&mut u, rows, rank), Output::Overwrite, 1.0, x, a.t(), Threads::All);
    })?;
    Ok(u)
}

impl LinearOp {
    /// The adapter's input.
    fn dropped(&self, x: &[f32]) -> Option<Vec<f32>> {
        self.dropout.as_ref().map(|dropout| {
            let mut x = x.to_vec();
            dropout.apply(&mut x);
            x
        })
    }

    /// Adds the adapter's output to `y`.
    fn add_lora(&self, lora: &LoraWeights, x: &[f32], y: &mut [f32], rows: usize) -> Result<()> {
        let ((rank, inputs), (outputs, _)) = (lora.a.dims2()?, lora.b.dims2()?);
        let dropped = self.dropped(x);
        let u = down(View::new(dropped.as_deref().unwrap_or(x), rows, inputs), &lora.a, rows)?;
        lora.b.with_values(|b| {
            let (u, b) = (View::new(&u, rows, rank), View::new(b, outputs, rank));
            matmul(ViewMut::new(y, rows, outputs), Output::Add, lora.scale, u, b.t(), Threads::All);
        })
    }

    /// Adds the adapter's part to `dx`, and to the gradients of its weights.
    fn lora_backward(&self, lora: &LoraWeights, x: &[f32], dy: &[f32], dx: &mut [f32], rows: usize) -> Result<()> {
        let ((rank, inputs), (outputs, _)) = (lora.a.dims2()?, lora.b.dims2()?);
        let dropped = self.dropped(x);
        let x = View::new(dropped.as_deref().unwrap_or(x), rows, inputs);
        let dy = View::new(dy, rows, outputs);
        let mut du = vec![0f32; rows * rank];
        lora.b.with_values(|b| {
            let b = View::new(b, outputs, rank);
            matmul(ViewMut::new(&mut du, rows, rank), Output::Overwrite, lora.scale, dy, b, Threads::All);
        })?;
        lora.a.with_values(|a| {
            let (a, du) = (View::new(a, rank, inputs), View::new(&du, rows, rank));
            match &self.dropout {
                None => matmul(ViewMut::new(dx, rows, inputs), Output::Add, 1.0, du, a, Threads::All),
                Some(dropout) => {
                    let mut part = vec![0f32; rows * inputs];
                    matmul(ViewMut::new(&mut part, rows, inputs), Output::Overwrite, 1.0, du, a, Threads::All);
                    dropout.apply(&mut part);
                    dx.par_iter_mut().zip(&part).with_min_len(1 << 14).for_each(|(sum, d)| *sum += d);
                }
            }
        })?;
        if lora.b.is_trainable() {
            let u = down(x, &lora.a, rows)?;
            let mut slot = lora.b.slot();
            let db = ViewMut::new(&mut slot.grad, outputs, rank);
            matmul(db, Output::Add, lora.scale, dy.t(), View::new(&u, rows, rank), Threads::All);
        }
        if lora.a.is_trainable() {
            let mut slot = lora.a.slot();
            let da = ViewMut::new(&mut slot.grad, rank, inputs);
            matmul(da, Output::Add, 1.0, View::new(&du, rows, rank).t(), x, Threads::All);
        }
        Ok(())
    }
}

impl CustomOp1 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, inputs) = layout.shape().dims2()?;
        let Linear { weight, bias, lora } = &self.layer;
        let (outputs, expected) = weight.dims2()?;
        if inputs != expected {
            candle_core::bail!("`{}` takes {expected} columns, got {inputs}", weight.name());
        }
        let x = slice(storage, layout)?;
        let mut y = vec![0f32; rows * outputs];
        weight.with_values(|w| {
            let (x, w) = (View::new(x, rows, inputs), View::new(w, outputs, inputs));
            matmul(ViewMut::new(&mut y, rows, outputs), Output::Overwrite, 1.0, x, w.t(), Threads::All);
        })?;
        if let Some(lora) = lora {
            self.add_lora(lora, x, &mut y, rows)?;
        }
        if let Some(bias) = bias {
            bias.with_values(|bias| {
                y.par_chunks_exact_mut(outputs).with_min_len(64).for_each(|row| {
                    row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
                });
            })?;
        }
        Ok((CpuStorage::F32(y), (rows, outputs).into()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (rows, inputs) = x.dims2()?;
        let Linear { weight, bias, lora } = &self.layer;
        let (outputs, _) = weight.dims2()?;
        let mut dx = vec![0f32; rows * inputs];
        with_slice(x, |x| {
            with_slice(dy, |dy| -> Result<()> {
                let dy_rows = View::new(dy, rows, outputs);
                weight.with_values(|w| {
                    let w = View::new(w, outputs, inputs);
                    matmul(ViewMut::new(&mut dx, rows, inputs), Output::Overwrite, 1.0, dy_rows, w, Threads::All);
                })?;
                if weight.is_trainable() {
                    let mut slot = weight.slot();
                    let dw = ViewMut::new(&mut slot.grad, outputs, inputs);
                    matmul(dw, Output::Add, 1.0, dy_rows.t(), View::new(x, rows, inputs), Threads::All);
                }
                if let Some(bias) = bias.as_ref().filter(|bias| bias.is_trainable()) {
                    column_sums(dy, &mut bias.slot().grad);
                }
                match lora {
                    Some(lora) => self.lora_backward(lora, x, dy, &mut dx, rows),
                    None => Ok(()),
                }
            })
        })???;
        Ok(Some(tensor_like(dx, x)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use candle_core::quantized::GgmlDType;

    fn layer(params: &[Arc<Param>], dropout: f32) -> Linear {
        let lora = LoraWeights { a: params[2].clone(), b: params[3].clone(), scale: 0.7, dropout };
        Linear { weight: params[0].clone(), bias: Some(params[1].clone()), lora: Some(lora) }
    }

    #[test]
    fn gradients() {
        let x = random_var(&[5, 7], 1);
        check_gradients(&[x], &[random_param(&[3, 7], 2)], |x, p| {
            linear(&x[0], &Linear::plain(p[0].clone()), None).unwrap()
        });
    }

    #[test]
    fn gradients_with_bias_and_adapter() {
        for dropout in [0.0, 0.4] {
            let params =
                [random_param(&[3, 7], 2), random_param(&[3], 3), random_param(&[2, 7], 4), random_param(&[3, 2], 5)];
            check_gradients(&[random_var(&[5, 7], 1)], &params, |x, p| {
                linear(&x[0], &layer(p, dropout), Some(9)).unwrap()
            });
        }
    }

    #[test]
    fn an_adapter_equals_the_merged_weight() {
        let x = random_var(&[5, 7], 1);
        let params =
            [random_param(&[3, 7], 2), random_param(&[3], 3), random_param(&[2, 7], 4), random_param(&[3, 2], 5)];
        let ours = linear(x.as_tensor(), &layer(&params, 0.0), None).unwrap();
        let [w, bias, a, b] = params.each_ref().map(|p| p.weight().unwrap());
        let merged = (w + (b.matmul(&a).unwrap() * 0.7).unwrap()).unwrap();
        let theirs = x.matmul(&merged.t().unwrap()).unwrap().broadcast_add(&bias).unwrap();
        let difference = (ours - theirs).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(difference < 1e-5, "{difference}");
    }

    #[test]
    fn dropout_only_with_a_seed_and_the_same_for_the_same_seed() {
        let x = random_var(&[5, 7], 1);
        let params =
            [random_param(&[3, 7], 2), random_param(&[3], 3), random_param(&[2, 7], 4), random_param(&[3, 2], 5)];
        let run =
            |seed, dropout| linear(x.as_tensor(), &layer(&params, dropout), seed).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(run(None, 0.5), run(Some(1), 0.0));
        assert_eq!(run(Some(1), 0.5), run(Some(1), 0.5));
        assert_ne!(run(Some(1), 0.5), run(Some(2), 0.5));
    }

    #[test]
    fn a_frozen_weight_keeps_no_gradient() {
        let x = random_var(&[2, 64], 1);
        let weight = random_param(&[4, 64], 2).weight().unwrap();
        let frozen = [
            Param::frozen("w", weight.clone()).unwrap(),
            Param::frozen("w", weight.to_dtype(candle_core::DType::BF16).unwrap()).unwrap(),
            Param::quantised("w", &weight, GgmlDType::Q8_0).unwrap(),
        ];
        let run = |weight: &Arc<Param>| {
            let y = linear(x.as_tensor(), &Linear::plain(weight.clone()), None).unwrap();
            let grads = super::super::backward_from(&y, &y.ones_like().unwrap()).unwrap();
            let dx = grads.get(&x).unwrap().to_vec2::<f32>().unwrap().concat();
            (y.to_vec2::<f32>().unwrap().concat(), dx)
        };
        let (y, dx) = run(&frozen[0]);
        for weight in &frozen {
            let (narrow_y, narrow_dx) = run(weight);
            assert!(weight.slot().grad.is_empty());
            // Half and quantised values are within a part in 128 of the weights, which are below 1.
            assert!(y.iter().zip(&narrow_y).all(|(a, b)| (a - b).abs() < 0.05));
            assert!(dx.iter().zip(&narrow_dx).all(|(a, b)| (a - b).abs() < 0.05));
        }
    }
}
