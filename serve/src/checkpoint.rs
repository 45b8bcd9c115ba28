//! A model directory, checked before an engine sees it: a truncated file must be an error message, not a crash inside
//! a memory map.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// The limit that the safetensors format sets for its header.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Why a directory cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// There is no such directory.
    #[error("model directory `{}` does not exist; give --model the directory of a Hugging Face \
             checkpoint, or a hub id: owner/name", .0.display())]
    NoDirectory(PathBuf),
    /// The directory holds only an adapter.
    #[error(
        "`{}` holds a LoRA adapter, not a model; give its base model to --model and serve it by --adapter NAME=DIR",
        .0.display()
    )]
    Adapter(PathBuf),
    /// A required file is absent.
    #[error("`{}` is missing; a checkpoint directory needs config.json, tokenizer.json and model.safetensors", .0.display())]
    Missing(PathBuf),
    /// A file cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file is not what its name promises.
    #[error("`{}` is corrupt or incomplete: {reason}; copy or export it again", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// A checked Hugging Face model directory.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The directory.
    pub dir: PathBuf,
    /// `config.json`.
    pub config: Map<String, Value>,
    /// The weight files, in the order of their names.
    pub weights: Vec<PathBuf>,
}

impl Checkpoint {
    /// Checks `dir`: `config.json` is an object, every weight file is whole, every indexed tensor is where the index
    /// says.
    ///
    /// # Errors
    /// [`CheckpointError`] with the file.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        if !dir.is_dir() {
            return Err(CheckpointError::NoDirectory(dir.to_path_buf()));
        }
        let config_path = dir.join("config.json");
        if !config_path.exists() && dir.join("adapter_config.json").exists() {
            return Err(CheckpointError::Adapter(dir.to_path_buf()));
        }
        let config = read_object(&config_path)?;
        let tokenizer = dir.join("tokenizer.json");
        if !tokenizer.exists() {
            return Err(CheckpointError::Missing(tokenizer));
        }
        Ok(Self { dir: dir.to_path_buf(), config, weights: checked_weights(dir)? })
    }

    /// The weight file with the head, where no file has an embedding: a tied matrix that is stored under the head's
    /// name only, which `transformers` accepts.
    ///
    /// # Errors
    /// When a file that was checked cannot be read any more.
    pub fn holder_of_lone_head(&self) -> std::io::Result<Option<&PathBuf>> {
        let mut holder = None;
        for path in &self.weights {
            let header = read_header(path).map_err(std::io::Error::other)?;
            if header.contains_key(EMBEDDING) {
                return Ok(None);
            }
            if header.contains_key(HEAD) {
                holder = Some(path);
            }
        }
        Ok(holder)
    }
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// Copies a safetensors file, its head's matrix under the embedding's name.
///
/// # Errors
/// Those of the file system.
pub fn copy_renaming_head(source: &Path, target: &Path) -> std::io::Result<()> {
    let mut input = File::open(source)?;
    let mut length = [0; 8];
    input.read_exact(&mut length)?;
    let mut header = vec![0; u64::from_le_bytes(length) as usize];
    input.read_exact(&mut header)?;
    let header: Map<String, Value> = serde_json::from_slice(&header)?;
    let rename = |(name, info)| if name == HEAD { (EMBEDDING.to_string(), info) } else { (name, info) };
    let mut header = serde_json::to_vec(&header.into_iter().map(rename).collect::<Map<String, Value>>())?;
    // The format wants the data to begin at a multiple of 8.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut output = File::create(target)?;
    output.write_all(&(header.len() as u64).to_le_bytes())?;
    output.write_all(&header)?;
    std::io::copy(&mut input, &mut output).map(drop)
}

