//! Results as other programs write them, so that their readers and plots go on working.
//!
//! A prompt without a response has no row in these files.

mod lm_eval;
mod official;

use super::data::Dataset;
use super::run::Evaluation;

/// A program whose files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Export {
    /// eval_results_strict.jsonl and eval_results_loose.jsonl of the official evaluation_main.py
    Official,
    /// results_TIME.json and samples_ifeval_TIME.jsonl of lm-evaluation-harness
    LmEval,
}

impl Export {
    /// The names and contents of the files. Equal evaluations have equal contents; only names contain the time.
    pub fn files(self, evaluation: &Evaluation, dataset: &Dataset) -> Vec<(String, Vec<u8>)> {
        match self {
            Self::Official => official::files(evaluation),
            Self::LmEval => lm_eval::files(evaluation, dataset),
        }
    }
}
