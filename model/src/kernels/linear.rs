//! `y = x W^T + b`, with a low-rank adapter, the activation before and the residual sum behind in the same operation, so
//! that neither the activation's output nor the product before the sum is kept for the backward pass.

use std::borrow::Cow;
use std::sync::Arc;

use rayon::prelude::*;

use super::activation::Activation;
use super::dropout::Dropout;
use super::matmul::{Output, Threads, View, ViewMut, matmul};
use super::{column_sums, refuse};
use crate::array::Array;
use crate::error::ModelError;
use crate::param::Param;
use crate::product::{Onto, product_by_rows};

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

/// What the layer multiplies.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// `(rows, in)`.
    Plain(&'a Array),
    /// The activation of `(rows, in)`; it is computed again in the backward pass and never kept.
    Activated(&'a Array, Activation),
    /// `activation(gate) * up`, both `(rows, in)`; likewise.
    Gated(&'a Array, &'a Array, Activation),
}

impl Input<'_> {
    /// The matrix itself, as the forward and the backward pass each make it.
    fn matrix(&self) -> Result<(usize, Cow<'_, [f32]>), ModelError> {
        Ok(match *self {
            Input::Plain(x) => (x.rows(), Cow::Borrowed(x.values())),
            Input::Activated(x, activation) => (x.rows(), Cow::Owned(activation.apply(x.values()))),
            Input::Gated(gate, up, activation) => {
                if gate.shape() != up.shape() {
                    return refuse(format!("{:?} cannot gate {:?}", gate.shape(), up.shape()));
                }
                (gate.rows(), Cow::Owned(activation.gate(gate.values(), up.values())))
            }
        })
    }

    fn width(&self) -> usize {
        let (Input::Plain(x) | Input::Activated(x, _) | Input::Gated(x, _, _)) = self;
        x.width()
    }
}

/// The layer's output `(rows, out)`, on top of `residual` of that shape where there is one. A `dropout_seed` drops input
/// elements of the adapter.
///
/// # Errors
/// When the shapes do not match.
pub fn linear(
    input: Input<'_>,
    residual: Option<&Array>,
    layer: &Linear,
    dropout_seed: Option<u64>,
) -> Result<Array, ModelError> {
    let Linear { weight, bias, lora } = layer;
    let (outputs, inputs) = weight.dims2()?;
    if input.width() != inputs {
        return refuse(format!("`{}` takes {inputs} columns, got {}", weight.name(), input.width()));
    }
    let (rows, x) = input.matrix()?;
    if let Some(residual) = residual.filter(|residual| residual.shape() != (rows, outputs)) {
        return refuse(format!("`{}` gives {rows} x {outputs}, not {:?}", weight.name(), residual.shape()));
    }
    let (mut y, onto) = match residual {
        Some(residual) => (residual.clone(), Onto::Values),
        None => (Array::zeros(rows, outputs), Onto::Nothing),
    };
    let bias = bias.as_ref().map(|bias| bias.values()).transpose()?;
    weight.with_values(|w| product_by_rows(&x, w, inputs, bias.as_deref(), y.values_mut(), onto))?;
    if let Some(lora) = lora {
        lora.add(&x, y.values_mut(), rows, dropout_seed)?;
    }
    Ok(y)
}

/// The gradient `(rows, in)` of the matrix that the layer multiplied, given that of its output; those of the weights go to
/// their slots. An activation takes it further ([`activation_backward`](super::activation_backward),
/// [`gate_backward`](super::gate_backward)); the gradient of the residual is `dy`.
///
/// # Errors
/// When the shapes do not match.
pub fn linear_backward(
    input: Input<'_>,
    layer: &Linear,
    dropout_seed: Option<u64>,
    dy: &Array,
) -> Result<Array, ModelError> {
    let Linear { weight, bias, lora } = layer;
    let (outputs, inputs) = weight.dims2()?;
    let (rows, x) = input.matrix()?;
    if input.width() != inputs || dy.shape() != (rows, outputs) {
        return refuse(format!("a gradient {:?} of `{}` for {rows} x {}", dy.shape(), weight.name(), input.width()));
    }
    let dy_rows = View::new(dy.values(), rows, outputs);
    let mut dx = Array::zeros(rows, inputs);
    weight.with_values(|w| {
        let w = View::new(w, outputs, inputs);
        matmul(ViewMut::new(dx.values_mut(), rows, inputs), Output::Overwrite, 1.0, dy_rows, w, Threads::All);
    })?;
    if weight.is_trainable() {
        let mut slot = weight.slot();
        let dw = ViewMut::new(&mut slot.grad, outputs, inputs);
        matmul(dw, Output::Add, 1.0, dy_rows.t(), View::new(&x, rows, inputs), Threads::All);
    }
    if let Some(bias) = bias.as_ref().filter(|bias| bias.is_trainable()) {
        column_sums(dy.values(), &mut bias.slot().grad);
    }
    if let Some(lora) = lora {
        lora.backward(&x, dy.values(), dx.values_mut(), rows, dropout_seed)?;
    }
    Ok(dx)
}

