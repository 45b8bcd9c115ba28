//! One `metrics.jsonl`: what a training run logged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::jsonl::{self, InputError};

/// A metric over the steps.
pub type Series = Vec<(f64, f64)>;

/// A training run.
#[derive(Debug, Default)]
pub struct Run {
    /// The run's directory.
    pub directory: PathBuf,
    /// Metrics of training by name.
    pub train: BTreeMap<String, Series>,
    /// Metrics of evaluations by name, without the prefix `eval_`.
    pub eval: BTreeMap<String, Series>,
}

impl Run {
    /// Reads a file. A last line without an end is being written, and is left out.
    ///
    /// # Errors
    /// When it cannot be read, or a line is not an object with a step.
    pub fn read(path: &Path) -> Result<Self, InputError> {
        let mut bytes = jsonl::read(path)?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        bytes.truncate(whole);
        let mut run = Self { directory: path.parent().unwrap_or(path).to_owned(), ..Self::default() };
        for (line, record) in jsonl::rows::<Map<String, Value>>(path, &bytes)? {
            let step = record.get("step").and_then(Value::as_f64).ok_or_else(|| InputError::Line {
                path: path.to_owned(),
                line,
                problem: "not a usable row: no number `step`".into(),
            })?;
            for (name, value) in &record {
                let Some(value) = value.as_f64() else { continue };
                let (series, name) = match name.strip_prefix("eval_") {
                    Some(name) => (&mut run.eval, name),
                    None => (&mut run.train, name.as_str()),
                };
                push(series.entry(name.to_owned()).or_default(), step, value);
            }
        }
        Ok(run)
    }

    /// Whether anything was logged.
    pub fn is_empty(&self) -> bool {
        self.train.is_empty() && self.eval.is_empty()
    }
}

/// Adds a point. A step that comes again was made again after an interruption: what followed it no longer holds.
fn push(series: &mut Series, step: f64, value: f64) {
    let before = series.partition_point(|(earlier, _)| *earlier < step);
    series.truncate(before);
    series.push((step, value));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Run, InputError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        std::fs::write(&path, text).unwrap();
        Run::read(&path)
    }

    #[test]
    fn training_and_evaluation_are_told_apart_and_an_unfinished_line_is_left_out() {
        let run = read(
            "{\"step\": 1, \"loss\": 2.0, \"grad_norm\": null}\n{\"step\": 2, \"loss\": 1.5}\n\
             {\"step\": 2, \"eval_loss\": 1.7}\n{\"step\": 3, \"lo",
        )
        .unwrap();
        assert_eq!(run.train["loss"], [(1.0, 2.0), (2.0, 1.5)]);
        assert_eq!(run.eval["loss"], [(2.0, 1.7)]);
        assert!(!run.train.contains_key("grad_norm"));
    }

    #[test]
    fn steps_that_were_made_again_replace_the_first_try() {
        let lines = [(1, 9.0), (2, 8.0), (3, 7.0), (2, 6.0)];
        let text: String = lines.iter().map(|(s, v)| format!("{{\"step\": {s}, \"loss\": {v:?}}}\n")).collect();
        assert_eq!(read(&text).unwrap().train["loss"], [(1.0, 9.0), (2.0, 6.0)]);
    }

    #[test]
    fn a_line_without_a_step_is_named() {
        let message = read("{\"step\": 1}\n{\"loss\": 1}\n").unwrap_err().to_string();
        assert!(message.ends_with("metrics.jsonl:2: not a usable row: no number `step`"), "{message}");
    }
}
