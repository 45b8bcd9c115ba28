//! A weight with its gradient and optimiser moments.

use std::sync::{Arc, Mutex, MutexGuard};

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Tensor};
use rayon::prelude::*;

/// What training keeps beside a weight; all three are empty for a frozen weight.
#[derive(Debug, Default)]
pub struct Slot {
    /// Sum of the gradients since the last optimiser step.
    pub grad: Vec<f32>,
    /// Adam's first moment.
    pub first_moment: Vec<f32>,
    /// Adam's second moment.
    pub second_moment: Vec<f32>,
}

/// A named weight (the name is the checkpoint's), f32, contiguous, on the CPU.
#[derive(Debug)]
pub struct Param {
    name: String,
    weight: Tensor,
    trainable: bool,
    slot: Mutex<Slot>,
}

impl Param {
    /// A weight that is trained: its slot holds three buffers of its size.
    ///
    /// # Errors
    /// When `weight` is not f32.
    pub fn trainable(name: impl Into<String>, weight: Tensor) -> Result<Arc<Self>> {
        let zeros = || vec![0f32; weight.elem_count()];
        let slot = Slot { grad: zeros(), first_moment: zeros(), second_moment: zeros() };
        Self::new(name.into(), weight, true, slot)
    }

    /// A weight that is only read.
    ///
    /// # Errors
    /// When `weight` is not f32.
    pub fn frozen(name: impl Into<String>, weight: Tensor) -> Result<Arc<Self>> {
        Self::new(name.into(), weight, false, Slot::default())
    }

    fn new(name: String, weight: Tensor, trainable: bool, slot: Slot) -> Result<Arc<Self>> {
        if weight.dtype() != DType::F32 {
            candle_core::bail!("`{name}` must be f32, got {:?}", weight.dtype());
        }
        let weight = weight.contiguous()?.detach();
        Ok(Arc::new(Self { name, weight, trainable, slot: Mutex::new(slot) }))
    }

    /// The weight's name in the checkpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The weight.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Whether the weight is trained.
    pub fn is_trainable(&self) -> bool {
        self.trainable
    }

    /// The gradient and the moments.
    pub fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().expect("no operation panics while it holds a slot")
    }

    /// Sum of the squares of the gradient.
    pub fn squared_grad_norm(&self) -> f64 {
        // Chunks of fixed size keep the order of summation, and so the last bit, independent of the thread count.
        let sums: Vec<f64> = self
            .slot()
            .grad
            .par_chunks(1 << 14)
            .map(|chunk| chunk.iter().map(|g| *g as f64 * *g as f64).sum())
            .collect();
        sums.iter().sum()
    }

    /// Forgets the gradient.
    pub fn zero_grad(&self) {
        self.slot().grad.fill(0.0);
    }

    /// One AdamW update of the weight in place, after which the gradient is zero.
    ///
    /// # Errors
    /// When the weight's storage is shared with a view.
    pub fn adamw(&self, step: &AdamWStep) -> Result<()> {
        self.weight.inplace_op1(&AdamWUpdate { param: self, step })
    }

    /// Replaces the weight's values.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn assign(&self, values: &Tensor) -> Result<()> {
        self.weight.slice_set(&values.contiguous()?, 0, 0)
    }
}

/// The numbers of one AdamW step (Loshchilov and Hutter 2019, decoupled decay).
#[derive(Debug, Clone, Copy)]
pub struct AdamWStep {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Factor on the gradient (clipping).
    pub grad_scale: f64,
    /// Optimiser step, counted from 1.
    pub step: usize,
}

struct AdamWUpdate<'a> {
    param: &'a Param,
    step: &'a AdamWStep,
}

impl InplaceOp1 for AdamWUpdate<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        const CHUNK: usize = 1 << 14;
        let CpuStorage::F32(weight) = storage else { candle_core::bail!("adamw needs f32") };
        let Some((from, to)) = layout.contiguous_offsets() else {
            candle_core::bail!("adamw needs a contiguous weight")
        };
        let s = self.step;
        let bias1 = 1.0 - s.beta1.powf(s.step as f64);
        let bias2 = 1.0 - s.beta2.powf(s.step as f64);
        let keep = (1.0 - s.learning_rate * s.weight_decay) as f32;
        let step_size = (s.learning_rate / bias1) as f32;
        let root_scale = (1.0 / bias2.sqrt()) as f32;
        let (beta1, beta2) = (s.beta1 as f32, s.beta2 as f32);
        let (new1, new2) = ((1.0 - s.beta1) as f32, (1.0 - s.beta2) as f32);
        let (epsilon, scale) = (s.epsilon as f32, s.grad_scale as f32);
        let mut slot = self.param.slot();
        let slot = &mut *slot;
        weight[from..to]
            .par_chunks_mut(CHUNK)
            .zip(slot.first_moment.par_chunks_mut(CHUNK))
            .zip(slot.second_moment.par_chunks_mut(CHUNK))
            .zip(slot.grad.par_chunks_mut(CHUNK))
            .for_each(|(((w, m), v), g)| {
                for (((w, m), v), g) in w.iter_mut().zip(m).zip(v).zip(g) {
                    let grad = *g * scale;
                    *m = beta1 * *m + new1 * grad;
                    *v = beta2 * *v + new2 * grad * grad;
                    *w = *w * keep - step_size * *m / (v.sqrt() * root_scale + epsilon);
                    *g = 0.0;
                }
            });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn param(values: &[f32], grad: &[f32]) -> Arc<Param> {
        let param = Param::trainable("w", Tensor::new(values, &Device::Cpu).unwrap()).unwrap();
        param.slot().grad.copy_from_slice(grad);
        param
    }

    fn step(step: usize, weight_decay: f64, grad_scale: f64) -> AdamWStep {
        AdamWStep { learning_rate: 0.1, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay, grad_scale, step }
    }

    /// Python: torch.optim.AdamW([w], lr=0.1, weight_decay=0.5), w = [1, -2], grad = [0.5, 4]; one step by hand is
    /// w * (1 - 0.05) - 0.1 * sign(grad).
    #[test]
    fn the_first_step_is_decay_and_a_signed_step() {
        let param = param(&[1.0, -2.0], &[0.5, 4.0]);
        param.adamw(&step(1, 0.5, 1.0)).unwrap();
        let w = param.weight().to_vec1::<f32>().unwrap();
        assert!((w[0] - 0.85).abs() < 1e-6 && (w[1] + 2.0).abs() < 1e-6, "{w:?}");
        assert_eq!(param.slot().grad, [0.0, 0.0]);
    }

    #[test]
    fn the_gradient_is_scaled_before_the_moments() {
        let param = param(&[0.0], &[4.0]);
        assert_eq!(param.squared_grad_norm(), 16.0);
        param.adamw(&step(1, 0.0, 0.25)).unwrap();
        let slot = param.slot();
        assert!((slot.first_moment[0] - 0.1).abs() < 1e-7 && (slot.second_moment[0] - 1e-3).abs() < 1e-8);
    }
}
