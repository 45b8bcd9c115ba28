//! Metrics of a model on examples, without training.

use crate::data::{Example, collate};
use crate::error::TrainError;
use crate::loss::PreferenceMetrics;
use crate::model::Decoder;
use crate::step::{Objective, forward};

/// The metrics of `examples` in batches of `batch_size`: the mean over batches, weighted by their examples.
///
/// # Errors
/// From the model's operations.
pub fn evaluate(
    decoder: &Decoder,
    examples: &[Example],
    objective: &Objective,
    batch_size: usize,
) -> Result<PreferenceMetrics, TrainError> {
    let mut parts = Vec::new();
    for chunk in examples.chunks(batch_size) {
        let batch = collate(&chunk.iter().collect::<Vec<_>>());
        parts.push((forward(decoder, &batch, objective)?, chunk.len() as f64));
    }
    Ok(PreferenceMetrics::weighted_mean(&parts))
}
