//! `results.json`: what an evaluation found, under which conditions.

use std::collections::BTreeMap;
use std::path::Path;

use orpo_files::{FileError, write_file};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::jsonl::{self, InputError};
use crate::learning::Lesson;
use crate::stats::Proportion;
pub use crate::stats::{Metric, Missing};

/// The name of the file inside an output directory.
pub const FILE_NAME: &str = "results.json";

/// The content of `results.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The task, such as `ifeval`.
    pub task: String,
    /// The version of its scoring.
    pub task_version: String,
    /// Metrics by name. A metric over nothing is null, with the reason.
    pub metrics: BTreeMap<String, Metric>,
    /// How many items there were, and what became of them.
    pub counts: Counts,
    /// Verdicts by category of instructions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_category: BTreeMap<String, InstructionCounts>,
    /// Verdicts by type of instruction.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_instruction: BTreeMap<String, InstructionCounts>,
    /// The model that was asked.
    pub model: Option<String>,
    /// Where it was asked.
    pub endpoint: Option<String>,
    /// The fields of the requests to it beside model and messages.
    pub sampling: Option<Map<String, Value>>,
    /// The system message in front of every prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// How the requests were made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<RequestSettings>,
    /// The formats of reasoning that was taken out of the responses.
    #[serde(default)]
    pub strip_reasoning: Vec<String>,
    /// The judge, for tasks that have one.
    pub judge: Option<Value>,
    /// Where the model comes from, if that is known.
    pub lineage: Option<Value>,
    /// The items.
    pub data: Option<DataSource>,
    /// The file of responses that was scored instead of asking a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub responses: Option<DataSource>,
    /// The fields that the model's server refused in this run, and what was done about them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learnt: Vec<Lesson>,
    /// The version of this crate.
    #[serde(default)]
    pub code_version: String,
    /// When the run began, in UTC (RFC 3339).
    pub started_at: String,
    /// How long it took.
    pub seconds: f64,
}

/// What became of the items.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All items of the run.
    pub total: usize,
    /// Items with a verdict.
    pub scored: usize,
    /// Items without one, for whatever reason.
    pub unscored: usize,
    /// Unscored items whose request failed.
    pub errors: usize,
    /// Scored items whose response was cut off at the token limit.
    pub truncated: usize,
    /// Scored items whose response held reasoning, which was taken out.
    #[serde(default)]
    pub stripped_reasoning: usize,
    /// Those of them whose reasoning did not end, so that their answer is empty.
    #[serde(default)]
    pub unterminated_reasoning: usize,
    /// Scored items whose response is a refusal that the server marked as one.
    #[serde(default)]
    pub refused: usize,
    /// Scored items whose response is empty.
    #[serde(default)]
    pub empty: usize,
    /// How often the last run repeated a request.
    #[serde(default)]
    pub retries: usize,
}

/// What does not change a model's answers, but how they were got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestSettings {
    /// Requests in flight at the same time.
    pub concurrency: usize,
    /// Seconds that one try may take.
    pub timeout_secs: u64,
    /// Repetitions of a failed request, at most.
    pub retries: u32,
}

/// The verdicts on one type or category of instructions. The intervals are Wilson's, as in [`Proportion`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct InstructionCounts {
    /// How many times it was scored.
    pub n: usize,
    /// How many times it was followed.
    pub strict_correct: usize,
    /// How many times it was followed, in the loose sense.
    pub loose_correct: usize,
    /// `strict_correct / n`.
    pub strict: f64,
    /// The standard error of `strict`.
    #[serde(default)]
    pub strict_stderr: f64,
    /// The 95 % confidence interval of `strict`.
    #[serde(default)]
    pub strict_ci95: [f64; 2],
    /// `loose_correct / n`.
    pub loose: f64,
    /// The standard error of `loose`.
    #[serde(default)]
    pub loose_stderr: f64,
    /// The 95 % confidence interval of `loose`.
    #[serde(default)]
    pub loose_ci95: [f64; 2],
}

impl InstructionCounts {
    /// `n` verdicts, and how many of them are favourable.
    ///
    /// # Panics
    /// When there are no verdicts.
    pub fn new(n: usize, strict_correct: usize, loose_correct: usize) -> Self {
        let strict = Proportion::of(strict_correct, n);
        let loose = Proportion::of(loose_correct, n);
        Self {
            n,
            strict_correct,
            loose_correct,
            strict: strict.value,
            strict_stderr: strict.stderr,
            strict_ci95: strict.ci95,
            loose: loose.value,
            loose_stderr: loose.stderr,
            loose_ci95: loose.ci95,
        }
    }
}

/// A file that a result rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSource {
    /// Its path, or `embedded`.
    pub source: String,
    /// The SHA-256 of its content in hexadecimal.
    pub sha256: String,
}

impl Results {
    /// Reads the results in an output directory.
    ///
    /// # Errors
    /// When the file is absent or something else.
    pub fn read(directory: &Path) -> Result<Self, InputError> {
        let path = directory.join(FILE_NAME);
        let text = jsonl::read_json(&path)?;
        serde_json::from_str(&text).map_err(|error| InputError::File { path, problem: error.to_string() })
    }

    /// Writes the results into an output directory; the file is replaced as a whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, directory: &Path) -> Result<(), FileError> {
        write_file(&directory.join(FILE_NAME), self.to_json().as_bytes())
    }

    /// The file's content.
    pub fn to_json(&self) -> String {
        let json = serde_json::to_string_pretty(self).expect("the keys are strings and the numbers are finite");
        json + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_round_trip_and_tolerate_what_they_do_not_know() {
        let results = Results {
            task: "ifeval".into(),
            task_version: "1".into(),
            metrics: BTreeMap::from([("prompt_strict".into(), Metric::proportion(1, 3))]),
            counts: Counts { total: 4, scored: 3, unscored: 1, errors: 1, retries: 2, ..Counts::default() },
            by_category: BTreeMap::from([("a".into(), InstructionCounts::new(3, 1, 2))]),
            by_instruction: BTreeMap::new(),
            model: Some("m".into()),
            endpoint: None,
            sampling: Some(Map::from_iter([("temperature".into(), 0.0.into()), ("max_tokens".into(), 8.into())])),
            system: Some("s".into()),
            requests: Some(RequestSettings { concurrency: 1, timeout_secs: 2, retries: 3 }),
            strip_reasoning: vec!["think".into()],
            judge: None,
            lineage: None,
            data: None,
            responses: None,
            learnt: Vec::new(),
            code_version: "0".into(),
            started_at: "2026-01-01T00:00:00Z".into(),
            seconds: 1.5,
        };
        let directory = tempfile::tempdir().unwrap();
        results.write(directory.path()).unwrap();
        assert_eq!(Results::read(directory.path()).unwrap(), results);
        let json = results.to_json().replacen('{', "{\"added_later\": 1,", 1);
        assert_eq!(serde_json::from_str::<Results>(&json).unwrap(), results);
        let message = Results::read(&directory.path().join("none")).unwrap_err().to_string();
        assert!(message.starts_with("cannot use `") && message.contains("results.json"), "{message}");
    }
}
