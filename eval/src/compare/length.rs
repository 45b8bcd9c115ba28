//! How often A would win if its answers were as long as B's.

use crate::alpaca::solver::{Observation, fit, sigmoid};

/// The strength of the mean loss against the penalty: so large that the penalty only keeps the coefficients finite where one
/// model always wins.
const STRENGTH: f64 = 1e4;

/// The length-controlled share of preference for A: AlpacaEval's regression without what it needs a fixed set of prompts for.
/// A logistic regression explains preferences by an intercept and by `tanh` of the difference of lengths, in units of its
/// standard deviation; the share is what it predicts where the lengths are equal. Lengths are in characters. `None` without
/// rows.
pub(super) fn controlled_share(rows: &[(f64, [usize; 2])]) -> Option<f64> {
    if rows.is_empty() {
        return None;
    }
    let differences: Vec<f64> = rows.iter().map(|(_, [a, b])| *a as f64 - *b as f64).collect();
    let n = differences.len() as f64;
    let mean = differences.iter().sum::<f64>() / n;
    let variance = differences.iter().map(|difference| (difference - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    let deviation = if variance > 0.0 { variance.sqrt() } else { 1.0 };
    let observation = |(&(target, _), difference): (&(f64, _), &f64)| Observation {
        features: [(difference / deviation).tanh(), 0.0, 1.0],
        target,
        weight: 1.0,
    };
    let observations: Vec<Observation> = rows.iter().zip(&differences).map(observation).collect();
    let [_, _, intercept] = fit(&observations, STRENGTH / n, [0.0; 3]);
    Some(sigmoid(intercept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_win_that_length_explains_is_none() {
        // The longer answer wins three times of four, and A is mostly the longer one.
        let mut rows = Vec::new();
        for (longer_a, times) in [(true, 30), (false, 10)] {
            for index in 0..4 * times {
                let lengths = if longer_a { [200, 100] } else { [100, 200] };
                rows.push((f64::from(longer_a == (index % 4 != 0)), lengths));
            }
        }
        let raw = rows.iter().map(|(preference, _)| preference).sum::<f64>() / rows.len() as f64;
        let controlled = controlled_share(&rows).unwrap();
        assert!((raw - 0.625).abs() < 1e-12);
        assert!((controlled - 0.5).abs() < 0.01, "{controlled}");
    }

    #[test]
    fn without_a_difference_it_is_the_mean() {
        let rows = [(1.0, [5, 5]), (1.0, [7, 7]), (0.5, [9, 9]), (0.5, [9, 9])];
        assert!((controlled_share(&rows).unwrap() - 0.75).abs() < 1e-3);
        assert_eq!(controlled_share(&[]), None);
        assert!(controlled_share(&[(1.0, [3, 2])]).unwrap() > 0.99);
    }
}
