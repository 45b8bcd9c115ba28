//! Learning-rate schedules, as transformers' `get_scheduler` defines them, under its names.

use std::f64::consts::PI;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The shape of the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// The same rate from the first step, without a warm-up.
    Constant,
    /// Stays at the top after the warm-up.
    ConstantWithWarmup,
    /// Falls to 0 in a straight line.
    Linear,
    /// Falls to 0 along half a cosine.
    #[default]
    Cosine,
    /// Falls to 0 along half a cosine, `num_cycles` times.
    CosineWithRestarts,
    /// Falls to `min_lr` along half a cosine.
    CosineWithMinLr,
    /// Falls to `lr_end` with the `power` of what is left.
    Polynomial,
    /// Falls with one over the root of the step, on the time scale of the warm-up.
    InverseSqrt,
    /// Stays at the top, then falls within the last `num_decay_steps`.
    WarmupStableDecay,
}

/// A curve between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ramp {
    /// A straight line.
    Linear,
    /// Half a cosine.
    Cosine,
    /// One minus a root.
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

/// Parameters of the shapes, transformers' `lr_scheduler_kwargs`; each that is unset has that library's default.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleOptions {
    /// Waves of a cosine (unset, 0.5: half of one), or restarts (unset, 1).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0, "trl" = "lr_scheduler_kwargs.num_cycles"))]
    pub num_cycles: Option<f64>,
    /// Lowest rate of `cosine_with_min_lr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0, "trl" = "lr_scheduler_kwargs.min_lr"))]
    pub min_lr: Option<f64>,
    /// Lowest rate of `cosine_with_min_lr` as a share of the highest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0, "maximum" = 1, "trl" = "lr_scheduler_kwargs.min_lr_rate"))]
    pub min_lr_rate: Option<f64>,
    /// Lowest rate of `warmup_stable_decay` as a share of the highest. Unset, 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0, "maximum" = 1, "trl" = "lr_scheduler_kwargs.min_lr_ratio"))]
    pub min_lr_ratio: Option<f64>,
    /// Last rate of `polynomial`. Unset, 1e-7.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0, "trl" = "lr_scheduler_kwargs.lr_end"))]
    pub lr_end: Option<f64>,
    /// Exponent of `polynomial`. Unset, 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("trl" = "lr_scheduler_kwargs.power"))]
    pub power: Option<f64>,
    /// Steps after which `inverse_sqrt` has fallen by the root of 2. Unset, the warm-up, or 10,000 without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "unit" = "steps", "trl" = "lr_scheduler_kwargs.timescale"))]
    pub timescale: Option<usize>,
    /// Steps at the top of `warmup_stable_decay`. Unset, what warm-up and decay leave.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("unit" = "steps", "trl" = "lr_scheduler_kwargs.num_stable_steps"))]
    pub num_stable_steps: Option<usize>,
    /// Falling steps of `warmup_stable_decay`, which needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("unit" = "steps", "trl" = "lr_scheduler_kwargs.num_decay_steps"))]
    pub num_decay_steps: Option<usize>,
    /// Curve of the warm-up of `warmup_stable_decay`. Unset, `"linear"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("trl" = "lr_scheduler_kwargs.warmup_type"))]
    pub warmup_type: Option<Ramp>,
    /// Curve of the fall of `warmup_stable_decay`. Unset, `"cosine"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("trl" = "lr_scheduler_kwargs.decay_type"))]
    pub decay_type: Option<Ramp>,
}

