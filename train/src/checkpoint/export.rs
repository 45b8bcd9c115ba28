//! A model directory as `transformers.AutoModelForCausalLM.from_pretrained` reads it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use orpo_chat::ChatTokenizer;
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use crate::error::TrainError;
use crate::ops::Param;

/// Everything of a model directory but the weights.
#[derive(Debug)]
pub struct ModelFiles {
    /// `config.json`.
    pub config: Value,
    /// Where the tokenizer's files come from.
    pub tokenizer_dir: PathBuf,
    /// Tokenizer and the template that was trained with.
    pub chat: ChatTokenizer,
}

/// Writes `config.json`, `model.safetensors`, the tokenizer's files with the chat template, and
/// `generation_config.json` to `dir`, which must exist.
///
/// # Errors
/// When a file cannot be read or written.
pub fn write_model(dir: &Path, params: &[Arc<Param>], files: &ModelFiles) -> Result<(), TrainError> {
    write_tensors(&dir.join("model.safetensors"), params.iter().map(|p| (p.name().to_string(), Weight(p.clone()))))?;

    let mut config = object(&files.config);
    config.insert("torch_dtype".into(), "float32".into());
    if config.contains_key("dtype") {
        config.insert("dtype".into(), "float32".into());
    }
    for (field, id) in [("bos_token_id", files.chat.bos_id()), ("eos_token_id", files.chat.eos_id())] {
        if let Some(id) = id {
            config.entry(field).or_insert(id.into());
        }
    }
    write_json(&dir.join("config.json"), &config.into())?;

    let copy = |name: &str| -> Result<bool, TrainError> {
        let from = files.tokenizer_dir.join(name);
        match fs::copy(&from, dir.join(name)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(TrainError::read(&from, error)),
        }
    };
    copy("tokenizer.json")?;
    let special = serde_json::to_value(files.chat.special_tokens()).expect("strings are JSON");
    if !copy("special_tokens_map.json")? {
        write_json(&dir.join("special_tokens_map.json"), &special)?;
    }
    let source = files.tokenizer_dir.join("tokenizer_config.json");
    let mut tokenizer_config = match fs::read_to_string(&source) {
        Ok(text) => object(&serde_json::from_str(&text).map_err(|e| TrainError::invalid(&source, e))?),
        Err(_) => {
            let mut config = object(&special);
            config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
            config
        }
    };
    if files.chat.template().is_ok() {
        tokenizer_config.insert("chat_template".into(), files.chat.portable_template()?.into());
    }
    write_json(&dir.join("tokenizer_config.json"), &tokenizer_config.into())?;
    if !copy("generation_config.json")? {
        let mut generation = Map::new();
        if let Some(bos) = files.chat.bos_id() {
            generation.insert("bos_token_id".into(), bos.into());
        }
        match files.chat.eos_ids() {
            [] => {}
            [one] => drop(generation.insert("eos_token_id".into(), json!(one))),
            many => drop(generation.insert("eos_token_id".into(), json!(many))),
        }
        write_json(&dir.join("generation_config.json"), &generation.into())?;
    }
    Ok(())
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

/// Writes indented JSON with a newline at the end.
pub(super) fn write_json(path: &Path, value: &Value) -> Result<(), TrainError> {
    let mut text = serde_json::to_string_pretty(value).expect("a JSON value is serialisable");
    text.push('\n');
    fs::write(path, text).map_err(|e| TrainError::write(path, e))
}

/// Writes f32 tensors to a safetensors file.
pub(super) fn write_tensors<V: safetensors::View>(
    path: &Path,
    tensors: impl Iterator<Item = (String, V)>,
) -> Result<(), TrainError> {
    // transformers refuses files that do not say which framework's layout they have.
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize_to_file(tensors, Some(metadata), path).map_err(|e| match e {
        safetensors::SafeTensorError::IoError(error) => TrainError::write(path, error),
        other => TrainError::invalid(path, other),
    })
}

/// A parameter's weight, turned to bytes only when it is written.
struct Weight(Arc<Param>);

impl safetensors::View for Weight {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.0.with_values(|w| Cow::Owned(bytes_of(w))).expect("a parameter is a contiguous f32 tensor")
    }

    fn data_len(&self) -> usize {
        self.0.elem_count() * size_of::<f32>()
    }
}

/// Little-endian bytes, as safetensors stores numbers.
pub(super) fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
