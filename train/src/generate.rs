//! Greedy continuation of a prompt, to look at a model while it is trained.

use orpo_model::{Decoder, PackedRows};

use crate::error::TrainError;

/// The most likely tokens after `prompt`, at most `max_new_tokens` of them, ending with the first of `eos_ids` or where
/// the model has no position left. Each token computes the whole sequence again: simple, and as exact as training.
///
/// # Errors
/// From the model's operations.
pub fn greedy(
    decoder: &Decoder,
    prompt: &[u32],
    eos_ids: &[u32],
    max_new_tokens: usize,
) -> Result<Vec<u32>, TrainError> {
    let mut ids = prompt.to_vec();
    let longest = (prompt.len() + max_new_tokens).min(decoder.config().max_position_embeddings);
    while ids.len() < longest && !ids[prompt.len()..].last().is_some_and(|id| eos_ids.contains(id)) {
        let logits = decoder.logits(&PackedRows::single(ids.clone()))?;
        ids.push(most_likely(logits.row(ids.len() - 1)));
    }
    Ok(ids.split_off(prompt.len()))
}

/// The token with the largest logit; of equal ones the first.
fn most_likely(logits: &[f32]) -> u32 {
    let first_largest = |best: usize, token: usize| if logits[token] > logits[best] { token } else { best };
    (0..logits.len()).reduce(first_largest).unwrap_or(0) as u32
}
