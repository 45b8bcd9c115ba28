//! One `results.json`, of whichever task.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::bias::Bias;
use crate::jsonl::{self, InputError};
use crate::mt_bench::summary::ByModel;
use crate::results::{DataSource, InstructionCounts, Metric, Missing};
use crate::{alpaca, compare, ifeval, mt_bench};

/// What an evaluation found.
#[derive(Debug)]
pub struct Evaluation {
    /// The file.
    pub path: PathBuf,
    /// What every task's results have.
    pub common: Common,
    /// What only this task's have.
    pub task: Task,
    /// All of the file.
    pub json: Value,
}

/// What every task's results have.
#[derive(Debug, Deserialize)]
pub struct Common {
    /// The task's name.
    pub task: String,
    /// The version of its scoring.
    #[serde(default)]
    pub task_version: String,
    /// Metrics by name.
    pub metrics: BTreeMap<String, Metric>,
    /// How many items there were.
    #[serde(default)]
    pub counts: Counts,
    /// The model that was asked.
    pub model: Option<String>,
    /// The items.
    pub data: Option<DataSource>,
    /// Who judged.
    pub judge: Option<Value>,
    /// When the run began.
    #[serde(default)]
    pub started_at: String,
    /// How long it took.
    #[serde(default)]
    pub seconds: f64,
}

/// How many items there were, and what became of them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// All items.
    pub total: usize,
    /// Items with a verdict.
    pub scored: usize,
    /// Items without one.
    pub unscored: usize,
}

/// What one task's results have.
#[derive(Debug)]
pub enum Task {
    /// Of `ifeval`.
    Ifeval(Ifeval),
    /// Of `alpaca`.
    Alpaca(Alpaca),
    /// Of `mt-bench`.
    MtBench(MtBench),
    /// Of `compare`.
    Compare(Box<Compare>),
}

/// Of `ifeval`.
#[derive(Debug, Deserialize)]
pub struct Ifeval {
    /// Verdicts by category of instructions.
    #[serde(default)]
    pub by_category: BTreeMap<String, InstructionCounts>,
    /// Verdicts by type of instruction.
    #[serde(default)]
    pub by_instruction: BTreeMap<String, InstructionCounts>,
}

/// Of `alpaca`.
#[derive(Debug, Deserialize)]
pub struct Alpaca {
    /// The mean length of the model's answers in characters.
    pub avg_length: Option<f64>,
    /// Why there is no length-controlled win rate.
    pub lc_missing: Option<String>,
    /// Wins, losses and draws.
    #[serde(default)]
    pub counts: AlpacaCounts,
}

/// Wins, losses and draws.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct AlpacaCounts {
    /// Won by the model.
    pub n_wins: usize,
    /// Won by the baseline.
    pub n_wins_base: usize,
    /// Won by neither.
    pub n_draws: usize,
}

/// Of `mt-bench`.
#[derive(Debug, Deserialize)]
pub struct MtBench {
    /// What every model got.
    pub by_model: ByModel,
}

/// Of `compare`.
#[derive(Debug, Deserialize)]
pub struct Compare {
    /// Who was compared.
    pub models: Sides,
    /// The mean lengths of both sides' answers in characters.
    pub avg_length: Option<[f64; 2]>,
    /// Pairs that A won.
    pub n_wins: usize,
    /// Pairs that B won.
    pub n_losses: usize,
    /// Pairs that nobody won.
    pub n_ties: usize,
    /// The sign test on wins against losses.
    pub sign_test_p: Option<f64>,
}

/// Both sides of a comparison.
#[derive(Debug, Deserialize)]
pub struct Sides {
    /// The first.
    pub a: String,
    /// The second.
    pub b: String,
}

