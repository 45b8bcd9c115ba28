//! `[data]`: what is trained on, and how it becomes tokens.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::data::{Boundary, Layout, Selection, Source, Sources, Truncation};

/// `[data]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataSection {
    /// Preference pairs; for `objective = "sft"` documents. A path, a glob or `hub:owner/name[@revision][:path-or-glob]`
    /// of JSONL, JSON, CSV (gzip-compressed or not) or parquet; or a list of these and of tables
    /// `{source, weight, format, columns, field}`.
    #[schemars(with = "Vec<Source>", extend("trl" = "dataset_name"))]
    pub train: Sources,
    /// The same for evaluation every `eval_steps` and at the end. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub validation: Option<Sources>,
    /// The layout of all sources that do not name one. Default: found from the first rows of each file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("choices" = Layout::names()))]
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
    #[schemars(extend("default" = false))]
    #[serde(default, skip_serializing_if = "is_false")]
    pub apply_chat_template: bool,
    /// Cuts the prompt off the beginning of responses that both repeat it. Default false.
    #[schemars(extend("default" = false))]
    #[serde(default, skip_serializing_if = "is_false")]
    pub cut_repeated_prompt: bool,
    /// A file with a chat template that replaces the model's. Default: the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("trl" = "chat_template_path"))]
    pub chat_template: Option<PathBuf>,
    /// Variables of the chat template, in every conversation: `{ enable_thinking = false }`. The exported template sets
    /// them where a request does not. Default: none.
    #[schemars(extend("trl" = "chat_template_kwargs"))]
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub chat_template_kwargs: Map<String, Value>,
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
            ignore_columns: Vec::new(),
            apply_chat_template: false,
            cut_repeated_prompt: false,
            chat_template: None,
            chat_template_kwargs: Map::new(),
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