/// A learning rate for every step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The shape.
    pub kind: ScheduleKind,
    /// Its parameters.
    pub options: ScheduleOptions,
    /// The highest rate.
    pub learning_rate: f64,
    /// Steps of rise from 0.
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
        let o = &self.options;
        let warmup = step as f64 / self.warmup_steps.max(1) as f64;
        match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::WarmupStableDecay => self.warmup_stable_decay(step),
            _ if step < self.warmup_steps => warmup,
            ScheduleKind::ConstantWithWarmup => 1.0,
            ScheduleKind::Linear => (1.0 - self.progress(step)).max(0.0),
            ScheduleKind::Cosine => cosine(o.num_cycles.unwrap_or(0.5), self.progress(step)).max(0.0),
            ScheduleKind::CosineWithRestarts if self.progress(step) >= 1.0 => 0.0,
            ScheduleKind::CosineWithRestarts => {
                cosine(0.5, (o.num_cycles.unwrap_or(1.0) * self.progress(step)) % 1.0).max(0.0)
            }
            ScheduleKind::CosineWithMinLr => {
                let lowest = o.min_lr_rate.or(o.min_lr.map(|rate| rate / self.learning_rate)).unwrap_or(0.0);
                above(lowest, cosine(o.num_cycles.unwrap_or(0.5), self.progress(step)))
            }
            ScheduleKind::Polynomial => {
                let end = self.lr_end() / self.learning_rate;
                (1.0 - end) * (1.0 - self.progress(step)).max(0.0).powf(o.power.unwrap_or(1.0)) + end
            }
            ScheduleKind::InverseSqrt => {
                let default = if self.warmup_steps > 0 { self.warmup_steps } else { 10_000 };
                let timescale = o.timescale.unwrap_or(default) as f64;
                let shift = timescale - self.warmup_steps as f64;
                1.0 / ((step as f64 + shift) / timescale).sqrt()
            }
        }
    }

    fn lr_end(&self) -> f64 {
        self.options.lr_end.unwrap_or(1e-7)
    }

    /// Share of the steps after the warm-up that lie behind.
    fn progress(&self, step: usize) -> f64 {
        let decay_steps = self.total_steps.saturating_sub(self.warmup_steps).max(1);
        (step - self.warmup_steps) as f64 / decay_steps as f64
    }

    fn warmup_stable_decay(&self, step: usize) -> f64 {
        let o = &self.options;
        let lowest = o.min_lr_ratio.unwrap_or(0.0);
        let decay_steps = o.num_decay_steps.unwrap_or(0);
        let left = self.total_steps.saturating_sub(self.warmup_steps + decay_steps);
        let stable_end = self.warmup_steps + o.num_stable_steps.unwrap_or(left);
        if step < self.warmup_steps {
            let progress = step as f64 / self.warmup_steps as f64;
            let rise = match o.warmup_type.unwrap_or(Ramp::Linear) {
                Ramp::Linear => progress,
                Ramp::Cosine => 0.5 * (1.0 - (PI * progress).cos()),
                Ramp::OneMinusSqrt => 1.0 - (1.0 - progress).sqrt(),
            };
            above(lowest, rise)
        } else if step < stable_end {
            1.0
        } else if step < stable_end + decay_steps {
            let progress = (step - stable_end) as f64 / decay_steps as f64;
            let fall = match o.decay_type.unwrap_or(Ramp::Cosine) {
                Ramp::Linear => 1.0 - progress,
                Ramp::Cosine => cosine(o.num_cycles.unwrap_or(0.5), progress),
                Ramp::OneMinusSqrt => 1.0 - progress.sqrt(),
            };
            above(lowest, fall)
        } else {
            lowest
        }
    }

    /// Whether the parameters are those of the shape.
    ///
    /// # Errors
    /// A sentence about the first parameter that the shape does not have, or that it needs and has not.
    pub fn check(&self) -> Result<(), String> {
        use ScheduleKind as K;
        let o = &self.options;
        let (kind, wsd) = (self.kind, K::WarmupStableDecay);
        let cosines: &[K] = &[K::Cosine, K::CosineWithRestarts, K::CosineWithMinLr, wsd];
        let given: [(&str, bool, &[K]); 11] = [
            ("num_cycles", o.num_cycles.is_some(), cosines),
            ("min_lr", o.min_lr.is_some(), &[K::CosineWithMinLr]),
            ("min_lr_rate", o.min_lr_rate.is_some(), &[K::CosineWithMinLr]),
            ("min_lr_ratio", o.min_lr_ratio.is_some(), &[wsd]),
            ("lr_end", o.lr_end.is_some(), &[K::Polynomial]),
            ("power", o.power.is_some(), &[K::Polynomial]),
            ("timescale", o.timescale.is_some(), &[K::InverseSqrt]),
            ("num_stable_steps", o.num_stable_steps.is_some(), &[wsd]),
            ("num_decay_steps", o.num_decay_steps.is_some(), &[wsd]),
            ("warmup_type", o.warmup_type.is_some(), &[wsd]),
            ("decay_type", o.decay_type.is_some(), &[wsd]),
        ];
        if let Some((key, ..)) = given.iter().find(|(_, is_given, kinds)| *is_given && !kinds.contains(&kind)) {
            return Err(format!("`{key}` is not a parameter of this schedule"));
        }
        let lowest = [o.min_lr.map(|rate| rate / self.learning_rate), o.min_lr_rate, o.min_lr_ratio];
        let end = (kind == K::Polynomial).then(|| self.lr_end() / self.learning_rate);
        if lowest.iter().chain([&end]).flatten().any(|share| !(0.0..=1.0).contains(share)) {
            return Err("the lowest rate must be between 0 and `learning_rate`".into());
        }
        match kind {
            K::Constant if self.warmup_steps > 0 => Err("`constant` has no warm-up; use `constant_with_warmup`".into()),
            K::CosineWithMinLr if o.min_lr.is_some() == o.min_lr_rate.is_some() => {
                Err("`cosine_with_min_lr` needs either `min_lr` or `min_lr_rate`".into())
            }
            K::WarmupStableDecay if o.num_decay_steps.is_none() => {
                Err("`warmup_stable_decay` needs `num_decay_steps`".into())
            }
            _ => Ok(()),
        }
    }
}

