//! Models in GGUF files, for serving: the weights are used as they are stored.

mod config;
mod head;
mod names;

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::Dtype;

pub use self::head::Head;
use self::head::Tensor;
use self::names::{Place, ROPE_FACTORS, place, turned_back};
use crate::config::{ModelConfig, Positions};
use crate::error::ModelError;
use crate::infer::{Inference, Tensors, widened};
use crate::product::{Matrix, Storage};

/// Why a GGUF file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// It is no whole GGUF file, or lacks what its model needs.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// It is one of another architecture, or of weights of another type.
    #[error("`{}`: {reason}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What of it is not supported.
        reason: String,
    },
}

/// A GGUF file whose model can be computed: llama (Mistral included), qwen2, qwen3, gemma2 or phi2, with weights of any
/// [`Storage`].
#[derive(Debug, Clone)]
pub struct Gguf {
    path: PathBuf,
    head: Head,
    config: ModelConfig,
}

impl Gguf {
    /// Reads the head of `path`, and checks that the model's tensors are there, whole and of the right shape.
    ///
    /// # Errors
    /// [`GgufError`] with the file and the tensor.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let file = File::open(path).map_err(|source| ModelError::read(path, source))?;
        let length = file.metadata().map_err(|source| ModelError::read(path, source))?.len();
        let head = Head::read(&mut BufReader::new(file));
        let head = head.map_err(|source| ModelError::invalid(path, format!("{source}; is it a whole GGUF file?")))?;
        let unsupported = |reason: String| GgufError::Unsupported { path: path.to_path_buf(), reason };
        let config = config::config(&head).map_err(unsupported)?;
        let gguf = Self { path: path.to_path_buf(), head, config };
        let mut used: Vec<String> = vec![ROPE_FACTORS.into()];
        for (name, shape) in gguf.config.tensors() {
            let place = place(&gguf.config, &gguf.head, &name);
            let tensor = gguf.tensor(&place)?;
            let storage = storage(tensor.kind).ok_or_else(|| {
                unsupported(format!(
                    "`{}` has weights of the type {}, which is not supported",
                    place.tensor, tensor.kind
                ))
            })?;
            gguf.check(&place, tensor, storage, &shape, length)?;
            used.push(place.tensor);
        }
        if let (Some(tensor), Positions::Rope(rope)) = (gguf.head.tensors.get(ROPE_FACTORS), &gguf.config.positions) {
            if storage(tensor.kind) != Some(Storage::F32) {
                return Err(unsupported(format!("`{ROPE_FACTORS}` is not in f32")));
            }
            gguf.check(&rope_factors(), tensor, Storage::F32, &[rope.rotary_dim / 2], length)?;
        }
        if let Some(name) = gguf.head.tensors().find(|name| !used.iter().any(|used| used == name)) {
            return Err(unsupported(format!("it has a tensor `{name}`, for which its architecture has no use")));
        }
        Ok(gguf)
    }

    /// The model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Loads the weights, in the types that the file has them in.
    ///
    /// # Errors
    /// When the file cannot be read any more.
    pub fn load(&self) -> Result<Inference, ModelError> {
        let mut inference = Inference::of(&self.config, self, None)?;
        if self.head.contains(ROPE_FACTORS) {
            let (_, bytes) = self.read(&rope_factors(), 1)?;
            inference.divide_frequencies(&widened(Dtype::F32, &bytes));
        }
        Ok(inference)
    }

    fn tensor(&self, place: &Place) -> Result<&Tensor, ModelError> {
        let tensor = self.head.tensors.get(&place.tensor);
        tensor.ok_or_else(|| ModelError::invalid(&self.path, format!("the tensor `{}` is missing", place.tensor)))
    }

    /// That a tensor has room for what is at its place, and lies within the file.
    fn check(
        &self,
        place: &Place,
        tensor: &Tensor,
        storage: Storage,
        shape: &[usize],
        length: u64,
    ) -> Result<(), ModelError> {
        let invalid = |reason: String| Err(ModelError::invalid(&self.path, format!("`{}`{reason}", place.tensor)));
        let mut needed = shape.to_vec();
        if place.rows.is_some() {
            // Queries, keys and values.
            needed[0] = (self.config.num_attention_heads + 2 * self.config.num_key_value_heads) * self.config.head_dim;
        }
        if tensor.shape != needed {
            return invalid(format!(" has the shape {:?}, where the model needs {needed:?}", tensor.shape));
        }
        let row = tensor.shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(storage.block()) || shape.len() == 1 && storage.block() != 1 {
            return invalid(format!(" has rows of {row} weights, which {storage:?} cannot store"));
        }
        let bytes = storage.bytes(tensor.shape.iter().product()) as u64;
        if tensor.offset.checked_add(bytes).is_none_or(|end| end > length) {
            return invalid(format!(
                " ends at byte {} of {length}; is it a whole file?",
                tensor.offset.saturating_add(bytes)
            ));
        }
        Ok(())
    }

    /// The type and the bytes of what is at a place, whose rows have so many weights.
    fn read(&self, place: &Place, inputs: usize) -> Result<(Storage, Vec<u8>), ModelError> {
        let tensor = self.tensor(place)?;
        let storage = storage(tensor.kind).expect("it was looked at before");
        let row = storage.bytes(inputs);
        let rows = place.rows.clone().unwrap_or(0..tensor.shape.iter().product::<usize>() / inputs);
        let mut bytes = vec![0; rows.len() * row];
        let start = tensor.offset + (rows.start * row) as u64;
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(start))?;
            file.read_exact(&mut bytes)
        });
        read.map_err(|source| ModelError::invalid(&self.path, format!("cannot read `{}`: {source}", place.tensor)))?;
        if let Some(width) = place.turned {
            bytes = turned_back(&bytes, row, width);
        }
        Ok((storage, bytes))
    }
}

impl Tensors for Gguf {
    fn vector(&self, name: &str, _: &[usize]) -> Result<Vec<f32>, ModelError> {
        let (storage, bytes) = self.read(&place(&self.config, &self.head, name), 1)?;
        let dtype = match storage {
            Storage::Bf16 => Dtype::BF16,
            Storage::F16 => Dtype::F16,
            _ => Dtype::F32,
        };
        Ok(widened(dtype, &bytes))
    }

    fn matrix(&self, name: &str, outputs: usize, inputs: usize, _: Option<Storage>) -> Result<Matrix, ModelError> {
        let (storage, bytes) = self.read(&place(&self.config, &self.head, name), inputs)?;
        Ok(match storage.block() {
            1 => Matrix::from_floats(outputs, inputs, storage, &bytes),
            _ => Matrix::from_blocks(outputs, inputs, storage, &bytes),
        })
    }
}

/// Where the factors of the rotation are.
fn rope_factors() -> Place {
    Place { tensor: ROPE_FACTORS.into(), rows: None, turned: None }
}

/// A type by its number in `ggml`.
fn storage(kind: u32) -> Option<Storage> {
    Some(match kind {
        0 => Storage::F32,
        1 => Storage::F16,
        2 => Storage::Q4_0,
        3 => Storage::Q4_1,
        6 => Storage::Q5_0,
        7 => Storage::Q5_1,
        8 => Storage::Q8_0,
        10 => Storage::Q2K,
        11 => Storage::Q3K,
        12 => Storage::Q4K,
        13 => Storage::Q5K,
        14 => Storage::Q6K,
        30 => Storage::Bf16,
        _ => return None,
    })
}
