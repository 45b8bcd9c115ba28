//! Low-rank adapters (Hu et al. 2021) beside the base's weights.

use std::path::Path;

use super::workspace::sized;
use crate::adapter::LoraSetup;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::names::{LM_HEAD, Names};
use crate::product::{Matrix, product};

/// An adapter that was added to a model; never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdapterId(pub(super) u32);

impl AdapterId {
    /// The adapter of a number, for what takes a model's place in tests.
    pub fn numbered(number: u32) -> Self {
        Self(number)
    }
}

/// What an adapter adds to the linear layer `module`: `scale * (x A^T) B^T`.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRank {
    /// The layer's name: that of its weight without `.weight`.
    pub module: String,
    /// Inner width.
    pub rank: usize,
    /// `A`, `(rank, inputs)`.
    pub a: Vec<f32>,
    /// `B`, `(outputs, rank)`.
    pub b: Vec<f32>,
    /// Factor on the product.
    pub scale: f32,
}

/// An adapter's matrices by the numbers of the layers that they belong to.
#[derive(Debug)]
pub struct Adapter {
    config: ModelConfig,
    layers: Vec<Option<Layer>>,
}

#[derive(Debug)]
struct Layer {
    a: Matrix,
    b: Matrix,
    scale: f32,
}

/// The linear layers that an adapter can belong to, all but the head: names, outputs and inputs.
pub(super) fn modules(config: &ModelConfig) -> Vec<(String, usize, usize)> {
    let names = Names::of(config.family);
    let tables = [names.embed_tokens(), format!("{}embed_positions.weight", names.prefix), format!("{LM_HEAD}.weight")];
    let linear = |(name, shape): (String, Vec<usize>)| match &shape[..] {
        [outputs, inputs] if !tables.contains(&name) => {
            Some((name.strip_suffix(".weight")?.to_string(), *outputs, *inputs))
        }
        _ => None,
    };
    config.tensors().into_iter().filter_map(linear).collect()
}

impl Adapter {
    /// Lays the matrices out for the model that `config` describes.
    ///
    /// # Errors
    /// A sentence that names the layer, if the model has none of that name or it has another shape.
    pub fn new(config: &ModelConfig, layers: impl IntoIterator<Item = LowRank>) -> Result<Self, String> {
        let modules = modules(config);
        let mut adapter = Self { config: config.clone(), layers: modules.iter().map(|_| None).collect() };
        for LowRank { module, rank, a, b, scale } in layers {
            let Some(number) = modules.iter().position(|(name, ..)| *name == module) else {
                return Err(format!(
                    "the adapter belongs to a layer `{module}`, but the model has no linear layer of that name that takes \
                     an adapter; merge it with PEFT and take the result as model"
                ));
            };
            let (_, outputs, inputs) = modules[number];
            if rank == 0 || a.len() != rank * inputs || b.len() != outputs * rank {
                return Err(format!(
                    "the adapter of the layer `{module}` has {} and {} numbers for rank {rank}, but the layer has \
                     {outputs} outputs and {inputs} inputs; it was trained for another model",
                    a.len(),
                    b.len()
                ));
            }
            let (a, b) = (Matrix::from_f32(rank, inputs, &a), Matrix::from_f32(outputs, rank, &b));
            adapter.layers[number] = Some(Layer { a, b, scale });
        }
        Ok(adapter)
    }

    /// Reads the directory of an adapter in PEFT's format. This may take its time on any thread; adding it to the model
    /// then takes none.
    ///
    /// # Errors
    /// When a file is missing or corrupt, asks for what is not computed here, or belongs to another model.
    pub fn open(config: &ModelConfig, dir: &Path) -> Result<Self, ModelError> {
        let setup = LoraSetup::from_dir(dir)?;
        let modules = modules(config);
        setup.check(&modules.iter().map(|(module, ..)| module.clone()).collect())?;
        let stored = setup.initial.as_ref().expect("it was read from the directory");
        for (module, layer) in &stored.layers {
            let shape =
                modules.iter().find(|(name, ..)| name == module).map(|(_, outputs, inputs)| [*outputs, *inputs]);
            if let Some(shape) = shape.filter(|shape| *shape != [layer.outputs, layer.inputs]) {
                return Err(ModelError::invalid(dir, layer.of_another_model(module, &shape)));
            }
        }
        Self::new(config, stored.low_rank()?).map_err(|reason| ModelError::invalid(dir, reason))
    }

    /// Bytes of the matrices.
    pub fn bytes(&self) -> usize {
        self.layers.iter().flatten().map(|layer| layer.a.bytes() + layer.b.bytes()).sum()
    }

    /// True if it was made for the model that `config` describes.
    pub(super) fn fits(&self, config: &ModelConfig) -> bool {
        self.config == *config
    }

    /// Adds to `y` what it adds to the layer of a number for the rows of `x`.
    pub(super) fn add(&self, number: usize, x: &[f32], y: &mut [f32], [narrow, wide]: &mut [Vec<f32>; 2]) {
        let Some(Layer { a, b, scale }) = &self.layers[number] else { return };
        let narrow = sized(narrow, x.len() / a.inputs() * a.outputs());
        product(x, a, None, narrow, false);
        let wide = sized(wide, y.len());
        product(narrow, b, None, wide, false);
        y.iter_mut().zip(wide).for_each(|(y, sum)| *y = scale.mul_add(*sum, *y));
    }
}
