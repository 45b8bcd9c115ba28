//! A loss or gradient that is no number any more: which part of it, and which rows. The rows are found by computing each
//! by itself, and the gradients are lost by that: a run ends with it.

use orpo_model::{Decoder, Param};

use crate::data::{Example, collate};
use crate::error::TrainError;
use crate::loss::PreferenceMetrics;
use crate::run::examples::Suspect;
use crate::step::{Objective, forward, forward_backward};

/// The examples of a step or an evaluation.
#[derive(Debug, Clone, Copy)]
pub struct Suspects<'a> {
    /// Optimiser step, counted from 1.
    pub step: usize,
    /// The examples in question.
    pub examples: &'a [Suspect<'a>],
}

/// Whether the loss and all that it is made of are finite.
pub fn is_finite(metrics: &PreferenceMetrics) -> bool {
    terms(metrics).iter().all(|(_, value)| value.is_finite())
}

fn terms(m: &PreferenceMetrics) -> [(&'static str, f64); 5] {
    [
        ("nll_loss", m.nll_loss),
        ("log_odds_ratio", m.log_odds_ratio),
        ("logps/chosen", m.logps_chosen),
        ("logps/rejected", m.logps_rejected),
        ("loss", m.loss),
    ]
}

/// The metrics of the examples together are not finite.
pub fn of_loss(
    suspects: Suspects<'_>,
    decoder: &Decoder,
    objective: &Objective,
    metrics: &PreferenceMetrics,
) -> TrainError {
    match non_finite(suspects.examples, decoder, objective, metrics) {
        Ok(what) => of_step(suspects.step, &what.unwrap_or_default()),
        Err(error) => error,
    }
}

/// What is not finite in the metrics of `examples`, and the rows it comes from; none if everything is finite.
///
/// # Errors
/// From the model's operations.
pub fn non_finite(
    examples: &[Suspect<'_>],
    decoder: &Decoder,
    objective: &Objective,
    metrics: &PreferenceMetrics,
) -> Result<Option<String>, TrainError> {
    let wrong = terms(metrics).into_iter().filter(|(_, value)| !value.is_finite());
    let what: Vec<String> = wrong.map(|(name, value)| format!("{name} is {value}")).collect();
    if what.is_empty() {
        return Ok(None);
    }
    let row_is_finite = |example: &Example| Ok(is_finite(&forward(decoder, &collate(&[example]), objective)?));
    Ok(Some(format!("{} ({})", what.join(", "), culprits(examples, row_is_finite)?)))
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
    let row_is_finite = |example: &Example| {
        trained.iter().for_each(|param| param.zero_grad());
        forward_backward(decoder, &collate(&[example]), objective)?;
        Ok(trained.iter().all(|param| param.squared_grad_norm().is_finite()))
    };
    Some(match culprits(suspects.examples, row_is_finite) {
        Ok(rows) => of_step(suspects.step, &format!("{what} ({rows})")),
        Err(error) => error,
    })
}

/// The error where a trained weight is not finite after `step`; none where all are.
///
/// # Errors
/// From reading the weights.
pub fn of_weights(step: usize, decoder: &Decoder) -> Result<Option<TrainError>, TrainError> {
    for param in decoder.trainable() {
        if !param.with_values(|weight| weight.iter().all(|w| w.is_finite()))? {
            let reason = format!(
                "`{}` is not finite after it, so that it is not saved; lower the learning rate, or look at the base model",
                param.name()
            );
            return Ok(Some(TrainError::NotFinite { step, reason }));
        }
    }
    Ok(None)
}

fn of_step(step: usize, what: &str) -> TrainError {
    TrainError::NotFinite { step, reason: format!("{what}; lower the learning rate, or look at these rows") }
}

/// The places of the examples that are not finite by themselves, at most twenty of them.
fn culprits(
    examples: &[Suspect<'_>],
    row_is_finite: impl Fn(&Example) -> Result<bool, TrainError>,
) -> Result<String, TrainError> {
    let mut guilty = Vec::new();
    for Suspect { place, example } in examples {
        if !row_is_finite(example)? {
            guilty.push(place.as_str());
        }
    }
    if guilty.is_empty() {
        let all: Vec<&str> = examples.iter().map(|suspect| suspect.place.as_str()).collect();
        return Ok(format!("only together, no row by itself: {}", shortened(&all)));
    }
    Ok(shortened(&guilty))
}

fn shortened(places: &[&str]) -> String {
    const NAMED: usize = 20;
    let shown = places[..places.len().min(NAMED)].join(", ");
    if places.len() > NAMED { format!("{shown} and {} more", places.len() - NAMED) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Sequence;
    use crate::loss::NllTarget;
    use orpo_model::ModelConfig;

    const OBJECTIVE: Objective = Objective::Orpo { beta: 0.1, nll: NllTarget::Full };

    fn decoder() -> Decoder {
        let config = serde_json::json!({
            "model_type": "llama", "vocab_size": 16, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 8, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "tie_word_embeddings": false, "hidden_act": "silu", "initializer_range": 0.02,
        });
        Decoder::random(&ModelConfig::from_json(&config).unwrap(), 1).unwrap()
    }

    fn example(line: usize, prompt: u32) -> Example {
        let sequence = |ids: [u32; 2]| Sequence { ids: [vec![prompt], ids.to_vec()].concat(), prompt_len: 1 };
        Example::pair(line, sequence([2, 3]), sequence([4, 5]))
    }

    fn placed<'a>(examples: &[&'a Example]) -> Vec<Suspect<'a>> {
        let place = |example: &Example| format!("`pairs.jsonl` line {}", example.line);
        examples.iter().map(|example| Suspect { place: place(example), example }).collect()
    }

    #[test]
    fn the_rows_of_a_loss_that_is_no_number_are_named() {
        let decoder = decoder();
        let embedding = &decoder.params()[0];
        let mut values = embedding.values().unwrap();
        values[7 * 8] = f32::NAN;
        embedding.assign(&values).unwrap();
        let error = |examples: &[&Example]| {
            let metrics = forward_backward(&decoder, &collate(examples), &OBJECTIVE).unwrap();
            assert!(!is_finite(&metrics));
            of_loss(Suspects { step: 3, examples: &placed(examples) }, &decoder, &OBJECTIVE, &metrics).to_string()
        };
        let both = error(&[&example(1, 1), &example(2, 7), &example(9, 1), &example(11, 7)]);
        assert!(both.starts_with("step 3: nll_loss is NaN, ") && both.contains("logps/rejected is NaN"), "{both}");
        assert!(both.contains("(`pairs.jsonl` line 2, `pairs.jsonl` line 11)"), "{both}");

        let mut rejected = example(4, 1);
        rejected.rejected.as_mut().unwrap().ids[1] = 7;
        let rejected = error(&[&example(1, 1), &rejected]);
        assert!(rejected.contains("logps/rejected is NaN") && !rejected.contains("logps/chosen"), "{rejected}");
        assert!(rejected.contains("(`pairs.jsonl` line 4)"), "{rejected}");
    }

    #[test]
    fn a_gradient_that_overflows_is_named() {
        let decoder = decoder();
        let head = &decoder.head().weight;
        // The loss is still a number, the gradient of what lies below the norm is too large to be one.
        let values: Vec<f32> = head.values().unwrap().iter().map(|value| value * 1e38 * 10.0).collect();
        head.assign(&values).unwrap();
        let example = example(5, 1);
        let examples = [&example];
        assert!(
            of_gradient(Suspects { step: 3, examples: &placed(&examples) }, &decoder, &OBJECTIVE).is_none(),
            "there is no gradient yet"
        );
        let metrics = forward_backward(&decoder, &collate(&examples), &OBJECTIVE).unwrap();
        assert!(metrics.loss.is_finite(), "{metrics:?}");
        let error =
            of_gradient(Suspects { step: 3, examples: &placed(&examples) }, &decoder, &OBJECTIVE).unwrap().to_string();
        assert!(error.starts_with("step 3: the gradients of `model.embed_tokens.weight` and "), "{error}");
        assert!(error.contains("(`pairs.jsonl` line 5)"), "{error}");
    }

    #[test]
    fn a_weight_that_is_not_finite_is_named() {
        let decoder = decoder();
        assert!(of_weights(1, &decoder).unwrap().is_none());
        let head = &decoder.head().weight;
        let values: Vec<f32> = head.values().unwrap().iter().map(|value| value / 0.0).collect();
        head.assign(&values).unwrap();
        let error = of_weights(1, &decoder).unwrap().unwrap().to_string();
        assert!(error.contains("`lm_head.weight`"), "{error}");
    }
}
