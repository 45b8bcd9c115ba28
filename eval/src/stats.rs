//! Intervals and tests.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// The two-sided 95 % quantile of the normal distribution.
const Z95: f64 = 1.959_963_984_540_054;

/// A number with its uncertainty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// The estimate.
    pub value: f64,
    /// Its standard error.
    pub stderr: f64,
    /// Its 95 % confidence interval.
    pub ci95: [f64; 2],
    /// The number of observations.
    pub n: usize,
}

impl Metric {
    /// A proportion of successes in independent trials. The standard error is the binomial `sqrt(p (1 - p) / n)`; the
    /// interval is Wilson's score interval, which stays within [0, 1] and keeps a width at 0 and 1. Without trials
    /// nothing is known: 0, with the interval [0, 1].
    pub fn proportion(successes: usize, n: usize) -> Self {
        if n == 0 {
            return Self { value: 0.0, stderr: 0.0, ci95: [0.0, 1.0], n };
        }
        let trials = n as f64;
        let p = successes as f64 / trials;
        let z2 = Z95 * Z95;
        let centre = (p + z2 / (2.0 * trials)) / (1.0 + z2 / trials);
        let half = Z95 / (1.0 + z2 / trials) * (p * (1.0 - p) / trials + z2 / (4.0 * trials * trials)).sqrt();
        // Rounding can leave the ends of the interval a last bit outside of it.
        let ci95 = [(centre - half).max(0.0).min(p), (centre + half).min(1.0).max(p)];
        Self { value: p, stderr: (p * (1.0 - p) / trials).sqrt(), ci95, n }
    }

    /// An estimate whose error is normally distributed; the interval stays within `range`. Of fewer than two observations
    /// nothing is known about the error: the interval is the whole range.
    pub fn normal(value: f64, stderr: f64, n: usize, range: [f64; 2]) -> Self {
        let [low, high] = range;
        let half = if n < 2 { high - low } else { Z95 * stderr };
        Self { value, stderr, ci95: [(value - half).max(low).min(value), (value + half).min(high).max(value)], n }
    }

    /// The mean of values between `low` and `high` that come in clusters, such as the turns of one question: the
    /// clusters are independent, the values inside of one are not. The standard error is
    /// `sqrt(G / (G - 1) * sum over clusters of (sum of (x - mean))^2) / n` with G clusters, which is the usual one
    /// where every cluster has one value; the interval is normal and ends where the range does. Without two clusters
    /// nothing is known of the error: 0, with the whole range as interval.
    pub fn clustered_mean(clusters: &[Vec<f64>], [low, high]: [f64; 2]) -> Self {
        let n = clusters.iter().map(Vec::len).sum();
        if n == 0 {
            return Self { value: 0.0, stderr: 0.0, ci95: [low, high], n };
        }
        let value = clusters.iter().flatten().sum::<f64>() / n as f64;
        let groups = clusters.iter().filter(|cluster| !cluster.is_empty()).count() as f64;
        if groups < 2.0 {
            return Self { value, stderr: 0.0, ci95: [low.min(value), high.max(value)], n };
        }
        let residual = |cluster: &Vec<f64>| cluster.iter().map(|x| x - value).sum::<f64>().powi(2);
        let stderr = (groups / (groups - 1.0) * clusters.iter().map(residual).sum::<f64>()).sqrt() / n as f64;
        let ci95 = [(value - Z95 * stderr).max(low).min(value), (value + Z95 * stderr).min(high).max(value)];
        Self { value, stderr, ci95, n }
    }
}

/// The resamples of [`bootstrap_mean_ci95`].
const RESAMPLES: usize = 10_000;

