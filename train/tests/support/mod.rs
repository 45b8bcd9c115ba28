//! Reading the reference data (`$ORPO_SHARED`, or `../../shared`) and comparing with it.

#![allow(dead_code, reason = "every test takes the part that it needs")]

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use orpo_model::{Decoder, ModelConfig, Param, Trained, WeightFiles};
use orpo_train::data::{Batch, Example, Sequence, collate};
use orpo_train::loss::NllTarget;
use orpo_train::step::Objective;
use serde_json::{Map, Value, json};

/// Models with reference numbers.
pub const FAMILIES: [&str; 7] = ["llama", "mistral", "qwen2", "phi", "opt", "opt350", "gemma2"];

pub fn shared(path: &str) -> Option<PathBuf> {
    let root = std::env::var("ORPO_SHARED").unwrap_or_else(|_| "../../shared".into());
    let path = Path::new(&root).join(path);
    if !path.exists() {
        println!("skipped: no `{}`", path.display());
        return None;
    }
    Some(path)
}

/// Calls `test` with every family's folder.
pub fn each_family(test: impl Fn(&str, &Path)) {
    for family in FAMILIES {
        let Some(dir) = shared(&format!("train/golden/{family}")) else { return };
        println!("{family}");
        test(family, &dir);
    }
}

pub fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

pub fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

pub fn ids(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|x| x.as_i64().unwrap()).collect()
}

#[track_caller]
pub fn close(what: &str, got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance, "{what}: {got}, reference {want}, difference {:e}", got - want);
}

pub fn load(dir: &Path, trained: Trained<'_>) -> Decoder {
    let model = dir.join("model");
    let (config, _) = ModelConfig::from_dir(&model).unwrap();
    Decoder::load(&config, &WeightFiles::open(&model).unwrap(), trained).unwrap()
}

/// The reference's padded batches as examples: chosen rows first, then rejected.
pub fn batches(dir: &Path) -> Vec<Vec<Example>> {
    let file = read_json(&dir.join("batches.json"));
    let sequence = |ids_row: &Value, mask: &Value, labels: &Value| {
        let length = ids(mask).iter().filter(|m| **m == 1).count();
        let prompt_len = ids(labels)[..length].iter().take_while(|label| **label == -100).count();
        Sequence { ids: ids(ids_row)[..length].iter().map(|id| *id as u32).collect(), prompt_len }
    };
    let batch = |batch: &Value| {
        let rows = batch["input_ids"].as_array().unwrap().len();
        let row = |i: usize| sequence(&batch["input_ids"][i], &batch["attention_mask"][i], &batch["labels"][i]);
        (0..rows / 2).map(|i| Example::pair(i + 1, row(i), row(rows / 2 + i))).collect::<Vec<_>>()
    };
    file["batches"].as_array().unwrap().iter().map(batch).collect()
}

pub fn orpo(beta: f64) -> Objective {
    Objective::Orpo { beta, nll: NllTarget::Full }
}

pub fn collect(examples: &[Example]) -> Batch {
    collate(&examples.iter().collect::<Vec<_>>())
}

pub fn values(param: &Param) -> Vec<f32> {
    param.values().unwrap()
}

/// A weight as a tensor, for candle's operations.
pub fn tensor(param: &Param) -> Tensor {
    Tensor::from_vec(values(param), param.shape(), &Device::Cpu).unwrap()
}

/// Relative error of `ours` against `theirs` in the Euclidean norm.
pub fn relative_error(ours: &[f32], theirs: &Tensor) -> f64 {
    let theirs = theirs.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(ours.len(), theirs.len());
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let difference = square(&mut ours.iter().zip(&theirs).map(|(a, b)| f64::from(a - b)));
    (difference / square(&mut theirs.iter().map(|b| f64::from(*b)))).sqrt()
}

/// Writes a tokenizer of single bytes (ids 0 to 255) with `<s>` (256) and `</s>` (257).
pub fn write_tokenizer(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let mut alphabet: Vec<char> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let vocab: Map<String, Value> = alphabet.iter().enumerate().map(|(id, c)| (c.to_string(), json!(id))).collect();
    let special = |id: usize, content: &str| {
        json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false})
    };
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [special(256, "<s>"), special(257, "</s>")],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []}
    });
    let config = json!({"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"});
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(dir.join("tokenizer_config.json"), config.to_string()).unwrap();
}
