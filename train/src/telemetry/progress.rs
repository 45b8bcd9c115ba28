//! One line on stderr that a person can scan: a bar on a terminal, a line every tenth of the run elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::StepRecord;
use crate::loss::PreferenceMetrics;
use crate::step::Objective;

/// The progress of a run.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    objective: Objective,
    total: usize,
    first: usize,
    started: Instant,
}

impl Progress {
    /// Starts at `done` of `total` steps.
    pub fn new(objective: Objective, done: usize, total: usize) -> Self {
        let bar = ProgressBar::new(total as u64);
        let style = ProgressStyle::with_template("{bar:24} {msg}").expect("the template is valid");
        bar.set_style(style);
        bar.set_position(done as u64);
        Self { bar, objective, total, first: done, started: Instant::now() }
    }

    /// Shows a step.
    pub fn step(&self, record: &StepRecord) {
        let line = self.line(record);
        let tenth = self.total.div_ceil(10);
        if self.bar.is_hidden() && (record.step.is_multiple_of(tenth) || record.step == self.total) {
            eprintln!("{line}");
        }
        self.bar.set_position(record.step as u64);
        self.bar.set_message(line);
    }

    /// Shows an evaluation.
    pub fn evaluation(&self, step: usize, metrics: &PreferenceMetrics) {
        self.say(&format!("step {step}: validation {}", describe(metrics, &self.objective)));
    }

    /// Prints a line without disturbing the bar.
    pub fn say(&self, line: &str) {
        if self.bar.is_hidden() {
            eprintln!("{line}");
        } else {
            self.bar.println(line);
        }
    }

    /// Ends the bar, its last state left standing.
    pub fn finish(&self) {
        self.bar.abandon();
    }

    fn line(&self, r: &StepRecord) -> String {
        let per_step = self.started.elapsed().as_secs_f64() / (r.step - self.first).max(1) as f64;
        let left = Duration::from_secs_f64(per_step * (self.total - r.step) as f64).as_secs();
        format!(
            "step {}/{} {:.0}%  {}  lr {:.1e}  grad norm {:.2}  {:.0} tok/s  {} MB  {}:{:02} left",
            r.step,
            self.total,
            100.0 * r.step as f64 / self.total as f64,
            describe(&r.metrics, &self.objective),
            r.learning_rate,
            r.grad_norm,
            r.tokens_per_sec,
            r.rss_bytes / 1_000_000,
            left / 60,
            left % 60,
        )
    }
}

fn describe(m: &PreferenceMetrics, objective: &Objective) -> String {
    match objective {
        Objective::Sft { .. } => format!("loss {:.3}", m.loss),
        Objective::Orpo { .. } => format!(
            "loss {:.3}  nll {:.3}  log odds {:.2}  accuracy {:.0}%",
            m.loss,
            m.nll_loss,
            m.log_odds_chosen,
            100.0 * m.rewards_accuracies
        ),
        Objective::Pairs { .. } => format!(
            "loss {:.3}  nll {:.3}  margin {:.2}  accuracy {:.0}%",
            m.loss,
            m.nll_loss,
            m.rewards_margins,
            100.0 * m.rewards_accuracies
        ),
    }
}