impl Evaluation {
    /// Reads a file. `None` if it is of a task that is not known here.
    ///
    /// # Errors
    /// When it cannot be read, or is not what its task writes.
    pub fn read(path: &Path) -> Result<Option<Self>, InputError> {
        let text = jsonl::read_json(path)?;
        let failed = |error: serde_json::Error| InputError::File {
            path: path.to_owned(),
            problem: format!("not the results of an evaluation: {error}"),
        };
        let json: Value = serde_json::from_str(&text).map_err(failed)?;
        let common: Common = part(&json).map_err(failed)?;
        let task = match common.task.as_str() {
            ifeval::run::TASK => Task::Ifeval(part(&json).map_err(failed)?),
            alpaca::TASK => Task::Alpaca(part(&json).map_err(failed)?),
            mt_bench::summary::TASK => Task::MtBench(part(&json).map_err(failed)?),
            compare::TASK => Task::Compare(part(&json).map_err(failed)?),
            _ => return Ok(None),
        };
        Ok(Some(Self { path: path.to_owned(), common, task, json }))
    }

    /// What the judge's verdicts depend on besides quality, in words, if the results say so.
    pub fn bias(&self) -> Option<String> {
        let bias: Bias = serde_json::from_value(self.json.get("bias")?.clone()).ok()?;
        let lines = bias.render("the judge");
        Some(lines.lines().collect::<Vec<_>>().join("; ")).filter(|words| !words.is_empty())
    }

    /// A metric by its name.
    pub fn metric(&self, name: &str) -> Option<Metric> {
        self.common.metrics.get(name).copied().map(known)
    }

    /// The directory that stands for what was evaluated: the file's, without a last part that names the task.
    pub fn place(&self) -> &Path {
        Self::without_task(self.path.parent().unwrap_or(&self.path))
    }

    /// A directory, or the one above it if its name is that of a task.
    pub fn without_task(directory: &Path) -> &Path {
        const TASKS: [&str; 5] = [ifeval::run::TASK, alpaca::TASK, mt_bench::summary::TASK, compare::TASK, "mt_bench"];
        let names_task = directory.file_name().is_some_and(|name| TASKS.iter().any(|task| name == *task));
        if names_task { directory.parent().unwrap_or(directory) } else { directory }
    }

    /// A text of the judge's description.
    pub fn judge(&self, field: &str) -> Option<&str> {
        self.common.judge.as_ref()?.get(field)?.as_str()
    }
}

/// The metric, without the zeros that older versions wrote for nothing.
fn known(metric: Metric) -> Metric {
    if metric.n == 0 { Metric::missing(0, Missing::NothingScored) } else { metric }
}

fn part<T: DeserializeOwned>(json: &Value) -> Result<T, serde_json::Error> {
    T::deserialize(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(directory: &Path, name: &str, json: &Value) -> Result<Option<Evaluation>, InputError> {
        let path = directory.join(name).join("results.json");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, json.to_string()).unwrap();
        Evaluation::read(&path)
    }

    #[test]
    fn a_broken_file_is_named_and_an_unknown_task_is_no_error() {
        let directory = tempfile::tempdir().unwrap();
        let mut json = json!({"task": "ifeval", "metrics": {"prompt_strict": {"value": 0.5}}});
        let message = read(directory.path(), "m", &json).unwrap_err().to_string();
        assert!(message.contains("m/results.json`: not the results of an evaluation: missing field"), "{message}");
        json = json!({"task": "chess", "metrics": {}});
        assert!(read(directory.path(), "m", &json).unwrap().is_none());
        json = json!({"task": "compare", "metrics": {}});
        assert!(read(directory.path(), "m", &json).unwrap_err().to_string().contains("`models`"));
    }

    #[test]
    fn a_directory_named_after_its_task_does_not_name_the_model() {
        let directory = tempfile::tempdir().unwrap();
        let json = json!({"task": "ifeval", "metrics": {}});
        for (name, place) in [("orpo/ifeval", "orpo"), ("results-of-m", "results-of-m")] {
            let found = read(directory.path(), name, &json).unwrap().unwrap();
            assert_eq!(found.place(), directory.path().join(place));
        }
    }
}
