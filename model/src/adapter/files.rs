//! The tensors of a PEFT directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::config::{BaseName, LoraConfig};
use super::merge::add_product;
use super::{ADAPTER_CONFIG, ADAPTER_FILE, MERGE_WITH_PEFT};
use crate::error::ModelError;
use crate::infer::LowRank;
use crate::weights::WeightFiles;

/// An adapter on the disk: its config and the headers of its tensors are read and agree.
#[derive(Debug)]
pub struct Adapter {
    /// The directory.
    pub dir: PathBuf,
    /// Its hyper-parameters.
    pub config: LoraConfig,
    /// What it calls its base model.
    pub base: BaseName,
    /// By the layer's name in the base model, such as `model.layers.0.self_attn.q_proj`.
    pub layers: BTreeMap<String, Layer>,
    /// Its file.
    pub weights: WeightFiles,
}

/// One matrix of a layer: the name of its tensor, rows and columns.
type Half = (String, [usize; 2]);

/// The two matrices of a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Columns of B and rows of A.
    pub rank: usize,
    /// Columns of A.
    pub inputs: usize,
    /// Rows of B.
    pub outputs: usize,
    /// Factor on their product.
    pub scale: f32,
    /// The tensors of A and B.
    names: [String; 2],
}

/// A layer's matrices in memory, by rows.
#[derive(Debug)]
pub struct Matrices {
    /// `(rank, inputs)`.
    pub a: Vec<f32>,
    /// `(outputs, rank)`.
    pub b: Vec<f32>,
    rank: usize,
    scale: f32,
}

impl Matrices {
    /// `weight += scale B A`.
    pub fn add_to(&self, weight: &mut [f32]) {
        add_product(weight, &self.a, &self.b, self.rank, self.scale);
    }
}

impl Adapter {
    /// Opens a PEFT directory. No tensor is read.
    ///
    /// # Errors
    /// When a file is missing or corrupt, and by name for what would not be computed as PEFT does.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        let (config, base) = LoraConfig::from_dir(dir)?;
        let path = dir.join(ADAPTER_FILE);
        let refuse = |reason: String| ModelError::invalid(&path, reason);
        let weights = WeightFiles::open_file(&path)?;
        let mut halves: BTreeMap<String, [Option<Half>; 2]> = BTreeMap::new();
        for file in weights.files() {
            for (name, info) in file.tensors() {
                file.float_type(&name, info)?;
                let (module, side) = module_and_side(&name).ok_or_else(|| {
                    refuse(format!("tensor `{name}` is not a LoRA matrix of a linear layer; {MERGE_WITH_PEFT}"))
                })?;
                let [rows, columns] = info.shape[..] else {
                    return Err(refuse(format!("tensor `{name}` is not a matrix")));
                };
                let half = &mut halves.entry(module.to_string()).or_default()[side];
                if let Some((other, _)) = half.replace((name.clone(), [rows, columns])) {
                    return Err(refuse(format!("`{other}` and `{name}` are the same matrix under two names")));
                }
            }
        }
        if halves.is_empty() {
            return Err(refuse("it holds no tensor".into()));
        }
        let mut layers = BTreeMap::new();
        for (module, halves) in halves {
            let [Some(a), Some(b)] = halves else {
                return Err(refuse(format!("`{module}` has only one of lora_A and lora_B")));
            };
            let layer = Layer::new(&config, &module, a, b);
            layers.insert(
                module.clone(),
                layer.map_err(|reason| ModelError::invalid(dir, format!("`{module}`: {reason}")))?,
            );
        }
        Ok(Self { dir: dir.to_path_buf(), config, base, layers, weights })
    }

    /// Reads the matrices of `layer`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, layer: &Layer) -> Result<Matrices, ModelError> {
        let Layer { rank, inputs, outputs, scale, names: [a, b] } = layer;
        Ok(Matrices {
            a: self.weights.read_f32(a, &[*rank, *inputs])?,
            b: self.weights.read_f32(b, &[*outputs, *rank])?,
            rank: *rank,
            scale: *scale,
        })
    }
}

impl Adapter {
    /// Reads all matrices, for an engine that computes them beside the base's weights.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn low_rank(&self) -> Result<Vec<LowRank>, ModelError> {
        let layer = |(module, layer): (&String, &Layer)| {
            let Matrices { a, b, rank, scale } = self.read(layer)?;
            Ok(LowRank { module: module.clone(), rank, a, b, scale })
        };
        self.layers.iter().map(layer).collect()
    }

    /// The directory with the tokenizer of a model with this adapter: its own where it has one, else the base's.
    pub fn tokenizer_dir<'a>(&'a self, base: &'a Path) -> &'a Path {
        if self.dir.join("tokenizer.json").exists() { &self.dir } else { base }
    }
}

impl Layer {
    fn new(
        config: &LoraConfig,
        module: &str,
        (a, [a_rows, inputs]): Half,
        (b, [outputs, b_columns]): Half,
    ) -> Result<Self, String> {
        if !config.target_modules.contain(module) {
            return Err("it is not among `target_modules`".into());
        }
        let rank = config.rank(module);
        if (a_rows, b_columns) != (rank, rank) {
            return Err(format!(
                "lora_A has shape ({a_rows}, {inputs}) and lora_B ({outputs}, {b_columns}), but {ADAPTER_CONFIG} says \
                 rank {rank}"
            ));
        }
        Ok(Self { rank, inputs, outputs, scale: config.scale(module), names: [a, b] })
    }

