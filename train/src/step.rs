//! One batch through the model: log-probabilities, loss, gradients.

use orpo_model::Decoder;

use crate::data::Batch;
use crate::error::TrainError;
use crate::loss::{LossOutput, NllTarget, PairLoss, PreferenceMetrics, next_token, pairwise, preference};

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

    /// Tokens its likelihood term averages over.
    pub fn nll(&self) -> NllTarget {
        match *self {
            Self::Sft { nll } | Self::Orpo { nll, .. } | Self::Pairs { nll, .. } => nll,
        }
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
    weighted_forward_backward(decoder, batch, objective, 1.0)
}

/// [`forward_backward`] with the gradient times `weight`; the metrics are the same.
///
/// # Errors
/// From the model's operations.
pub fn weighted_forward_backward(
    decoder: &Decoder,
    batch: &Batch,
    objective: &Objective,
    weight: f64,
) -> Result<PreferenceMetrics, TrainError> {
    let (hidden, tape) = decoder.forward(&batch.rows)?;
    let scored = decoder.score(hidden, &batch.predicting_rows, &batch.labels, batch.rows.dropout_seed)?;
    let output = objective.loss(scored.logps(), batch);
    if !output.metrics.loss.is_finite() {
        return Ok(output.metrics);
    }
    let grad: Vec<f32> = output.grad.iter().map(|g| g * weight as f32).collect();
    tape.backward(scored.backward(&grad)?)?;
    Ok(output.metrics)
}

/// The metrics of a batch without gradients.
///
/// # Errors
/// From the model's operations.
pub fn forward(decoder: &Decoder, batch: &Batch, objective: &Objective) -> Result<PreferenceMetrics, TrainError> {
    Ok(objective.loss(&token_logps(decoder, batch)?, batch).metrics)
}

/// Log-probabilities of the batch's labels.
pub(crate) fn token_logps(decoder: &Decoder, batch: &Batch) -> Result<Vec<f32>, TrainError> {
    let hidden = decoder.hidden_states(&batch.rows)?;
    Ok(decoder.score(hidden, &batch.predicting_rows, &batch.labels, None)?.logps().to_vec())
}
