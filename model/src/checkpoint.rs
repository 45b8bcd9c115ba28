//! A checkpoint directory as a whole: what its config and its weights say of each other.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::names::{LM_HEAD, Names};
use crate::weights::WeightFiles;

/// A checkpoint of a family that the decoder computes; no tensor has been read yet.
#[derive(Debug)]
pub struct Checkpoint {
    /// Its architecture, with the head that the weights have.
    pub config: ModelConfig,
    /// `config.json`, in which `tie_word_embeddings` is what the weights are.
    pub json: Value,
    /// Its weights.
    pub weights: WeightFiles,
    /// True if config.json ties the head to the embedding, but the weights have another head. It is used, as
    /// `transformers` 5 does.
    pub has_own_head: bool,
}

impl Checkpoint {
    /// Opens `dir`.
    ///
    /// # Errors
    /// When a file is missing or corrupt, or config.json describes what the decoder does not compute.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        let (config, json) = ModelConfig::from_dir(dir)?;
        Self::of(config, json, WeightFiles::open(dir)?)
    }

    /// Compares config and weights.
    ///
    /// # Errors
    /// When the embedding or the head cannot be read.
    pub fn of(mut config: ModelConfig, mut json: Value, weights: WeightFiles) -> Result<Self, ModelError> {
        let head = format!("{LM_HEAD}.weight");
        let embedding = config.stored_name(&Names::of(config.family).embed_tokens(), |name| weights.contains(name));
        let both = config.tie_word_embeddings && weights.contains(&head) && weights.contains(&embedding);
        let has_own_head = both && embedding != head && !weights.same(&head, &embedding)?;
        if has_own_head {
            config.tie_word_embeddings = false;
            json["tie_word_embeddings"] = false.into();
        }
        Ok(Self { config, json, weights, has_own_head })
    }

    /// Compares the headers of the weights with what the config asks for.
    ///
    /// # Errors
    /// When a tensor is missing, has another shape or a type that is not computed with, or is of no use to the model.
    pub fn check_weights(&self) -> Result<(), ModelError> {
        for (name, shape) in self.config.tensors() {
            self.weights.dtype(&self.stored_name(&name), &shape)?;
        }
        self.config
            .refuse_unused(self.weights.names())
            .map_err(|reason| ModelError::invalid(self.weights.origin(), reason))
    }

    /// A sentence for the user where the weights contradict config.json.
    pub fn note(&self) -> Option<String> {
        self.has_own_head.then(|| {
            format!(
                "note: `{}`: config.json ties the head to the embedding, but the weights have a different \
                 `{LM_HEAD}.weight`; that head is used, as transformers does",
                self.weights.origin().display()
            )
        })
    }

    /// The tensors that the weights have under another name, with the name that `transformers` gives them.
    pub fn renamed(&self) -> BTreeMap<String, String> {
        let names = self.config.tensors().into_iter().map(|(name, _)| (self.stored_name(&name), name));
        names.filter(|(stored, name)| stored != name).collect()
    }

    fn stored_name(&self, name: &str) -> String {
        self.config.stored_name(name, |name| self.weights.contains(name))
    }
}
