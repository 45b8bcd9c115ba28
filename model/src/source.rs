//! Where a model's weights come from: safetensors files, read tensor by tensor, or a seeded random initialisation.

use rand::SeedableRng;
use rand_distr::{Distribution, Normal};
use safetensors::Dtype;

use crate::error::ModelError;
use crate::kernels::fnv1a;
use crate::values::Values;
use crate::weights::WeightFiles;

/// A named source of weights.
pub trait WeightSource {
    /// The tensor `name` of the given shape, in the type it is stored in: f32, bf16 or f16.
    ///
    /// # Errors
    /// When it is missing, has another shape or type, or cannot be read.
    fn stored(&self, name: &str, shape: &[usize]) -> Result<Values, ModelError>;

    /// The type that it is stored in, found without reading it.
    ///
    /// # Errors
    /// When it is missing, or has another shape or type.
    fn dtype(&self, name: &str, shape: &[usize]) -> Result<Dtype, ModelError>;

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

    fn dtype(&self, name: &str, shape: &[usize]) -> Result<Dtype, ModelError> {
        self.dtype(name, shape)
    }

    fn stored(&self, name: &str, shape: &[usize]) -> Result<Values, ModelError> {
        let (dtype, bytes) = self.read(name, shape)?;
        Ok(Values::from_bytes(dtype, &bytes))
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

    fn dtype(&self, _name: &str, _shape: &[usize]) -> Result<Dtype, ModelError> {
        Ok(Dtype::F32)
    }

    fn stored(&self, name: &str, shape: &[usize]) -> Result<Values, ModelError> {
        let count = shape.iter().product();
        if shape.len() == 1 {
            let value = if name.ends_with(".bias") { 0f32 } else { 1f32 };
            return Ok(Values::F32(vec![value; count]));
        }
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(self.seed ^ fnv1a(name));
        let normal = Normal::new(0.0, self.standard_deviation)
            .map_err(|e| ModelError::Refused(format!("initializer_range = {}: {e}", self.standard_deviation)))?;
        Ok(Values::F32((0..count).map(|_| normal.sample(&mut rng) as f32).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn random_weights_depend_on_seed_and_name_only() {
        let tensor = |seed, name: &str| {
            let source = RandomWeights { seed, standard_deviation: 0.02 };
            source.stored(name, &[50, 40]).unwrap().into_f32()
        };
        assert_eq!(tensor(1, "a"), tensor(1, "a"));
        assert_ne!(tensor(1, "a"), tensor(1, "b"));
        assert_ne!(tensor(1, "a"), tensor(2, "a"));
        let values = tensor(1, "a");
        let deviation = (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
        assert!((deviation - 0.02).abs() < 1e-3, "{deviation}");
    }
}
