//! What is logged of a step and of an evaluation, under TRL's names.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::loss::PreferenceMetrics;
use crate::step::Objective;

/// A logged training step.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct StepRecord {
    /// Optimiser step, counted from 1.
    pub step: usize,
    /// Passes over the data so far.
    pub epoch: f64,
    /// Means over the steps since the last record.
    #[serde(skip)]
    pub metrics: PreferenceMetrics,
    /// The rate this step was made with.
    pub learning_rate: f64,
    /// Norm of the step's gradient before clipping.
    pub grad_norm: f64,
    /// Tokens of all examples so far, prompts counted on both sides.
    pub num_input_tokens_seen: u64,
    /// Tokens per second of training since the last record, evaluations and checkpoints not counted.
    pub tokens_per_sec: f64,
    /// Resident memory.
    pub rss_bytes: u64,
    /// The most resident memory so far.
    pub peak_rss_bytes: u64,
}

impl StepRecord {
    /// The fields of its line in `metrics.jsonl`.
    pub fn fields(&self, objective: &Objective) -> Map<String, Value> {
        let mut line = Map::new();
        line.insert("step".into(), self.step.into());
        line.insert("epoch".into(), self.epoch.into());
        line.extend(metric_fields(&self.metrics, objective, ""));
        let Value::Object(rest) = serde_json::to_value(self).expect("plain data") else {
            unreachable!("a struct serialises to an object")
        };
        line.extend(rest);
        line
    }
}

/// The metrics that the objective has, under their names with `prefix`. `or_share` is the part of the loss that is not
/// likelihood: `beta * or_loss / loss`.
pub fn metric_fields(metrics: &PreferenceMetrics, objective: &Objective, prefix: &str) -> Map<String, Value> {
    let Value::Object(mut fields) = serde_json::to_value(metrics).expect("plain data") else {
        unreachable!("a struct serialises to an object")
    };
    fields.retain(|name, _| objective.logs(name));
    if matches!(objective, Objective::Orpo { .. }) {
        fields.insert("or_share".into(), or_share(metrics).into());
    }
    fields.into_iter().map(|(name, value)| (format!("{prefix}{name}"), value)).collect()
}

fn or_share(metrics: &PreferenceMetrics) -> f64 {
    if metrics.loss == 0.0 { 0.0 } else { ((metrics.loss - metrics.nll_loss) / metrics.loss).abs() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::NllTarget;

    const ORPO: Objective = Objective::Orpo { beta: 0.1, nll: NllTarget::Full };
    const SFT: Objective = Objective::Sft { nll: NllTarget::Full };

    fn names(fields: &Map<String, Value>) -> String {
        fields.keys().map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn names_and_order_are_those_of_the_contract() {
        let record = StepRecord {
            step: 1,
            epoch: 0.5,
            metrics: PreferenceMetrics { loss: 1.5, ..Default::default() },
            learning_rate: 1e-3,
            grad_norm: 2.0,
            num_input_tokens_seen: 5,
            tokens_per_sec: 10.0,
            rss_bytes: 7,
            peak_rss_bytes: 8,
        };
        assert_eq!(
            names(&record.fields(&ORPO)),
            "step epoch loss nll_loss log_odds_ratio log_odds_chosen rewards/chosen rewards/rejected rewards/accuracies \
             rewards/margins logps/chosen logps/rejected or_share learning_rate grad_norm num_input_tokens_seen \
             tokens_per_sec rss_bytes peak_rss_bytes"
        );
        assert_eq!(
            names(&record.fields(&SFT)),
            "step epoch loss nll_loss learning_rate grad_norm num_input_tokens_seen tokens_per_sec rss_bytes \
             peak_rss_bytes"
        );
        assert_eq!(names(&metric_fields(&record.metrics, &SFT, "eval_")), "eval_loss eval_nll_loss");
    }

    #[test]
    fn the_share_of_the_odds_ratio_term() {
        let share = |loss, nll_loss| {
            let metrics = PreferenceMetrics { loss, nll_loss, ..Default::default() };
            metric_fields(&metrics, &ORPO, "")["or_share"].as_f64().unwrap()
        };
        assert_eq!((share(2.0, 1.5), share(1.0, 1.0), share(0.0, 0.0)), (0.25, 0.0, 0.0));
    }
}
