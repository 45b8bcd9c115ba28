//! Where a model's weights come from: safetensors files, read tensor by tensor, or a seeded random initialisation.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use rand::SeedableRng;
use rand_distr::{Distribution, Normal};
use safetensors::tensor::Metadata;

use crate::error::TrainError;
use crate::ops::fnv1a;

/// A named source of weights.
pub trait WeightSource {
    /// The tensor `name` of the given shape, in the type it is stored in: f32, bf16 or f16.
    ///
    /// # Errors
    /// When it is missing, has another shape or type, or cannot be read.
    fn stored(&self, name: &str, shape: &[usize]) -> Result<Tensor, TrainError>;

    /// The type that it is stored in, found without reading it.
    ///
    /// # Errors
    /// When it is missing, or has another shape or type.
    fn dtype(&self, name: &str, shape: &[usize]) -> Result<DType, TrainError>;

    /// The tensor in f32.
    ///
    /// # Errors
    /// As [`WeightSource::stored`].
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, TrainError> {
        Ok(self.stored(name, shape)?.to_dtype(DType::F32)?)
    }

    /// The names of all tensors, where the source has a list.
    fn names(&self) -> Vec<&str>;

    /// Whether there is a tensor of this name.
    fn contains(&self, name: &str) -> bool;
}

/// The safetensors files of a checkpoint directory: `model.safetensors`, or the shards that
/// `model.safetensors.index.json` names. Headers are checked on opening; tensors are read when asked for.
#[derive(Debug)]
pub struct WeightFiles {
    /// The directory or file, for messages.
    origin: PathBuf,
    files: Vec<WeightFile>,
    /// Tensor name to file.
    index: BTreeMap<String, usize>,
}

#[derive(Debug)]
struct WeightFile {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    data_offset: u64,
}

impl WeightFiles {
    /// Opens the files of `dir`.
    ///
    /// # Errors
    /// When there are none, or one is truncated or corrupt.
    pub fn open(dir: &Path) -> Result<Self, TrainError> {
        Self::open_all(dir, weight_paths(dir)?)
    }

    /// Opens one file.
    ///
    /// # Errors
    /// When it is missing, truncated or corrupt.
    pub fn open_file(path: &Path) -> Result<Self, TrainError> {
        Self::open_all(path, vec![path.to_path_buf()])
    }

    fn open_all(origin: &Path, paths: Vec<PathBuf>) -> Result<Self, TrainError> {
        let mut files = Vec::new();
        let mut index = BTreeMap::new();
        for path in paths {
            let file = WeightFile::open(path)?;
            for name in file.metadata.tensors().keys() {
                index.insert(name.clone(), files.len());
            }
            files.push(file);
        }
        Ok(Self { origin: origin.to_path_buf(), files, index })
    }

    /// The files themselves.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }
}

/// The safetensors files of a checkpoint directory.
fn weight_paths(dir: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let single = dir.join("model.safetensors");
    if single.exists() {
        return Ok(vec![single]);
    }
    let index = dir.join("model.safetensors.index.json");
    let text = match std::fs::read_to_string(&index) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let reason = "no `model.safetensors` and no `model.safetensors.index.json` in it";
            return Err(TrainError::invalid(dir, reason));
        }
        Err(error) => return Err(TrainError::read(&index, error)),
    };
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| TrainError::invalid(&index, e))?;
    let map = json["weight_map"].as_object().ok_or_else(|| TrainError::invalid(&index, "no `weight_map` in it"))?;
    let mut names: Vec<&str> = map.values().filter_map(|name| name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

impl WeightFile {
    fn open(path: PathBuf) -> Result<Self, TrainError> {
        let file = File::open(&path).map_err(|e| TrainError::read(&path, e))?;
        let len = file.metadata().map_err(|e| TrainError::read(&path, e))?.len();
        let corrupt = |reason: String| TrainError::invalid(&path, format!("not a valid safetensors file: {reason}"));
        let mut size = [0u8; 8];
        file.read_exact_at(&mut size, 0).map_err(|_| corrupt(format!("it has only {len} bytes")))?;
        let header_len = u64::from_le_bytes(size);
        if header_len > len.saturating_sub(8) {
            return Err(corrupt(format!("its header of {header_len} bytes is longer than the file of {len} bytes")));
        }
        let mut header = vec![0u8; header_len as usize];
        file.read_exact_at(&mut header, 8).map_err(|e| TrainError::read(&path, e))?;
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| corrupt(format!("its header: {e}")))?;
        for (name, info) in metadata.tensors() {
            let (from, to) = info.data_offsets;
            let expected = info.shape.iter().try_fold(info.dtype.bitsize(), |n, axis| n.checked_mul(*axis));
            if to.checked_sub(from).is_none_or(|bytes| Some(8 * bytes) != expected) {
                return Err(corrupt(format!("tensor `{name}` of shape {:?} cannot be bytes {from}..{to}", info.shape)));
            }
        }
        let data_offset = 8 + header_len;
        let end = metadata.tensors().values().map(|info| info.data_offsets.1 as u64).max().unwrap_or(0);
        if data_offset + end != len {
            return Err(corrupt(format!("its header promises {} bytes, the file has {len}", data_offset + end)));
        }
        Ok(Self { path, file, metadata, data_offset })
    }
}

