//! Which evaluation is the best so far, and when there is no more hope of a better one.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::TrainError;
use crate::loss::PreferenceMetrics;
use crate::recipe::Recipe;
use crate::telemetry::metric_fields;
use crate::terminal::counted;

/// The best evaluation so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Its step.
    pub step: usize,
    /// The value of `metric_for_best_model` there.
    pub value: f64,
    /// All its metrics, for the manifest of the model.
    pub metrics: Map<String, Value>,
}

/// What has been decided so far; a part of the checkpoint.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SelectionState {
    /// None before the first evaluation.
    pub best: Option<Best>,
    /// Evaluations in a row that were not better than the best before them by more than the threshold.
    pub without_improvement: usize,
    /// Whether the run ends here.
    pub stopped_early: bool,
}

/// The rule, as transformers has it (`metric_for_best_model`, `EarlyStoppingCallback`).
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    metric: String,
    greater_is_better: bool,
    patience: Option<usize>,
    threshold: f64,
}

impl Selection {
    /// The rule of a recipe.
    ///
    /// # Errors
    /// When evaluations with its objective do not have its metric.
    pub fn new(recipe: &Recipe) -> Result<Self, TrainError> {
        let t = &recipe.training;
        let name = &t.metric_for_best_model;
        let metric = if name.starts_with("eval_") { name.clone() } else { format!("eval_{name}") };
        let known = metric_fields(&PreferenceMetrics::default(), &recipe.objective(), "eval_");
        if !known.contains_key(&metric) {
            let known: Vec<&str> = known.keys().map(String::as_str).collect();
            let known = known.join(", ");
            let reason = format!("training.metric_for_best_model: an evaluation has no `{metric}`; it has {known}");
            return Err(TrainError::Refused(reason));
        }
        Ok(Self {
            greater_is_better: t.greater_is_better.unwrap_or(!metric.ends_with("loss")),
            metric,
            patience: t.early_stopping_patience,
            threshold: t.early_stopping_threshold,
        })
    }

    /// Takes an evaluation in and says whether it is the best so far. What is not a number is never better.
    pub fn evaluate(&self, state: &mut SelectionState, step: usize, metrics: &Map<String, Value>) -> bool {
        let value = metrics.get(&self.metric).and_then(Value::as_f64).unwrap_or(f64::NAN);
        let gain = match &state.best {
            Some(best) if self.greater_is_better => value - best.value,
            Some(best) => best.value - value,
            None if value.is_nan() => f64::NAN,
            None => f64::INFINITY,
        };
        if gain > self.threshold {
            state.without_improvement = 0;
        } else {
            state.without_improvement += 1;
        }
        state.stopped_early = self.patience.is_some_and(|patience| state.without_improvement >= patience);
        let better = gain > 0.0;
        if better {
            state.best = Some(Best { step, value, metrics: metrics.clone() });
        }
        better
    }

    /// Why a run ended early, after `step`.
    pub fn reason(&self, state: &SelectionState, step: usize) -> String {
        let count = counted(state.without_improvement, "evaluation");
        format!("stopped after step {step}: {} has not improved for {count}", self.metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(training: &str) -> Result<Selection, TrainError> {
        let text = format!("output_dir = \"o\"\n[model]\npath = \"m\"\n[data]\ntrain = \"t\"\n[training]\n{training}");
        Selection::new(&toml::from_str(&text).unwrap())
    }

    /// For each value: best so far, stopped.
    fn decisions(training: &str, metric: &str, values: &[f64]) -> Vec<(bool, bool)> {
        let selection = selection(training).unwrap();
        let mut state = SelectionState::default();
        let decide = |(step, value): (usize, &f64)| {
            let metrics = Map::from_iter([(metric.to_string(), Value::from(*value))]);
            (selection.evaluate(&mut state, step, &metrics), state.stopped_early)
        };
        values.iter().enumerate().map(decide).collect()
    }

    #[test]
    fn a_lower_loss_is_better_and_a_greater_margin_is() {
        let best = |training, metric, values: &[f64]| -> Vec<bool> {
            decisions(training, metric, values).into_iter().map(|(best, _)| best).collect()
        };
        assert_eq!(best("", "eval_loss", &[3.0, 2.0, 2.0, 2.5, 1.0]), [true, true, false, false, true]);
        let margins = "metric_for_best_model = \"rewards/margins\"";
        assert_eq!(best(margins, "eval_rewards/margins", &[0.0, 1.0, 0.5]), [true, true, false]);
        let turned = "metric_for_best_model = \"eval_logps/chosen\"\ngreater_is_better = false";
        assert_eq!(best(turned, "eval_logps/chosen", &[0.0, 1.0, -0.5]), [true, false, true]);
    }

    #[test]
    fn patience_counts_evaluations_without_enough_improvement() {
        let training = "early_stopping_patience = 2\nearly_stopping_threshold = 0.1";
        let stopped: Vec<bool> = decisions(training, "eval_loss", &[3.0, 2.95, 2.5, 2.45, 2.44, 2.0])
            .into_iter()
            .map(|(_, stopped)| stopped)
            .collect();
        // 2.95 is not enough, 2.5 is; 2.45 and 2.44 are not, against the best before each of them.
        assert_eq!(stopped[..5], [false, false, false, false, true]);
    }

    #[test]
    fn an_unknown_metric_is_refused_with_those_there_are() {
        let sft = "objective = \"sft\"\nmetric_for_best_model = \"rewards/margins\"";
        let error = selection(sft).unwrap_err().to_string();
        assert!(error.contains("`eval_rewards/margins`; it has eval_loss, eval_nll_loss"), "{error}");
    }
}
