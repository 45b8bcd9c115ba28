//! Models and sequences for the tests of the forward pass.
#![allow(dead_code, reason = "every test binary uses a part of this")]

use std::path::PathBuf;

use orpo_model::infer::{AdapterId, Batch, Inference, Part, Workspace};
use orpo_model::kv::{Pages, Table};
use orpo_model::{Checkpoint, ModelConfig};
use serde_json::{Map, Value, json};

/// The reference model of `family`; a printed line where the reference data are not at hand.
pub fn golden(family: &str) -> Option<PathBuf> {
    let (shared, asked) = match std::env::var_os("ORPO_SHARED") {
        Some(shared) => (PathBuf::from(shared), true),
        None => (PathBuf::from("../../shared"), false),
    };
    let dir = shared.join("train/golden").join(family);
    match dir.is_dir() {
        true => Some(dir),
        false if asked => panic!("no `{}`", dir.display()),
        false => {
            println!("skipped: no `{}`", dir.display());
            None
        }
    }
}

pub fn read_json(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))).unwrap()
}

pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Numbers that look random, in -1..1.
pub fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Token ids that look random.
pub fn random_ids(n: usize, vocab_size: usize, seed: u64) -> Vec<u32> {
    random(n, seed).into_iter().map(|x| ((x + 1.0) / 2.0 * vocab_size as f32) as u32 % vocab_size as u32).collect()
}

