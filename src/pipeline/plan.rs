//! `orpo plan`: what would run, why, and what it would take.

use std::fmt;
use std::path::Path;

use anyhow::Result;
use orpo_train::check::{duration, size_of};
use serde::Serialize;

use super::estimate::{Estimate, estimate};
use super::file::Pipeline;
use super::inputs::{self, Surveyed};
use super::record::Decision;
use super::{Options, validate};
use crate::hash::Hashes;
use crate::words::counted;

/// What an invocation of `orpo run` would do.
#[derive(Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Every wanted stage, in order.
    pub stages: Vec<Planned>,
    /// What all that run take.
    pub total: Estimate,
    /// What the trainer's check says of the data that would be trained on.
    pub notes: Vec<String>,
}

/// What would be done about a stage.
#[derive(Debug, PartialEq, Serialize)]
pub struct Planned {
    /// Its name.
    pub stage: String,
    /// What.
    pub action: Action,
    /// Why.
    pub reasons: Vec<String>,
    /// What it takes from the beginning; nothing where it is up to date.
    pub estimate: Estimate,
}

/// What is done about a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing.
    UpToDate,
    /// It goes on where it was.
    GoesOn,
    /// It runs.
    Runs,
}

/// Looks at a pipeline file and everything it names. Nothing is run, nothing is written.
///
/// # Errors
/// When something is wrong, as `orpo run` would say it.
pub fn plan(path: &Path, options: &Options) -> Result<Plan> {
    let pipeline = Pipeline::load(path)?;
    validate::check(&pipeline, options)?;
    let mut stages = Vec::new();
    let mut notes: Vec<String> = Vec::new();
    for Surveyed { stage, decision, .. } in inputs::survey(&pipeline, options, &mut Hashes::default())? {
        let (action, reasons) = match decision {
            Decision::UpToDate => (Action::UpToDate, Vec::new()),
            Decision::GoOn(reason) => (Action::GoesOn, vec![reason]),
            Decision::Redo(reasons) => (Action::Runs, reasons),
        };
        let (estimate, said) = match action {
            Action::UpToDate => Default::default(),
            Action::GoesOn | Action::Runs => estimate(&pipeline, &stage)?,
        };
        // Variants share their data, and most of what is to be said of them.
        for note in said {
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        stages.push(Planned { stage: stage.name, action, reasons, estimate });
    }
    Ok(Plan { total: total(&stages), stages, notes })
}

fn total(stages: &[Planned]) -> Estimate {
    fn sum<T: std::iter::Sum>(stages: &[Planned], of: impl Fn(&Estimate) -> Option<T>) -> Option<T> {
        let values: Vec<T> = stages.iter().filter_map(|stage| of(&stage.estimate)).collect();
        (!values.is_empty()).then(|| values.into_iter().sum())
    }
    Estimate {
        steps: sum(stages, |estimate| estimate.steps),
        seconds: sum(stages, |estimate| estimate.seconds),
        // One stage at a time.
        memory_bytes: stages.iter().filter_map(|stage| stage.estimate.memory_bytes).max(),
        prompts: sum(stages, |estimate| estimate.prompts),
        judge_requests: sum(stages, |estimate| estimate.judge_requests),
        dollars: sum(stages, |estimate| estimate.dollars),
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            self.steps.map(|n| counted(n, "step")),
            self.seconds.map(|seconds| format!("about {} of training", duration(seconds))),
            self.memory_bytes.map(size_of),
            self.prompts.map(|n| counted(n, "prompt")),
            self.judge_requests.map(|n| counted(n, "judge request")),
            self.dollars.map(|dollars| format!("at most {dollars:.2} US dollars")),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.stages.iter().map(|planned| planned.stage.chars().count()).max().unwrap_or(0);
        for Planned { stage, action, reasons, estimate } in &self.stages {
            let action = match action {
                Action::UpToDate => "up to date",
                Action::GoesOn => "resumes",
                Action::Runs => "runs",
            };
            let mut line = format!("{stage:<width$}  {action:<10}  {}", reasons.join(", "));
            if *estimate != Estimate::default() {
                line += &format!(" ({estimate})");
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        let runs = self.stages.iter().filter(|planned| planned.action != Action::UpToDate).count();
        write!(f, "{runs} of {} to run", counted(self.stages.len(), "stage"))?;
        if self.total != Estimate::default() {
            write!(f, ": {}", self.total)?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "\n{note}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_says_what_why_and_how_much() {
        let planned = |stage: &str, action, reasons: &[&str], estimate| Planned {
            stage: stage.into(),
            action,
            reasons: reasons.iter().map(|&reason| reason.into()).collect(),
            estimate,
        };
        let training = |seconds, memory| Estimate {
            steps: Some(300),
            seconds: Some(seconds),
            memory_bytes: Some(memory),
            ..Estimate::default()
        };
        let judged =
            Estimate { prompts: Some(805), judge_requests: Some(805), dollars: Some(3.456), ..Estimate::default() };
        let stages = vec![
            planned("train:orpo", Action::Runs, &["training.beta 0.1 → 0.5"], training(52.0, 181_000_000)),
            planned("train:sft", Action::GoesOn, &["it failed"], training(100.0, 200_000_000)),
            planned("score:base", Action::UpToDate, &[], Estimate::default()),
            planned("alpaca:orpo", Action::Runs, &["train:orpo runs first"], judged),
        ];
        let notes = vec!["train.jsonl: 12 rows, layout documents".into()];
        let plan = Plan { total: total(&stages), stages, notes };
        let expected = "\
train:orpo   runs        training.beta 0.1 → 0.5 (300 steps, about 52 seconds of training, 181 MB)
train:sft    resumes     it failed (300 steps, about 100 seconds of training, 200 MB)
score:base   up to date
alpaca:orpo  runs        train:orpo runs first (805 prompts, 805 judge requests, at most 3.46 US dollars)
3 of 4 stages to run: 600 steps, about 3 minutes of training, 200 MB, 805 prompts, 805 judge requests, at most 3.46 US dollars
train.jsonl: 12 rows, layout documents";
        assert_eq!(plan.to_string(), expected);
        let json = serde_json::to_value(&plan).unwrap();
        assert_eq!(json["stages"][2]["action"], "up_to_date");
    }
}
