//! Low-rank adapters (Hu et al. 2021) beside the base's weights.

use std::path::Path;

use super::load::widened;
use super::workspace::sized;
use crate::adapter::{ADAPTER_FILE, BaseStorage, LoraConfig, LoraSetup, stored_name};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::names::{LM_HEAD, Names};
use crate::product::{Matrix, Storage, product};
use crate::weights::WeightFiles;

/// An adapter that was added to a model; never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdapterId(pub(super) u32);

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
            let matrix = |outputs: usize, inputs: usize, rows: &[f32]| {
                let row = |output: usize, row: &mut [f32]| row.copy_from_slice(&rows[output * inputs..][..inputs]);
                Matrix::quantized(outputs, inputs, Storage::F32, row)
            };
            let (a, b) = (matrix(rank, inputs, &a), matrix(outputs, rank, &b));
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
        let lora = LoraConfig::from_dir(dir)?;
        let (rank, scale) = (lora.r, lora.scale());
        let file = dir.join(ADAPTER_FILE);
        let weights = WeightFiles::open_file(&file)?;
        let setup = LoraSetup { config: lora, base: BaseStorage::Source, seed: 0, initial: Some(weights) };
        let modules = modules(config);
        setup.check(&modules.iter().map(|(module, ..)| module.clone()).collect())?;
        let weights = setup.initial.as_ref().expect("given above");
        let read = |module: &str, side: char, shape: &[usize]| {
            let (dtype, bytes) = weights.read(&stored_name(weights, module, side), shape)?;
            Ok::<_, ModelError>(widened(dtype, &bytes))
        };
        let adapted = modules.into_iter().filter(|(module, ..)| setup.targets(module));
        let layers = adapted.map(|(module, outputs, inputs)| {
            let (a, b) = (read(&module, 'A', &[rank, inputs])?, read(&module, 'B', &[outputs, rank])?);
            Ok(LowRank { module, rank, a, b, scale })
        });
        let layers = layers.collect::<Result<Vec<LowRank>, ModelError>>()?;
        Self::new(config, layers).map_err(|reason| ModelError::invalid(&file, reason))
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
