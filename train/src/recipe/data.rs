//! `[data]`: what is trained on, and how it becomes tokens.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::{Boundary, Layout, Selection, Source, Sources, Truncation};

/// `[data]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataSection {
    /// Preference pairs; for `objective = "sft"` documents. A path, a glob or `hub:owner/name[@revision][:path-or-glob]`
    /// of JSONL, JSON arrays (both gzip-compressed or not) or parquet; or a list of these and of tables
    /// `{source, weight, format, columns}`.
    #[schemars(with = "Vec<Source>", extend("trl" = "dataset_name"))]
    pub train: Sources,
    /// The same for evaluation every `eval_steps` and at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub validation: Option<Sources>,
    /// The layout of all sources that name none; by default it is found from the rows of each file. Strings of the `trl`
    /// layouts are trained on as they stand; to bring them into the chat template take `format = "orca_dpo_pairs"` with
    /// `columns = { question = "prompt" }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("choices" = Layout::names()))]
    pub format: Option<Layout>,
    /// For a field of the layout the name it has in the files, for all sources that name none: `{ prompt = "question" }`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// A chat template that replaces the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("trl" = "chat_template_path"))]
    pub chat_template: Option<PathBuf>,
    /// Longest sequence; what is longer is cut as `truncation` says. Default 1024.
    #[schemars(extend("minimum" = 2, "unit" = "tokens", "trl" = "max_length"))]
    #[serde(default = "default_max_length")]
    pub max_length: usize,
    /// Where a response begins whose first token merges with the prompt.
    #[serde(default)]
    pub boundary: Boundary,
    /// What is cut in a pair longer than `max_length`.
    #[schemars(extend("trl" = "truncation_mode"))]
    #[serde(default)]
    pub truncation: Truncation,
    /// Longest prompt, only for `truncation = "keep_end"` and `"keep_start"`. Unset, 512.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "unit" = "tokens", "trl" = "max_prompt_length"))]
    pub max_prompt_length: Option<usize>,
    /// Pairs with a longer prompt are dropped. Unset, none is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("unit" = "tokens"))]
    pub drop_long_prompts: Option<usize>,
    /// Add an EOS to a response that does not end in one (with a template that ends turns in EOS and newline that is a
    /// second one, as in TRL). Default true.
    #[serde(default = "default_true")]
    pub append_eos: bool,
    /// Replace the last token of a response that was cut by an EOS. Default false, as in TRL.
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
