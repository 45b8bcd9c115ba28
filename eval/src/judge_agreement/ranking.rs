//! The models' win rates by the judge and by the reference, and how alike they rank the models.

use std::collections::{BTreeMap, HashSet};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::Item;
use crate::rank::{kendall, spearman};
use crate::stats::{Metric, Missing, mean_and_deviation};

/// Fewer models have no ranking worth the name.
const MODELS: usize = 3;

/// The resamples of an interval.
const RESAMPLES: usize = 1000;

/// How a model did, over the pairs that both have decided.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Standing {
    /// The number of those pairs.
    pub n: usize,
    /// Its win rate by the judge in percent: the mean preference for it.
    pub win_rate: f64,
    /// Its win rate by the reference.
    pub reference_win_rate: f64,
}

/// The models that were compared with one and the same baseline. Empty where there are several baselines, or a model has no
/// name: such win rates cannot be ranked.
pub fn standings(items: &[Item]) -> BTreeMap<String, Standing> {
    let baselines: HashSet<&Option<String>> = items.iter().map(|item| &item.models[0]).collect();
    if baselines.len() != 1 || items.iter().any(|item| item.models[1].is_none()) {
        return BTreeMap::new();
    }
    let mut shares: BTreeMap<String, Vec<[f64; 2]>> = BTreeMap::new();
    for item in items {
        let both = item.preference().zip(item.reference());
        if let (Some((judge, reference)), Some(model)) = (both, &item.models[1]) {
            shares.entry(model.clone()).or_default().push([1.0 - judge, 1.0 - reference]);
        }
    }
    let standing = |shares: Vec<[f64; 2]>| {
        let n = shares.len();
        let [win_rate, reference_win_rate] =
            [0, 1].map(|side| 100.0 * shares.iter().map(|both| both[side]).sum::<f64>() / n as f64);
        Standing { n, win_rate, reference_win_rate }
    };
    shares.into_iter().map(|(model, shares)| (model, standing(shares))).collect()
}

/// Spearman's and Kendall's correlation of the two rankings. `None` of fewer than three models.
pub fn correlations(standings: &BTreeMap<String, Standing>, seed: u64) -> Option<[(&'static str, Metric); 2]> {
    let rates: Vec<(f64, f64)> =
        standings.values().map(|standing| (standing.win_rate, standing.reference_win_rate)).collect();
    (rates.len() >= MODELS)
        .then(|| [("spearman", correlation(&rates, spearman, seed)), ("kendall", correlation(&rates, kendall, seed))])
}

/// A correlation with a bootstrap interval over the models, for the question is what it would be with other ones. A resample that
/// holds one model alone is drawn again.
fn correlation(rates: &[(f64, f64)], statistic: fn(&[(f64, f64)]) -> Option<f64>, seed: u64) -> Metric {
    let n = rates.len();
    let Some(value) = statistic(rates) else { return Metric::missing(n, Missing::Constant) };
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut values = Vec::with_capacity(RESAMPLES);
    while values.len() < RESAMPLES {
        let drawn: Vec<usize> = (0..n).map(|_| random.random_range(0..n)).collect();
        if drawn.iter().any(|&index| index != drawn[0]) {
            let resample: Vec<(f64, f64)> = drawn.into_iter().map(|index| rates[index]).collect();
            // Models that one side does not tell apart are in no order.
            values.push(statistic(&resample).unwrap_or(0.0));
        }
    }
    values.sort_by(f64::total_cmp);
    let tail = RESAMPLES / 40;
    let ci95 = [values[tail].min(value), values[RESAMPLES - 1 - tail].max(value)];
    Metric::new(value, mean_and_deviation(&values).1, ci95, n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rates: &[(f64, f64)]) -> Option<[(&'static str, Metric); 2]> {
        let standing = |&(win_rate, reference_win_rate): &(f64, f64)| Standing { n: 1, win_rate, reference_win_rate };
        let named = rates.iter().enumerate().map(|(index, rates)| (format!("m{index:02}"), standing(rates)));
        correlations(&named.collect(), 1)
    }

    #[test]
    fn the_same_ranking_is_certain_and_a_loose_one_is_not() {
        let [(_, same), (_, tau)] = of(&[(1.0, 2.0), (2.0, 3.0), (9.0, 4.0)]).unwrap();
        assert_eq!((same.value, same.ci95, tau.value), (Some(1.0), Some([1.0, 1.0]), Some(1.0)));
        let rates: Vec<(f64, f64)> =
            (0..13).map(|index| (f64::from(index), f64::from((index * 5) % 13 + index))).collect();
        let [(_, loose), _] = of(&rates).unwrap();
        let (value, [low, high]) = (loose.value.unwrap(), loose.ci95.unwrap());
        assert!(low < value && value < high && high - low > 0.2, "{loose:?}");
    }

    #[test]
    fn two_models_are_no_ranking_and_equal_ones_have_none() {
        assert_eq!(of(&[(1.0, 2.0), (2.0, 3.0)]), None);
        let [(_, metric), _] = of(&[(50.0, 2.0), (50.0, 3.0), (50.0, 4.0)]).unwrap();
        assert_eq!(metric, Metric::missing(3, Missing::Constant));
    }
}
