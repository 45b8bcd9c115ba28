//! How often A would win if its answers were as long as B's.

use std::cmp::Ordering;

use crate::alpaca::solver::{Observation, fit, sigmoid};

/// The strength of the mean loss against the penalty: so large that the penalty only keeps the coefficients finite where one
/// model always wins.
const STRENGTH: f64 = 1e4;

/// The length-controlled share of preference for A: AlpacaEval's regression without what it needs a fixed set of prompts for.
/// A logistic regression explains preferences by an intercept and by `tanh` of the difference of lengths, in units of its
/// standard deviation; the share is what it predicts where the lengths are equal. Lengths are in characters. `None` where
/// the rows do not determine it.
pub(super) fn controlled_share(rows: &[(f64, [usize; 2])]) -> Option<f64> {
    if !is_identifiable(rows) {
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

/// Whether the rows tell what happens at equal lengths: some are of equal lengths, or A's answer is the longer one in some
/// and the shorter one in others, and the verdicts are not exactly those that length alone would give. Otherwise the
/// regression extrapolates, or fits length and verdict equally well with any share.
fn is_identifiable(rows: &[(f64, [usize; 2])]) -> bool {
    let of = |wanted: Ordering| {
        rows.iter().filter(move |(_, [a, b])| a.cmp(b) == wanted).map(|(preference, _)| *preference).collect::<Vec<_>>()
    };
    let [shorter, equal, longer] = [Ordering::Less, Ordering::Equal, Ordering::Greater].map(of);
    let won = |preferences: &[f64]| preferences.iter().all(|&preference| preference >= 1.0);
    let lost = |preferences: &[f64]| preferences.iter().all(|&preference| preference <= 0.0);
    let is_separated = won(&longer) && lost(&shorter) || lost(&longer) && won(&shorter);
    !equal.is_empty() || !(shorter.is_empty() || longer.is_empty() || is_separated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_length_and_model_explain_equally_well_is_not_identifiable() {
        // A wins 17 and ties 13, and its answer is always the shorter one.
        let always_shorter: Vec<_> =
            (0..30).map(|index| (if index < 17 { 1.0 } else { 0.5 }, [40 + index % 7, 200 + 3 * index])).collect();
        assert_eq!(controlled_share(&always_shorter), None);
        // The longer answer always wins.
        let longer_wins: Vec<_> = (1..30).flat_map(|index| [(1.0, [100, index]), (0.0, [100, 100 + index])]).collect();
        assert_eq!(controlled_share(&longer_wins), None);
        assert_eq!(controlled_share(&[]), None);
        assert_eq!(controlled_share(&[(1.0, [3, 2])]), None);
        // A model that always wins does so at equal lengths, too.
        let always_wins: Vec<_> = (0..30).map(|index| (1.0, [100, 85 + index])).collect();
        assert!(controlled_share(&always_wins).unwrap() > 0.99);
    }

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
    }
}
