//! `orpo-train export`: a trained model in another form.

use std::fs;
use std::path::PathBuf;

use orpo_model::adapter::BaseStorage;

use crate::checkpoint::{ModelFiles, WeightFormat, replace_dir, write_model, write_trained};
use crate::error::TrainError;
use crate::saved::SavedModel;
use crate::terminal::say;

/// What is exported, and how.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// A run directory, or a directory with a model or an adapter.
    pub from: PathBuf,
    /// The new directory.
    pub out: PathBuf,
    /// Whether an adapter is merged into its base model.
    pub merge: bool,
    /// The adapter's base model, if it is not where the adapter says.
    pub base: Option<PathBuf>,
    /// Type of the weights, and the shards of a whole model's.
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
    let mut saved = SavedModel::open(from, base.as_deref())?;
    if !saved.is_adapter() && *merge {
        return Err(TrainError::invalid(&saved.dir, "it has no adapter to merge; leave out --merge"));
    }
    let files = ModelFiles {
        config: saved.json.clone(),
        tokenizer_dir: saved.tokenizer_dir().to_path_buf(),
        chat: saved.chat(None)?,
        base_name: saved.base_name.clone(),
    };
    if let Some(warning) = files.template_warning()? {
        say(&format!("warning: {warning}"));
    }
    let decoder = saved.load(BaseStorage::Source)?;
    if let Some(parent) = out.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(|e| TrainError::write(parent, e))?;
    }
    replace_dir(out, |dir| {
        let write = if *merge { write_model } else { write_trained };
        write(dir, &decoder, &files, *format)?;
        match saved.manifest {
            Some(manifest) => manifest.write(dir),
            None => Ok(()),
        }
    })
}
