//! One line on stderr that a person can scan: a bar on a terminal, now and then a line elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::StepRecord;
use crate::loss::PreferenceMetrics;
use crate::step::Objective;
use crate::terminal::say;

/// Without a terminal a line is printed every tenth of the run, and after this time without one.
const SILENCE: Duration = Duration::from_secs(60);

/// The progress of a run.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    objective: Objective,
    total: usize,
    /// Steps that were made before this process began; they say nothing about its pace.
    first: usize,
    started: Instant,
    /// When a line was printed last, and at which step, without a terminal.
    printed: (Instant, usize),
    /// Metrics of the records since then, each with its number of steps.
    unprinted: Vec<(PreferenceMetrics, f64)>,
    /// The step of the last record.
    recorded: usize,
}

impl Progress {
    /// Starts at `done` of `total` steps.
    pub fn new(objective: Objective, done: usize, total: usize) -> Self {
        let bar = ProgressBar::new(total as u64);
        bar.set_style(ProgressStyle::with_template("{bar:10} {msg}").expect("the template is valid"));
        bar.set_position(done as u64);
        let now = Instant::now();
        Self {
            bar,
            objective,
            total,
            first: done,
            started: now,
            printed: (now, done),
            unprinted: Vec::new(),
            recorded: done,
        }
    }

    /// Shows a step. A printed line has the means of all steps since the last one.
    pub fn step(&mut self, record: &StepRecord) {
        let steps = record.step - std::mem::replace(&mut self.recorded, record.step);
        self.unprinted.push((record.metrics, steps as f64));
        let elapsed = self.started.elapsed();
        if self.bar.is_hidden() {
            let (at, step) = self.printed;
            let tenth = |step: usize| 10 * step / self.total;
            if tenth(record.step) > tenth(step) || at.elapsed() >= SILENCE {
                say(&self.line(&self.since_the_last_line(record), elapsed));
                self.printed = (Instant::now(), record.step);
                self.unprinted.clear();
            }
        } else {
            self.unprinted.clear();
        }
        self.bar.set_position(record.step as u64);
        self.bar.set_message(self.line(record, elapsed));
    }

    /// The record with the means of all that was recorded since a line was printed.
    fn since_the_last_line(&self, record: &StepRecord) -> StepRecord {
        StepRecord { metrics: PreferenceMetrics::weighted_mean(&self.unprinted), ..*record }
    }

    /// Shows an evaluation.
    pub fn evaluation(&self, step: usize, metrics: &PreferenceMetrics) {
        self.say(&format!("step {step}: validation {}", describe(metrics, &self.objective)));
    }

    /// Prints a line without disturbing the bar.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| say(line));
    }

    /// Ends the bar, its last state left standing.
    pub fn finish(&self) {
        self.bar.abandon();
    }

    fn line(&self, r: &StepRecord, elapsed: Duration) -> String {
        let per_step = elapsed.as_secs_f64() / (r.step - self.first).max(1) as f64;
        let left = Duration::from_secs_f64(per_step * (self.total - r.step) as f64);
        format!(
            "step {}/{} {:.0}%  {}  lr {:.1e}  grad norm {:.2}  {:.0} tok/s  {} MB (peak {})  {} left",
            r.step,
            self.total,
            100.0 * r.step as f64 / self.total as f64,
            describe(&r.metrics, &self.objective),
            r.learning_rate,
            r.grad_norm,
            r.tokens_per_sec,
            r.rss_bytes / 1_000_000,
            r.peak_rss_bytes / 1_000_000,
            clock(left),
        )
    }
}

/// `m:ss`, from an hour on `h:mm:ss`.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::NllTarget;

    fn record(step: usize) -> StepRecord {
        StepRecord {
            step,
            epoch: 0.5,
            metrics: PreferenceMetrics {
                loss: 1.5,
                nll_loss: 1.25,
                log_odds_chosen: 0.375,
                rewards_accuracies: 0.625,
                ..Default::default()
            },
            learning_rate: 8e-6,
            grad_norm: 2.0,
            num_input_tokens_seen: 5,
            tokens_per_sec: 1234.5,
            rss_bytes: 512_000_000,
            peak_rss_bytes: 600_000_000,
        }
    }

    #[test]
    fn the_line_says_everything_and_a_resumed_run_knows_its_own_pace() {
        let orpo = Objective::Orpo { beta: 0.1, nll: NllTarget::Full };
        let resumed = Progress::new(orpo, 100, 200);
        assert_eq!(
            resumed.line(&record(110), Duration::from_secs(10)),
            "step 110/200 55%  loss 1.500  nll 1.250  log odds 0.38  accuracy 62%  lr 8.0e-6  grad norm 2.00  \
             1234 tok/s  512 MB (peak 600)  1:30 left"
        );
        let mut means = Progress::new(orpo, 100, 200);
        for (step, steps, loss) in [(102, 2.0, 4.0), (103, 1.0, 1.0)] {
            let metrics = PreferenceMetrics { loss, ..Default::default() };
            means.unprinted.push((metrics, steps));
            means.recorded = step;
        }
        assert_eq!(means.since_the_last_line(&record(103)).metrics.loss, 3.0);
        let sft = Progress::new(Objective::Sft { nll: NllTarget::Full }, 0, 4);
        assert!(sft.line(&record(1), Duration::from_secs(3600)).ends_with("3:00:00 left"));
    }
}
