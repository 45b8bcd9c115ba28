//! Win rates: `describe_head2head` of `alpaca_eval/metrics/helpers.py`.

use serde::{Deserialize, Serialize};

/// How often a model is preferred to the baseline, in percent. Without preferences there are no rates, and one alone has no
/// standard error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WinRate {
    /// The mean preference.
    pub win_rate: Option<f64>,
    /// Its standard error.
    pub standard_error: Option<f64>,
    /// Preferences for the model.
    pub n_wins: usize,
    /// Preferences for the baseline.
    pub n_wins_base: usize,
    /// Preferences of exactly 1.5.
    pub n_draws: usize,
    /// All preferences.
    pub n_total: usize,
    /// The share of wins, with draws as halves.
    pub discrete_win_rate: Option<f64>,
}

impl WinRate {
    /// The win rate of preferences from 1 (for the baseline) to 2 (for the model).
    pub fn of(preferences: impl IntoIterator<Item = f64>) -> Self {
        let shares: Vec<f64> = preferences.into_iter().map(|preference| preference - 1.0).collect();
        let count = |is: fn(f64) -> bool| shares.iter().filter(|&&share| is(share)).count();
        let (n_wins, n_wins_base, n_draws) = (count(|p| p > 0.5), count(|p| p < 0.5), count(|p| p == 0.5));
        let n_total = shares.len();
        let discrete_win_rate = (n_total > 0).then(|| 100.0 * (n_wins as f64 + n_draws as f64 / 2.0) / n_total as f64);
        Self {
            win_rate: mean(&shares).map(|mean| 100.0 * mean),
            standard_error: standard_error(&shares).map(|error| 100.0 * error),
            n_wins,
            n_wins_base,
            n_draws,
            n_total,
            discrete_win_rate,
        }
    }

    /// The standard error of `discrete_win_rate`: that of the mean of 0, a half and 1.
    pub fn discrete_standard_error(&self) -> Option<f64> {
        let n = self.n_total as f64;
        let mean = self.discrete_win_rate.filter(|_| self.n_total > 1)? / 100.0;
        let squares = self.n_wins as f64 * (1.0 - mean).powi(2)
            + self.n_wins_base as f64 * mean.powi(2)
            + self.n_draws as f64 * (0.5 - mean).powi(2);
        Some(100.0 * (squares / (n - 1.0) / n).sqrt())
    }
}

/// The mean; `None` of no numbers.
pub(super) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The standard error of the mean, `sd / sqrt(n)` with the sample standard deviation; `None` of fewer than two numbers.
pub(super) fn standard_error(values: &[f64]) -> Option<f64> {
    Some(standard_deviation(values)? / (values.len() as f64).sqrt())
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
        assert_eq!(rate.win_rate, Some(43.75));
        // The deviations are -7/16, -3/16, 1/16 and 9/16: 140/256 in squares, over 3 * 4.
        assert!((rate.standard_error.unwrap() - 100.0 * (140.0_f64 / 256.0 / 12.0).sqrt()).abs() < 1e-12);
        assert_eq!((rate.n_wins, rate.n_wins_base, rate.n_draws, rate.n_total), (1, 2, 1, 4));
        assert_eq!(rate.discrete_win_rate, Some(37.5));
        let halves = [0.0, 0.0, 0.5, 1.0];
        assert_eq!(mean(&halves), Some(0.375));
        let error = standard_error(&halves).unwrap();
        assert!((rate.discrete_standard_error().unwrap() - 100.0 * error).abs() < 1e-12);
    }

    #[test]
    fn of_no_preferences_there_is_no_rate_and_of_one_no_error() {
        for (preferences, win_rate) in [(vec![], None), (vec![2.0], Some(100.0))] {
            let rate = WinRate::of(preferences);
            assert_eq!((rate.win_rate, rate.discrete_win_rate), (win_rate, win_rate));
            assert_eq!((rate.standard_error, rate.discrete_standard_error()), (None, None));
        }
    }
}
