//! A weight with its gradient and optimiser moments.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;

use crate::error::ModelError;
use crate::values::{Values, widen};

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
    F32(RwLock<Vec<f32>>),
    /// Frozen.
    Bf16(Vec<bf16>),
    /// Frozen.
    F16(Vec<f16>),
    /// Blocks of integers with their scales, frozen.
    Quantised(QTensor),
    /// So many bytes that are not there, of a weight that is only counted.
    Absent(usize),
}

/// A named weight (the name is the checkpoint's), on the CPU.
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
    /// # Panics
    /// When there are not as many values as `shape` says.
    pub fn trainable(name: impl Into<String>, shape: &[usize], values: Vec<f32>) -> Arc<Self> {
        let zeros = || vec![0f32; values.len()];
        let slot = Slot { grad: zeros(), first_moment: zeros(), second_moment: zeros() };
        Self::of(name.into(), shape, values.len(), Storage::F32(RwLock::new(values)), true, slot)
    }

    /// A weight that is only read, kept in its own type.
    ///
    /// # Panics
    /// When there are not as many values as `shape` says.
    pub fn frozen(name: impl Into<String>, shape: &[usize], values: Values) -> Arc<Self> {
        let count = values.len();
        let storage = match values {
            Values::F32(values) => Storage::F32(RwLock::new(values)),
            Values::Bf16(values) => Storage::Bf16(values),
            Values::F16(values) => Storage::F16(values),
        };
        Self::of(name.into(), shape, count, storage, false, Slot::default())
    }

    /// A weight that is only read, quantised. Its rows must be a multiple of the type's block size.
    ///
    /// # Errors
    /// When they are not.
    pub fn quantised(
        name: impl Into<String>,
        shape: &[usize],
        values: Vec<f32>,
        dtype: GgmlDType,
    ) -> Result<Arc<Self>, ModelError> {
        let (name, count) = (name.into(), values.len());
        quantised_bytes(&name, shape, dtype)?;
        let storage = Storage::Quantised(QTensor::quantize(&Tensor::from_vec(values, shape, &Device::Cpu)?, dtype)?);
        Ok(Self::of(name, shape, count, storage, false, Slot::default()))
    }

    fn of(name: String, shape: &[usize], count: usize, storage: Storage, trainable: bool, slot: Slot) -> Arc<Self> {
        assert_eq!(count, shape.iter().product::<usize>(), "values of `{name}`");
        Arc::new(Self { name, shape: shape.to_vec(), storage, trainable, slot: Mutex::new(slot) })
    }

    /// A weight of which only name and shape are there, to be counted: as it would be trained in f32.
    pub fn trainable_outline(name: impl Into<String>, shape: &[usize]) -> Arc<Self> {
        Self::outline(name.into(), shape, shape.iter().product::<usize>() * size_of::<f32>(), true)
    }

    /// The same of a weight that would only be read, in the type `dtype`.
    pub fn frozen_outline(name: impl Into<String>, shape: &[usize], dtype: Dtype) -> Arc<Self> {
        Self::outline(name.into(), shape, shape.iter().product::<usize>() * dtype.bitsize() / 8, false)
    }

    /// The same of a weight that would be quantised.
    ///
    /// # Errors
    /// As [`Param::quantised`].
    pub fn quantised_outline(
        name: impl Into<String>,
        shape: &[usize],
        dtype: GgmlDType,
    ) -> Result<Arc<Self>, ModelError> {
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
            Storage::F32(_) => self.elem_count() * size_of::<f32>(),
            Storage::Bf16(_) | Storage::F16(_) => self.elem_count() * size_of::<u16>(),
            Storage::Quantised(weight) => weight.storage_size_in_bytes(),
            Storage::Absent(bytes) => *bytes,
        }
    }

    /// Rows and columns of a matrix.
    ///
    /// # Errors
    /// When it has another number of axes.
    pub fn dims2(&self) -> Result<(usize, usize), ModelError> {
        match self.shape[..] {
            [rows, cols] => Ok((rows, cols)),
            _ => Err(ModelError::Refused(format!("`{}` is no matrix: {:?}", self.name, self.shape))),
        }
    }

    /// Length of a vector.
    ///
    /// # Errors
    /// When it has another number of axes.
    pub fn dims1(&self) -> Result<usize, ModelError> {
        match self.shape[..] {
            [len] => Ok(len),
            _ => Err(ModelError::Refused(format!("`{}` is no vector: {:?}", self.name, self.shape))),
        }
    }

    /// A copy of the values in f32.
    ///
    /// # Errors
    /// As [`Param::with_values`].
    pub fn values(&self) -> Result<Vec<f32>, ModelError> {
        self.with_values(<[f32]>::to_vec)
    }

    /// Calls `f` with all values in f32; for an f32 weight without a copy.
    ///
    /// # Errors
    /// When they are not there, or cannot be widened.
    pub fn with_values<R>(&self, f: impl FnOnce(&[f32]) -> R) -> Result<R, ModelError> {
        Ok(match &self.storage {
            Storage::F32(values) => f(&values.read().expect(UNPOISONED)),
            Storage::Bf16(values) => f(&widen(values)),
            Storage::F16(values) => f(&widen(values)),
            Storage::Quantised(weight) => dequantised(weight, f)?,
            Storage::Absent(_) => return Err(self.absent()),
        })
    }

    /// Calls `f` with the values of some rows of a matrix.
    ///
    /// # Errors
    /// As [`Param::with_values`].
    ///
    /// # Panics
    /// When there are no such rows.
    pub fn with_rows<R>(&self, rows: Range<usize>, f: impl FnOnce(&[f32]) -> R) -> Result<R, ModelError> {
        let (_, width) = self.dims2()?;
        let range = rows.start * width..rows.end * width;
        Ok(match &self.storage {
            Storage::F32(values) => f(&values.read().expect(UNPOISONED)[range]),
            Storage::Bf16(values) => f(&widen(&values[range])),
            Storage::F16(values) => f(&widen(&values[range])),
            Storage::Quantised(weight) => dequantised(weight, |values| f(&values[range]))?,
            Storage::Absent(_) => return Err(self.absent()),
        })
    }

    /// Calls `f` with some rows of a matrix, one after the other.
    ///
    /// # Errors
    /// As [`Param::with_values`].
    ///
    /// # Panics
    /// When there are no such rows.
    pub fn each_row(&self, rows: &[u32], mut f: impl FnMut(&[f32])) -> Result<(), ModelError> {
        let (_, width) = self.dims2()?;
        let ranges = rows.iter().map(|row| *row as usize * width..(*row as usize + 1) * width);
        match &self.storage {
            Storage::F32(values) => {
                let values = values.read().expect(UNPOISONED);
                ranges.for_each(|range| f(&values[range]));
            }
            Storage::Bf16(values) => ranges.for_each(|range| f(&widen(&values[range]))),
            Storage::F16(values) => ranges.for_each(|range| f(&widen(&values[range]))),
            Storage::Quantised(weight) => dequantised(weight, |values| ranges.for_each(|range| f(&values[range])))?,
            Storage::Absent(_) => return Err(self.absent()),
        }
        Ok(())
    }

    fn absent(&self) -> ModelError {
        ModelError::Refused(format!("of `{}` only the shape was read", self.name))
    }

    /// True if the weight is trained.
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

    /// Replaces the values of an f32 weight.
    ///
    /// # Errors
    /// When there are more or fewer values, or the weight is not f32.
    pub fn assign(&self, values: &[f32]) -> Result<(), ModelError> {
        let Storage::F32(stored) = &self.storage else { return Err(self.is_frozen()) };
        if values.len() != self.elem_count() {
            return Err(ModelError::Refused(format!(
                "`{}` of shape {:?} cannot take {} values",
                self.name,
                self.shape,
                values.len()
            )));
        }
        stored.write().expect(UNPOISONED).copy_from_slice(values);
        Ok(())
    }

    fn is_frozen(&self) -> ModelError {
        ModelError::Refused(format!("`{}` is frozen", self.name))
    }

    /// One AdamW update of the weight in place, after which the gradient is zero.
    ///
    /// # Errors
    /// When the weight is not f32.
    pub fn adamw(&self, s: &AdamWStep) -> Result<(), ModelError> {
        const CHUNK: usize = 1 << 14;
        let Storage::F32(weight) = &self.storage else { return Err(self.is_frozen()) };
        let bias1 = 1.0 - s.beta1.powf(s.step as f64);
        let bias2 = 1.0 - s.beta2.powf(s.step as f64);
        let keep = (1.0 - s.learning_rate * s.weight_decay) as f32;
        let step_size = (s.learning_rate / bias1) as f32;
        let root_scale = (1.0 / bias2.sqrt()) as f32;
        let (beta1, beta2) = (s.beta1 as f32, s.beta2 as f32);
        let (new1, new2) = ((1.0 - s.beta1) as f32, (1.0 - s.beta2) as f32);
        let (epsilon, scale) = (s.epsilon as f32, s.grad_scale as f32);
        let mut weight = weight.write().expect(UNPOISONED);
        let mut slot = self.slot();
        let slot = &mut *slot;
        weight
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

/// Why a lock on values is always had.
const UNPOISONED: &str = "no operation panics while it writes a weight";

/// Calls `f` with the values of a quantised weight.
fn dequantised<R>(weight: &QTensor, f: impl FnOnce(&[f32]) -> R) -> Result<R, ModelError> {
    let wide = weight.dequantize(&Device::Cpu)?;
    let (storage, layout) = wide.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (candle_core::Storage::Cpu(storage), Some((from, to))) => Ok(f(&storage.as_slice::<f32>()?[from..to])),
        _ => unreachable!("dequantised values are contiguous and on the CPU"),
    }
}

