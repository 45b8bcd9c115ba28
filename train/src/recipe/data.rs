//! `[data]`: what is trained on, and how it becomes tokens.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::data::{Boundary, Layout, Selection, Sources, Truncation};

/// `[data]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSection {
    /// Preference pairs; for `objective = "sft"` documents. A path, a glob or `hub:owner/name[@revision][:path-or-glob]`
    /// of JSONL, JSON arrays (both gzip-compressed or not) or parquet; or tables `{source, weight, format, columns}`.
    pub train: Sources,
    /// The same for evaluation every `eval_steps` and at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<Sources>,
    /// The layout of all sources that name none; by default it is found from the rows of each file. Strings of the `trl`
    /// layouts are trained on as they stand; to bring them into the chat template take `format = "orca_dpo_pairs"` with
    /// `columns = { question = "prompt" }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Layout>,
    /// For a field of the layout the name it has in the files, for all sources that name none: `{ prompt = "question" }`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// A chat template that replaces the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<PathBuf>,
    /// Longest sequence in tokens; responses are cut, prompts never. Default 1024.
    #[serde(default = "default_max_length")]
    pub max_length: usize,
    /// Where a response begins whose first token merges with the prompt: `"prompt"` (default) or `"trl"`.
    #[serde(default)]
    pub boundary: Boundary,
    /// What gives way in a longer pair: `"response"` (default, TRL), `"keep_end"` or `"keep_start"` of the prompt (TRL
    /// before 0.27), `"proportional"` (LLaMA-Factory).
    #[serde(default)]
    pub truncation: Truncation,
    /// Longest prompt in tokens, for `"keep_end"` and `"keep_start"` alone. Default 512.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_prompt_length: Option<usize>,
    /// Pairs whose prompt has more tokens are dropped. Default: none is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop_long_prompts: Option<usize>,
    /// Whether an EOS is put behind a response that does not end in one (a template that ends turns in EOS and newline
    /// so gets a second one, as in TRL). Default true.
    #[serde(default = "default_true")]
    pub append_eos: bool,
    /// Whether a response that was cut ends in an EOS in the place of its last token. Default false, as in TRL.
    #[serde(default)]
    pub truncated_eos: bool,
}

impl DataSection {
    /// Training data alone, every other key at its default.
    pub fn new(train: impl Into<Sources>) -> Self {
        Self {
            train: train.into(),
            validation: None,
            format: None,
            columns: BTreeMap::new(),
            chat_template: None,
            max_length: default_max_length(),
            boundary: Boundary::default(),
            truncation: Truncation::default(),
            max_prompt_length: None,
            drop_long_prompts: None,
            append_eos: true,
            truncated_eos: false,
        }
    }

    /// How rows are understood where a source says nothing.
    pub fn selection(&self) -> Selection {
        Selection { format: self.format, columns: self.columns.clone() }
    }
}

fn default_max_length() -> usize {
    1024
}
fn default_true() -> bool {
    true
}
