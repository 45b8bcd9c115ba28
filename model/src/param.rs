//! A weight with its gradient and optimiser moments.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Tensor};
use rayon::prelude::*;

use crate::kernels::with_slice;

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

/// How a weight is stored. What is not f32 is widened where it is used, for as long as it is used.
#[derive(Debug)]
enum Storage {
    F32(Tensor),
    /// bf16 or f16, frozen.
    Half(Tensor),
    /// Blocks of integers with their scales, frozen.
    Quantised(QTensor),
    /// So many bytes that are not there, of a weight that is only counted.
    Absent(usize),
}

/// A named weight (the name is the checkpoint's), contiguous, on the CPU.
#[derive(Debug)]
pub struct Param {
    name: String,
    shape: Vec<usize>,
    storage: Storage,
    trainable: bool,
    slot: Mutex<Slot>,
}

impl Param {
    /// A weight that is trained: its slot holds three buffers of its size.
    ///
    /// # Errors
    /// When `weight` is not f32.
    pub fn trainable(name: impl Into<String>, weight: Tensor) -> Result<Arc<Self>> {
        let name = name.into();
        if weight.dtype() != DType::F32 {
            candle_core::bail!("`{name}` must be f32 to be trained, got {:?}", weight.dtype());
        }
        let zeros = || vec![0f32; weight.elem_count()];
        let slot = Slot { grad: zeros(), first_moment: zeros(), second_moment: zeros() };
        let shape = weight.dims().to_vec();
        let storage = Storage::F32(weight.contiguous()?.detach());
        Ok(Arc::new(Self { name, shape, storage, trainable: true, slot: Mutex::new(slot) }))
    }

    /// A weight that is only read, kept in its own type: f32, bf16 or f16.
    ///
    /// # Errors
    /// When `weight` has another type.
    pub fn frozen(name: impl Into<String>, weight: Tensor) -> Result<Arc<Self>> {
        let (name, shape) = (name.into(), weight.dims().to_vec());
        let weight = weight.contiguous()?.detach();
        let storage = match weight.dtype() {
            DType::F32 => Storage::F32(weight),
            DType::BF16 | DType::F16 => Storage::Half(weight),
            other => candle_core::bail!("`{name}` has type {other:?}; supported: f32, bf16, f16"),
        };
        Ok(Arc::new(Self { name, shape, storage, trainable: false, slot: Mutex::default() }))
    }

    /// A weight that is only read, quantised. Its rows must be a multiple of the type's block size.
    ///
    /// # Errors
    /// When they are not.
    pub fn quantised(name: impl Into<String>, weight: &Tensor, dtype: GgmlDType) -> Result<Arc<Self>> {
        let (name, shape) = (name.into(), weight.dims().to_vec());
        quantised_bytes(&name, &shape, dtype)?;
        let storage = Storage::Quantised(QTensor::quantize(&weight.to_dtype(DType::F32)?, dtype)?);
        Ok(Arc::new(Self { name, shape, storage, trainable: false, slot: Mutex::default() }))
    }

    /// A weight of which only name and shape are there, to be counted: as it would be trained in f32.
    pub fn trainable_outline(name: impl Into<String>, shape: &[usize]) -> Arc<Self> {
        Self::outline(name.into(), shape, shape.iter().product::<usize>() * size_of::<f32>(), true)
    }

    /// The same of a weight that would only be read, in the type `dtype`.
    pub fn frozen_outline(name: impl Into<String>, shape: &[usize], dtype: DType) -> Arc<Self> {
        Self::outline(name.into(), shape, shape.iter().product::<usize>() * dtype.size_in_bytes(), false)
    }

    /// The same of a weight that would be quantised.
    ///
    /// # Errors
    /// As [`Param::quantised`].
    pub fn quantised_outline(name: impl Into<String>, shape: &[usize], dtype: GgmlDType) -> Result<Arc<Self>> {
        let name = name.into();
        let bytes = quantised_bytes(&name, shape, dtype)?;
        Ok(Self::outline(name, shape, bytes, false))
    }