/// Bytes of a quantised weight, whose rows must be whole blocks.
fn quantised_bytes(name: &str, shape: &[usize], dtype: GgmlDType) -> Result<usize, ModelError> {
    let block = dtype.block_size();
    if !shape.last().is_some_and(|width| width.is_multiple_of(block)) {
        return Err(ModelError::Refused(format!(
            "`{name}` of shape {shape:?} cannot be {dtype:?}: its rows are no multiple of {block}"
        )));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn param(values: &[f32], grad: &[f32]) -> Arc<Param> {
        let param = Param::trainable("w", &[values.len()], values.to_vec());
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
        let w = param.values().unwrap();
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

    #[test]
    fn narrow_weights_are_widened_whole_or_by_rows_and_cannot_change() {
        let values = [1.0, -0.5, 0.0, 2.0];
        let bf16 = Values::from_bytes(Dtype::BF16, &Values::to_bytes(Dtype::BF16, &values));
        let f16 = Values::from_bytes(Dtype::F16, &Values::to_bytes(Dtype::F16, &values));
        for narrow in [bf16, f16] {
            let param = Param::frozen("w", &[2, 2], narrow);
            assert_eq!((param.values().unwrap(), param.stored_bytes()), (values.to_vec(), 8));
            assert_eq!(param.with_rows(1..2, <[f32]>::to_vec).unwrap(), [0.0, 2.0]);
            assert!(param.assign(&values).is_err() && param.adamw(&step(1, 0.0, 1.0)).is_err());
        }
    }
}
