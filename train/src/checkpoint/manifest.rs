//! `orpo_manifest.json`: how a model directory came to be.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::export::write_json;
use super::sha256_file;
use crate::error::TrainError;
use crate::recipe::Recipe;

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

/// The lineage of a model directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The resolved recipe.
    pub recipe: Recipe,
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

impl Manifest {
    /// The file's name.
    pub const FILE: &str = "orpo_manifest.json";

    /// Reads the manifest of `dir`, if it has one.
    ///
    /// # Errors
    /// When it cannot be read or is not one.
    pub fn read(dir: &Path) -> Result<Option<Self>, TrainError> {
        let path = dir.join(Self::FILE);
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map(Some).map_err(|e| TrainError::invalid(&path, e)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(TrainError::read(&path, error)),
        }
    }

    /// Hashes the files of `dir` and writes the manifest beside them.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn write(mut self, dir: &Path) -> Result<(), TrainError> {
        self.files.clear();
        for entry in fs::read_dir(dir).map_err(|e| TrainError::read(dir, e))? {
            let entry = entry.map_err(|e| TrainError::read(dir, e))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            self.files.insert(name, sha256_file(&entry.path())?);
        }
        let value = serde_json::to_value(&self).expect("a manifest is plain data");
        write_json(&dir.join(Self::FILE), &value)
    }
}
