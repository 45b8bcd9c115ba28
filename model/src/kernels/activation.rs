//! The activations of feed-forward layers, alone or gating a second projection (Shazeer 2020).

pub use crate::config::Activation;
use rayon::prelude::*;

use super::math::{CUBIC, ROOT_2_OVER_PI, sigmoid, tanh};
use super::refuse;
use crate::array::Array;
use crate::error::ModelError;
use crate::formulas;

const CHUNK: usize = 4096;

/// Value and derivative; a type for each function, so that every loop is compiled for its own.
trait Function {
    fn value_and_slope(x: f32) -> (f32, f32);
}

struct Silu;
struct GeluTanh;
struct Relu;

impl Function for Silu {
    #[inline(always)]
    fn value_and_slope(x: f32) -> (f32, f32) {
        let s = sigmoid(x);
        let silu = x * s;
        (silu, s + silu * (1.0 - s))
    }
}

impl Function for GeluTanh {
    #[inline(always)]
    fn value_and_slope(x: f32) -> (f32, f32) {
        let t = tanh(ROOT_2_OVER_PI * (x + CUBIC * x * x * x));
        let inner_slope = ROOT_2_OVER_PI * (1.0 + 3.0 * CUBIC * x * x);
        (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner_slope)
    }
}

impl Function for Relu {
    #[inline(always)]
    fn value_and_slope(x: f32) -> (f32, f32) {
        if x > 0.0 { (x, 1.0) } else { (0.0, 0.0) }
    }
}

impl Activation {
    /// The activation, element by element.
    pub(super) fn apply(self, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0f32; x.len()];
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
            y.copy_from_slice(x);
            formulas::activate(self, y);
        });
        y
    }

    /// `activation(gate) * up`, element by element.
    pub(super) fn gate(self, gate: &[f32], up: &[f32]) -> Vec<f32> {
        let mut y = vec![0f32; gate.len()];
        y.par_chunks_mut(CHUNK).zip(gate.par_chunks(CHUNK)).zip(up.par_chunks(CHUNK)).for_each(|((y, gate), up)| {
            y.copy_from_slice(gate);
            formulas::gate(self, y, up);
        });
        y
    }
}

/// The gradient of `x`, given that of its activation.
///
/// # Errors
/// When the shapes differ.
pub fn activation_backward(x: &Array, activation: Activation, dy: &Array) -> Result<Array, ModelError> {
    if x.shape() != dy.shape() {
        return refuse(format!("a gradient {:?} of an activation of {:?}", dy.shape(), x.shape()));
    }
    let dx = match activation {
        Activation::Silu => backward::<Silu>(x.values(), dy.values()),
        Activation::GeluTanh => backward::<GeluTanh>(x.values(), dy.values()),
        Activation::Relu => backward::<Relu>(x.values(), dy.values()),
    };
    Ok(Array::new(x.rows(), x.width(), dx))
}

/// The gradients of `gate` and `up`, given that of `activation(gate) * up`.
///
/// # Errors
/// When the shapes differ.
pub fn gate_backward(
    gate: &Array,
    up: &Array,
    activation: Activation,
    dy: &Array,
) -> Result<(Array, Array), ModelError> {
    if gate.shape() != up.shape() || gate.shape() != dy.shape() {
        return refuse(format!("a gradient {:?} of {:?} gating {:?}", dy.shape(), gate.shape(), up.shape()));
    }
    let (g, u, d) = (gate.values(), up.values(), dy.values());
    let (dgate, dup) = match activation {
        Activation::Silu => gated_backward::<Silu>(g, u, d),
        Activation::GeluTanh => gated_backward::<GeluTanh>(g, u, d),
        Activation::Relu => gated_backward::<Relu>(g, u, d),
    };
    let array = |values| Array::new(gate.rows(), gate.width(), values);
    Ok((array(dgate), array(dup)))
}

fn backward<F: Function>(x: &[f32], dy: &[f32]) -> Vec<f32> {
    let mut dx = vec![0f32; x.len()];
    dx.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK)).for_each(|((dx, x), dy)| {
        for i in 0..dx.len() {
            dx[i] = dy[i] * F::value_and_slope(x[i]).1;
        }
    });
    dx
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::random;
    use candle_core::{Device, Tensor};

    #[test]
    fn values_equal_candle_s() {
        let x: Vec<f32> = random(100, 1).iter().map(|x| x * 6.0).collect();
        let tensor = Tensor::new(x.as_slice(), &Device::Cpu).unwrap();
        for activation in [Activation::Silu, Activation::GeluTanh, Activation::Relu] {
            let theirs = match activation {
                Activation::Silu => tensor.silu(),
                Activation::GeluTanh => tensor.gelu(),
                Activation::Relu => tensor.relu(),
            };
            for (ours, theirs) in activation.apply(&x).iter().zip(theirs.unwrap().to_vec1::<f32>().unwrap()) {
                assert!((ours - theirs).abs() < 2e-6, "{activation:?}: {ours} against {theirs}");
            }
        }
    }
}