/// `cycles` waves of a cosine between 1 and 0.
fn cosine(cycles: f64, progress: f64) -> f64 {
    0.5 * (1.0 + (PI * cycles * 2.0 * progress).cos())
}

/// A factor squeezed into `lowest` to 1.
fn above(lowest: f64, factor: f64) -> f64 {
    (factor * (1.0 - lowest) + lowest).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: ScheduleKind, options: ScheduleOptions) -> Schedule {
        Schedule { kind, options, learning_rate: 2.0, warmup_steps: 4, total_steps: 12 }
    }

    #[test]
    fn shapes() {
        let rounded = |x: f64| (x * 1e6).round() / 1e6;
        let rates = |kind| [0, 2, 4, 8, 12].map(|step| rounded(schedule(kind, Default::default()).rate(step)));
        assert_eq!(rates(ScheduleKind::Constant), [2.0; 5]);
        assert_eq!(rates(ScheduleKind::ConstantWithWarmup), [0.0, 1.0, 2.0, 2.0, 2.0]);
        assert_eq!(rates(ScheduleKind::Linear), [0.0, 1.0, 2.0, 1.0, 0.0]);
        assert_eq!(rates(ScheduleKind::Cosine), [0.0, 1.0, 2.0, 1.0, 0.0]);
        assert_eq!(rates(ScheduleKind::InverseSqrt), [0.0, 1.0, 2.0, rounded(2f64.sqrt()), rounded(2.0 / 3f64.sqrt())]);
    }

    #[test]
    fn every_shape_stays_between_zero_and_the_top_beyond_the_end_too() {
        let options = |kind| ScheduleOptions {
            min_lr_rate: (kind == ScheduleKind::CosineWithMinLr).then_some(0.1),
            num_decay_steps: (kind == ScheduleKind::WarmupStableDecay).then_some(3),
            ..Default::default()
        };
        use ScheduleKind as K;
        let ramps = [K::ConstantWithWarmup, K::Linear, K::Cosine, K::CosineWithRestarts, K::CosineWithMinLr];
        for kind in ramps.into_iter().chain([K::Polynomial, K::InverseSqrt, K::WarmupStableDecay]) {
            let schedule = schedule(kind, options(kind));
            schedule.check().unwrap();
            for step in 0..40 {
                assert!((0.0..=2.0).contains(&schedule.rate(step)), "{kind:?} {step}: {}", schedule.rate(step));
            }
        }
    }

    #[test]
    fn parameters_of_other_shapes_are_refused() {
        let options = ScheduleOptions { power: Some(2.0), ..Default::default() };
        assert!(schedule(ScheduleKind::Polynomial, options).check().is_ok());
        assert!(schedule(ScheduleKind::Linear, options).check().unwrap_err().contains("power"));
        let none = ScheduleOptions::default();
        assert!(schedule(ScheduleKind::WarmupStableDecay, none).check().unwrap_err().contains("num_decay_steps"));
        assert!(schedule(ScheduleKind::CosineWithMinLr, none).check().unwrap_err().contains("min_lr"));
        assert!(schedule(ScheduleKind::Constant, none).check().unwrap_err().contains("constant_with_warmup"));
        let low = ScheduleOptions { min_lr: Some(3.0), ..none };
        assert!(schedule(ScheduleKind::CosineWithMinLr, low).check().unwrap_err().contains("learning_rate"));
    }
}
