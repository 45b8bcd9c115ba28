//! The adapter that a training starts from: a new one, or one to continue.

use std::collections::BTreeSet;
use std::path::Path;

use candle_core::quantized::GgmlDType;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::config::LoraConfig;
use super::files::Adapter;
use super::names::last_parts;
use crate::error::ModelError;
use crate::kernels::{LoraWeights, fnv1a};
use crate::param::Param;

/// How the frozen weights of the linear layers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BaseStorage {
    /// In the type of the checkpoint.
    #[default]
    Source,
    /// In 8-bit blocks of 32.
    Q8_0,
    /// In 4-bit blocks of 256.
    Q4K,
}

impl BaseStorage {
    /// The quantised type, if it is one.
    pub(crate) fn quantised(self) -> Option<GgmlDType> {
        match self {
            Self::Source => None,
            Self::Q8_0 => Some(GgmlDType::Q8_0),
            Self::Q4K => Some(GgmlDType::Q4K),
        }
    }
}

/// What an adapter's training starts from.
#[derive(Debug)]
pub struct LoraSetup {
    /// Hyper-parameters.
    pub config: LoraConfig,
    /// How the frozen weights are kept.
    pub base: BaseStorage,
    /// Seed of a new adapter.
    pub seed: u64,
    /// The adapter to continue from.
    pub initial: Option<Adapter>,
}

impl LoraSetup {
    /// The adapter in a PEFT directory, on a base that is kept as the checkpoint stores it.
    ///
    /// # Errors
    /// As [`Adapter::open`].
    pub fn from_dir(dir: &Path) -> Result<Self, ModelError> {
        let initial = Adapter::open(dir)?;
        Ok(Self { config: initial.config.clone(), base: BaseStorage::Source, seed: 0, initial: Some(initial) })
    }

    /// True if the linear layer `module` gets an adapter: where there is one to continue from, if it has one there.
    pub(crate) fn targets(&self, module: &str) -> bool {
        match &self.initial {
            Some(adapter) => adapter.layers.contains_key(module),
            None => self.config.target_modules.contain(module),
        }
    }

    /// Refuses what has no place in a model whose linear layers are `modules`: a target that is none of them, or a
    /// layer of the initial adapter.
    pub(crate) fn check(&self, modules: &BTreeSet<String>) -> Result<(), ModelError> {
        if let Some(adapter) = &self.initial {
            return match adapter.layers.keys().find(|layer| !modules.contains(*layer)) {
                None => Ok(()),
                Some(layer) => Err(ModelError::Refused(format!(
                    "the adapter has a layer `{layer}`; this model takes adapters on its linear layers, the head not \
                     among them: {}",
                    super::MERGE_WITH_PEFT
                ))),
            };
        }
        match self.config.target_modules.without_layer(modules) {
            None => Ok(()),
            Some(target) => Err(ModelError::Refused(format!(
                "`target_modules`: no linear layer of this model is called {target}; there are {}",
                last_parts(modules.iter().map(String::as_str)).join(", ")
            ))),
        }
    }

    /// The trainable adapter of the layer `module` with a weight of `shape` (out, in): A uniform as PEFT draws it, B
    /// zero, or both from the initial adapter. Of an `outline` only the shapes are there.
    pub(crate) fn adapter(
        &self,
        module: &str,
        (outputs, inputs): (usize, usize),
        outline: bool,
    ) -> Result<LoraWeights, ModelError> {
        let rank = self.config.rank(module);
        let name = |side: char| format!("base_model.model.{module}.lora_{side}.weight");
        let (a, b) = match self.initial.as_ref().map(|adapter| (adapter, &adapter.layers[module])) {
            Some((adapter, layer)) => {
                if (layer.outputs, layer.inputs) != (outputs, inputs) {
                    return Err(ModelError::invalid(&adapter.dir, layer.of_another_model(module, &[outputs, inputs])));
                }
                match outline {
                    true => (Vec::new(), Vec::new()),
                    false => adapter.read(layer).map(|matrices| (matrices.a, matrices.b))?,
                }
            }
            None if outline => (Vec::new(), Vec::new()),
            None => {
                let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(self.seed ^ fnv1a(&name('A')));
                // torch's kaiming_uniform_ with a = sqrt(5)
                let bound = (inputs as f64).sqrt().recip() as f32;
                let a = (0..rank * inputs).map(|_| rng.random_range(-bound..bound)).collect();
                (a, vec![0f32; outputs * rank])
            }
        };
        let param = |side: char, shape: &[usize], values: Vec<f32>| match outline {
            true => Param::trainable_outline(name(side), shape),
            false => Param::trainable(name(side), shape, values),
        };
        Ok(LoraWeights {
            a: param('A', &[rank, inputs], a),
            b: param('B', &[outputs, rank], b),
            scale: self.config.scale(module),
            dropout: self.config.lora_dropout as f32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_is_no_layer_is_refused_with_those_there_are() {
        let modules: BTreeSet<String> = ["a.0.q_proj", "a.0.mlp.up_proj"].map(str::to_string).into();
        let check = |targets: [&str; 2]| {
            let config = LoraConfig::new(4, 8.0, targets);
            LoraSetup { config, base: BaseStorage::Source, seed: 0, initial: None }.check(&modules)
        };
        assert!(check(["q_proj", "mlp.up_proj"]).is_ok());
        let error = check(["q_proj", "k_porj"]).unwrap_err().to_string();
        assert!(error.contains("k_porj") && error.contains("there are q_proj, up_proj"), "{error}");
    }
}
