//! Learning-rate schedules, as transformers' `get_scheduler` defines them.

use serde::{Deserialize, Serialize};

/// The shape after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Stays at the top.
    Constant,
    /// Falls to 0 in a straight line.
    Linear,
    /// Falls to 0 along half a cosine.
    #[default]
    Cosine,
    /// Falls with one over the root of the step, on the time scale of the warm-up.
    InverseSqrt,
}

/// A learning rate for every step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Shape after the warm-up.
    pub kind: ScheduleKind,
    /// The highest rate.
    pub learning_rate: f64,
    /// Steps of linear rise from 0.
    pub warmup_steps: usize,
    /// All steps, the warm-up included.
    pub total_steps: usize,
}

impl Schedule {
    /// The rate of step `step`, counted from 0: with a warm-up the first step has rate 0.
    pub fn rate(&self, step: usize) -> f64 {
        self.learning_rate * self.factor(step)
    }

    fn factor(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return step as f64 / self.warmup_steps as f64;
        }
        let decay_steps = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = (step - self.warmup_steps) as f64 / decay_steps;
        match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Linear => (1.0 - progress).max(0.0),
            ScheduleKind::Cosine => (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0),
            ScheduleKind::InverseSqrt => {
                // transformers: without a warm-up the time scale is 10,000 steps.
                let timescale = if self.warmup_steps > 0 { self.warmup_steps as f64 } else { 10_000.0 };
                let shift = timescale - self.warmup_steps as f64;
                1.0 / ((step as f64 + shift) / timescale).sqrt()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        let schedule = |kind| Schedule { kind, learning_rate: 2.0, warmup_steps: 4, total_steps: 12 };
        let rounded = |x: f64| (x * 1e6).round() / 1e6;
        let rates = |kind| [0, 2, 4, 8, 12].map(|step| rounded(schedule(kind).rate(step)));
        assert_eq!(rates(ScheduleKind::Constant), [0.0, 1.0, 2.0, 2.0, 2.0]);
        assert_eq!(rates(ScheduleKind::Linear), [0.0, 1.0, 2.0, 1.0, 0.0]);
        assert_eq!(rates(ScheduleKind::Cosine), [0.0, 1.0, 2.0, 1.0, 0.0]);
        assert_eq!(rates(ScheduleKind::InverseSqrt), [0.0, 1.0, 2.0, rounded(2f64.sqrt()), rounded(2.0 / 3f64.sqrt())]);
    }
}
