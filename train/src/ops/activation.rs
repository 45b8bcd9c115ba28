//! The activations of feed-forward layers, alone or gating a second projection (Shazeer 2020).

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::math::{sigmoid, tanh};
use super::{slice, tensor_like, with_slice};

const CHUNK: usize = 4096;

/// An element-wise function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// `x sigmoid(x)`.
    Silu,
    /// GELU by its tanh approximation (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

/// Value and derivative; a type for each function, so that every loop is compiled for its own.
trait Function {
    fn value(x: f32) -> f32;
    fn value_and_slope(x: f32) -> (f32, f32);
}

struct Silu;
struct GeluTanh;
struct Relu;

impl Function for Silu {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        x * sigmoid(x)
    }

    #[inline(always)]
    fn value_and_slope(x: f32) -> (f32, f32) {
        let s = sigmoid(x);
        let silu = x * s;
        (silu, s + silu * (1.0 - s))
    }
}

const ROOT_2_OVER_PI: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

impl Function for GeluTanh {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        0.5 * x * (1.0 + tanh(ROOT_2_OVER_PI * (x + CUBIC * x * x * x)))
    }

    #[inline(always)]
    fn value_and_slope(x: f32) -> (f32, f32) {
        let t = tanh(ROOT_2_OVER_PI * (x + CUBIC * x * x * x));
        let inner_slope = ROOT_2_OVER_PI * (1.0 + 3.0 * CUBIC * x * x);
        (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner_slope)
    }
}

impl Function for Relu {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        if x > 0.0 { x } else { 0.0 }
    }

    #[inline(always)]
    fn value_and_slope(x: f32) -> (f32, f32) {
        if x > 0.0 { (x, 1.0) } else { (0.0, 0.0) }
    }
}

/// The activation, element by element.
///
/// # Errors
/// When `x` is not f32 on the CPU.
pub fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Activate(activation))
}

/// `activation(gate) * up`, element by element.
///
/// # Errors
/// When the shapes differ.
pub fn gated(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    if gate.shape() != up.shape() {
        candle_core::bail!("gated: gate {:?} and up {:?} differ", gate.shape(), up.shape());
    }
    gate.contiguous()?.apply_op2(&up.contiguous()?, Gated(activation))
}

struct Activate(Activation);
struct Gated(Activation);

fn activate_slice<F: Function>(x: &[f32]) -> Vec<f32> {
    let mut y = vec![0f32; x.len()];
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = F::value(*x));
    });
    y
}

fn activate_backward<F: Function>(x: &[f32], dy: &[f32]) -> Vec<f32> {
    let mut dx = vec![0f32; x.len()];
    dx.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK)).for_each(|((dx, x), dy)| {
        for i in 0..dx.len() {
            dx[i] = dy[i] * F::value_and_slope(x[i]).1;
        }
    });
    dx
}

fn gated_slices<F: Function>(gate: &[f32], up: &[f32]) -> Vec<f32> {
    let mut y = vec![0f32; gate.len()];
    y.par_chunks_mut(CHUNK).zip(gate.par_chunks(CHUNK)).zip(up.par_chunks(CHUNK)).for_each(|((y, g), u)| {
        for i in 0..y.len() {
            y[i] = F::value(g[i]) * u[i];
        }
    });
    y
}

fn gated_backward<F: Function>(gate: &[f32], up: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (mut dgate, mut dup) = (vec![0f32; gate.len()], vec![0f32; gate.len()]);
    let outputs = dgate.par_chunks_mut(CHUNK).zip(dup.par_chunks_mut(CHUNK));
    let inputs = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK));
    outputs.zip(inputs).for_each(|((dg, du), ((g, u), dy))| {
        for i in 0..dg.len() {
            let (value, slope) = F::value_and_slope(g[i]);
            du[i] = dy[i] * value;
            dg[i] = dy[i] * u[i] * slope;
        }
    });
    (dgate, dup)
}

impl CustomOp1 for Activate {
    fn name(&self) -> &'static str {
        "activate"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(storage, layout)?;
        let y = match self.0 {
            Activation::Silu => activate_slice::<Silu>(x),
            Activation::GeluTanh => activate_slice::<GeluTanh>(x),
            Activation::Relu => activate_slice::<Relu>(x),
        };
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dx = with_slice(x, |x| {
            with_slice(dy, |dy| match self.0 {
                Activation::Silu => activate_backward::<Silu>(x, dy),
                Activation::GeluTanh => activate_backward::<GeluTanh>(x, dy),
                Activation::Relu => activate_backward::<Relu>(x, dy),
            })
        })??;
        Ok(Some(tensor_like(dx, x)?))
    }
}

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (slice(gate, gate_layout)?, slice(up, up_layout)?);
        let y = match self.0 {
            Activation::Silu => gated_slices::<Silu>(gate, up),
            Activation::GeluTanh => gated_slices::<GeluTanh>(gate, up),
            Activation::Relu => gated_slices::<Relu>(gate, up),
        };
        Ok((CpuStorage::F32(y), gate_layout.shape().clone()))
    }

    fn bwd(&self, gate: &Tensor, up: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dgate, dup) = with_slice(gate, |gate| {
            with_slice(up, |up| {
                with_slice(dy, |dy| match self.0 {
                    Activation::Silu => gated_backward::<Silu>(gate, up, dy),
                    Activation::GeluTanh => gated_backward::<GeluTanh>(gate, up, dy),
                    Activation::Relu => gated_backward::<Relu>(gate, up, dy),
                })
            })
        })???;
        Ok((Some(tensor_like(dgate, gate)?), Some(tensor_like(dup, up)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    const ALL: [Activation; 3] = [Activation::Silu, Activation::GeluTanh, Activation::Relu];

    #[test]
    fn gradients() {
        for activation in ALL {
            // Away from the kink of ReLU, where a difference quotient is none.
            let x = (random_var(&[5, 7], 1).as_tensor() * 3.0).unwrap();
            let x = (&x + (x.sign().unwrap() * 0.1).unwrap()).unwrap();
            let x = candle_core::Var::from_tensor(&x).unwrap();
            check_gradients(std::slice::from_ref(&x), &[], |x, _| activate(&x[0], activation).unwrap());
            check_gradients(&[x, random_var(&[5, 7], 2)], &[], |x, _| gated(&x[0], &x[1], activation).unwrap());
        }
    }

    #[test]
    fn values_equal_candle_s() {
        let x = (random_var(&[100], 1).as_tensor() * 6.0).unwrap();
        for activation in ALL {
            let ours = activate(&x, activation).unwrap().to_vec1::<f32>().unwrap();
            let theirs = match activation {
                Activation::Silu => x.silu(),
                Activation::GeluTanh => x.gelu(),
                Activation::Relu => x.relu(),
            };
            for (ours, theirs) in ours.iter().zip(theirs.unwrap().to_vec1::<f32>().unwrap()) {
                assert!((ours - theirs).abs() < 2e-6, "{activation:?}: {ours} against {theirs}");
            }
        }
    }
}