/// The percentile bootstrap (Efron & Tibshirani, An Introduction to the Bootstrap, chapter 13): the rows are drawn with
/// replacement, so many times, from a seed. Returns the statistic's standard error and its 95 % interval.
///
/// # Panics
/// When there are no rows, or fewer than 40 resamples.
pub fn bootstrap<T: Copy>(rows: &[T], resamples: usize, seed: u64, statistic: impl Fn(&[T]) -> f64) -> (f64, [f64; 2]) {
    assert!(!rows.is_empty() && resamples >= 40, "a tail needs rows and resamples");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut resample = rows.to_vec();
    let mut values = Vec::with_capacity(resamples);
    for _ in 0..resamples {
        resample.fill_with(|| rows[random.random_range(0..rows.len())]);
        values.push(statistic(&resample));
    }
    values.sort_by(f64::total_cmp);
    let tail = resamples / 40;
    (mean_and_deviation(&values).1, [values[tail], values[resamples - 1 - tail]])
}

/// The bootstrap's 95 % interval of the mean, of 10,000 resamples. `None` without values.
pub fn bootstrap_mean_ci95(values: &[f64], seed: u64) -> Option<[f64; 2]> {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    (!values.is_empty()).then(|| bootstrap(values, RESAMPLES, seed, mean).1)
}

/// The mean and the sample standard deviation; both 0 without values, the latter for a single one.
pub fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let n = values.len();
    if n == 0 {
        return (0.0, 0.0);
    }
    let mean = values.iter().sum::<f64>() / n as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, if n == 1 { 0.0 } else { (squares / (n - 1) as f64).sqrt() })
}

/// The two-sided p-value of the exact sign test: how likely a fair coin divides `wins + losses` throws at least as unevenly.
/// Ties are left out. McNemar's exact test is the same function of the two counts of discordant pairs.
pub fn sign_test(wins: usize, losses: usize) -> f64 {
    let n = wins + losses;
    let mut log_choose = 0.0;
    let mut tail = 0.0;
    for k in 0..=wins.min(losses) {
        if k > 0 {
            log_choose += ((n - k + 1) as f64).ln() - (k as f64).ln();
        }
        tail += (log_choose - n as f64 * std::f64::consts::LN_2).exp();
    }
    (2.0 * tail).min(1.0)
}

