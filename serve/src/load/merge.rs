//! A base model and an adapter become a checkpoint directory.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use orpo_chat::tokenizer_files;
use orpo_model::adapter::{Adapter, Layer};
use orpo_model::{ModelError, Values, WeightFile};
use serde_json::Value;

use super::progress::Progress;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::files::link;

/// Why an adapter cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A file of the adapter or the base is missing or corrupt, or the adapter is more than `W + scale B A`.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// What was merged is not a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The adapter and the base do not belong together.
    #[error("adapter `{}`: {reason}", path.display())]
    Refused {
        /// The adapter's directory.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// The merged files cannot be written.
    #[error("cannot write the merged model to `{}`: {source}; set TMPDIR to a directory with room for it", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

/// Writes `base` with `adapter` merged into its weights to the new directory `into`: `W + scale B A` in f32, rounded to
/// the type of `W`. Files without an adapted layer are links. The tokenizer is the adapter's where it has one, with its
/// chat template, else the base's.
///
/// # Errors
/// [`MergeError`]: an adapter of another model, or no room.
pub fn merge(base: &Checkpoint, adapter: &Adapter, into: &Path) -> Result<Checkpoint, MergeError> {
    let refuse = |reason: String| MergeError::Refused { path: adapter.dir.clone(), reason };
    let plan = Plan::new(base, adapter)?;
    if let Some(layer) = adapter.layers.keys().find(|layer| !plan.found.contains(*layer)) {
        return Err(refuse(format!(
            "the base model `{}` has no weight of a layer `{layer}`; is the adapter one of another model?",
            base.dir.display()
        )));
    }
    let stated = || base.config.get("tie_word_embeddings").is_none_or(|tied| tied == &Value::Bool(true));
    let tied = base.model.as_ref().map_or_else(stated, |model| model.tie_word_embeddings);
    if tied && let Some(layer) = adapter.layers.keys().find(|layer| layer.ends_with("lm_head")) {
        return Err(refuse(format!(
            "`{layer}` shares its weight with the embedding; merge the adapter with PEFT and use the result as the model"
        )));
    }
    let failed = |path: &Path, source| MergeError::Write { path: path.to_path_buf(), source };
    std::fs::create_dir(into).map_err(|source| failed(into, source))?;
    for (file, adapted) in base.weights.iter().zip(&plan.adapted) {
        let target = into.join(file.file_name().expect("a weight file has a name"));
        let written = if *adapted { merge_file(file, &target, adapter) } else { link(file, &target) };
        written.map_err(|source| failed(&target, source))?;
    }
    let tokenizer_dir = adapter.tokenizer_dir(&base.dir);
    let of_base = ["config.json", "generation_config.json", "model.safetensors.index.json"];
    let of_base = of_base.iter().filter(|name| base.dir.join(name).exists());
    let of_base = of_base.map(|name| (base.dir.as_path(), name.to_string()));
    for (dir, name) in of_base.chain(tokenizer_files(tokenizer_dir).into_iter().map(|name| (tokenizer_dir, name))) {
        let target = into.join(&name);
        let parent = target.parent().expect("it lies in a directory");
        let linked = std::fs::create_dir_all(parent).and_then(|()| link(&dir.join(&name), &target));
        linked.map_err(|source| failed(&target, source))?;
    }
    Ok(Checkpoint::open(into)?)
}

/// Which of the base's files change.
struct Plan {
    /// For each weight file, whether it holds an adapted layer.
    adapted: Vec<bool>,
    /// The adapted layers that were found.
    found: BTreeSet<String>,
}

impl Plan {
    /// Compares names and shapes before anything is written.
    fn new(base: &Checkpoint, adapter: &Adapter) -> Result<Self, MergeError> {
        let mut plan = Self { adapted: Vec::new(), found: BTreeSet::new() };
        for file in &base.weights {
            let before = plan.found.len();
            let file = WeightFile::open(file)?;
            for (name, info) in file.tensors() {
                file.float_type(&name, info)?;
                let Some((module, layer)) = layer_of(adapter, &name) else { continue };
                if info.shape != [layer.outputs, layer.inputs] {
                    let reason = layer.of_another_model(module, &info.shape);
                    return Err(MergeError::Refused { path: adapter.dir.clone(), reason });
                }
                plan.found.insert(module.clone());
            }
            plan.adapted.push(plan.found.len() > before);
        }
        Ok(plan)
    }
}

/// What the adapter adds to a tensor of the base. A base that was saved without its head has names without `model.`.
fn layer_of<'a>(adapter: &'a Adapter, tensor: &str) -> Option<(&'a String, &'a Layer)> {
    let layer = tensor.strip_suffix(".weight")?;
    adapter.layers.get_key_value(layer).or_else(|| adapter.layers.get_key_value(&format!("model.{layer}")))
}

/// Copies a safetensors file, one tensor at a time, adding to those that the adapter names.
fn merge_file(source: &Path, target: &Path, adapter: &Adapter) -> io::Result<()> {
    let file = WeightFile::open(source).map_err(io::Error::other)?;
    let mut input = File::open(source)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let progress = Progress::new(&format!("merging {name}"), input.metadata()?.len());
    let mut output = BufWriter::with_capacity(1 << 20, File::create(target)?);
    io::copy(&mut (&input).take(file.data_offset()), &mut output)?;
    for (name, info) in file.tensors() {
        let length = info.data_offsets.1 - info.data_offsets.0;
        match layer_of(adapter, &name) {
            None => drop(io::copy(&mut (&input).take(length as u64), &mut output)?),
            Some((_, layer)) => {
                let mut bytes = vec![0; length];
                input.read_exact(&mut bytes)?;
                let mut weight = Values::from_bytes(info.dtype, &bytes).into_f32();
                adapter.read(layer).map_err(io::Error::other)?.add_to(&mut weight);
                output.write_all(&Values::to_bytes(info.dtype, &weight))?;
            }
        }
        progress.advance(length);
    }
    output.flush()
}
