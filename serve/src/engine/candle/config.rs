//! Which models candle's decoders compute.

use orpo_model::{Family, ModelConfig};

use crate::checkpoint::Checkpoint;
use crate::engine::stage::UnsupportedModel;

/// Architectures whose logits were compared with those of `transformers`.
pub const ARCHITECTURES: [&str; 2] = ["PhiForCausalLM", "OPTForCausalLM"];

/// A model that candle can run.
#[derive(Debug, Clone, PartialEq)]
pub struct CandleConfig {
    /// Its architecture and sizes.
    pub model: ModelConfig,
    /// How many tokens prompt and reply may have together.
    pub context_length: usize,
}

/// The config of a checkpoint, if it is a Phi or an OPT.
///
/// # Errors
/// [`UnsupportedModel`] for another architecture.
pub fn candle_config(checkpoint: &Checkpoint) -> Result<CandleConfig, UnsupportedModel> {
    match &checkpoint.model {
        Some(model) if matches!(model.family, Family::Phi | Family::Opt) => {
            Ok(CandleConfig { model: model.clone(), context_length: model.max_position_embeddings })
        }
        _ => {
            let supported = format!("{} by candle", ARCHITECTURES.join(", "));
            Err(UnsupportedModel::Architecture { found: UnsupportedModel::architecture_of(checkpoint), supported })
        }
    }
}
