//! Win rates: `describe_head2head` of `alpaca_eval/metrics/helpers.py`.

use serde::{Deserialize, Serialize};

/// How often a model is preferred to the baseline, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WinRate {
    /// The mean preference.
    pub win_rate: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// Preferences for the model.
    pub n_wins: usize,
    /// Preferences for the baseline.
    pub n_wins_base: usize,
    /// Preferences of exactly 1.5.
    pub n_draws: usize,
    /// All preferences.
    pub n_total: usize,
    /// The share of wins, with draws as halves.
    pub discrete_win_rate: f64,
}

impl WinRate {
    /// The win rate of preferences from 1 (for the baseline) to 2 (for the model). Without any it is 0.
    pub fn of(preferences: impl IntoIterator<Item = f64>) -> Self {
        let shares: Vec<f64> = preferences.into_iter().map(|preference| preference - 1.0).collect();
        let (mean, standard_error) = mean_and_error(&shares);
        let count = |is: fn(f64) -> bool| shares.iter().filter(|&&share| is(share)).count();
        let (n_wins, n_wins_base, n_draws) = (count(|p| p > 0.5), count(|p| p < 0.5), count(|p| p == 0.5));
        let n_total = shares.len();
        let discrete_win_rate = 100.0 * (n_wins as f64 + n_draws as f64 / 2.0) / n_total.max(1) as f64;
        Self {
            win_rate: 100.0 * mean,
            standard_error: 100.0 * standard_error,
            n_wins,
            n_wins_base,
            n_draws,
            n_total,
            discrete_win_rate,
        }
    }

    /// The standard error of `discrete_win_rate`: that of the mean of 0, a half and 1.
    pub fn discrete_standard_error(&self) -> f64 {
        let n = self.n_total as f64;
        if self.n_total < 2 {
            return 0.0;
        }
        let mean = self.discrete_win_rate / 100.0;
        let squares = self.n_wins as f64 * (1.0 - mean).powi(2)
            + self.n_wins_base as f64 * mean.powi(2)
            + self.n_draws as f64 * (0.5 - mean).powi(2);
        100.0 * (squares / (n - 1.0) / n).sqrt()
    }
}

/// The mean of some numbers and its standard error, `sd / sqrt(n)` with the sample standard deviation; 0 where there
/// are too few numbers for one.
pub(super) fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let mean = values.iter().sum::<f64>() / n;
    (mean, standard_deviation(values).unwrap_or(0.0) / n.sqrt())
}

/// The sample standard deviation; `None` of fewer than two numbers.
pub(super) fn standard_deviation(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((squares / (n - 1.0)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_win_rate_by_hand() {
        let rate = WinRate::of([1.0, 1.25, 1.5, 2.0]);
        assert_eq!(rate.win_rate, 43.75);
        // The deviations are -7/16, -3/16, 1/16 and 9/16: 140/256 in squares, over 3 * 4.
        assert!((rate.standard_error - 100.0 * (140.0_f64 / 256.0 / 12.0).sqrt()).abs() < 1e-12);
        assert_eq!((rate.n_wins, rate.n_wins_base, rate.n_draws, rate.n_total), (1, 2, 1, 4));
        assert_eq!(rate.discrete_win_rate, 37.5);
        let (mean, error) = mean_and_error(&[0.0, 0.0, 0.5, 1.0]);
        assert_eq!(rate.discrete_win_rate, 100.0 * mean);
        assert!((rate.discrete_standard_error() - 100.0 * error).abs() < 1e-12);
    }

    #[test]
    fn few_preferences_have_no_spread() {
        for (preferences, win_rate) in [(vec![], 0.0), (vec![2.0], 100.0)] {
            let rate = WinRate::of(preferences);
            assert_eq!((rate.win_rate, rate.standard_error, rate.discrete_standard_error()), (win_rate, 0.0, 0.0));
        }
    }
}
