//! `y = x W^T + b`, with a low-rank adapter, the activation before and the residual sum behind in the same operation, so
//! that neither the activation's output nor the product before the sum is kept for the backward pass.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::activation::{Activation, Elementwise};
use super::dropout::Dropout;
use super::matmul::{Output, Threads, View, ViewMut, matmul};
use super::{column_sums, slice, tensor_like, with_slice};
use crate::param::Param;

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
    Plain(&'a Tensor),
    /// The activation of `(rows, in)`; it is computed again in the backward pass and never kept.
    Activated(&'a Tensor, Activation),
    /// `activation(gate) * up`, both `(rows, in)`; likewise.
    Gated(&'a Tensor, &'a Tensor, Activation),
}

/// The layer's output `(rows, out)`, on top of `residual` of that shape where there is one. A `dropout_seed` drops input
/// elements of the adapter.
///
/// # Errors
/// When the shapes do not match.
pub fn linear(
    input: Input<'_>,
    residual: Option<&Tensor>,
    layer: &Linear,
    dropout_seed: Option<u64>,
) -> Result<Tensor> {
    let dropout = match (&layer.lora, dropout_seed) {
        (Some(lora), Some(seed)) if lora.dropout > 0.0 => Some(Dropout::new(lora.dropout, seed, lora.a.name())),
        _ => None,
    };
    let (tensors, kind) = match input {
        Input::Plain(x) => ([Some(x), None], Kind::Plain),
        Input::Activated(x, activation) => ([Some(x), None], Kind::Activated(activation)),
        Input::Gated(gate, up, activation) => ([Some(gate), Some(up)], Kind::Gated(activation)),
    };
    let op = LinearOp { layer: layer.clone(), dropout, kind, has_residual: residual.is_some() };
    let tensors: Vec<Tensor> =
        tensors.into_iter().flatten().chain(residual).map(Tensor::contiguous).collect::<Result<_>>()?;
    match tensors.as_slice() {
        [x] => x.apply_op1(op),
        [x, y] => x.apply_op2(y, op),
        [x, y, z] => x.apply_op3(y, z, op),
        _ => unreachable!("one or two inputs and at most one residual"),
    }
}

/// The gradients of an operation's arguments.
type Gradients = Result<Vec<Vec<f32>>>;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Plain,
    Activated(Activation),
    Gated(Activation),
}

struct LinearOp {
    layer: Linear,
    dropout: Option<Dropout>,
    kind: Kind,
    /// Whether the last argument is what the output is added to.
    has_residual: bool,
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

impl LinearOp {
    /// The matrix that the layer multiplies; `arguments` are those of the operation.
    fn input<'a>(&self, arguments: &[&'a [f32]]) -> Cow<'a, [f32]> {
        match self.kind {
            Kind::Plain => Cow::Borrowed(arguments[0]),
            Kind::Activated(activation) => Cow::Owned(activation.apply(arguments[0])),
            Kind::Gated(activation) => Cow::Owned(activation.gate(arguments[0], arguments[1])),
        }
    }

    fn forward(&self, arguments: &[(&CpuStorage, &Layout)]) -> Result<(CpuStorage, Shape)> {
        let Linear { weight, bias, lora } = &self.layer;
        let (outputs, inputs) = weight.dims2()?;
        let rows = arguments[0].1.shape().elem_count() / inputs;
        let (residual, factors) = match (self.has_residual, arguments) {
            (true, [factors @ .., residual]) => (Some(residual), factors),
            (_, factors) => (None, factors),
        };
        if let Some((_, layout)) = factors.iter().find(|(_, layout)| layout.dims() != [rows, inputs]) {
            candle_core::bail!("`{}` takes {inputs} columns, got {:?}", weight.name(), layout.shape());
        }
        if let Some((_, layout)) = residual.filter(|(_, layout)| layout.dims() != [rows, outputs]) {
            candle_core::bail!("`{}` gives {rows} x {outputs}, not {:?}", weight.name(), layout.shape());
        }
        let slices: Vec<&[f32]> = factors.iter().map(|(s, l)| slice(s, l)).collect::<Result<_>>()?;
        let x = self.input(&slices);
        let mut y = match residual {
            Some((storage, layout)) => slice(storage, layout)?.to_vec(),
            None => vec![0f32; rows * outputs],
        };
        let output = if self.has_residual { Output::Add } else { Output::Overwrite };
        weight.with_values(|w| {
            let (x, w) = (View::new(&x, rows, inputs), View::new(w, outputs, inputs));
            matmul(ViewMut::new(&mut y, rows, outputs), output, 1.0, x, w.t(), Threads::All);
        })?;
        if let Some(lora) = lora {
            self.add_lora(lora, &x, &mut y, rows)?;
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

    /// Adds the gradients of the weights, and returns that of the matrix that the layer multiplied.
    fn input_gradient(&self, x: &[f32], dy: &[f32]) -> Result<Vec<f32>> {
        let Linear { weight, bias, lora } = &self.layer;
        let (outputs, inputs) = weight.dims2()?;
        let rows = dy.len() / outputs;
        let dy_rows = View::new(dy, rows, outputs);
        let mut dx = vec![0f32; rows * inputs];
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
        if let Some(lora) = lora {
            self.lora_backward(lora, x, dy, &mut dx, rows)?;
        }
        Ok(dx)
    }

    /// The gradients of the inputs, in their order, without that of the residual, which is `dy`.
    fn backward(&self, tensors: &[&Tensor], dy: &Tensor) -> Result<Vec<Tensor>> {
        let tensors: Vec<Tensor> = tensors.iter().map(|tensor| tensor.contiguous()).collect::<Result<_>>()?;
        let of = |tensor: usize, f: &dyn Fn(&[f32]) -> Gradients| with_slice(&tensors[tensor], f)?;
        let grads = with_slice(dy, |dy| match self.kind {
            Kind::Plain => of(0, &|x| Ok(vec![self.input_gradient(x, dy)?])),
            Kind::Activated(activation) => of(0, &|x| {
                let dx = self.input_gradient(&activation.apply(x), dy)?;
                Ok(vec![activation.backward(x, &dx)])
            }),
            Kind::Gated(activation) => of(0, &|gate| {
                of(1, &|up| {
                    let dx = self.input_gradient(&activation.gate(gate, up), dy)?;
                    let (dgate, dup) = activation.gate_backward(gate, up, &dx);
                    Ok(vec![dgate, dup])
                })
            }),
        })??;
        grads.into_iter().zip(&tensors).map(|(grad, tensor)| tensor_like(grad, tensor)).collect()
    }
}

impl CustomOp1 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward(&[(s, l)])
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(self.backward(&[x], dy)?.pop())
    }
}

