//! A model on examples, without training: metrics, and what it says to a prompt.

use orpo_chat::ChatTokenizer;
use orpo_model::Decoder;

use crate::data::{BatchSize, Example, collate, packed_rows};
use crate::error::TrainError;
use crate::generate::greedy;
use crate::loss::PreferenceMetrics;
use crate::step::{Objective, forward};

/// The metrics of `examples` in batches of `size`: the mean over batches, weighted by their examples.
///
/// # Errors
/// From the model's operations.
pub fn evaluate(
    decoder: &Decoder,
    examples: &[Example],
    objective: &Objective,
    size: BatchSize,
) -> Result<PreferenceMetrics, TrainError> {
    let order: Vec<usize> = (0..examples.len()).collect();
    let lengths: Vec<usize> = examples.iter().map(packed_rows).collect();
    let mut parts = Vec::new();
    for indices in size.split(&order, &lengths) {
        let batch = collate(&indices.iter().map(|index| &examples[*index]).collect::<Vec<_>>());
        parts.push((forward(decoder, &batch, objective)?, indices.len() as f64));
    }
    Ok(PreferenceMetrics::weighted_mean(&parts))
}

/// A prompt and the model's greedy answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The prompt with its special tokens.
    pub prompt: String,
    /// The answer without them.
    pub response: String,
    /// Whether the model ended its answer itself.
    pub ended: bool,
}

/// Continues the prompt of `example` by at most `max_new_tokens`.
///
/// # Errors
/// From the model's operations or the tokenizer.
pub fn sample(
    decoder: &Decoder,
    chat: &ChatTokenizer,
    example: &Example,
    max_new_tokens: usize,
) -> Result<Sample, TrainError> {
    let prompt = &example.chosen.ids[..example.chosen.prompt_len];
    let ids = greedy(decoder, prompt, chat.eos_ids(), max_new_tokens)?;
    Ok(Sample {
        prompt: chat.decode(prompt, false)?,
        response: chat.decode(&ids, true)?,
        ended: ids.last().is_some_and(|id| chat.eos_ids().contains(id)),
    })
}