    /// Says that the base model's weight of this layer has another `shape`.
    pub fn of_another_model(&self, module: &str, shape: &[usize]) -> String {
        format!(
            "`{module}` is made for a weight of shape ({}, {}), the base model's has {shape:?}; is the adapter one of \
             another model?",
            self.outputs, self.inputs
        )
    }
}

/// The layer and which matrix of it, 0 for A and 1 for B, in PEFT's spelling and those that other programs write: the
/// adapter's name before `.weight`, a doubled prefix, or none.
fn module_and_side(tensor: &str) -> Option<(&str, usize)> {
    const PREFIX: &str = "base_model.model.";
    let name = tensor.strip_suffix(".weight")?;
    let name = name.strip_suffix(".default").unwrap_or(name);
    let (module, side) = match (name.strip_suffix(".lora_A"), name.strip_suffix(".lora_B")) {
        (Some(module), _) => (module, 0),
        (_, Some(module)) => (module, 1),
        _ => return None,
    };
    let module = module.strip_prefix(PREFIX).unwrap_or(module);
    Some((module.strip_prefix(PREFIX).unwrap_or(module), side))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A directory with tensors of these names and shapes, filled with 1.
    fn adapter(extra: Value, tensors: &[(&str, &[usize])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let mut config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["q", "v"]});
        for (key, value) in extra.as_object().unwrap() {
            config[key] = value.clone();
        }
        std::fs::write(dir.path().join(ADAPTER_CONFIG), config.to_string()).unwrap();
        let (mut header, mut data) = (json!({}), Vec::new());
        for (name, shape) in tensors {
            let from = data.len();
            (0..shape.iter().product()).for_each(|_| data.extend(1f32.to_le_bytes()));
            header[name] = json!({"dtype": "F32", "shape": shape, "data_offsets": [from, data.len()]});
        }
        let header = header.to_string();
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
        std::fs::write(dir.path().join(ADAPTER_FILE), bytes).unwrap();
        dir
    }

    #[test]
    fn layers_are_found_with_rank_and_scale_and_added() {
        let dir = adapter(
            json!({"rank_pattern": {"m.v": 1}}),
            &[
                ("base_model.model.m.q.lora_A.weight", &[2, 3]),
                ("base_model.model.m.q.lora_B.weight", &[4, 2]),
                ("m.v.lora_A.default.weight", &[1, 3]),
                ("m.v.lora_B.default.weight", &[2, 1]),
            ],
        );
        let adapter = Adapter::open(dir.path()).unwrap();
        let (q, v) = (&adapter.layers["m.q"], &adapter.layers["m.v"]);
        assert_eq!((q.rank, q.inputs, q.outputs, q.scale), (2, 3, 4, 3.0));
        assert_eq!((v.rank, v.inputs, v.outputs, v.scale), (1, 3, 2, 6.0));
        let mut weight = [1f32; 12];
        adapter.read(q).unwrap().add_to(&mut weight);
        assert_eq!(weight, [7.0; 12]);
    }

    #[test]
    fn what_would_not_be_computed_as_peft_does_is_refused_by_name() {
        const A: (&str, &[usize]) = ("m.q.lora_A.weight", &[2, 3]);
        const B: (&str, &[usize]) = ("m.q.lora_B.weight", &[4, 2]);
        for (tensors, words) in [
            (&[][..], "holds no tensor"),
            (&[A][..], "`m.q` has only one of lora_A and lora_B"),
            (&[A, ("m.q.lora_B.weight", &[4, 3])][..], "says rank 2"),
            (&[A, B, ("m.lora_embedding_A", &[2, 2])][..], "`m.lora_embedding_A` is not a LoRA matrix"),
            (&[A, B, ("m.k.lora_A.weight", &[2, 3]), ("m.k.lora_B.weight", &[4, 2])][..], "`target_modules`"),
            (&[A, B, ("m.q.lora_A.default.weight", &[2, 3])][..], "under two names"),
            (&[("m.q.lora_A.weight", &[2, 3, 1][..]), B][..], "is not a matrix"),
        ] {
            let refused = Adapter::open(adapter(json!({}), tensors).path()).unwrap_err().to_string();
            assert!(refused.contains(words), "{refused}");
        }
    }

    #[test]
    fn tensors_are_known_in_every_spelling() {
        for name in [
            "base_model.model.m.q.lora_A.weight",
            "base_model.model.m.q.lora_A.default.weight",
            "base_model.model.base_model.model.m.q.lora_A.weight",
            "m.q.lora_A.weight",
        ] {
            assert_eq!(module_and_side(name), Some(("m.q", 0)), "{name}");
        }
        assert_eq!(module_and_side("m.q.lora_B.weight"), Some(("m.q", 1)));
        for name in ["m.lora_embedding_A", "base_model.model.lm_head.weight", "m.q.lora_magnitude_vector.weight"] {
            assert_eq!(module_and_side(name), None);
        }
    }
}
