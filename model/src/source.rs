//! Where a model's weights come from: safetensors files, read tensor by tensor, or a seeded random initialisation.

use candle_core::{DType, Device, Tensor};
use rand::SeedableRng;
use rand_distr::{Distribution, Normal};
use safetensors::Dtype;

use crate::error::ModelError;
use crate::kernels::fnv1a;
use crate::weights::WeightFiles;

/// A named source of weights.
pub trait WeightSource {
    /// The tensor `name` of the given shape, in the type it is stored in: f32, bf16 or f16.
    ///
    /// # Errors
    /// When it is missing, has another shape or type, or cannot be read.
    fn stored(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError>;

    /// The type that it is stored in, found without reading it.
    ///
    /// # Errors
    /// When it is missing, or has another shape or type.
    fn dtype(&self, name: &str, shape: &[usize]) -> Result<DType, ModelError>;

    /// The tensor in f32.
    ///
    /// # Errors
    /// As [`WeightSource::stored`].
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        Ok(self.stored(name, shape)?.to_dtype(DType::F32)?)
    }

    /// The names of all tensors, where the source has a list.
    fn names(&self) -> Vec<&str>;

    /// Whether there is a tensor of this name.
    fn contains(&self, name: &str) -> bool;
}

impl WeightSource for WeightFiles {
    fn contains(&self, name: &str) -> bool {
        self.contains(name)
    }

    fn names(&self) -> Vec<&str> {
        self.names().collect()
    }

    fn dtype(&self, name: &str, shape: &[usize]) -> Result<DType, ModelError> {
        Ok(candle_type(self.dtype(name, shape)?))
    }

    fn stored(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let (dtype, bytes) = self.read(name, shape)?;
        Ok(Tensor::from_raw_buffer(&bytes, candle_type(dtype), shape, &Device::Cpu)?)
    }
}

/// One of the types that [`WeightFiles`] lets pass.
fn candle_type(dtype: Dtype) -> DType {
    match dtype {
        Dtype::BF16 => DType::BF16,
        Dtype::F16 => DType::F16,
        _ => DType::F32,
    }
}

/// A random initialisation as transformers does it: normal with the given standard deviation, norms 1, biases 0. Every tensor
/// has a generator of its own, seeded by its name, so that it does not depend on the order of loading.
#[derive(Debug)]
pub(crate) struct RandomWeights {
    pub seed: u64,
    pub standard_deviation: f64,
}

impl WeightSource for RandomWeights {
    fn contains(&self, _name: &str) -> bool {
        true
    }

    fn names(&self) -> Vec<&str> {
        Vec::new()
    }

    fn dtype(&self, _name: &str, _shape: &[usize]) -> Result<DType, ModelError> {
        Ok(DType::F32)
    }

    fn stored(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        if shape.len() == 1 {
            let value = if name.ends_with(".bias") { 0f32 } else { 1f32 };
            return Ok(Tensor::full(value, shape, &Device::Cpu)?);
        }
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(self.seed ^ fnv1a(name));
        let normal = Normal::new(0.0, self.standard_deviation)
            .map_err(|e| ModelError::Refused(format!("initializer_range = {}: {e}", self.standard_deviation)))?;
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| normal.sample(&mut rng) as f32).collect();
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::path::Path;

    fn write(path: &Path, names: &[&str], dtype: DType) {
        let values = Tensor::new(&[[1f32, -2.5], [0.0, 3.0]], &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let tensors: HashMap<String, Tensor> = names.iter().map(|name| (name.to_string(), values.clone())).collect();
        candle_core::safetensors::save(&tensors, path).unwrap();
    }

    #[test]
    fn every_float_type_is_widened() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let dir = tempfile::tempdir().unwrap();
            write(&dir.path().join("model.safetensors"), &["a"], dtype);
            let tensor = WeightFiles::open(dir.path()).unwrap().tensor("a", &[2, 2]).unwrap();
            assert_eq!(tensor.to_vec2::<f32>().unwrap(), [[1.0, -2.5], [0.0, 3.0]]);
        }
    }

    #[test]
    fn random_weights_depend_on_seed_and_name_only() {
        let tensor = |seed, name: &str| {
            let source = RandomWeights { seed, standard_deviation: 0.02 };
            source.tensor(name, &[50, 40]).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(tensor(1, "a"), tensor(1, "a"));
        assert_ne!(tensor(1, "a"), tensor(1, "b"));
        assert_ne!(tensor(1, "a"), tensor(2, "a"));
        let values = tensor(1, "a");
        let deviation = (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
        assert!((deviation - 0.02).abs() < 1e-3, "{deviation}");
    }
}
