//! `orpo_manifest.json`: how a model directory came to be.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{FileError, sha256_file, write_json};

/// The name of the file in a model directory that says how it came to be, and in a pipeline's directory how that did.
pub const MANIFEST: &str = "orpo_manifest.json";

/// One data file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataLineage {
    /// `train` or `validation`.
    pub split: String,
    /// Where it was.
    pub path: PathBuf,
    /// What it held.
    pub sha256: String,
    /// How its rows were understood.
    pub layout: String,
    /// How often each row is used per epoch.
    pub weight: f64,
    /// Rows that were used.
    pub rows_used: usize,
    /// Rows that were not, by reason.
    pub rows_dropped: BTreeMap<String, usize>,
}

/// The lineage of a model directory; `R` is the trainer's recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest<R> {
    /// The resolved recipe.
    pub recipe: R,
    /// SHA-256 of the base model's weight files; empty for random weights.
    pub base: BTreeMap<String, String>,
    /// The data.
    pub data: Vec<DataLineage>,
    /// Optimiser steps made.
    pub step: usize,
    /// Metrics of the last evaluation, or of the last step where there was none.
    pub metrics: serde_json::Value,
    /// Version of the trainer.
    pub orpo_version: String,
    /// SHA-256 of every file of the directory.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
}

impl<R: Serialize + DeserializeOwned> Manifest<R> {
    /// Reads the manifest of `dir`, if it has one.
    ///
    /// # Errors
    /// When it cannot be read or is not one.
    pub fn read(dir: &Path) -> Result<Option<Self>, FileError> {
        let path = dir.join(MANIFEST);
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map(Some).map_err(|e| FileError::invalid(&path, e)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FileError::read(&path, error)),
        }
    }

    /// Hashes the files of `dir` and writes the manifest beside them.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn write(mut self, dir: &Path) -> Result<(), FileError> {
        self.files.clear();
        for entry in fs::read_dir(dir).map_err(|e| FileError::read(dir, e))? {
            let entry = entry.map_err(|e| FileError::read(dir, e))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            self.files.insert(name, sha256_file(&entry.path())?);
        }
        write_json(&dir.join(MANIFEST), &self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sha256;

    #[test]
    fn a_manifest_reads_back_with_the_hash_of_every_file() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::<String>::read(dir.path()).unwrap(), None);
        for name in ["config.json", "model.safetensors"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let manifest = Manifest {
            recipe: "r".to_string(),
            base: BTreeMap::from([("model.safetensors".into(), sha256("base"))]),
            data: Vec::new(),
            step: 3,
            metrics: json!({"loss": 0.5}),
            orpo_version: "0".into(),
            files: BTreeMap::from([("gone".into(), sha256("gone"))]),
        };
        manifest.clone().write(dir.path()).unwrap();
        let files = ["config.json", "model.safetensors"].map(|name| (name.to_string(), sha256(name)));
        assert_eq!(Manifest::read(dir.path()).unwrap(), Some(Manifest { files: files.into(), ..manifest }));
        let error = Manifest::<u32>::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("orpo_manifest.json`: invalid type"), "{error}");
    }
}
