//! A loss that rises instead of falling: a run that goes on with it wastes its time.

use std::collections::VecDeque;

/// Steps whose mean is compared with the start.
const WINDOW: usize = 10;
/// A mean of fewer steps may be one hard batch.
const LEAST: usize = 3;

/// Watches the loss of a run's steps, and warns once.
#[derive(Debug, Default)]
pub struct Divergence {
    recent: VecDeque<f64>,
    warned: bool,
}

impl Divergence {
    /// Looks at the loss of a step; `first` is that of the run's first step. Returns a warning when the mean of the last
    /// steps is above the start by more than the start itself, and by more than 1.
    pub fn look(&mut self, step: usize, loss: f64, first: f64, learning_rate: f64) -> Option<String> {
        self.recent.push_back(loss);
        if self.recent.len() > WINDOW {
            self.recent.pop_front();
        }
        let mean = self.recent.iter().sum::<f64>() / self.recent.len() as f64;
        if self.warned || self.recent.len() < LEAST || mean - first <= first.abs().max(1.0) {
            return None;
        }
        self.warned = true;
        Some(format!(
            "warning: step {step}: training diverges, the loss rose from {} to {} (mean of the last {} steps); lower \
             training.learning_rate (now {learning_rate:?}), or add training.warmup_steps",
            shown(first),
            shown(mean),
            self.recent.len()
        ))
    }
}

/// Four digits, or a power of ten.
fn shown(loss: f64) -> String {
    if loss.abs() < 1e5 { format!("{loss:.3}") } else { format!("{loss:.3e}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(losses: &[f64]) -> Vec<String> {
        let mut divergence = Divergence::default();
        let steps = losses.iter().enumerate();
        steps.filter_map(|(i, loss)| divergence.look(i + 1, *loss, losses[0], 10.0)).collect()
    }

    #[test]
    fn an_explosion_is_told_once() {
        let told = warnings(&[6.0, 9.0, 40.0, 300.0, 2000.0, 5064.0]);
        assert_eq!(told.len(), 1);
        assert!(
            told[0].starts_with("warning: step 3: training diverges, the loss rose from 6.000 to 18.333"),
            "{told:?}"
        );
        assert!(told[0].contains("training.learning_rate (now 10.0)"), "{told:?}");
        assert!(warnings(&[0.1, 1e6, 1e9, 1e9])[0].contains("to 3.337e8 "));
        // Losses may be negative.
        assert_eq!(warnings(&[-4.0, -2.0, 1.0, 5.0, 9.0, 9.0]).len(), 1);
    }

    #[test]
    fn noise_and_one_hard_batch_are_not_a_divergence() {
        assert!(warnings(&[2.0, 2.5, 1.5, 3.9, 1.0, 2.2, 0.8]).is_empty());
        assert!(warnings(&[0.1, 0.9, 0.2, 1.4, 0.1]).is_empty());
        assert!(warnings(&[2.0, 1.0, 1.0, 1.0, 1.0, 12.0, 1.0, 1.0, 1.0, 1.0, 1.0]).is_empty());
        assert!(warnings(&[5.0, 400.0]).is_empty());
    }
}
