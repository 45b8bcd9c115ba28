//! One batch through the model: log-probabilities, loss, gradients.

use candle_core::Tensor;

use crate::data::Batch;
use crate::error::TrainError;
use crate::loss::{LossOutput, NllTarget, PairLoss, PreferenceMetrics, next_token, pairwise, preference};
use crate::model::Decoder;
use crate::ops;

/// What is minimised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Objective {
    /// Plain next-token loss on the chosen side.
    Sft {
        /// Tokens it averages over.
        nll: NllTarget,
    },
    /// Odds ratio preference optimisation.
    Orpo {
        /// Weight of the odds-ratio term, the paper's lambda.
        beta: f64,
        /// Tokens the likelihood term averages over.
        nll: NllTarget,
    },
    /// Another loss on pairs.
    Pairs {
        /// The loss.
        loss: PairLoss,
        /// Weight of the likelihood term.
        nll_weight: f64,
        /// Tokens it averages over.
        nll: NllTarget,
    },
}

impl Objective {
    /// A loss on pairs with `nll_weight` times the likelihood.
    pub fn pairs(loss: PairLoss, nll_weight: f64, nll: NllTarget) -> Self {
        Self::Pairs { loss, nll_weight, nll }
    }

    /// Whether examples need the reference model's log-probabilities.
    pub fn needs_reference(&self) -> bool {
        matches!(self, Self::Pairs { loss, .. } if loss.reference)
    }

    /// Whether TRL's trainer of this loss logs the metric `name`.
    pub fn logs(&self, name: &str) -> bool {
        match self {
            Self::Orpo { .. } => true,
            Self::Sft { .. } => name == "loss" || name == "nll_loss",
            Self::Pairs { .. } => !name.starts_with("log_odds"),
        }
    }

    /// The loss of a batch from its log-probabilities. Without pairs only `loss` and `nll_loss` are set.
    pub fn loss(&self, logps: &[f32], batch: &Batch) -> LossOutput<PreferenceMetrics> {
        match *self {
            Self::Orpo { beta, nll } => preference(logps, &batch.spans, beta, nll),
            Self::Pairs { ref loss, nll_weight, nll } => {
                assert!(
                    !loss.reference || batch.references.len() == batch.spans.len(),
                    "every pair has its reference's log-probabilities before a loss looks at them"
                );
                pairwise(logps, &batch.spans, &batch.references, loss, nll_weight, nll)
            }
            Self::Sft { nll } => {
                let LossOutput { grad, metrics: loss } = next_token(logps, &batch.spans, nll);
                LossOutput { grad, metrics: PreferenceMetrics { loss, nll_loss: loss, ..Default::default() } }
            }
        }
    }
}

/// Adds the gradient of the batch's loss to every trainable parameter's slot and returns the metrics. When the loss
/// is not finite no gradient is computed.
///
/// # Errors
/// From the model's operations.
pub fn forward_backward(
    decoder: &Decoder,
    batch: &Batch,
    objective: &Objective,
) -> Result<PreferenceMetrics, TrainError> {
    let embedded = decoder.embed(&batch.rows)?;
    let logps = token_logps(decoder, embedded.as_tensor(), batch)?;
    let output = objective.loss(&logps.to_vec1::<f32>()?, batch);
    if !output.metrics.loss.is_finite() {
        return Ok(output.metrics);
    }
    let grad = Tensor::from_vec(output.grad, logps.dims(), logps.device())?;
    let mut grads = ops::backward_from(&logps, &grad)?;
    let embedded_grad = grads.remove(&embedded).expect("every scored token depends on an embedded row");
    decoder.backward_embedding(&batch.rows, &embedded_grad)?;
    Ok(output.metrics)
}

/// The metrics of a batch without gradients.
///
/// # Errors
/// From the model's operations.
pub fn forward(decoder: &Decoder, batch: &Batch, objective: &Objective) -> Result<PreferenceMetrics, TrainError> {
    let embedded = decoder.embed(&batch.rows)?.as_detached_tensor();
    let logps = token_logps(decoder, &embedded, batch)?.to_vec1::<f32>()?;
    Ok(objective.loss(&logps, batch).metrics)
}

/// Log-probabilities `(scored tokens)` of the batch's labels.
pub(crate) fn token_logps(decoder: &Decoder, embedded: &Tensor, batch: &Batch) -> Result<Tensor, TrainError> {
    let hidden = decoder.hidden_states(embedded, &batch.rows)?;
    let rows = Tensor::new(batch.predicting_rows.as_slice(), hidden.device())?;
    Ok(ops::linear_logp(&hidden.index_select(&rows, 0)?, decoder.head(), &batch.labels)?)
}
