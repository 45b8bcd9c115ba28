//! What a run says while it runs: `metrics.jsonl`, `samples.jsonl`, TensorBoard event files and one progress line.

mod lines;
mod memory;
mod metrics;
mod progress;
mod tensorboard;

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::TrainError;
use crate::evaluate::Sample;
use crate::loss::PreferenceMetrics;
use crate::step::Objective;

pub use lines::JsonLines;
pub use memory::{Memory, memory};
pub use metrics::{StepRecord, metric_fields};
pub use progress::Progress;
pub use tensorboard::{EventWriter, tag};

/// Where a run reports to.
#[derive(Debug)]
pub struct Telemetry {
    objective: Objective,
    metrics: JsonLines,
    samples: Option<JsonLines>,
    events: Option<EventWriter>,
    progress: Progress,
}

/// What is reported besides the metrics.
#[derive(Debug, Clone, Copy)]
pub struct Reports {
    /// TensorBoard event files.
    pub tensorboard: bool,
    /// `samples.jsonl`.
    pub samples: bool,
}

impl Telemetry {
    /// Continues the reports in `run_dir` after `step` of `total_steps`; what they say of later steps is forgotten.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn open(
        run_dir: &Path,
        objective: Objective,
        step: usize,
        total_steps: usize,
        reports: Reports,
    ) -> Result<Self, TrainError> {
        let events = || EventWriter::create(&run_dir.join("tensorboard"), step + 1);
        let samples = || JsonLines::open(&run_dir.join("samples.jsonl"), step);
        Ok(Self {
            objective,
            metrics: JsonLines::open(&run_dir.join("metrics.jsonl"), step)?,
            samples: reports.samples.then(samples).transpose()?,
            events: reports.tensorboard.then(events).transpose()?,
            progress: Progress::new(objective, step, total_steps),
        })
    }

    /// Reports a training step.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn step(&mut self, record: &StepRecord) -> Result<(), TrainError> {
        let mut fields = record.fields(&self.objective);
        self.metrics.append(&fields)?;
        if let Some(events) = &mut self.events {
            fields.remove("step");
            events.scalars(record.step, &fields)?;
        }
        self.progress.step(record);
        Ok(())
    }

    /// Reports an evaluation.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn evaluation(&mut self, step: usize, epoch: f64, metrics: &PreferenceMetrics) -> Result<(), TrainError> {
        let fields = metric_fields(metrics, &self.objective, "eval_");
        let mut line = Map::from_iter([("step".to_string(), step.into()), ("epoch".to_string(), epoch.into())]);
        if let Some(events) = &mut self.events {
            events.scalars(step, &fields)?;
        }
        line.extend(fields);
        self.metrics.append(&line)?;
        self.progress.evaluation(step, metrics);
        Ok(())
    }

    /// Reports what the model says to a prompt.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn sample(&mut self, step: usize, sample: &Sample) -> Result<(), TrainError> {
        let Value::Object(line) = json!({
            "step": step,
            "prompt": sample.prompt,
            "response": sample.response,
            "finish_reason": if sample.ended { "stop" } else { "length" },
        }) else {
            unreachable!("an object")
        };
        if let Some(samples) = &mut self.samples {
            samples.append(&line)?;
        }
        let end = if sample.ended { "" } else { " ..." };
        let start = if end_of(&sample.prompt).len() < sample.prompt.len() { "... " } else { "" };
        self.progress.say(&format!("  {start}{:?} -> {:?}{end}", end_of(&sample.prompt), sample.response));
        Ok(())
    }

    /// Prints a line.
    pub fn say(&self, line: &str) {
        self.progress.say(line);
    }

    /// Waits until what was reported is on the disk, so that it is not younger there than a checkpoint.
    ///
    /// # Errors
    /// From the file system.
    pub fn sync(&self) -> Result<(), TrainError> {
        self.metrics.sync()?;
        self.samples.as_ref().map_or(Ok(()), JsonLines::sync)
    }

    /// Ends the progress line.
    pub fn finish(&self) {
        self.progress.finish();
    }
}

/// The end of a prompt, as much as a terminal's line holds; the whole of it is in the file.
fn end_of(prompt: &str) -> &str {
    const SHOWN: usize = 80;
    let start = prompt.char_indices().rev().nth(SHOWN - 1).map_or(0, |(start, _)| start);
    &prompt[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_prompts_are_shown_by_their_ends() {
        assert_eq!(end_of("short"), "short");
        let long = format!("{}\u{e9}", "x".repeat(100));
        assert!(end_of(&long).chars().count() == 80 && end_of(&long).ends_with('\u{e9}'));
    }
}
