//! The model that a run starts from: a checkpoint directory, or a tokenizer and a shape.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use orpo_chat::ChatTokenizer;
use orpo_model::adapter::{ADAPTER_FILE, BaseName, LoraSetup};
use orpo_model::{Checkpoint, Decoder, LlamaShape, ModelConfig, Trained, WeightFiles};

use crate::checkpoint::{ModelFiles, sha256_file};
use crate::error::TrainError;
use crate::hub::{base_name, model_dir};
use crate::recipe::Recipe;

/// The model to start from, not yet loaded.
#[derive(Debug)]
pub struct ModelSource {
    /// Its shape.
    pub config: ModelConfig,
    /// The files that belong to the weights.
    pub files: ModelFiles,
    /// What should be known of it.
    pub notes: Vec<String>,
    weights: Option<WeightFiles>,
    lora: Option<LoraSetup>,
}

impl ModelSource {
    /// Reads everything but the weights.
    ///
    /// # Errors
    /// When a file is missing or wrong.
    pub fn open(recipe: &Recipe) -> Result<Self, TrainError> {
        let chat = |dir: &Path| load_chat(dir, recipe.data.chat_template.as_deref());
        if let Some(path) = &recipe.model.path {
            let dir = &model_dir(path)?;
            if !dir.is_dir() {
                let reason = "no such directory; write a model of the Hugging Face hub as `hub:owner/name`";
                return Err(TrainError::invalid(dir, reason));
            }
            let checkpoint = Checkpoint::open(dir)?;
            checkpoint.check_weights()?;
            let notes = checkpoint.note().into_iter().collect();
            let Checkpoint { config, json, weights, .. } = checkpoint;
            let base_name = base_name(path);
            let files = ModelFiles { config: json, tokenizer_dir: dir.clone(), chat: chat(dir)?, base_name };
            files.chat.check_vocabulary(config.vocab_size)?;
            let lora = recipe.lora.as_ref().map(|lora| lora.setup(recipe.seed)).transpose()?;
            return Ok(Self { config, files, notes, weights: Some(weights), lora });
        }
        let (Some(dir), Some(init)) = (&recipe.model.tokenizer, &recipe.model.init) else {
            unreachable!("the recipe was checked to have `path`, or `tokenizer` and `init`")
        };
        let chat = chat(dir)?;
        let shape = LlamaShape {
            hidden_size: init.hidden_size,
            intermediate_size: init.intermediate_size,
            num_hidden_layers: init.num_hidden_layers,
            num_attention_heads: init.num_attention_heads,
            num_key_value_heads: init.num_key_value_heads,
            vocab_size: chat.tokenizer().get_vocab_size(true),
            max_position_embeddings: init.max_position_embeddings,
            rms_norm_eps: init.rms_norm_eps,
            rope_theta: init.rope_theta,
            tie_word_embeddings: init.tie_word_embeddings,
            initializer_range: init.initializer_range,
        };
        let json = shape.to_json();
        // The same checks as for a file.
        let config = ModelConfig::from_json(&json)
            .map_err(|reason| TrainError::Refused(format!("recipe [model.init]: {reason}")))?;
        let files = ModelFiles { config: json, tokenizer_dir: dir.clone(), chat, base_name: BaseName::default() };
        Ok(Self { config, files, notes: Vec::new(), weights: None, lora: None })
    }

    /// SHA-256 of the weight files, of an initial adapter too; none for random weights.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn hashes(&self) -> Result<BTreeMap<String, String>, TrainError> {
        let mut hashes = BTreeMap::new();
        for file in self.weights.iter().flat_map(WeightFiles::files) {
            let name = file.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
            hashes.insert(name, sha256_file(file.path())?);
        }
        for file in self.lora.iter().flat_map(|setup| &setup.initial).flat_map(WeightFiles::files) {
            hashes.insert(ADAPTER_FILE.into(), sha256_file(file.path())?);
        }
        Ok(hashes)
    }

    /// The decoder's weights as names and shapes, after looking at the headers of the files.
    ///
    /// # Errors
    /// As [`ModelSource::load`].
    pub fn outline(&self) -> Result<Decoder, TrainError> {
        let trained = self.lora.as_ref().map_or(Trained::Everything, Trained::Adapter);
        Ok(Decoder::outline(&self.config, self.weights.as_ref(), trained)?)
    }

    /// The decoder with its first weights.
    ///
    /// # Errors
    /// When a weight is missing or has another shape.
    pub fn load(&self, seed: u64) -> Result<Decoder, TrainError> {
        Ok(match (&self.weights, &self.lora) {
            (Some(weights), Some(lora)) => Decoder::load(&self.config, weights, Trained::Adapter(lora))?,
            (Some(weights), None) => Decoder::load(&self.config, weights, Trained::Everything)?,
            (None, _) => Decoder::random(&self.config, seed)?,
        })
    }
}

/// The tokenizer of `dir`, with the template of a file instead of its own if one is given.
///
/// # Errors
/// When a file is missing or wrong.
pub fn load_chat(dir: &Path, template: Option<&Path>) -> Result<ChatTokenizer, TrainError> {
    let chat = ChatTokenizer::from_dir(dir)?;
    match template {
        None => Ok(chat),
        Some(path) => Ok(chat.with_template(fs::read_to_string(path).map_err(|e| TrainError::read(path, e))?)?),
    }
}