impl CustomOp2 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward(&[(s1, l1), (s2, l2)])
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        if self.has_residual {
            return Ok((self.backward(&[a], dy)?.pop(), Some(dy.clone())));
        }
        let mut grads = self.backward(&[a, b], dy)?.into_iter();
        Ok((grads.next(), grads.next()))
    }
}

impl CustomOp3 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward(&[(s1, l1), (s2, l2), (s3, l3)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _residual: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut grads = self.backward(&[a, b], dy)?.into_iter();
        Ok((grads.next(), grads.next(), Some(dy.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::*;
    use candle_core::quantized::GgmlDType;

    fn layer(params: &[Arc<Param>], dropout: f32) -> Linear {
        let lora = LoraWeights { a: params[2].clone(), b: params[3].clone(), scale: 0.7, dropout };
        Linear { weight: params[0].clone(), bias: Some(params[1].clone()), lora: Some(lora) }
    }

    #[test]
    fn gradients() {
        let x = random_var(&[5, 7], 1);
        check_gradients(&[x], &[random_param(&[3, 7], 2)], |x, p| {
            linear(Input::Plain(&x[0]), None, &Linear::plain(p[0].clone()), None).unwrap()
        });
    }

    #[test]
    fn gradients_with_bias_and_adapter() {
        for dropout in [0.0, 0.4] {
            let params =
                [random_param(&[3, 7], 2), random_param(&[3], 3), random_param(&[2, 7], 4), random_param(&[3, 2], 5)];
            check_gradients(&[random_var(&[5, 7], 1)], &params, |x, p| {
                linear(Input::Plain(&x[0]), None, &layer(p, dropout), Some(9)).unwrap()
            });
        }
    }

    #[test]
    fn gradients_through_activations_and_onto_a_residual() {
        let residual = random_var(&[5, 3], 9);
        let params =
            || [random_param(&[3, 7], 2), random_param(&[3], 3), random_param(&[2, 7], 4), random_param(&[3, 2], 5)];
        for activation in [Activation::Silu, Activation::GeluTanh, Activation::Relu] {
            // Away from the kink of ReLU, where a difference quotient is none.
            let x = (random_var(&[5, 7], 1).as_tensor() * 3.0).unwrap();
            let x = candle_core::Var::from_tensor(&(&x + (x.sign().unwrap() * 0.1).unwrap()).unwrap()).unwrap();
            let up = random_var(&[5, 7], 6);
            check_gradients(std::slice::from_ref(&x), &params(), |x, p| {
                linear(Input::Activated(&x[0], activation), None, &layer(p, 0.0), None).unwrap()
            });
            check_gradients(&[x.clone(), residual.clone()], &params(), |x, p| {
                linear(Input::Activated(&x[0], activation), Some(&x[1]), &layer(p, 0.0), None).unwrap()
            });
            check_gradients(&[x.clone(), up.clone()], &params(), |x, p| {
                linear(Input::Gated(&x[0], &x[1], activation), None, &layer(p, 0.0), None).unwrap()
            });
            check_gradients(&[x, up, residual.clone()], &params(), |x, p| {
                linear(Input::Gated(&x[0], &x[1], activation), Some(&x[2]), &layer(p, 0.0), None).unwrap()
            });
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let layer = Linear::plain(random_param(&[3, 7], 2));
        let (x, wrong) = (random_var(&[5, 7], 1), random_var(&[5, 6], 1));
        assert!(linear(Input::Plain(&wrong), None, &layer, None).is_err());
        assert!(linear(Input::Gated(&x, &wrong, Activation::Silu), None, &layer, None).is_err());
        assert!(linear(Input::Plain(&x), Some(&wrong), &layer, None).is_err());
    }

    #[test]
    fn an_adapter_equals_the_merged_weight() {
        let x = random_var(&[5, 7], 1);
        let params =
            [random_param(&[3, 7], 2), random_param(&[3], 3), random_param(&[2, 7], 4), random_param(&[3, 2], 5)];
        let ours = linear(Input::Plain(&x), None, &layer(&params, 0.0), None).unwrap();
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
        let run = |seed, dropout| {
            linear(Input::Plain(&x), None, &layer(&params, dropout), seed).unwrap().to_vec2::<f32>().unwrap()
        };
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
            let y = linear(Input::Plain(&x), None, &Linear::plain(weight.clone()), None).unwrap();
            let grads = crate::kernels::backward_from(&y, &y.ones_like().unwrap()).unwrap();
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