    fn outline(name: String, shape: &[usize], bytes: usize, trainable: bool) -> Arc<Self> {
        let (shape, storage) = (shape.to_vec(), Storage::Absent(bytes));
        Arc::new(Self { name, shape, storage, trainable, slot: Mutex::default() })
    }

    /// The weight's name in the checkpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many numbers it has.
    pub fn elem_count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of its values as they are stored, without gradient and moments.
    pub fn stored_bytes(&self) -> usize {
        match &self.storage {
            Storage::F32(weight) | Storage::Half(weight) => weight.elem_count() * weight.dtype().size_in_bytes(),
            Storage::Quantised(weight) => weight.storage_size_in_bytes(),
            Storage::Absent(bytes) => *bytes,
        }
    }

    /// Rows and columns of a matrix.
    ///
    /// # Errors
    /// When it has another number of axes.
    pub fn dims2(&self) -> Result<(usize, usize)> {
        match self.shape[..] {
            [rows, cols] => Ok((rows, cols)),
            _ => candle_core::bail!("`{}` is no matrix: {:?}", self.name, self.shape),
        }
    }

    /// Length of a vector.
    ///
    /// # Errors
    /// When it has another number of axes.
    pub fn dims1(&self) -> Result<usize> {
        match self.shape[..] {
            [len] => Ok(len),
            _ => candle_core::bail!("`{}` is no vector: {:?}", self.name, self.shape),
        }
    }

    /// The weight in f32; for an f32 weight not a copy.
    ///
    /// # Errors
    /// When memory for widening it is missing.
    pub fn weight(&self) -> Result<Tensor> {
        self.stored()?.to_dtype(DType::F32)
    }

    /// The weight in the type it is stored in; f32 where it is quantised.
    ///
    /// # Errors
    /// As [`Param::weight`].
    pub fn stored(&self) -> Result<Tensor> {
        match &self.storage {
            Storage::F32(weight) | Storage::Half(weight) => Ok(weight.clone()),
            Storage::Quantised(weight) => weight.dequantize(&Device::Cpu),
            Storage::Absent(_) => candle_core::bail!("of `{}` only the shape was read", self.name),
        }
    }

    /// Calls `f` with all values.
    ///
    /// # Errors
    /// As [`Param::weight`].
    pub fn with_values<R>(&self, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
        with_slice(&self.weight()?, f)
    }

    /// Calls `f` with the values of some rows of a matrix.
    ///
    /// # Errors
    /// When there are no such rows.
    pub fn with_rows<R>(&self, rows: Range<usize>, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
        with_slice(&self.stored()?.narrow(0, rows.start, rows.len())?.to_dtype(DType::F32)?, f)
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
    /// When the weight is not f32.
    pub fn adamw(&self, step: &AdamWStep) -> Result<()> {
        match &self.storage {
            Storage::F32(weight) => weight.inplace_op1(&AdamWUpdate { param: self, step }),
            _ => candle_core::bail!("`{}` is frozen", self.name),
        }
    }

    /// Replaces the values of an f32 weight.
    ///
    /// # Errors
    /// When the shapes differ or the weight is not f32.
    pub fn assign(&self, values: &Tensor) -> Result<()> {
        match &self.storage {
            Storage::F32(weight) => weight.slice_set(&values.contiguous()?, 0, 0),
            _ => candle_core::bail!("`{}` is frozen", self.name),
        }
    }
}

/// Bytes of a quantised weight, whose rows must be whole blocks.
fn quantised_bytes(name: &str, shape: &[usize], dtype: GgmlDType) -> Result<usize> {
    let block = dtype.block_size();
    if !shape.last().is_some_and(|width| width.is_multiple_of(block)) {
        candle_core::bail!("`{name}` of shape {shape:?} cannot be {dtype:?}: its rows are no multiple of {block}");
    }
    Ok(shape.iter().product::<usize>() / block * dtype.type_size())
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
        let w = param.weight().unwrap().to_vec1::<f32>().unwrap();
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
