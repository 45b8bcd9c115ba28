//! Log-probabilities under the reference model, which is the model that training starts from.

use orpo_model::Decoder;

use crate::data::{Example, collate};
use crate::error::TrainError;
use crate::step::token_logps;

/// Pairs at a time.
pub(crate) const BATCH: usize = 4;

/// Sets [`Example::reference`] of every pair to the summed log-probabilities of its responses under `decoder`, in batches
/// of a few pairs. To be called with the starting weights, before a resumed run restores its own.
///
/// # Errors
/// From the model's operations.
pub fn set_references<'a>(
    decoder: &Decoder,
    examples: impl Iterator<Item = &'a mut Example>,
) -> Result<(), TrainError> {
    let mut examples: Vec<&mut Example> = examples.collect();
    for chunk in examples.chunks_mut(BATCH) {
        let batch = collate(&chunk.iter().map(|example| &**example).collect::<Vec<_>>());
        let logps = token_logps(decoder, &batch)?;
        let sum = |span: &std::ops::Range<usize>| logps[span.clone()].iter().map(|x| *x as f64).sum::<f64>();
        for (example, spans) in chunk.iter_mut().zip(&batch.spans) {
            example.reference = Some((sum(&spans.chosen), sum(&spans.rejected)));
        }
    }
    Ok(())
}
