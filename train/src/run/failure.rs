//! A loss or gradient that is no number any more: which part of it, and which rows. The rows are found by computing each
//! by itself, and the gradients are lost by that: a run ends with it.

use std::path::Path;

use crate::data::{Example, collate};
use crate::error::TrainError;
use crate::loss::PreferenceMetrics;
use crate::model::Decoder;
use crate::ops::Param;
use crate::step::{Objective, forward, forward_backward};

/// Where the examples of a step or an evaluation come from.
#[derive(Debug, Clone, Copy)]
pub struct Suspects<'a> {
    /// Optimiser step, counted from 1.
    pub step: usize,
    /// The data file.
    pub file: &'a Path,
    /// Its examples in question.
    pub examples: &'a [&'a Example],
}

/// The loss of the examples together is not finite.
pub fn of_loss(
    suspects: Suspects<'_>,
    decoder: &Decoder,
    objective: &Objective,
    metrics: &PreferenceMetrics,
) -> TrainError {
    let terms = [("nll_loss", metrics.nll_loss), ("log_odds_ratio", metrics.log_odds_ratio), ("loss", metrics.loss)];
    let terms: Vec<String> = terms
        .iter()
        .filter(|(_, value)| !value.is_finite())
        .map(|(name, value)| format!("{name} is {value}"))
        .collect();
    let is_finite = |example: &Example| Ok(forward(decoder, &collate(&[example]), objective)?.loss.is_finite());
    report(suspects, &terms.join(", "), is_finite)
}

/// The error where the gradient of the examples together is not finite; none where it is.
pub fn of_gradient(suspects: Suspects<'_>, decoder: &Decoder, objective: &Objective) -> Option<TrainError> {
    let is_wrong = |param: &&std::sync::Arc<Param>| !param.squared_grad_norm().is_finite();
    let trained = decoder.trainable();
    let wrong: Vec<&str> = trained.iter().filter(is_wrong).map(|param| param.name()).collect();
    let what = match wrong.as_slice() {
        [] => return None,
        [one] => format!("the gradient of `{one}` is not finite"),
        [first, others @ ..] => format!("the gradients of `{first}` and {} other weights are not finite", others.len()),
    };
    let is_finite = |example: &Example| {
        trained.iter().for_each(|param| param.zero_grad());
        forward_backward(decoder, &collate(&[example]), objective)?;
        Ok(trained.iter().all(|param| param.squared_grad_norm().is_finite()))
    };
    Some(report(suspects, &what, is_finite))
}

/// The error where a weight is not finite after `step`; none where all are.
///
/// # Errors
/// From reading the weights.
pub fn of_weights(step: usize, decoder: &Decoder) -> Result<Option<TrainError>, TrainError> {
    for param in decoder.trainable() {
        if !param.with_values(|weight| weight.iter().all(|w| w.is_finite()))? {
            let reason = format!("the update made `{}` infinite; lower the learning rate", param.name());
            return Ok(Some(TrainError::NotFinite { step, reason }));
        }
    }
    Ok(None)
}

fn report(suspects: Suspects<'_>, what: &str, is_finite: impl Fn(&Example) -> Result<bool, TrainError>) -> TrainError {
    let Suspects { step, file, examples } = suspects;
    let list = |examples: &[&Example]| {
        let lines: Vec<String> = examples.iter().map(|example| example.line.to_string()).collect();
        format!("`{}` line{} {}", file.display(), if lines.len() == 1 { "" } else { "s" }, lines.join(", "))
    };
    let mut guilty = Vec::new();
    for example in examples {
        match is_finite(example) {
            Ok(true) => {}
            Ok(false) => guilty.push(*example),
            Err(error) => return error,
        }
    }
    let rows =
        if guilty.is_empty() { format!("only together, no row by itself: {}", list(examples)) } else { list(&guilty) };
    TrainError::NotFinite { step, reason: format!("{what} ({rows}); lower the learning rate, or look at these rows") }
}
