//! From comparisons to files.

use std::path::Path;

use serde_json::{Value, json};

use super::annotations::{self, Names};
use super::comparison::{self, Comparison};
use super::leaderboard::Leaderboard;
use super::outputs::Output;
use super::summary::{LengthControl, Summary};
use super::{TASK, TASK_VERSION};
use crate::clock::Clock;
use crate::jsonl::{self, InputError};
use crate::judge::way::Measure;
use crate::results::{self, Results};
use crate::settings;

/// The files of an output directory, beside `results.json`.
const OUTPUTS: &str = "model_outputs.json";
const ANNOTATIONS: &str = "annotations.json";
const LEADERBOARD: &str = "leaderboard.csv";
const SAMPLES: &str = "samples.jsonl";

/// Everything that an evaluation found.
#[derive(Debug)]
pub struct Evaluation {
    /// The comparisons, in the order of the baseline's answers.
    pub comparisons: Vec<Comparison>,
    /// Who was compared by whom.
    pub names: Names,
    /// What they come to.
    pub summary: Summary,
    /// What every task's results have.
    pub results: Results,
    /// The content of `results.json`.
    pub json: Value,
}

impl Evaluation {
    /// Summarises comparisons. `complete` fills in what the results say about the run.
    pub fn new(
        mut comparisons: Vec<Comparison>,
        names: Names,
        control: Result<&LengthControl, String>,
        clock: &Clock,
        complete: impl FnOnce(&mut Results),
    ) -> Self {
        let summary = Summary::new(&mut comparisons, &names, control.clone());
        let mut results = Results {
            task: TASK.into(),
            task_version: TASK_VERSION.into(),
            metrics: summary.metrics(),
            counts: summary.common_counts(),
            model: names.model.clone(),
            code_version: env!("CARGO_PKG_VERSION").into(),
            started_at: clock.started_at(),
            seconds: clock.seconds(),
            ..Results::default()
        };
        complete(&mut results);
        let json = summary.to_json(&results, control.ok());
        Self { comparisons, names, summary, results, json }
    }

    /// `results.json` as text.
    pub fn to_json(&self) -> String {
        format!("{:#}\n", self.json)
    }

    /// Creates an output directory, or finds that it is one of this task. Runs may follow each other in it: what is
    /// asked is known by its content, and the leaderboard grows.
    ///
    /// # Errors
    /// When it holds the results of something else, or cannot be used.
    pub fn claim(out: &Path) -> Result<(), InputError> {
        std::fs::create_dir_all(out)
            .map_err(|error| InputError::File { path: out.to_owned(), problem: error.to_string() })?;
        let mut wanted = json!({"task": TASK});
        if let Some(measure) = settings::read(out)?.and_then(|mut found| found.get_mut("measure").map(Value::take)) {
            wanted["measure"] = measure;
        }
        settings::check(out, &wanted, &[results::FILE_NAME, SAMPLES])
    }

    /// Finds that a claimed directory holds results of this measure, or none yet. Directories without a word on it are of
    /// weighted results.
    ///
    /// # Errors
    /// When it holds results of another measure, or cannot be used.
    pub fn claim_measure(out: &Path, measure: Measure) -> Result<(), InputError> {
        let mut wanted = json!({"task": TASK});
        if measure != Measure::Weighted {
            wanted["measure"] = measure.to_string().into();
        }
        settings::check(out, &wanted, &[results::FILE_NAME, SAMPLES])
    }

    /// The measure of the results, where it is known and not the official one.
    pub fn other_measure(&self) -> Option<&str> {
        let measure = self.results.judge.as_ref()?["measure"].as_str()?;
        (measure != Measure::Weighted.to_string()).then_some(measure)
    }

    /// Writes the files into a directory that has been claimed. The leaderboard keeps the models that it has, and takes
    /// those of `more`. A file that the evaluation rests on is not written over.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn write(&self, out: &Path, more: Option<&Path>, inputs: &[&Path]) -> Result<(), InputError> {
        let mut leaderboard = Leaderboard::default();
        let own = out.join(LEADERBOARD);
        for path in more.into_iter().chain(own.exists().then_some(own.as_path())) {
            leaderboard.extend(Leaderboard::parse(path, &jsonl::read(path)?)?);
        }
        let mut row = self.summary.leaderboard_row();
        if let Some(measure) = self.other_measure() {
            row.iter_mut().filter(|(column, _)| *column == "mode").for_each(|(_, mode)| *mode = measure.to_owned());
        }
        leaderboard.insert(self.names.model.as_deref().unwrap_or("Current model"), row);
        let is_input = |path: &Path| {
            let real = path.canonicalize().ok();
            real.is_some() && inputs.iter().any(|input| input.canonicalize().ok() == real)
        };
        for (name, content) in [
            (OUTPUTS, self.model_outputs().into_bytes()),
            (ANNOTATIONS, annotations::write(&self.comparisons, &self.names).into_bytes()),
            (SAMPLES, comparison::samples(&self.comparisons)),
            (LEADERBOARD, leaderboard.to_csv().into_bytes()),
            (results::FILE_NAME, self.to_json().into_bytes()),
        ] {
            let path = out.join(name);
            if !is_input(&path) {
                orpo_files::write_file(&path, &content)?;
            }
        }
        Ok(())
    }

    fn model_outputs(&self) -> String {
        let output = |comparison: &Comparison| {
            Some(Output {
                dataset: comparison.dataset.clone(),
                instruction: comparison.instruction.clone(),
                output: comparison.response.clone()?,
                generator: self.names.model.clone(),
            })
        };
        let outputs: Vec<Output> = self.comparisons.iter().filter_map(output).collect();
        serde_json::to_string_pretty(&outputs).expect("outputs have string keys") + "\n"
    }
}
