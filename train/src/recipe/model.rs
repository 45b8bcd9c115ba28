//! `[model]`: what training starts from.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[model]`: either `path`, or `tokenizer` and `[model.init]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// A Hugging Face checkpoint directory, or `hub:owner/name[@revision]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("trl" = "model_name_or_path"))]
    pub path: Option<PathBuf>,
    /// A tokenizer directory, for a model that starts from random weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Shape of a model that starts from random weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<InitSection>,
}

/// `[model.init]`: a Llama with random weights; `vocab_size` is the tokenizer's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InitSection {
    /// Width of the residual stream.
    #[schemars(extend("minimum" = 1))]
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    #[schemars(extend("minimum" = 1))]
    pub intermediate_size: usize,
    /// Number of blocks.
    #[schemars(extend("minimum" = 1))]
    pub num_hidden_layers: usize,
    /// Query heads.
    #[schemars(extend("minimum" = 1))]
    pub num_attention_heads: usize,
    /// Key and value heads.
    #[schemars(extend("minimum" = 1))]
    pub num_key_value_heads: usize,
    /// Positions the model can use.
    #[schemars(extend("minimum" = 1, "unit" = "tokens"))]
    pub max_position_embeddings: usize,
    /// Base of the rotary frequencies. Default 10000.
    #[schemars(extend("exclusiveMinimum" = 0))]
    #[serde(default = "default_rope_theta")]
    pub rope_theta: f64,
    /// Added to the mean square in the norms. Default 1e-5.
    #[schemars(extend("exclusiveMinimum" = 0))]
    #[serde(default = "default_rms_norm_eps")]
    pub rms_norm_eps: f64,
    /// Standard deviation of the weights. Default 0.02.
    #[schemars(extend("minimum" = 0))]
    #[serde(default = "default_initializer_range")]
    pub initializer_range: f64,
    /// Use the embedding as the head. Default true.
    #[serde(default = "default_true")]
    pub tie_word_embeddings: bool,
}

fn default_rope_theta() -> f64 {
    10_000.0
}
fn default_rms_norm_eps() -> f64 {
    1e-5
}
fn default_initializer_range() -> f64 {
    0.02
}
fn default_true() -> bool {
    true
}
