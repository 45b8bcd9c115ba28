//! `orpo-train export`: a trained model in another form.

use std::fs;
use std::path::{Path, PathBuf};

use crate::checkpoint::{Manifest, ModelFiles, WeightFormat, replace_dir, write_adapter, write_model};
use crate::error::TrainError;
use crate::hub::model_dir;
use crate::model::lora::{ADAPTER_CONFIG, ADAPTER_FILE, BaseName, BaseStorage, LoraConfig, LoraSetup};
use crate::model::{Checkpoint, Decoder, Trained, WeightFiles};
use crate::run::{MODEL_DIR, load_chat};

/// What is exported, and how.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// A run directory, or a directory with a model or an adapter.
    pub from: PathBuf,
    /// The new directory.
    pub out: PathBuf,
    /// Whether an adapter is merged into its base model.
    pub merge: bool,
    /// The base model, where it is not where the adapter says.
    pub base: Option<PathBuf>,
    /// Type and shards of a whole model's weights.
    pub format: WeightFormat,
}

/// Writes the directory; it appears under its name only when it is complete.
///
/// # Errors
/// When the source is no model or adapter, the base is missing, or `out` exists.
pub fn export(options: &ExportOptions) -> Result<(), TrainError> {
    let ExportOptions { from, out, merge, base, format } = options;
    if out.exists() {
        return Err(TrainError::invalid(out, "it exists already; name another directory"));
    }
    if !from.is_dir() {
        let reason = "no such directory; name that of a run, or one with a `config.json` or `adapter_config.json`";
        return Err(TrainError::invalid(from, reason));
    }
    let from = if from.join(MODEL_DIR).is_dir() { from.join(MODEL_DIR) } else { from.clone() };
    let manifest = Manifest::read(&from)?;
    let setup = from.join(ADAPTER_CONFIG).is_file().then(|| adapter(&from)).transpose()?;
    if setup.is_none() && *merge {
        return Err(TrainError::invalid(&from, "it has no adapter to merge; leave out --merge"));
    }
    let (base, base_name) = match (&setup, base) {
        (None, _) => (from.clone(), BaseName::default()),
        (Some((_, stated)), None) => (PathBuf::from(&stated.name), stated.clone()),
        (Some(_), Some(given)) => (model_dir(given)?, BaseName::of(given)),
    };
    if setup.is_some() && !base.is_dir() {
        let reason = format!(
            "its base model is not at `{}`; say where it is with --base, a directory or hub:owner/name",
            base.display()
        );
        return Err(TrainError::invalid(&from, reason));
    }
    let Checkpoint { config, json, weights, .. } = Checkpoint::open(&base)?;
    // PEFT by itself saves no tokenizer beside an adapter.
    let tokenizer_dir = if from.join("tokenizer.json").is_file() { from } else { base.clone() };
    let chat = load_chat(&tokenizer_dir, None)?;
    let files = ModelFiles { config: json, tokenizer_dir, chat, base_name };
    if let Some(warning) = files.template_warning()? {
        eprintln!("warning: {warning}");
    }
    let trained = setup.as_ref().map_or(Trained::Nothing, |(setup, _)| Trained::Adapter(setup));
    let decoder = Decoder::load(&config, &weights, trained)?;
    if let Some(parent) = out.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(|e| TrainError::write(parent, e))?;
    }
    replace_dir(out, |dir| {
        if setup.is_some() && !merge {
            write_adapter(dir, &decoder, &files)?;
        } else {
            write_model(dir, &decoder, &files, *format)?;
        }
        match manifest {
            Some(manifest) => manifest.write(dir),
            None => Ok(()),
        }
    })
}

/// The adapter in `dir`, and what it calls its base.
fn adapter(dir: &Path) -> Result<(LoraSetup, BaseName), TrainError> {
    let (config, base) = LoraConfig::with_base(dir)?;
    let initial = Some(WeightFiles::open_file(&dir.join(ADAPTER_FILE))?);
    Ok((LoraSetup { config, base: BaseStorage::Source, seed: 0, initial }, base))
}