impl LoraWeights {
    /// The mask on the adapter's input, the same in both passes.
    fn mask(&self, seed: Option<u64>) -> Option<Dropout> {
        seed.filter(|_| self.dropout > 0.0).map(|seed| Dropout::new(self.dropout, seed, self.a.name()))
    }

    /// Adds the adapter's output to `y`.
    fn add(&self, x: &[f32], y: &mut [f32], rows: usize, seed: Option<u64>) -> Result<(), ModelError> {
        let (rank, inputs) = self.a.dims2()?;
        let dropped = self.mask(seed).map(|mask| mask.applied(x));
        let (x, mut u) = (dropped.as_deref().unwrap_or(x), vec![0f32; rows * rank]);
        self.a.with_values(|a| product_by_rows(x, a, inputs, None, &mut u, Onto::Nothing))?;
        self.b.with_values(|b| product_by_rows(&u, b, rank, None, y, Onto::Scaled(self.scale)))
    }

    /// Adds the adapter's part to `dx`, and to the gradients of its weights.
    fn backward(
        &self,
        x: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        rows: usize,
        seed: Option<u64>,
    ) -> Result<(), ModelError> {
        let ((rank, inputs), (outputs, _)) = (self.a.dims2()?, self.b.dims2()?);
        let mask = self.mask(seed);
        let dropped = mask.as_ref().map(|mask| mask.applied(x));
        let x = dropped.as_deref().unwrap_or(x);
        let dy = View::new(dy, rows, outputs);
        let mut du = vec![0f32; rows * rank];
        self.b.with_values(|b| {
            let b = View::new(b, outputs, rank);
            matmul(ViewMut::new(&mut du, rows, rank), Output::Overwrite, self.scale, dy, b, Threads::All);
        })?;
        self.a.with_values(|a| {
            let (a, du) = (View::new(a, rank, inputs), View::new(&du, rows, rank));
            match &mask {
                None => matmul(ViewMut::new(dx, rows, inputs), Output::Add, 1.0, du, a, Threads::All),
                Some(mask) => {
                    let mut part = vec![0f32; rows * inputs];
                    matmul(ViewMut::new(&mut part, rows, inputs), Output::Overwrite, 1.0, du, a, Threads::All);
                    mask.apply(&mut part);
                    dx.par_iter_mut().zip(&part).with_min_len(1 << 14).for_each(|(sum, d)| *sum += d);
                }
            }
        })?;
        if self.b.is_trainable() {
            let mut u = vec![0f32; rows * rank];
            self.a.with_values(|a| {
                let (x, a) = (View::new(x, rows, inputs), View::new(a, rank, inputs).t());
                matmul(ViewMut::new(&mut u, rows, rank), Output::Overwrite, 1.0, x, a, Threads::All);
            })?;
            let mut slot = self.b.slot();
            let db = ViewMut::new(&mut slot.grad, outputs, rank);
            matmul(db, Output::Add, self.scale, dy.t(), View::new(&u, rows, rank), Threads::All);
        }
        if self.a.is_trainable() {
            let mut slot = self.a.slot();
            let da = ViewMut::new(&mut slot.grad, rank, inputs);
            matmul(da, Output::Add, 1.0, View::new(&du, rows, rank).t(), View::new(x, rows, inputs), Threads::All);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::super::{activation_backward, gate_backward};
    use super::*;
    use crate::values::Values;
    use candle_core::quantized::GgmlDType;
    use safetensors::Dtype;

    fn params() -> [Arc<Param>; 4] {
        [random_param(&[3, 7], 2), random_param(&[3], 3), random_param(&[2, 7], 4), random_param(&[3, 2], 5)]
    }

    fn layer(params: &[Arc<Param>], dropout: f32) -> Linear {
        let lora = LoraWeights { a: params[2].clone(), b: params[3].clone(), scale: 0.7, dropout };
        Linear { weight: params[0].clone(), bias: Some(params[1].clone()), lora: Some(lora) }
    }

    #[test]
    fn gradients() {
        let plain = |p: &[Arc<Param>]| Linear::plain(p[0].clone());
        check_gradients(
            &[random_array(5, 7, 1)],
            &[random_param(&[3, 7], 2)],
            |x, p| linear(Input::Plain(&x[0]), None, &plain(p), None).unwrap(),
            |x, p, dy| vec![linear_backward(Input::Plain(&x[0]), &plain(p), None, dy).unwrap()],
        );
    }

    #[test]
    fn gradients_with_bias_and_adapter() {
        for dropout in [0.0, 0.4] {
            check_gradients(
                &[random_array(5, 7, 1)],
                &params(),
                |x, p| linear(Input::Plain(&x[0]), None, &layer(p, dropout), Some(9)).unwrap(),
                |x, p, dy| vec![linear_backward(Input::Plain(&x[0]), &layer(p, dropout), Some(9), dy).unwrap()],
            );
        }
    }

    #[test]
    fn gradients_through_activations_and_onto_a_residual() {
        let residual = random_array(5, 3, 9);
        for activation in [Activation::Silu, Activation::GeluTanh, Activation::Relu] {
            // Away from the kink of ReLU, where a difference quotient is none.
            let away = |x: &f32| 3.0 * x + if *x < 0.0 { -0.1 } else { 0.1 };
            let x = Array::new(5, 7, random(35, 1).iter().map(away).collect());
            let up = random_array(5, 7, 6);
            for with_residual in [false, true] {
                let inputs = |arrays: &[&Array]| -> Vec<Array> {
                    arrays.iter().copied().chain(with_residual.then_some(&residual)).cloned().collect()
                };
                let and_residual = |mut grads: Vec<Array>, dy: &Array| {
                    grads.extend(with_residual.then(|| dy.clone()));
                    grads
                };
                check_gradients(
                    &inputs(&[&x]),
                    &params(),
                    |x, p| linear(Input::Activated(&x[0], activation), x.get(1), &layer(p, 0.0), None).unwrap(),
                    |x, p, dy| {
                        let input = Input::Activated(&x[0], activation);
                        let d = linear_backward(input, &layer(p, 0.0), None, dy).unwrap();
                        and_residual(vec![activation_backward(&x[0], activation, &d).unwrap()], dy)
                    },
                );
                check_gradients(
                    &inputs(&[&x, &up]),
                    &params(),
                    |x, p| linear(Input::Gated(&x[0], &x[1], activation), x.get(2), &layer(p, 0.0), None).unwrap(),
                    |x, p, dy| {
                        let input = Input::Gated(&x[0], &x[1], activation);
                        let d = linear_backward(input, &layer(p, 0.0), None, dy).unwrap();
                        let (dgate, dup) = gate_backward(&x[0], &x[1], activation, &d).unwrap();
                        and_residual(vec![dgate, dup], dy)
                    },
                );
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let layer = Linear::plain(random_param(&[3, 7], 2));
        let (x, wrong) = (random_array(5, 7, 1), random_array(5, 6, 1));
        assert!(linear(Input::Plain(&wrong), None, &layer, None).is_err());
        assert!(linear(Input::Gated(&x, &wrong, Activation::Silu), None, &layer, None).is_err());
        assert!(linear(Input::Plain(&x), Some(&wrong), &layer, None).is_err());
        assert!(linear_backward(Input::Plain(&x), &layer, None, &wrong).is_err());
    }

    #[test]
    fn an_adapter_equals_the_merged_weight() {
        let (x, params) = (random_array(5, 7, 1), params());
        let ours = linear(Input::Plain(&x), None, &layer(&params, 0.0), None).unwrap();
        let mut merged = params[0].values().unwrap();
        crate::adapter::add_product(&mut merged, &params[2].values().unwrap(), &params[3].values().unwrap(), 2, 0.7);
        let merged = Param::frozen("merged", &[3, 7], Values::F32(merged));
        let merged = Linear { bias: Some(params[1].clone()), ..Linear::plain(merged) };
        let theirs = linear(Input::Plain(&x), None, &merged, None).unwrap();
        assert!(ours.values().iter().zip(theirs.values()).all(|(a, b)| (a - b).abs() < 1e-5));
    }

    #[test]
    fn dropout_only_with_a_seed_and_the_same_for_the_same_seed() {
        let (x, params) = (random_array(5, 7, 1), params());
        let run = |seed, dropout| linear(Input::Plain(&x), None, &layer(&params, dropout), seed).unwrap();
        assert_eq!(run(None, 0.5), run(Some(1), 0.0));
        assert_eq!(run(Some(1), 0.5), run(Some(1), 0.5));
        assert_ne!(run(Some(1), 0.5), run(Some(2), 0.5));
    }

    #[test]
    fn a_frozen_weight_keeps_no_gradient() {
        let x = random_array(2, 64, 1);
        let weight = random(4 * 64, 2);
        let narrow = Values::from_bytes(Dtype::BF16, &Values::to_bytes(Dtype::BF16, &weight));
        let frozen = [
            Param::frozen("w", &[4, 64], Values::F32(weight.clone())),
            Param::frozen("w", &[4, 64], narrow),
            Param::quantised("w", &[4, 64], weight, GgmlDType::Q8_0).unwrap(),
        ];
        let run = |weight: &Arc<Param>| {
            let layer = Linear::plain(weight.clone());
            let y = linear(Input::Plain(&x), None, &layer, None).unwrap();
            let ones = Array::new(2, 4, vec![1.0; 8]);
            (y.into_values(), linear_backward(Input::Plain(&x), &layer, None, &ones).unwrap().into_values())
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
