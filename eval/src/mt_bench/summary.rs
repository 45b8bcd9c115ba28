//! `results.json` of MT-Bench.

use std::collections::BTreeMap;
use std::path::Path;

use orpo_files::write_file;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::category;
use super::import::Selected;
use super::judged::Sample;
use super::pairwise::{self, Standing};
use super::plan::Mode;
use super::question::Question;
use super::single::{self, Item, Losses, Means, Scores};
use super::{Id, Questions, TASK_VERSION};
use crate::bias::Bias;
use crate::clock::Clock;
use crate::jsonl::InputError;
use crate::learning::Lesson;
use crate::results::{self, Counts, DataSource, Metric, RequestSettings};

/// The name of the task.
pub const TASK: &str = "mt-bench";

/// The content of `results.json`.
///
/// `metrics` are those of the one model that was measured. Where there are several, the names of the metrics have that
/// of the model in front: `phi-3/average`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// `mt-bench`.
    pub task: &'static str,
    /// The version of its scoring.
    pub task_version: &'static str,
    /// What was compared with what.
    pub mode: Mode,
    /// The other side of every pair, in the mode that has one.
    pub baseline: Option<String>,
    /// Metrics by name.
    pub metrics: BTreeMap<String, Metric>,
    /// How many judgments there were to make, and what became of them.
    pub counts: AllCounts,
    /// Mean scores by category, where one model was scored.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub by_category: BTreeMap<String, Means>,
    /// What every model got.
    pub by_model: ByModel,
    /// What verdicts on pairs depend on besides quality.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bias: Option<Bias>,
    /// The model that was asked.
    pub model: Option<String>,
    /// Where it was asked.
    pub endpoint: Option<String>,
    /// How its answers were sampled; `temperature` by category.
    pub sampling: Option<Value>,
    /// The system message in front of every conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// How the answers were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<RequestSettings>,
    /// The formats of reasoning that was taken out of the answers.
    pub strip_reasoning: Vec<String>,
    /// The judge, its prompts with their hash, and how its replies were read.
    pub judge: Value,
    /// Where the model comes from, if that is known.
    pub lineage: Option<Value>,
    /// The questions.
    pub data: Option<DataSource>,
    /// The files of answers that were judged.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub answers: BTreeMap<String, DataSource>,
    /// The file of judgments that was aggregated instead of asking a judge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judgments: Option<DataSource>,
    /// The fields that the model's server refused in this run, and what was done about them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub learnt: Vec<Lesson>,
    /// The version of this crate.
    pub code_version: &'static str,
    /// When the run began, in UTC (RFC 3339).
    pub started_at: String,
    /// How long it took.
    pub seconds: f64,
}

/// The counts of all tasks, and those of judgments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct AllCounts {
    /// As in every task. `errors` are judgments that failed requests cost, be it to the model or to the judge.
    #[serde(flatten)]
    pub counts: Counts,
    /// Why judgments are unscored.
    #[serde(flatten)]
    pub losses: Losses,
    /// Judgments in a file beyond the first on the same answers.
    pub duplicates: usize,
}

/// What every model got, by its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ByModel {
    /// Mean scores.
    Single(BTreeMap<String, Scores>),
    /// Wins, losses and ties.
    Pair(BTreeMap<String, Standing>),
}

/// Knows the category of questions: of those at hand, of the embedded ones, and of the official ones.
#[derive(Debug)]
pub struct Categories(BTreeMap<Id, String>);

impl Categories {
    /// With the questions at hand.
    pub fn new(questions: Option<&[Question]>) -> Self {
        let embedded = Questions::embedded().list;
        let all = embedded.iter().chain(questions.unwrap_or_default());
        Self(all.map(|question| (question.question_id.clone(), question.category.clone())).collect())
    }

    /// The category of a question, if anybody knows it.
    pub fn of(&self, id: &Id) -> Option<String> {
        self.0.get(id).cloned().or_else(|| category::of_official(id).map(str::to_owned))
    }
}

