//! What a check found, as text and as JSON.

use std::fmt;

use orpo_model::Decoder;
use serde::Serialize;

use super::{Cuts, Lengths, MemoryEstimate, Percentiles, ShownExample};
use crate::checkpoint::DataLineage;
use crate::terminal::counted;

/// How many numbers a model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Parameters {
    /// Those that change.
    pub trained: usize,
    /// Those that stay.
    pub frozen: usize,
}

impl Parameters {
    /// Those of `model`, its adapters counted.
    pub fn of(model: &Decoder) -> Self {
        let all = model.params().iter().chain(&model.adapter_params()).map(|param| param.elem_count()).sum::<usize>();
        let trained = model.trainable().iter().map(|param| param.elem_count()).sum();
        Self { trained, frozen: all - trained }
    }
}

/// The steps of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Steps {
    /// Optimiser steps.
    pub total: usize,
    /// Passes over the data.
    pub epochs: f64,
    /// Micro-batches of a step.
    pub micro_batches: usize,
    /// Examples of a micro-batch; none where a token budget makes them.
    pub batch_size: Option<usize>,
    /// Most tokens of a micro-batch, where there is a budget.
    pub max_tokens_per_batch: Option<usize>,
    /// Tokens of both sides in an epoch.
    pub tokens_per_epoch: usize,
    /// The same with a pair's shared prompt counted once, as it is computed.
    pub packed_tokens_per_epoch: usize,
    /// Rows of the largest micro-batch, which decides on memory.
    pub largest_micro_batch: usize,
}

/// How long a run will take on this machine, roughly.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TimeEstimate {
    /// All of it, with its evaluations.
    pub seconds: f64,
    /// The mean step.
    pub seconds_per_step: f64,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Every file, with the rows used and dropped.
    pub data: Vec<DataLineage>,
    /// The same in words, with warnings.
    pub notes: Vec<String>,
    /// Lengths of the training examples.
    pub lengths: Lengths,
    /// What truncation takes from them.
    pub truncation: Cuts,
    /// How many numbers are trained.
    pub parameters: Parameters,
    /// How the run goes on.
    pub steps: Steps,
    /// Bytes at the peak.
    pub memory: MemoryEstimate,
    /// Seconds.
    pub time: TimeEstimate,
    /// Whether `output_dir` holds a run, so that only `--resume` goes on in it.
    pub holds_run: bool,
    /// The first examples.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preview: Vec<ShownExample>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.notes.iter().flat_map(|note| note.lines()) {
            writeln!(f, "{line}")?;
        }
        self.lengths(f)?;
        let Cuts { rows_cut, tokens_cut, rows_lost } = self.truncation;
        let (rows, tokens, lost) = (counted(rows_cut, "row"), counted(tokens_cut, "token"), counted(rows_lost, "row"));
        writeln!(f, "truncation  {rows} cut by {tokens}, {lost} lost")?;
        let Parameters { trained, frozen } = self.parameters;
        writeln!(f, "parameters  {trained} trained, {frozen} frozen")?;
        let s = &self.steps;
        let size = match (s.batch_size, s.max_tokens_per_batch) {
            (_, Some(budget)) => format!("up to {}", counted(budget, "token")),
            (size, None) => counted(size.unwrap_or(0), "example"),
        };
        writeln!(
            f,
            "steps       {} of {} x {size}: {:.2} epochs of {} tokens ({} with shared prompts once)",
            s.total, s.micro_batches, s.epochs, s.tokens_per_epoch, s.packed_tokens_per_epoch
        )?;
        let m = &self.memory;
        let parts = [
            ("weights", m.weights),
            ("gradients", m.gradients),
            ("moments", m.moments),
            ("activations", m.activations),
            ("logits", m.logits),
            ("other", m.other),
        ];
        let parts: Vec<String> = parts.iter().map(|(name, bytes)| format!("{name} {}", size_of(*bytes))).collect();
        writeln!(f, "memory      {} at the peak: {}", size_of(m.total()), parts.join(", "))?;
        let TimeEstimate { seconds, seconds_per_step } = self.time;
        writeln!(f, "time        about {} on this machine, {seconds_per_step:.2} s a step", duration(seconds))?;
        if self.holds_run {
            writeln!(f, "output_dir holds a run already: continue it with --resume, or choose another one")?;
        }
        if !self.preview.is_empty() {
            writeln!(f, "\nTokens are separated by ·; those that the loss looks at are in brackets.")?;
        }
        self.preview.iter().try_for_each(|example| write!(f, "{example}"))
    }
}

impl Report {
    fn lengths(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lengths { prompt, chosen, rejected, packed } = self.lengths;
        writeln!(f, "tokens        p50    p90    p95    p99    max")?;
        for (name, lengths) in [("prompt", prompt), ("chosen", chosen), ("rejected", rejected), ("packed", packed)] {
            if let Some(Percentiles { p50, p90, p95, p99, max }) = lengths {
                writeln!(f, "  {name:<8}{p50:>7}{p90:>7}{p95:>7}{p99:>7}{max:>7}")?;
            }
        }
        Ok(())
    }
}

/// Bytes in words.
pub fn size_of(bytes: u64) -> String {
    match bytes {
        0..10_000_000_000 => format!("{} MB", bytes.div_ceil(1_000_000)),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// Seconds in words.
pub fn duration(seconds: f64) -> String {
    match seconds {
        ..1.5 => "1 second".into(),
        ..120.0 => format!("{seconds:.0} seconds"),
        ..7200.0 => format!("{:.0} minutes", seconds / 60.0),
        ..172_800.0 => format!("{:.1} hours", seconds / 3600.0),
        _ => format!("{:.1} days", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_in_words() {
        assert_eq!([size_of(0), size_of(1_500_000), size_of(12_345_678_901)], ["0 MB", "2 MB", "12.3 GB"]);
        let durations = [1.4, 130.0, 7200.0, 200_000.0].map(duration);
        assert_eq!(durations, ["1 second", "2 minutes", "2.0 hours", "2.3 days"]);
    }
}
