//! A model directory as `transformers.AutoModelForCausalLM.from_pretrained` reads it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use orpo_chat::ChatTokenizer;
use orpo_files::write_json;
use orpo_model::adapter::{ADAPTER_CONFIG, ADAPTER_FILE, BaseName};
use orpo_model::{Decoder, Param, Values};
use safetensors::{Dtype, View};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::TrainError;

/// Everything of a model directory but the weights.
#[derive(Debug)]
pub struct ModelFiles {
    /// `config.json`.
    pub config: Value,
    /// Where the tokenizer's files come from.
    pub tokenizer_dir: PathBuf,
    /// Tokenizer and the template that was trained with.
    pub chat: ChatTokenizer,
    /// What an adapter's configuration calls the model it belongs to.
    pub base_name: BaseName,
}

impl ModelFiles {
    /// What should be known of the chat template that is exported: what it sets, and what other programs will get wrong.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn template_notes(&self) -> Result<Vec<String>, TrainError> {
        let Some(portable) = self.chat.portable_templates()? else { return Ok(Vec::new()) };
        let value = |name: &String| format!("{name} = {}", self.chat.variables()[name]);
        let set: Vec<String> = portable.defaults.iter().map(value).collect();
        let set = (!set.is_empty()).then(|| {
            format!(
                "chat template: the exported one sets {}, as in training, unless a request's chat_template_kwargs say otherwise",
                set.join(", ")
            )
        });
        Ok(set.into_iter().chain(portable.warnings.iter().map(|warning| format!("warning: {warning}"))).collect())
    }
}

/// The type that weights are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WeightDtype {
    /// 32 bits.
    #[default]
    #[serde(alias = "fp32", alias = "float32")]
    #[value(aliases = ["fp32", "float32"])]
    F32,
    /// 16 bits, the exponent of f32.
    #[serde(alias = "bfloat16")]
    #[value(alias = "bfloat16")]
    Bf16,
    /// 16 bits, IEEE half.
    #[serde(alias = "fp16", alias = "float16")]
    #[value(aliases = ["fp16", "float16"])]
    F16,
}

impl WeightDtype {
    fn safetensors(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::BF16,
            Self::F16 => Dtype::F16,
        }
    }

    /// Of a number.
    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// torch's name.
    fn torch(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }
}

/// How weights are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightFormat {
    /// Their type.
    pub dtype: WeightDtype,
    /// Weights of more bytes are split into several files; each holds at least one tensor.
    pub max_shard_bytes: usize,
}

impl Default for WeightFormat {
    fn default() -> Self {
        Self { dtype: WeightDtype::F32, max_shard_bytes: 5_000_000_000 }
    }
}

/// Writes what was trained to `dir`, which must exist: an adapter as [`write_adapter`], otherwise the model as
/// [`write_model`].
///
/// # Errors
/// When a file cannot be read or written.
pub fn write_trained(
    dir: &Path,
    decoder: &Decoder,
    files: &ModelFiles,
    format: WeightFormat,
) -> Result<(), TrainError> {
    match decoder.lora_config() {
        Some(_) => write_adapter(dir, decoder, files, format.dtype),
        None => write_model(dir, decoder, files, format),
    }
}

/// Writes `config.json`, the weights with any adapter merged into them, and the tokenizer's files to `dir`, which must
/// exist.
///
/// # Errors
/// When a file cannot be read or written.
pub fn write_model(dir: &Path, decoder: &Decoder, files: &ModelFiles, format: WeightFormat) -> Result<(), TrainError> {
    write_weights(dir, decoder, format)?;
    let mut config = object(&files.config);
    config.insert("torch_dtype".into(), format.dtype.torch().into());
    if config.contains_key("dtype") {
        config.insert("dtype".into(), format.dtype.torch().into());
    }
    for (field, id) in [("bos_token_id", files.chat.bos_id()), ("eos_token_id", files.chat.eos_id())] {
        if let Some(id) = id.filter(|_| config.get(field).is_none_or(Value::is_null)) {
            config.insert(field.into(), id.into());
        }
    }
    write_json(&dir.join("config.json"), &config)?;
    write_tokenizer(dir, files)?;
    Ok(())
}

/// Writes `adapter_config.json`, `adapter_model.safetensors` and the tokenizer's files to `dir`, which must exist, as PEFT
/// reads them.
///
/// # Errors
/// When a file cannot be read or written, or there is no adapter.
fn write_adapter(dir: &Path, decoder: &Decoder, files: &ModelFiles, dtype: WeightDtype) -> Result<(), TrainError> {
    let config = decoder.lora_config().ok_or_else(|| TrainError::Refused("the model has no adapter".into()))?;
    write_json(&dir.join(ADAPTER_CONFIG), &config.to_json(&files.base_name, &decoder.adapter_targets()))?;
    let weights = decoder.adapter_params();
    let weights: Vec<Weight<'_>> = weights.iter().map(|param| Weight { decoder, param, dtype }).collect();
    let named = weights.iter().map(|weight| (weight.param.name().to_string(), weight));
    write_tensors(&dir.join(ADAPTER_FILE), named)?;
    write_tokenizer(dir, files)
}

