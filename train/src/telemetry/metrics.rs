//! `metrics.jsonl`: one JSON object per logged step and per evaluation.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::TrainError;
use crate::loss::PreferenceMetrics;
use crate::step::Objective;

/// A logged training step.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct StepRecord {
    /// Optimiser step, counted from 1.
    pub step: usize,
    /// Passes over the data so far.
    pub epoch: f64,
    /// Loss and preference metrics of the step.
    #[serde(skip)]
    pub metrics: PreferenceMetrics,
    /// The rate this step was made with.
    pub learning_rate: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Tokens per second of wall time since the last record.
    pub tokens_per_sec: f64,
    /// Resident memory.
    pub rss_bytes: u64,
}

/// An append-only log that a resumed run continues.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
}

impl MetricsLog {
    /// Opens the log of `run_dir`, dropping lines of steps after `step`, which are going to be made again.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(run_dir: &Path, step: usize) -> Result<Self, TrainError> {
        let path = run_dir.join("metrics.jsonl");
        let kept: String = match fs::read_to_string(&path) {
            Ok(text) => text
                .lines()
                .filter(|line| {
                    let value: Option<Value> = serde_json::from_str(line).ok();
                    value.and_then(|value| value["step"].as_u64()).is_some_and(|at| at <= step as u64)
                })
                .map(|line| format!("{line}\n"))
                .collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(TrainError::read(&path, error)),
        };
        crate::checkpoint::write_file(&path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(|e| TrainError::write(&path, e))?;
        Ok(Self { path, file })
    }

    /// Appends a training step.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn step(&mut self, record: &StepRecord, objective: &Objective) -> Result<(), TrainError> {
        let mut line = Map::new();
        line.insert("step".into(), record.step.into());
        line.insert("epoch".into(), record.epoch.into());
        line.extend(metric_fields(&record.metrics, objective, ""));
        let Value::Object(rest) = serde_json::to_value(record).expect("plain data") else {
            unreachable!("a struct serialises to an object")
        };
        line.extend(rest);
        self.append(&line)
    }

    /// Appends an evaluation.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn evaluation(
        &mut self,
        step: usize,
        metrics: &PreferenceMetrics,
        objective: &Objective,
    ) -> Result<(), TrainError> {
        let mut line = Map::new();
        line.insert("step".into(), step.into());
        line.extend(metric_fields(metrics, objective, "eval_"));
        self.append(&line)
    }

    fn append(&mut self, line: &Map<String, Value>) -> Result<(), TrainError> {
        let mut text = serde_json::to_string(line).expect("plain data");
        text.push('\n');
        self.file.write_all(text.as_bytes()).map_err(|e| TrainError::write(&self.path, e))
    }
}

/// The metrics that the objective has, under their names with `prefix`.
pub(crate) fn metric_fields(metrics: &PreferenceMetrics, objective: &Objective, prefix: &str) -> Map<String, Value> {
    let Value::Object(fields) = serde_json::to_value(metrics).expect("plain data") else {
        unreachable!("a struct serialises to an object")
    };
    fields
        .into_iter()
        .filter(|(name, _)| objective.logs(name))
        .map(|(name, value)| (format!("{prefix}{name}"), value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::NllTarget;

    fn record(step: usize) -> StepRecord {
        StepRecord {
            step,
            epoch: 0.5,
            metrics: PreferenceMetrics { loss: 1.5, ..Default::default() },
            learning_rate: 1e-3,
            grad_norm: 2.0,
            tokens_per_sec: 10.0,
            rss_bytes: 7,
        }
    }

    #[test]
    fn names_and_order_are_those_of_the_contract() {
        let dir = tempfile::tempdir().unwrap();
        let orpo = Objective::Orpo { beta: 0.1, nll: NllTarget::Full };
        let mut log = MetricsLog::open(dir.path(), 0).unwrap();
        log.step(&record(1), &orpo).unwrap();
        log.evaluation(1, &PreferenceMetrics::default(), &orpo).unwrap();
        log.step(&record(2), &Objective::Sft { nll: NllTarget::Full }).unwrap();
        let text = fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
        let keys: Vec<Vec<String>> = text
            .lines()
            .map(|line| serde_json::from_str::<Map<String, Value>>(line).unwrap().keys().cloned().collect())
            .collect();
        assert_eq!(
            keys[0].join(" "),
            "step epoch loss nll_loss log_odds_ratio log_odds_chosen rewards/chosen rewards/rejected rewards/accuracies \
             rewards/margins logps/chosen logps/rejected learning_rate grad_norm tokens_per_sec rss_bytes"
        );
        assert_eq!(keys[1][..3].join(" "), "step eval_loss eval_nll_loss");
        assert_eq!(keys[2].join(" "), "step epoch loss nll_loss learning_rate grad_norm tokens_per_sec rss_bytes");
    }

    #[test]
    fn a_resumed_log_forgets_what_comes_again() {
        let dir = tempfile::tempdir().unwrap();
        let sft = Objective::Sft { nll: NllTarget::Full };
        let mut log = MetricsLog::open(dir.path(), 0).unwrap();
        for step in 1..=4 {
            log.step(&record(step), &sft).unwrap();
        }
        // A line that a kill cut short.
        fs::OpenOptions::new()
            .append(true)
            .open(dir.path().join("metrics.jsonl"))
            .unwrap()
            .write_all(b"{\"st")
            .unwrap();
        MetricsLog::open(dir.path(), 2).unwrap().step(&record(3), &sft).unwrap();
        let text = fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
        let steps: Vec<u64> =
            text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [1, 2, 3]);
    }
}