/// Cohen's kappa: the agreement of two raters beyond what their shares of each label would give by chance. `None` without
/// ratings, or where both always say the same one label, so that chance explains all.
pub fn cohens_kappa<T: Ord>(ratings: &[(T, T)]) -> Option<f64> {
    let n = ratings.len() as f64;
    let mut shares: BTreeMap<&T, (f64, f64)> = BTreeMap::new();
    for (first, second) in ratings {
        shares.entry(first).or_default().0 += 1.0 / n;
        shares.entry(second).or_default().1 += 1.0 / n;
    }
    let agreed = ratings.iter().filter(|(first, second)| first == second).count() as f64 / n;
    let by_chance: f64 = shares.values().map(|(first, second)| first * second).sum();
    (by_chance < 1.0 - 1e-12).then(|| (agreed - by_chance) / (1.0 - by_chance)).filter(|kappa| kappa.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_matches_published_values() {
        // statsmodels.stats.proportion.proportion_confint(417, 541, method="wilson")
        let metric = Metric::proportion(417, 541);
        assert!((metric.value - 0.770_794_824_399_260_6).abs() < 1e-15);
        assert!((metric.stderr - 0.018_071).abs() < 1e-6, "{}", metric.stderr);
        // p = 0.1, n = 10: Newcombe (1998) gives 0.0179 to 0.4042.
        let [low, high] = Metric::proportion(1, 10).ci95;
        assert!((low - 0.0179).abs() < 5e-5 && (high - 0.4042).abs() < 5e-5, "{low} {high}");
    }

    #[test]
    fn normal_intervals_are_cut_at_the_range() {
        let interval = |value, stderr, n| Metric::normal(value, stderr, n, [0.0, 100.0]).ci95;
        let [low, high] = interval(50.0, 10.0, 9);
        assert!(
            (low - 30.400_360_154_599_5).abs() < 1e-9 && (high - 69.599_639_845_400_5).abs() < 1e-9,
            "{low} {high}"
        );
        assert_eq!(interval(99.0, 10.0, 9)[1], 100.0);
        assert_eq!(interval(30.0, 0.0, 1), [0.0, 100.0]);
    }

    #[test]
    fn a_clustered_mean_is_the_usual_one_without_clusters_and_wider_with_them() {
        // statistics.stdev([1, 2, 4, 9]) / 2 = 1.7795130420052185
        let alone = Metric::clustered_mean(&[vec![1.0], vec![2.0], vec![4.0], vec![9.0]], [1.0, 10.0]);
        assert_eq!((alone.value, alone.n), (4.0, 4));
        assert!((alone.stderr - 1.779_513_042_005_218_5).abs() < 1e-12);
        assert!((alone.ci95[1] - 7.487_781_4).abs() < 1e-6 && alone.ci95[0] == 1.0, "{:?}", alone.ci95);
        // Each value twice: the mean and its error stay, for nothing was learnt.
        let twice = [1.0, 2.0, 4.0, 9.0].map(|x| vec![x, x]);
        let twice = Metric::clustered_mean(&twice, [1.0, 10.0]);
        assert_eq!((twice.value, twice.n), (4.0, 8));
        assert!((twice.stderr - alone.stderr).abs() < 1e-12);
        assert_eq!(Metric::clustered_mean(&[vec![3.0, 5.0]], [1.0, 10.0]).ci95, [1.0, 10.0]);
        assert_eq!(Metric::clustered_mean(&[], [0.0, 1.0]).ci95, [0.0, 1.0]);
    }

    #[test]
    fn the_interval_stays_in_range_and_holds_the_value() {
        for n in 0..60 {
            for successes in 0..=n {
                let metric = Metric::proportion(successes, n);
                let [low, high] = metric.ci95;
                assert!(0.0 <= low && low <= metric.value && metric.value <= high && high <= 1.0);
                assert!(n == 0 || high - low > 0.05);
            }
        }
    }

    #[test]
    fn the_sign_test_is_the_binomial_test() {
        // 2 * sum(math.comb(n, k) for k in range(min(wins, losses) + 1)) / 2**n, at most 1
        for (wins, losses, p) in
            [(8, 2, 0.109375), (2, 8, 0.109375), (5, 5, 1.0), (0, 0, 1.0), (20, 35, 0.058_064_146_8)]
        {
            assert!((sign_test(wins, losses) - p).abs() < 1e-7, "{wins} {losses}: {}", sign_test(wins, losses));
        }
        assert!(sign_test(900, 700) < 1e-6 && sign_test(900, 700) > 0.0);
    }

    #[test]
    fn kappa_matches_a_textbook() {
        // Cohen's own layout: 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no gives 0.4.
        let cells = [(("yes", "yes"), 20), (("yes", "no"), 5), (("no", "yes"), 10), (("no", "no"), 15)];
        let ratings: Vec<_> = cells.iter().flat_map(|&(cell, times)| vec![cell; times]).collect();
        assert!((cohens_kappa(&ratings).unwrap() - 0.4).abs() < 1e-12);
        assert_eq!(cohens_kappa(&[(1, 1), (1, 1)]), None);
        assert_eq!(cohens_kappa::<u8>(&[]), None);
        assert!((cohens_kappa(&[(1, 2), (2, 1)]).unwrap() + 1.0).abs() < 1e-12);
    }

    #[test]
    fn the_bootstrap_interval_is_that_of_the_normal_approximation() {
        let values: Vec<f64> = (0..800).map(|index| f64::from(index % 4 == 0)).collect();
        let [low, high] = bootstrap_mean_ci95(&values, 1).unwrap();
        let half = Z95 * (0.25f64 * 0.75 / 800.0).sqrt();
        assert!((low - (0.25 - half)).abs() < 0.003 && (high - (0.25 + half)).abs() < 0.003, "{low} {high}");
        assert_eq!(bootstrap_mean_ci95(&values, 1), Some([low, high]));
        assert_eq!(bootstrap_mean_ci95(&[], 1), None);
        assert_eq!(bootstrap_mean_ci95(&[2.0], 1), Some([2.0, 2.0]));
    }
}
