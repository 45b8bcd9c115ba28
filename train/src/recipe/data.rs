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
    /// of JSONL, JSON, CSV (gzip-compressed or not) or parquet; or tables `{source, weight, format, columns, field}`.
    /// Required.
    pub train: Sources,
    /// The same for evaluation every `eval_steps` and at the end. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<Sources>,
    /// The layout of all sources that do not name one. Default: found from the first rows of each file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Layout>,
    /// For a field of the layout the name it has in the files, for all sources without `columns` of their own:
    /// `{ prompt = "question" }`. Default: the layout's names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// Columns of the files that are left out on purpose; without it a column that looks like a part of the prompt, or
    /// holds images, is not passed over. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore_columns: Vec<String>,
    /// Makes turns of pairs that are strings, for the chat template: the prompt is the user's, the responses are the
    /// assistant's. Otherwise strings are trained as they are. Default false.
    #[serde(default, skip_serializing_if = "is_false")]
    pub apply_chat_template: bool,
    /// Cuts the prompt off the beginning of responses that both repeat it. Default false.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cut_repeated_prompt: bool,
    /// A file with a chat template that replaces the model's. Default: the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<PathBuf>,
    /// Longest sequence in tokens, at least 2; responses are cut, prompts never (see `truncation`). Default 1024.
    #[serde(default = "default_max_length")]
    pub max_length: usize,
    /// Where a response begins whose first token merges with the prompt: `"prompt"` (as it is served) or `"trl"`. Default
    /// `"prompt"`.
    #[serde(default)]
    pub boundary: Boundary,
    /// What gives way in a longer pair: `"response"` (TRL), `"keep_end"` or `"keep_start"` of the prompt (TRL before 0.27),
    /// `"proportional"` (LLaMA-Factory). Default `"response"`.
    #[serde(default)]
    pub truncation: Truncation,
    /// Longest prompt in tokens, for `"keep_end"` and `"keep_start"` alone; at least 1 and below `max_length`. Default 512.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_prompt_length: Option<usize>,
    /// Drops pairs whose prompt has more tokens than this. Default: none is dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop_long_prompts: Option<usize>,
    /// Puts an EOS after a response that does not end in one (a template that ends turns in EOS and newline so gets a
    /// second one, as in TRL). Default true.
    #[serde(default = "default_true")]
    pub append_eos: bool,
    /// Replaces the last token of a response that was cut by an EOS. Default false, as in TRL.
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
            ignore_columns: Vec::new(),
            apply_chat_template: false,
            cut_repeated_prompt: false,
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

    /// How rows are understood where a source does not say otherwise.
    pub fn selection(&self) -> Selection {
        Selection {
            format: self.format,
            columns: self.columns.clone(),
            ignore_columns: self.ignore_columns.clone(),
            field: None,
            apply_chat_template: self.apply_chat_template,
            cut_repeated_prompt: self.cut_repeated_prompt,
        }
    }
}

fn default_max_length() -> usize {
    1024
}
fn default_true() -> bool {
    true
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_false(value: &bool) -> bool {
    !value
}
