//! A base model and an adapter become a checkpoint directory.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use orpo_chat::tokenizer_files;
use rayon::prelude::*;
use serde_json::Value;

use super::adapter::{Adapter, AdapterError, Lora, MERGE_WITH_PEFT};
use super::progress::Progress;
use super::tensors;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::files::link;

/// Writes `base` with `adapter` merged into its weights to the new directory `into`: `W + scale B A` in f32, rounded to
/// the type of `W`. Files without an adapted layer are links. The tokenizer is the adapter's where it has one, with its
/// chat template, else the base's.
///
/// # Errors
/// [`AdapterError`]: an adapter of another model, or no room.
pub fn merge(base: &Checkpoint, adapter: &Adapter, into: &Path) -> Result<Checkpoint, AdapterError> {
    let refuse = |reason: String| AdapterError::Refused { path: adapter.dir.clone(), reason };
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
        return Err(refuse(format!("`{layer}` shares its weight with the embedding; {MERGE_WITH_PEFT}")));
    }
    let failed = |path: &Path, source| AdapterError::Write { path: path.to_path_buf(), source };
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
    fn new(base: &Checkpoint, adapter: &Adapter) -> Result<Self, AdapterError> {
        let mut plan = Self { adapted: Vec::new(), found: BTreeSet::new() };
        for file in &base.weights {
            let before = plan.found.len();
            for place in tensors::places(file).map_err(CheckpointError::from)? {
                let Some((layer, lora)) = layer_of(adapter, &place.name) else { continue };
                if place.shape != [lora.outputs, lora.inputs] {
                    return Err(AdapterError::Refused {
                        path: adapter.dir.clone(),
                        reason: format!(
                            "`{layer}` is made for a weight of shape ({}, {}), the base model's has {:?}; is the \
                             adapter one of another model?",
                            lora.outputs, lora.inputs, place.shape
                        ),
                    });
                }
                plan.found.insert(layer.clone());
            }
            plan.adapted.push(plan.found.len() > before);
        }
        Ok(plan)
    }
}

/// What the adapter adds to a tensor of the base. A base that was saved without its head has names without `model.`.
fn layer_of<'a>(adapter: &'a Adapter, tensor: &str) -> Option<(&'a String, &'a Lora)> {
    let layer = tensor.strip_suffix(".weight")?;
    adapter.layers.get_key_value(layer).or_else(|| adapter.layers.get_key_value(&format!("model.{layer}")))
}

/// Copies a safetensors file, one tensor at a time, adding to those that the adapter names.
fn merge_file(source: &PathBuf, target: &Path, adapter: &Adapter) -> io::Result<()> {
    let places = tensors::places(source).map_err(io::Error::other)?;
    let mut input = File::open(source)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let progress = Progress::new(&format!("merging {name}"), input.metadata()?.len());
    let mut output = BufWriter::with_capacity(1 << 20, File::create(target)?);
    output.write_all(&tensors::read_raw_header(&mut input)?)?;
    for place in places {
        match layer_of(adapter, &place.name) {
            None => drop(io::copy(&mut (&input).take(place.bytes as u64), &mut output)?),
            Some((_, lora)) => {
                let mut bytes = vec![0; place.bytes];
                input.read_exact(&mut bytes)?;
                let mut weight = tensors::to_f32(place.dtype, &bytes);
                add(&mut weight, lora);
                output.write_all(&tensors::from_f32(place.dtype, &weight))?;
            }
        }
        progress.advance(place.bytes);
    }
    output.flush()
}

/// `weight += scale B A`, by rows of the weight `(outputs, inputs)`.
fn add(weight: &mut [f32], lora: &Lora) {
    let rows = weight.par_chunks_exact_mut(lora.inputs).zip(lora.b.par_chunks_exact(lora.rank));
    rows.for_each(|(row, b)| {
        let mut sum = vec![0.0; lora.inputs];
        for (b, a) in b.iter().zip(lora.a.chunks_exact(lora.inputs)) {
            sum.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
        }
        row.iter_mut().zip(sum).for_each(|(weight, sum)| *weight += lora.scale * sum);
    });
}