/// `model.safetensors`, or shards and their index in transformers' naming.
fn write_weights(dir: &Path, decoder: &Decoder, format: WeightFormat) -> Result<(), TrainError> {
    let weights: Vec<Weight<'_>> =
        decoder.params().iter().map(|param| Weight { decoder, param, dtype: format.dtype }).collect();
    let shards = shards(&weights, format.max_shard_bytes);
    let write = |file: &str, shard: &[Weight<'_>]| {
        write_tensors(&dir.join(file), shard.iter().map(|weight| (weight.param.name().to_string(), weight)))
    };
    if let [all] = shards.as_slice() {
        return write("model.safetensors", all);
    }
    let mut weight_map = Map::new();
    for (i, shard) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        write(&file, shard)?;
        weight_map.extend(shard.iter().map(|weight| (weight.param.name().to_string(), file.clone().into())));
    }
    let total_size: usize = weights.iter().map(|weight| weight.data_len()).sum();
    let index = json!({"metadata": {"total_size": total_size}, "weight_map": weight_map});
    Ok(write_json(&dir.join("model.safetensors.index.json"), &index)?)
}

/// Consecutive weights in groups of at most `limit` bytes; one that is larger is a group of its own.
fn shards<'a, 'b>(weights: &'b [Weight<'a>], limit: usize) -> Vec<&'b [Weight<'a>]> {
    let mut ends = Vec::new();
    let mut bytes = 0;
    for (i, weight) in weights.iter().enumerate() {
        if bytes > 0 && bytes + weight.data_len() > limit {
            ends.push(i);
            bytes = 0;
        }
        bytes += weight.data_len();
    }
    ends.push(weights.len());
    let starts = std::iter::once(0).chain(ends.clone());
    starts.zip(ends).map(|(start, end)| &weights[start..end]).collect()
}

/// A tokenizer's vocabulary in older forms, which some programs read in the place of `tokenizer.json` (llama.cpp's
/// converter asks Gemma 2 for the first).
pub const SLOW_TOKENIZER_FILES: [&str; 4] = ["tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json"];

/// Copies a file of the tokenizer's directory, if it is there.
fn copy(files: &ModelFiles, dir: &Path, name: &str) -> Result<bool, TrainError> {
    let from = files.tokenizer_dir.join(name);
    match fs::copy(&from, dir.join(name)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(TrainError::read(&from, error)),
    }
}

/// The tokenizer's files, with the chat template that was trained with, and `generation_config.json`.
fn write_tokenizer(dir: &Path, files: &ModelFiles) -> Result<(), TrainError> {
    let copy = |name: &str| copy(files, dir, name);
    copy("tokenizer.json")?;
    for name in SLOW_TOKENIZER_FILES {
        copy(name)?;
    }
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
    if files.chat.disregards_llama_class() {
        tokenizer_config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    }
    if let Some(portable) = files.chat.portable_templates()? {
        tokenizer_config.insert("chat_template".into(), portable.chat_template);
    }
    write_json(&dir.join("tokenizer_config.json"), &tokenizer_config)?;
    let generation = files.tokenizer_dir.join("generation_config.json");
    let mut config = match fs::read_to_string(&generation) {
        Ok(text) => object(&serde_json::from_str(&text).map_err(|e| TrainError::invalid(&generation, e))?),
        Err(_) => Map::new(),
    };
    generation_ends(&mut config, &files.chat);
    Ok(write_json(&dir.join("generation_config.json"), &config)?)
}

/// Lets generation begin and end where training did: every reply was trained to end in the tokenizer's EOS, which the
/// base model's own list of end tokens may lack.
fn generation_ends(config: &mut Map<String, Value>, chat: &ChatTokenizer) {
    if let Some(bos) = chat.bos_id().filter(|_| config.get("bos_token_id").is_none_or(Value::is_null)) {
        config.insert("bos_token_id".into(), bos.into());
    }
    let stated: Vec<Value> = match config.get("eos_token_id") {
        None | Some(Value::Null) => chat.eos_ids().iter().map(|id| json!(id)).collect(),
        Some(Value::Array(ids)) => ids.clone(),
        Some(id) => vec![id.clone()],
    };
    let missing = chat.eos_id().map(|id| json!(id)).filter(|eos| !stated.contains(eos));
    let ends: Vec<Value> = stated.into_iter().chain(missing).collect();
    match ends.as_slice() {
        [] => {}
        [one] => drop(config.insert("eos_token_id".into(), one.clone())),
        _ => drop(config.insert("eos_token_id".into(), ends.into())),
    }
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
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

/// A parameter's weight with its adapter, turned to bytes only when it is written.
struct Weight<'a> {
    decoder: &'a Decoder,
    param: &'a Arc<Param>,
    dtype: WeightDtype,
}

impl View for &Weight<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype.safetensors()
    }

    fn shape(&self) -> &[usize] {
        self.param.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = self.decoder.merged_weight(self.param).expect("the values of a loaded model are there");
        Cow::Owned(Values::to_bytes(self.dtype.safetensors(), &values))
    }

    fn data_len(&self) -> usize {
        self.param.elem_count() * self.dtype.bytes()
    }
}