fn checked_weights(dir: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let single = dir.join("model.safetensors");
    let index_path = dir.join("model.safetensors.index.json");
    if single.exists() || !index_path.exists() {
        read_header(&single)?;
        return Ok(vec![single]);
    }
    let corrupt = |reason: String| CheckpointError::Corrupt { path: index_path.clone(), reason };
    let index = read_object(&index_path)?;
    let map = index.get("weight_map").and_then(Value::as_object).ok_or_else(|| corrupt("no `weight_map`".into()))?;
    let mut tensors_of: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, file) in map {
        let file = file.as_str().filter(|file| Path::new(file).file_name() == Some(file.as_ref()));
        let file = file.ok_or_else(|| corrupt(format!("`{tensor}` is not mapped to a file of the directory")))?;
        tensors_of.entry(file).or_default().push(tensor);
    }
    let mut weights = Vec::with_capacity(tensors_of.len());
    for (file, tensors) in tensors_of {
        let path = dir.join(file);
        let header = read_header(&path)?;
        if let Some(absent) = tensors.into_iter().find(|tensor| !header.contains_key(*tensor)) {
            return Err(CheckpointError::Corrupt { path, reason: format!("tensor `{absent}` is not in it") });
        }
        weights.push(path);
    }
    if weights.is_empty() {
        return Err(corrupt("`weight_map` is empty".into()));
    }
    Ok(weights)
}

/// A JSON file that holds an object.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>, CheckpointError> {
    let bytes = std::fs::read(path).map_err(|source| unreadable(path, source))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| CheckpointError::Corrupt { path: path.to_path_buf(), reason: error.to_string() })
}

fn unreadable(path: &Path, source: std::io::Error) -> CheckpointError {
    let path = path.to_path_buf();
    if source.kind() == std::io::ErrorKind::NotFound {
        return CheckpointError::Missing(path);
    }
    CheckpointError::Read { path, source }
}

/// Reads the header of a safetensors file and checks that the tensors fill the rest of the file exactly.
pub(crate) fn read_header(path: &Path) -> Result<Map<String, Value>, CheckpointError> {
    let failed = |source| unreadable(path, source);
    let corrupt = |reason: String| CheckpointError::Corrupt { path: path.to_path_buf(), reason };
    let mut file = File::open(path).map_err(failed)?;
    let file_bytes = file.metadata().map_err(failed)?.len();
    let mut length = [0; 8];
    if file_bytes < 8 {
        return Err(corrupt(format!("{file_bytes} bytes are too few for a safetensors file")));
    }
    file.read_exact(&mut length).map_err(failed)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES || length > file_bytes - 8 {
        return Err(corrupt(format!("a header of {length} bytes does not fit into {file_bytes} bytes")));
    }
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header).map_err(failed)?;
    let mut header: Map<String, Value> =
        serde_json::from_slice(&header).map_err(|error| corrupt(format!("its header is not valid: {error}")))?;
    header.remove("__metadata__");
    let data_bytes = check_tensors(&header).map_err(corrupt)?;
    let expected = 8 + length + data_bytes;
    if file_bytes != expected {
        return Err(corrupt(format!("it has {file_bytes} bytes, its header promises {expected}")));
    }
    Ok(header)
}

