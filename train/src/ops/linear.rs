//! `y = x W^T`.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::matmul::{Output, Threads, View, ViewMut, matmul};
use super::{Param, slice, tensor_like, with_slice};

/// `(rows, in)` times the weight `(out, in)` transposed: `(rows, out)`.
///
/// # Errors
/// When the shapes do not match.
pub fn linear(x: &Tensor, weight: &Arc<Param>) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Linear { weight: weight.clone() })
}

struct Linear {
    weight: Arc<Param>,
}

impl CustomOp1 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, inputs) = layout.shape().dims2()?;
        let (outputs, expected) = self.weight.weight().dims2()?;
        if inputs != expected {
            candle_core::bail!("`{}` takes {expected} columns, got {inputs}", self.weight.name());
        }
        let x = slice(storage, layout)?;
        let mut y = vec![0f32; rows * outputs];
        with_slice(self.weight.weight(), |w| {
            let (x, w) = (View::new(x, rows, inputs), View::new(w, outputs, inputs));
            matmul(ViewMut::new(&mut y, rows, outputs), Output::Overwrite, 1.0, x, w.t(), Threads::All);
        })?;
        Ok((CpuStorage::F32(y), (rows, outputs).into()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (rows, inputs) = x.dims2()?;
        let outputs = self.weight.weight().dim(0)?;
        let mut dx = vec![0f32; rows * inputs];
        with_slice(dy, |dy| -> Result<()> {
            let dy = View::new(dy, rows, outputs);
            with_slice(self.weight.weight(), |w| {
                let w = View::new(w, outputs, inputs);
                matmul(ViewMut::new(&mut dx, rows, inputs), Output::Overwrite, 1.0, dy, w, Threads::All);
            })?;
            if self.weight.is_trainable() {
                with_slice(x, |x| {
                    let mut slot = self.weight.slot();
                    let dw = ViewMut::new(&mut slot.grad, outputs, inputs);
                    matmul(dw, Output::Add, 1.0, dy.t(), View::new(x, rows, inputs), Threads::All);
                })?;
            }
            Ok(())
        })??;
        Ok(Some(tensor_like(dx, x)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn gradients() {
        let x = random_var(&[5, 7], 1);
        check_gradients(&[x], &[random_param(&[3, 7], 2)], |x, p| linear(&x[0], &p[0]).unwrap());
    }

    #[test]
    fn a_frozen_weight_keeps_no_gradient() {
        let x = random_var(&[2, 3], 1);
        let weight = Param::frozen("w", random_param(&[4, 3], 2).weight().clone()).unwrap();
        let y = linear(x.as_tensor(), &weight).unwrap();
        super::super::backward_from(&y, &y.ones_like().unwrap()).unwrap();
        assert!(weight.slot().grad.is_empty());
    }
}