/// Configurations with everything that the families differ in.
pub fn configs() -> Vec<Value> {
    let base = json!({"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 97, "max_position_embeddings": 200});
    let with = |changes: Value| {
        let mut json = base.clone();
        json.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        json
    };
    vec![
        with(json!({"model_type": "llama", "head_dim": 16, "rope_theta": 10000.0,
            "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64}})),
        with(json!({"model_type": "mistral", "sliding_window": 20, "tie_word_embeddings": true,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]})),
        with(json!({"model_type": "qwen2", "num_attention_heads": 6, "num_key_value_heads": 2})),
        with(json!({"model_type": "qwen3", "head_dim": 24, "tie_word_embeddings": true})),
        with(json!({"model_type": "gemma2", "head_dim": 40, "sliding_window": 33, "query_pre_attn_scalar": 40,
            "hidden_activation": "gelu_pytorch_tanh", "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0})),
        with(json!({"model_type": "phi", "hidden_act": "gelu_new", "partial_rotary_factor": 0.5,
            "num_key_value_heads": 4})),
        with(json!({"model_type": "opt", "ffn_dim": 80, "activation_function": "relu"})),
        with(json!({"model_type": "opt", "ffn_dim": 80, "activation_function": "relu", "do_layer_norm_before": false,
            "word_embed_proj_dim": 20})),
    ]
}

/// Weights in safetensors' format, drawn by their names.
pub fn random_weights(config: &ModelConfig, dtype: &str) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let tensor = |(i, (name, shape)): (usize, (String, Vec<usize>))| {
        let mut values = random(shape.iter().product(), i as u64 + 1);
        let is_norm = shape.len() == 1 && name.ends_with("weight");
        values.iter_mut().for_each(|x| *x = if is_norm { 1.0 + *x / 4.0 } else { *x / 3.0 });
        // What the narrower types can hold.
        values.iter_mut().for_each(|x| match dtype {
            "BF16" => *x = half::bf16::from_f32(*x).to_f32(),
            "F16" => *x = half::f16::from_f32(*x).to_f32(),
            _ => {}
        });
        (name, shape, values)
    };
    config.tensors().into_iter().enumerate().map(tensor).collect()
}

/// One file of tensors.
pub fn safetensors(tensors: &[(String, Vec<usize>, Vec<f32>)], dtype: &str) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        let from = data.len();
        for x in values {
            match dtype {
                "BF16" => data.extend(half::bf16::from_f32(*x).to_le_bytes()),
                "F16" => data.extend(half::f16::from_f32(*x).to_le_bytes()),
                _ => data.extend(x.to_le_bytes()),
            }
        }
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [from, data.len()]}));
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

/// A checkpoint directory with random weights.
pub fn random_checkpoint(json: &Value, dtype: &str) -> (tempfile::TempDir, Checkpoint) {
    let dir = tempfile::tempdir().unwrap();
    let config = ModelConfig::from_json(json).unwrap();
    std::fs::write(dir.path().join("config.json"), json.to_string()).unwrap();
    let weights = safetensors(&random_weights(&config, dtype), dtype);
    std::fs::write(dir.path().join("model.safetensors"), weights).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    (dir, checkpoint)
}

pub fn random_model(json: &Value) -> Inference {
    Inference::load(&random_checkpoint(json, "F32").1, None).unwrap()
}

/// A sequence in the course of being computed.
pub struct Sequence {
    pub ids: Vec<u32>,
    pub done: usize,
    pub table: Table,
    pub adapter: Option<AdapterId>,
    /// Of every row so far.
    pub logits: Vec<f32>,
}

/// A model with a cache.
pub struct Runner<'a> {
    pub model: &'a Inference,
    pub pages: Pages,
    pub workspace: Workspace,
    /// Gives pages back as soon as no later token sees them.
    pub releases: bool,
}

impl<'a> Runner<'a> {
    pub fn new(model: &'a Inference) -> Self {
        let pages = Pages::new(model.config(), 8 << 20);
        Self { model, pages, workspace: Workspace::default(), releases: false }
    }

    pub fn sequence(&self, ids: &[u32]) -> Sequence {
        Sequence { ids: ids.to_vec(), done: 0, table: Table::new(&self.pages), adapter: None, logits: Vec::new() }
    }

    /// Computes so many more rows of each sequence in one pass; their logits are added to those of the sequence.
    pub fn step(&mut self, sequences: &mut [(&mut Sequence, usize)]) {
        let mut batch = Batch { ids: Vec::new(), parts: Vec::new(), wanted: Vec::new() };
        for (sequence, count) in sequences.iter_mut() {
            if self.releases {
                sequence.table.release_unseen(sequence.done, &mut self.pages);
            }
            assert!(sequence.table.grow(sequence.done + *count, &mut self.pages), "the test's cache is too small");
        }
        for (sequence, count) in sequences.iter() {
            let (start, from) = (sequence.done, batch.ids.len());
            batch.ids.extend(&sequence.ids[start..start + count]);
            let rows = from..batch.ids.len();
            batch.parts.push(Part { rows, start, table: &sequence.table, adapter: sequence.adapter });
        }
        batch.wanted = (0..batch.ids.len()).collect();
        let mut logits = Vec::new();
        self.model.forward(&batch, &mut self.pages, &mut self.workspace, &mut logits).unwrap();
        let mut rows = logits.chunks_exact(self.model.config().vocab_size);
        for (sequence, count) in sequences.iter_mut() {
            rows.by_ref().take(*count).for_each(|row| sequence.logits.extend(row));
            sequence.done += *count;
        }
    }

    /// The logits of every row of a sequence, computed in pieces of `piece` rows.
    pub fn logits(&mut self, ids: &[u32], piece: usize, adapter: Option<AdapterId>) -> Vec<f32> {
        let mut sequence = Sequence { adapter, ..self.sequence(ids) };
        while sequence.done < ids.len() {
            let count = piece.min(ids.len() - sequence.done);
            self.step(&mut [(&mut sequence, count)]);
        }
        sequence.table.clear(&mut self.pages);
        sequence.logits
    }
}

/// The logits of every row of a sequence by itself in one pass.
pub fn logits(model: &Inference, ids: &[u32]) -> Vec<f32> {
    Runner::new(model).logits(ids, ids.len(), None)
}

pub fn assert_same_bits(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    if let Some(i) = (0..found.len()).find(|i| found[*i].to_bits() != expected[*i].to_bits()) {
        panic!("{what}: element {i} is {:e}, not {:e}", found[i], expected[i]);
    }
}

/// The largest difference.
pub fn distance(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, |m, x| if x > m || x.is_nan() { x } else { m })
}

pub fn argmax(row: &[f32]) -> u32 {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as u32
}
