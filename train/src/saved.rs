//! A trained model on the disk: a whole one, or an adapter and the base it belongs to.

use std::path::{Path, PathBuf};

use orpo_chat::ChatTokenizer;
use orpo_model::adapter::{ADAPTER_CONFIG, ADAPTER_FILE, BaseName, BaseStorage, LoraConfig, LoraSetup};
use orpo_model::{Checkpoint, Decoder, ModelConfig, Trained, WeightFiles};

use crate::checkpoint::{CheckpointDir, Manifest};
use crate::error::TrainError;
use crate::hub::{base_name, model_dir};
use crate::run::{MODEL_DIR, load_chat};

/// A model directory, not yet loaded.
#[derive(Debug)]
pub struct SavedModel {
    /// The directory itself.
    pub dir: PathBuf,
    /// The model that an adapter belongs to, otherwise `dir`.
    pub base: PathBuf,
    /// What the adapter calls its base.
    pub base_name: BaseName,
    /// The model's shape.
    pub config: ModelConfig,
    /// `config.json`.
    pub json: serde_json::Value,
    /// How it came to be, if it was trained here.
    pub manifest: Option<Manifest>,
    weights: WeightFiles,
    adapter: Option<LoraSetup>,
}

impl SavedModel {
    /// Reads everything but the tensors: of a run directory's final model, of a directory with a model or an adapter, or
    /// of `hub:owner/name`. `base` is the adapter's base model, if it is not where the adapter says.
    ///
    /// # Errors
    /// When it is neither, or its base is missing.
    pub fn open(path: &Path, base: Option<&Path>) -> Result<Self, TrainError> {
        let given = model_dir(path)?;
        if !given.is_dir() {
            let reason = "no such directory; name a run, a directory with a `config.json` or `adapter_config.json`, or a \
                          model of the Hugging Face hub as `hub:owner/name`";
            return Err(TrainError::invalid(path, reason));
        }
        let dir = if given.join(MODEL_DIR).is_dir() { given.join(MODEL_DIR) } else { given };
        if let Some((checkpoint, _)) = CheckpointDir::of_run(&dir).latest()? {
            let reason = format!(
                "the run is not finished and has no final model; resume it, or name a checkpoint: `{}`",
                checkpoint.display()
            );
            return Err(TrainError::invalid(&dir, reason));
        }
        let manifest = Manifest::read(&dir)?;
        let is_adapter = dir.join(ADAPTER_CONFIG).is_file();
        let (adapter, base_name) = match is_adapter.then(|| LoraConfig::with_base(&dir)).transpose()? {
            None => (None, BaseName::default()),
            Some((config, stated)) => {
                let initial = Some(WeightFiles::open_file(&dir.join(ADAPTER_FILE))?);
                let setup = LoraSetup { config, base: BaseStorage::Source, seed: 0, initial };
                (Some(setup), base.map_or(stated, base_name))
            }
        };
        let base = match (&adapter, base) {
            (None, _) => dir.clone(),
            (Some(_), Some(given)) => model_dir(given)?,
            (Some(_), None) => PathBuf::from(&base_name.name),
        };
        if adapter.is_some() && !base.is_dir() {
            let reason = format!(
                "its base model is not at `{}`; say where it is with --base, a directory or hub:owner/name",
                base.display()
            );
            return Err(TrainError::invalid(&dir, reason));
        }
        let checkpoint = Checkpoint::open(&base)?;
        checkpoint.check_weights()?;
        let Checkpoint { config, json, weights, .. } = checkpoint;
        Ok(Self { dir, base, base_name, config, json, manifest, weights, adapter })
    }

    /// True if it is an adapter.
    pub fn is_adapter(&self) -> bool {
        self.adapter.is_some()
    }

    /// Where its tokenizer is: PEFT by itself saves none with an adapter.
    pub fn tokenizer_dir(&self) -> &Path {
        if self.dir.join("tokenizer.json").is_file() { &self.dir } else { &self.base }
    }

    /// Its tokenizer, with the template of a file instead of its own if one is given.
    ///
    /// # Errors
    /// When a file is missing or wrong, or the tokenizer has tokens beyond the model's embedding.
    pub fn chat(&self, template: Option<&Path>) -> Result<ChatTokenizer, TrainError> {
        let chat = load_chat(self.tokenizer_dir(), template)?;
        chat.check_vocabulary(self.config.vocab_size)?;
        Ok(chat)
    }

    /// Its decoder, an adapter with the frozen weights of its base kept as `storage` says.
    ///
    /// # Errors
    /// When a weight is missing or has another shape.
    pub fn load(&mut self, storage: BaseStorage) -> Result<Decoder, TrainError> {
        if let Some(adapter) = &mut self.adapter {
            adapter.base = storage;
        }
        let trained = self.adapter.as_ref().map_or(Trained::Nothing, Trained::Adapter);
        Ok(Decoder::load(&self.config, &self.weights, trained)?)
    }
}