/// Checks each tensor's size and that they lie side by side; returns the bytes of all.
fn check_tensors(header: &Map<String, Value>) -> Result<u64, String> {
    let mut spans = Vec::with_capacity(header.len());
    for (name, tensor) in header {
        let element_bytes = match tensor["dtype"].as_str() {
            Some("F32") => 4,
            Some("F16" | "BF16") => 2,
            other => return Err(format!("tensor `{name}` has dtype {other:?}, not one of F32, F16, BF16")),
        };
        let integers = |value: &Value| -> Option<Vec<u64>> { value.as_array()?.iter().map(Value::as_u64).collect() };
        let elements = integers(&tensor["shape"])
            .and_then(|shape| shape.into_iter().try_fold(1u64, u64::checked_mul))
            .ok_or_else(|| format!("tensor `{name}` has no valid shape"))?;
        let offsets = integers(&tensor["data_offsets"]).unwrap_or_default();
        let &[start, end] = offsets.as_slice() else {
            return Err(format!("tensor `{name}` has no valid `data_offsets`"));
        };
        if elements.checked_mul(element_bytes) != end.checked_sub(start) {
            return Err(format!("tensor `{name}` has a shape that does not fit its `data_offsets`"));
        }
        spans.push((start, end));
    }
    spans.sort_unstable();
    spans.into_iter().try_fold(0, |reached, (start, end)| {
        if start == reached { Ok(end) } else { Err(format!("its tensors overlap or leave a gap at byte {reached}")) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn safetensors(header: &Value, data: usize) -> Vec<u8> {
        let header = header.to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(vec![0; data]);
        bytes
    }

    fn tensors() -> Value {
        json!({
            "__metadata__": {"format": "pt"},
            "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
            "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}
        })
    }

    fn directory(weights: Option<Vec<u8>>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
        if let Some(weights) = weights {
            std::fs::write(dir.path().join("model.safetensors"), weights).unwrap();
        }
        dir
    }

    fn reason(dir: &tempfile::TempDir) -> String {
        Checkpoint::open(dir.path()).unwrap_err().to_string()
    }

    #[test]
    fn a_whole_directory_is_accepted() {
        let dir = directory(Some(safetensors(&tensors(), 32)));
        assert_eq!(Checkpoint::open(dir.path()).unwrap().weights, [dir.path().join("model.safetensors")]);
    }

    #[test]
    fn every_defect_names_the_file() {
        let mut gap = tensors();
        gap["b"]["data_offsets"] = json!([25, 33]);
        let mut shape = tensors();
        shape["a"]["shape"] = json!([2, 4]);
        for (weights, words) in [
            (safetensors(&tensors(), 31), "promises"),
            (safetensors(&tensors(), 33), "promises"),
            (safetensors(&gap, 33), "gap"),
            (safetensors(&shape, 32), "shape"),
            (safetensors(&json!({"a": {"dtype": "I4"}}), 0), "dtype"),
            (b"1234".to_vec(), "too few"),
            (vec![0xff; 64], "does not fit"),
        ] {
            let reason = reason(&directory(Some(weights)));
            assert!(reason.contains(words) && reason.contains("model.safetensors"), "{reason}");
        }
    }

    #[test]
    fn missing_files_are_named() {
        let absent = Checkpoint::open(Path::new("/nonexistent/model")).unwrap_err().to_string();
        assert!(absent.contains("/nonexistent/model"), "{absent}");
        let dir = directory(None);
        assert!(reason(&dir).contains("model.safetensors` is missing"));
        std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
        assert!(reason(&dir).contains("tokenizer.json` is missing"));
        std::fs::remove_file(dir.path().join("config.json")).unwrap();
        assert!(reason(&dir).contains("config.json` is missing"));
        std::fs::write(dir.path().join("adapter_config.json"), "{}").unwrap();
        assert!(reason(&dir).contains("adapter"));
    }

    #[test]
    fn shards_are_checked_against_the_index() {
        let dir = directory(None);
        let mut index = json!({"weight_map": {"a": "model-00001-of-00001.safetensors"}});
        let shard = dir.path().join("model-00001-of-00001.safetensors");
        std::fs::write(&shard, safetensors(&tensors(), 32)).unwrap();
        let write = |index: &Value| {
            std::fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
        };
        write(&index);
        assert_eq!(Checkpoint::open(dir.path()).unwrap().weights, [shard]);
        index["weight_map"]["c"] = json!("model-00001-of-00001.safetensors");
        write(&index);
        assert!(reason(&dir).contains("tensor `c` is not in it"));
        index["weight_map"]["c"] = json!("../model.safetensors");
        write(&index);
        assert!(reason(&dir).contains("not mapped to a file"));
    }
}
