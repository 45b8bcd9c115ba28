//! `OUT/orpo_manifest.json`: what ties data, base, recipes, checkpoints, servers and results of a pipeline together.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use orpo_files::{MANIFEST, write_json};
use orpo_train::checkpoint::Manifest as ModelManifest;
use orpo_train::run::MODEL_DIR;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::file::{BASE, Pipeline};
use super::record::{Record, Status};
use super::stages::{Kind, recipe_path, stages};
use crate::hash::{Hashes, Stamp};

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// `pipeline`; that of a model has no such key.
    pub kind: String,
    /// Version of this program.
    pub orpo_version: String,
    /// The pipeline file, and what it said.
    pub pipeline: Source,
    /// The base model's files, if a stage has read them.
    pub base: Vec<Stamp>,
    /// The data files, by key.
    pub data: BTreeMap<String, Vec<Stamp>>,
    /// The trained models.
    pub variants: BTreeMap<String, Variant>,
    /// `[serve]` of the file.
    pub server: Value,
    /// The `results.json` of every evaluation, by stage; paths are relative to the directory of this file.
    pub results: BTreeMap<String, Stamp>,
    /// All records but that of the report, which shows this file.
    pub stages: BTreeMap<String, Record>,
}

/// A file and its content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// Where it is.
    pub path: PathBuf,
    /// What it says.
    pub content: Value,
}

/// A trained model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// The recipe that it was trained by, relative to the directory of this file.
    pub recipe: PathBuf,
    /// The model directory's manifest, relative to the directory of this file.
    pub checkpoint: Stamp,
    /// Optimiser steps made.
    pub step: usize,
    /// SHA-256 of the model directory's files.
    pub files: BTreeMap<String, String>,
}

impl Manifest {
    /// The manifest of the pipeline directory `dir`, if it is one.
    ///
    /// # Errors
    /// When there is a manifest of a pipeline that cannot be read.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(MANIFEST);
        let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
        let value: Value = serde_json::from_str(&text).with_context(|| format!("`{}`", path.display()))?;
        if value["kind"] != KIND {
            return Ok(None);
        }
        serde_json::from_value(value).map(Some).with_context(|| format!("`{}`", path.display()))
    }
}

const KIND: &str = "pipeline";

/// Writes the manifest of what has been made so far.
///
/// # Errors
/// When a file cannot be read or written.
pub fn write(pipeline: &Pipeline, hashes: &mut Hashes) -> Result<()> {
    let out = &pipeline.out;
    let mut manifest = Manifest {
        kind: KIND.into(),
        orpo_version: env!("CARGO_PKG_VERSION").into(),
        pipeline: Source { path: pipeline.path.clone(), content: pipeline.source.clone() },
        base: Vec::new(),
        data: BTreeMap::new(),
        variants: BTreeMap::new(),
        server: serde_json::to_value(&pipeline.serve)?,
        results: BTreeMap::new(),
        stages: BTreeMap::new(),
    };
    for stage in stages(pipeline)?.into_iter().filter(|stage| stage.kind != Kind::Report) {
        let Some(record) = Record::read(out, &stage.name)? else { continue };
        if matches!(record.status, Status::Done | Status::Incomplete) {
            for (key, stamps) in &record.inputs.files {
                if key == &format!("{BASE}.model") {
                    manifest.base.clone_from(stamps);
                } else {
                    manifest.data.insert(key.clone(), stamps.clone());
                }
            }
            let results = record.outputs.iter().find(|stamp| stamp.path.ends_with("results.json"));
            manifest.results.extend(results.map(|stamp| (stage.name.clone(), stamp.clone())));
        }
        if let (Kind::Train, Status::Done, Some((_, variant))) = (stage.kind, record.status, stage.name.split_once(':'))
        {
            manifest.variants.insert(variant.into(), of_variant(pipeline, variant, hashes)?);
        }
        manifest.stages.insert(stage.name, record);
    }
    Ok(write_json(&out.join(MANIFEST), &manifest)?)
}

fn of_variant(pipeline: &Pipeline, variant: &str, hashes: &mut Hashes) -> Result<Variant> {
    let out = &pipeline.out;
    let dir = Path::new(variant).join(MODEL_DIR);
    let model = ModelManifest::read(&out.join(&dir))?.context("a trained model has a manifest")?;
    let path = dir.join(MANIFEST);
    let recipe = recipe_path(pipeline, variant);
    Ok(Variant {
        recipe: recipe.strip_prefix(out).unwrap_or(&recipe).to_path_buf(),
        checkpoint: Stamp { path: path.clone(), ..hashes.stamp(&out.join(path))? },
        step: model.step,
        files: model.files,
    })
}