impl WeightFiles {
    /// The file that holds the tensor `name` of this shape, its place there and its type.
    fn find(&self, name: &str, shape: &[usize]) -> Result<(&WeightFile, (usize, usize), DType), TrainError> {
        let Some(file) = self.index.get(name).map(|at| &self.files[*at]) else {
            return Err(TrainError::invalid(&self.origin, format!("the weights have no tensor `{name}`")));
        };
        let info = file.metadata.info(name).expect("the index lists the tensors of this file");
        if info.shape != shape {
            let reason = format!("tensor `{name}` has shape {:?}, the configuration asks for {shape:?}", info.shape);
            return Err(TrainError::invalid(&file.path, reason));
        }
        let dtype = match info.dtype {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::BF16 => DType::BF16,
            safetensors::Dtype::F16 => DType::F16,
            other => {
                let reason = format!("tensor `{name}` has type {other:?}; supported: F32, BF16, F16");
                return Err(TrainError::invalid(&file.path, reason));
            }
        };
        Ok((file, info.data_offsets, dtype))
    }
}

impl WeightSource for WeightFiles {
    fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    fn names(&self) -> Vec<&str> {
        self.index.keys().map(String::as_str).collect()
    }

    fn dtype(&self, name: &str, shape: &[usize]) -> Result<DType, TrainError> {
        Ok(self.find(name, shape)?.2)
    }

    fn stored(&self, name: &str, shape: &[usize]) -> Result<Tensor, TrainError> {
        let (file, (from, to), dtype) = self.find(name, shape)?;
        let mut bytes = vec![0u8; to - from];
        file.file
            .read_exact_at(&mut bytes, file.data_offset + from as u64)
            .map_err(|e| TrainError::read(&file.path, e))?;
        Ok(Tensor::from_raw_buffer(&bytes, dtype, shape, &Device::Cpu)?)
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

    fn dtype(&self, _name: &str, _shape: &[usize]) -> Result<DType, TrainError> {
        Ok(DType::F32)
    }

    fn stored(&self, name: &str, shape: &[usize]) -> Result<Tensor, TrainError> {
        if shape.len() == 1 {
            let value = if name.ends_with(".bias") { 0f32 } else { 1f32 };
            return Ok(Tensor::full(value, shape, &Device::Cpu)?);
        }
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(self.seed ^ fnv1a(name));
        let normal = Normal::new(0.0, self.standard_deviation)
            .map_err(|e| TrainError::Refused(format!("initializer_range = {}: {e}", self.standard_deviation)))?;
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| normal.sample(&mut rng) as f32).collect();
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

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
    fn shards_are_found_through_the_index() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("one.safetensors"), &["a"], DType::F32);
        write(&dir.path().join("two.safetensors"), &["b"], DType::F32);
        let index = r#"{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#;
        std::fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        let files = WeightFiles::open(dir.path()).unwrap();
        assert!(files.tensor("a", &[2, 2]).is_ok() && files.tensor("b", &[2, 2]).is_ok());
        let error = files.tensor("c", &[2, 2]).unwrap_err();
        assert!(error.to_string().contains("`c`"), "{error}");
    }

    #[test]
    fn missing_short_and_corrupt_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = || WeightFiles::open(dir.path()).unwrap_err().to_string();
        assert!(open().contains("no `model.safetensors`"));
        let path = dir.path().join("model.safetensors");
        std::fs::write(&path, "abc").unwrap();
        assert!(open().contains("only 3 bytes"), "{}", open());
        std::fs::write(&path, "not safetensors").unwrap();
        assert!(open().contains("longer than the file"), "{}", open());
        write(&path, &["a"], DType::F32);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
        assert!(open().contains("promises"), "{}", open());
        let mut scrambled = bytes.clone();
        scrambled[8] = b'!';
        std::fs::write(&path, scrambled).unwrap();
        assert!(open().contains("header"), "{}", open());
    }

    #[test]
    fn a_wrong_shape_is_refused_with_both() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("model.safetensors"), &["a"], DType::F32);
        let error = WeightFiles::open(dir.path()).unwrap().tensor("a", &[4]).unwrap_err();
        assert!(error.to_string().contains("[2, 2]") && error.to_string().contains("[4]"), "{error}");
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