impl ByModel {
    /// Aggregates judgments; against a baseline only the pairs with it count.
    pub fn of(judgments: &Selected, baseline: Option<&str>, categories: &Categories) -> Self {
        match judgments {
            Selected::Single(items) => {
                let scores = |items: &Vec<Item>| single::scores(items, |id| categories.of(id));
                Self::Single(items.iter().map(|(model, items)| (model.clone(), scores(items))).collect())
            }
            Selected::Pair(pairs) => Self::Pair(pairwise::standings(pairs, baseline)),
        }
    }

    /// Metrics by name; with the model's name in front where there are several.
    pub fn metrics(&self) -> BTreeMap<String, Metric> {
        let mut metrics = BTreeMap::new();
        let mut add = |models: usize, model: &str, named: [(&str, Metric); 3]| {
            for (name, metric) in named {
                metrics.insert(if models == 1 { name.to_owned() } else { format!("{model}/{name}") }, metric);
            }
        };
        match self {
            Self::Single(models) => {
                for (model, Scores { means, .. }) in models {
                    let Means { first_turn, second_turn, average } = *means;
                    let named = [("first_turn", first_turn), ("second_turn", second_turn), ("average", average)];
                    add(models.len(), model, named);
                }
            }
            Self::Pair(models) => {
                for (model, standing) in models {
                    let Standing { win_rate, loss_rate, win_rate_adjusted, .. } = *standing;
                    let named =
                        [("win_rate", win_rate), ("loss_rate", loss_rate), ("win_rate_adjusted", win_rate_adjusted)];
                    add(models.len(), model, named);
                }
            }
        }
        metrics
    }

    /// The means by category of the only model.
    pub fn by_category(&self) -> BTreeMap<String, Means> {
        match self {
            Self::Single(models) if models.len() == 1 => {
                models.values().next().map(|scores| scores.by_category.clone()).unwrap_or_default()
            }
            _ => BTreeMap::new(),
        }
    }
}

impl AllCounts {
    /// The counts of samples. `failed` counts those of them whose answer is missing because of a failed request.
    pub fn of(samples: &[Sample], failed: usize, truncated: usize) -> Self {
        let mut losses = Losses::default();
        samples.iter().filter_map(|sample| sample.unscored).for_each(|unscored| losses.count(unscored));
        let (total, unscored) = (samples.len(), losses.total());
        let errors = losses.judge_failed + failed;
        let counts = Counts { total, scored: total - unscored, unscored, errors, truncated, ..Counts::default() };
        Self { counts, losses, duplicates: 0 }
    }
}

impl Summary {
    /// The summary of aggregated judgments; what is not known of the run is left open.
    pub fn new(mode: Mode, by_model: ByModel, counts: AllCounts, judge: Value, clock: &Clock) -> Self {
        Self {
            task: TASK,
            task_version: TASK_VERSION,
            mode,
            baseline: None,
            metrics: by_model.metrics(),
            counts,
            by_category: by_model.by_category(),
            by_model,
            bias: None,
            model: None,
            endpoint: None,
            sampling: None,
            system: None,
            requests: None,
            strip_reasoning: Vec::new(),
            judge,
            lineage: None,
            data: None,
            answers: BTreeMap::new(),
            judgments: None,
            learnt: Vec::new(),
            code_version: env!("CARGO_PKG_VERSION"),
            started_at: clock.started_at(),
            seconds: clock.seconds(),
        }
    }

    /// The file's content.
    pub fn to_json(&self) -> String {
        let json = serde_json::to_string_pretty(self).expect("the keys are strings and the numbers are finite");
        json + "\n"
    }

    /// Writes `results.json` into an output directory; the file is replaced as a whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, directory: &Path) -> Result<(), InputError> {
        write(&directory.join(results::FILE_NAME), self.to_json().as_bytes())
    }
}

/// Writes JSON lines; the file is replaced as a whole.
///
/// # Errors
/// When it cannot be written.
pub fn write_lines(path: &Path, rows: &[impl Serialize]) -> Result<(), InputError> {
    let mut lines = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut lines, row).expect("rows have string keys");
        lines.push(b'\n');
    }
    write(path, &lines)
}

fn write(path: &Path, content: &[u8]) -> Result<(), InputError> {
    Ok(write_file(path, content)?)
}
