//! The safetensors files of a checkpoint directory: headers are checked on opening, tensors are read when asked for.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::config::read_json;
use crate::error::ModelError;
use crate::names::LM_HEAD;
use crate::values::Values;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The limit that the format sets.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Matrices are compared by pieces of this size.
const CHUNK_BYTES: usize = 1 << 20;

/// `model.safetensors`, or the shards that `model.safetensors.index.json` names.
#[derive(Debug)]
pub struct WeightFiles {
    /// The directory or file, for messages.
    origin: PathBuf,
    files: Vec<WeightFile>,
    /// Tensor name to file.
    index: BTreeMap<String, usize>,
}

/// One safetensors file.
#[derive(Debug)]
pub struct WeightFile {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    data_offset: u64,
}

impl WeightFiles {
    /// Opens the files of `dir`.
    ///
    /// # Errors
    /// When there are none, or one is truncated, corrupt or lacks a tensor that the index promises.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        let single = dir.join(SINGLE);
        if single.exists() {
            return Self::open_file(&single).map(|files| Self { origin: dir.to_path_buf(), ..files });
        }
        let index = dir.join(INDEX);
        if !index.exists() {
            return Err(ModelError::invalid(dir, no_weights(dir)));
        }
        let mut files = Vec::new();
        for (name, tensors) in shards(&index)? {
            let file = WeightFile::open(&dir.join(name))?;
            if let Some(absent) = tensors.iter().find(|tensor| file.metadata.info(tensor).is_none()) {
                let reason = format!("tensor `{absent}` is not in it, although {INDEX} says so");
                return Err(ModelError::invalid(&file.path, reason));
            }
            files.push(file);
        }
        Ok(Self::of(dir, files))
    }

    /// Opens one file.
    ///
    /// # Errors
    /// When it is missing, truncated or corrupt.
    pub fn open_file(path: &Path) -> Result<Self, ModelError> {
        Ok(Self::of(path, vec![WeightFile::open(path)?]))
    }

    fn of(origin: &Path, files: Vec<WeightFile>) -> Self {
        let names =
            |(i, file): (usize, &WeightFile)| file.metadata.offset_keys().into_iter().map(move |name| (name, i));
        let index = files.iter().enumerate().flat_map(names).collect();
        Self { origin: origin.to_path_buf(), files, index }
    }

    /// The directory or file.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// The files, in the order of their names.
    pub fn files(&self) -> &[WeightFile] {
        &self.files
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// True if there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    fn find(&self, name: &str) -> Result<(&WeightFile, &TensorInfo), ModelError> {
        let Some(file) = self.index.get(name).map(|at| &self.files[*at]) else {
            let mut reason = format!("the weights have no tensor `{name}`");
            let wrapped = format!(".{name}");
            if let Some(other) = self.names().find(|other| other.ends_with(&wrapped)) {
                let prefix = &other[..other.len() - name.len()];
                reason +=
                    &format!("; they have `{other}`, saved from a wrapped module: remove `{prefix}` from the names");
            } else if name == format!("{LM_HEAD}.weight") {
                reason += ", the head, and config.json does not tie it to the embedding; set `tie_word_embeddings` to \
                           true if the model was trained with the embedding as its head, otherwise export it again";
            }
            return Err(ModelError::invalid(&self.origin, reason));
        };
        Ok((file, file.metadata.info(name).expect("the index lists the tensors of this file")))
    }

    /// The type of the tensor `name`, which must have this shape: F32, BF16 or F16.
    ///
    /// # Errors
    /// When it is missing, or has another shape or type.
    pub fn dtype(&self, name: &str, shape: &[usize]) -> Result<Dtype, ModelError> {
        let (file, info) = self.find(name)?;
        if info.shape != shape {
            let reason = format!("tensor `{name}` has shape {:?}, the configuration asks for {shape:?}", info.shape);
            return Err(ModelError::invalid(&file.path, reason));
        }
        file.float_type(name, info)
    }

    /// The tensor's type, as [`WeightFiles::dtype`], and its bytes.
    ///
    /// # Errors
    /// As [`WeightFiles::dtype`], or when it cannot be read.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<(Dtype, Vec<u8>), ModelError> {
        let dtype = self.dtype(name, shape)?;
        let (file, info) = self.find(name)?;
        let (from, to) = info.data_offsets;
        let mut bytes = vec![0u8; to - from];
        file.read_at(from, &mut bytes)?;
        Ok((dtype, bytes))
    }

    /// The tensor's values in f32.
    ///
    /// # Errors
    /// As [`WeightFiles::read`].
    pub fn read_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let (dtype, bytes) = self.read(name, shape)?;
        Ok(Values::from_bytes(dtype, &bytes).into_f32())
    }

    /// True if two tensors have the same type, shape and bytes.
    ///
    /// # Errors
    /// When one is missing or cannot be read.
    pub fn same(&self, one: &str, other: &str) -> Result<bool, ModelError> {
        let ((file, a), (other_file, b)) = (self.find(one)?, self.find(other)?);
        if (a.dtype, &a.shape) != (b.dtype, &b.shape) {
            return Ok(false);
        }
        let length = a.data_offsets.1 - a.data_offsets.0;
        let (mut left, mut right) = (vec![0u8; CHUNK_BYTES], vec![0u8; CHUNK_BYTES]);
        for at in (0..length).step_by(CHUNK_BYTES) {
            let chunk = CHUNK_BYTES.min(length - at);
            file.read_at(a.data_offsets.0 + at, &mut left[..chunk])?;
            other_file.read_at(b.data_offsets.0 + at, &mut right[..chunk])?;
            if left[..chunk] != right[..chunk] {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Each shard with the tensors that the index says it holds.
fn shards(index: &Path) -> Result<BTreeMap<String, Vec<String>>, ModelError> {
    let json = read_json(index)?;
    let map = json["weight_map"].as_object().filter(|map| !map.is_empty());
    let map = map.ok_or_else(|| ModelError::invalid(index, "it has no `weight_map`, or an empty one"))?;
    let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, file) in map {
        let file = file.as_str().filter(|file| Path::new(file).file_name() == Some(file.as_ref()));
        let file = file.ok_or_else(|| {
            ModelError::invalid(index, format!("`{tensor}` is not mapped to a file of the directory"))
        })?;
        shards.entry(file.to_string()).or_default().push(tensor.clone());
    }
    Ok(shards)
}

/// Says what a directory without `model.safetensors` has instead.
fn no_weights(dir: &Path) -> String {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    let ending = |endings: &[&str]| names.iter().find(|name| endings.iter().any(|ending| name.ends_with(ending)));
    let missing = format!("no `{SINGLE}` and no `{INDEX}` in it");
    if let Some(shard) = ending(&[".safetensors"]) {
        return format!(
            "{missing}; it has `{shard}`, but only the index says which tensors the shards hold: copy it too"
        );
    }
    match ending(&[".bin", ".bin.index.json", ".pth", ".pt"]) {
        Some(pickled) => format!(
            "{missing}; it has `{pickled}`, a format that is not read: convert it once with transformers, \
             `AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(OUT)`"
        ),
        None => missing,
    }
}

impl WeightFile {
    /// Opens a file and checks its header against its length.
    ///
    /// # Errors
    /// When it is missing, truncated or corrupt.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let failed = |source| ModelError::read(path, source);
        let file = File::open(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => ModelError::invalid(path, "the file is missing"),
            _ => failed(error),
        })?;
        let length = file.metadata().map_err(failed)?.len();
        let corrupt = |reason: String| {
            ModelError::invalid(path, format!("not a valid safetensors file: {reason}; copy or download it again"))
        };
        let mut size = [0u8; 8];
        file.read_exact_at(&mut size, 0).map_err(|_| corrupt(format!("it has only {length} bytes")))?;
        if &size == b"version " {
            let reason = "it is a Git LFS pointer, not the weights; fetch the file with `git lfs pull`";
            return Err(ModelError::invalid(path, reason));
        }
        let header_bytes = u64::from_le_bytes(size);
        if header_bytes > length - 8 || header_bytes > MAX_HEADER_BYTES {
            return Err(corrupt(format!("a header of {header_bytes} bytes does not fit into {length} bytes")));
        }
        let mut header = vec![0u8; header_bytes as usize];
        file.read_exact_at(&mut header, 8).map_err(failed)?;
        // This checks that the tensors lie side by side and have the bytes that their shapes ask for.
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|error| corrupt(format!("its header: {error}")))?;
        let data_offset = 8 + header_bytes;
        let promised = data_offset + metadata.data_len() as u64;
        if promised != length {
            return Err(corrupt(format!("its header promises {promised} bytes, the file has {length}")));
        }
        Ok(Self { path: path.to_path_buf(), file, metadata, data_offset })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the first tensor begins.
    pub fn data_offset(&self) -> u64 {
        self.data_offset
    }

    /// The tensors with their names, in the order of their bytes, which follow each other without gaps.
    pub fn tensors(&self) -> impl Iterator<Item = (String, &TensorInfo)> {
        self.metadata.offset_keys().into_iter().map(|name| {
            let info = self.metadata.info(&name).expect("a name from the same header");
            (name, info)
        })
    }

    /// The type of a tensor of this file, if it is one that is computed with.
    ///
    /// # Errors
    /// For any but F32, BF16 and F16.
    pub fn float_type(&self, name: &str, info: &TensorInfo) -> Result<Dtype, ModelError> {
        match info.dtype {
            dtype @ (Dtype::F32 | Dtype::BF16 | Dtype::F16) => Ok(dtype),
            other => {
                let reason = format!(
                    "tensor `{name}` has type {other:?}; supported: F32, BF16, F16; save the model in one of these, in \
                     Python with `model.to(torch.bfloat16).save_pretrained(OUT)`"
                );
                Err(ModelError::invalid(&self.path, reason))
            }
        }
    }

    fn read_at(&self, offset: usize, bytes: &mut [u8]) -> Result<(), ModelError> {
        self.file
            .read_exact_at(bytes, self.data_offset + offset as u64)
            .map_err(|source| ModelError::read(&self.path, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn file(header: &Value, data: usize) -> Vec<u8> {
        let header = header.to_string();
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
    }

    fn tensors() -> Value {
        json!({
            "__metadata__": {"format": "pt"},
            "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
            "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}
        })
    }

    fn refused(dir: &Path) -> String {
        WeightFiles::open(dir).unwrap_err().to_string()
    }

    #[test]
    fn tensors_are_listed_in_the_order_of_their_bytes() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(SINGLE), file(&tensors(), 32)).unwrap();
        let files = WeightFiles::open(dir.path()).unwrap();
        let names: Vec<String> = files.files()[0].tensors().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(files.dtype("a", &[2, 3]).unwrap(), Dtype::F32);
        assert_eq!(files.read("b", &[4]).unwrap(), (Dtype::BF16, vec![0; 8]));
        let error = files.dtype("a", &[6]).unwrap_err().to_string();
        assert!(error.contains("[2, 3]") && error.contains("[6]"), "{error}");
        assert!(files.dtype("c", &[6]).unwrap_err().to_string().contains("no tensor `c`"));
    }

    #[test]
    fn names_of_a_wrapped_module_are_recognised() {
        let dir = tempfile::tempdir().unwrap();
        let header = json!({"_orig_mod.model.a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}});
        std::fs::write(dir.path().join(SINGLE), file(&header, 4)).unwrap();
        let error = WeightFiles::open(dir.path()).unwrap().dtype("model.a", &[1]).unwrap_err().to_string();
        assert!(error.contains("no tensor `model.a`") && error.contains("remove `_orig_mod.`"), "{error}");
    }

    #[test]
    fn every_defect_is_named_with_the_file() {
        let mut gap = tensors();
        gap["b"]["data_offsets"] = json!([25, 33]);
        let mut shape = tensors();
        shape["a"]["shape"] = json!([2, 4]);
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 642408\n";
        for (bytes, words) in [
            (file(&tensors(), 31), "promises"),
            (file(&tensors(), 33), "promises"),
            (file(&gap, 33), "its header"),
            (file(&shape, 32), "its header"),
            (file(&json!({"a": {"dtype": "X4"}}), 0), "its header"),
            (b"1234".to_vec(), "only 4 bytes"),
            (vec![0xff; 64], "does not fit"),
            (pointer.into(), "`git lfs pull`"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(SINGLE), bytes).unwrap();
            let reason = refused(dir.path());
            assert!(reason.contains(words) && reason.contains(SINGLE), "{reason}");
        }
    }

    #[test]
    fn types_that_are_not_computed_with_are_named() {
        for (dtype, bytes) in [("F64", 8), ("F8_E4M3", 1), ("I32", 4), ("U8", 1)] {
            let dir = tempfile::tempdir().unwrap();
            let header = json!({"a": {"dtype": dtype, "shape": [1], "data_offsets": [0, bytes]}});
            std::fs::write(dir.path().join(SINGLE), file(&header, bytes)).unwrap();
            // A tensor that nobody asks for may have any.
            let error = WeightFiles::open(dir.path()).unwrap().dtype("a", &[1]).unwrap_err().to_string();
            assert!(error.contains(&format!("`a` has type {dtype}")) && !error.contains("corrupt"), "{error}");
        }
    }

    #[test]
    fn a_directory_without_weights_says_what_it_has() {
        for (name, words) in [
            (None, "no `model.safetensors`"),
            (Some("pytorch_model.bin"), "`pytorch_model.bin`, a format that is not read"),
            (Some("pytorch_model.bin.index.json"), "save_pretrained"),
            (Some("model-00001-of-00002.safetensors"), "only the index says"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            if let Some(name) = name {
                std::fs::write(dir.path().join(name), "x").unwrap();
            }
            assert!(refused(dir.path()).contains(words), "{}", refused(dir.path()));
        }
    }

    #[test]
    fn shards_are_checked_against_the_index() {
        let dir = tempfile::tempdir().unwrap();
        let write = |map: Value| {
            std::fs::write(dir.path().join(INDEX), json!({ "weight_map": map }).to_string()).unwrap();
        };
        write(json!({"a": "one.safetensors"}));
        assert!(refused(dir.path()).contains("one.safetensors`: the file is missing"));
        std::fs::write(dir.path().join("one.safetensors"), file(&tensors(), 32)).unwrap();
        assert_eq!(WeightFiles::open(dir.path()).unwrap().names().collect::<Vec<_>>(), ["a", "b"]);
        write(json!({"c": "one.safetensors"}));
        assert!(refused(dir.path()).contains("tensor `c` is not in it"));
        write(json!({"a": "../one.safetensors"}));
        assert!(refused(dir.path()).contains("not mapped to a file"));
        write(json!({}));
        assert!(refused(dir.path()).contains("`weight_map`"));
    }

    #[test]
    fn matrices_are_the_same_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let header = json!({
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]},
            "c": {"dtype": "F32", "shape": [2, 1], "data_offsets": [16, 24]}
        });
        let mut bytes = file(&header, 24);
        std::fs::write(dir.path().join(SINGLE), &bytes).unwrap();
        let files = WeightFiles::open(dir.path()).unwrap();
        assert!(files.same("a", "b").unwrap() && !files.same("a", "c").unwrap());
        let last = bytes.len() - 9;
        bytes[last] = 1;
        std::fs::write(dir.path().join(SINGLE), &bytes).unwrap();
        assert!(!files.same("a", "b").unwrap());
    }
}
