//! Intervals and tests.

use std::collections::BTreeMap;
use std::fmt;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// The two-sided 95 % quantile of the normal distribution.
const Z95: f64 = 1.959_963_984_540_054;

/// A number with its uncertainty, or the reason why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// The estimate; null with a reason.
    pub value: Option<f64>,
    /// Its standard error; null where there is no estimate, or a single observation says nothing about its error.
    pub stderr: Option<f64>,
    /// Its 95 % confidence interval; null where there is no estimate.
    pub ci95: Option<[f64; 2]>,
    /// The number of observations.
    pub n: usize,
    /// Why there is no estimate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Missing>,
}

/// Why a metric has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Missing {
    /// There are no observations.
    #[serde(rename = "nothing was scored")]
    NothingScored,
    /// The observations do not determine it.
    #[serde(rename = "not identifiable: length and verdict cannot be told apart")]
    NotIdentifiable,
    /// A correlation, or an agreement beyond chance, of what is always the same.
    #[serde(rename = "not defined: one side does not vary")]
    Constant,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// A proportion with its uncertainty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Proportion {
    /// The share of successes.
    pub value: f64,
    /// The binomial standard error, `sqrt(p (1 - p) / n)`.
    pub stderr: f64,
    /// Wilson's score interval, which stays within [0, 1] and keeps a width at 0 and 1.
    pub ci95: [f64; 2],
}

impl Proportion {
    /// Of successes in independent trials.
    ///
    /// # Panics
    /// When there are no trials.
    pub fn of(successes: usize, n: usize) -> Self {
        assert!(n > 0, "a proportion needs trials");
        let trials = n as f64;
        let p = successes as f64 / trials;
        let z2 = Z95 * Z95;
        let centre = (p + z2 / (2.0 * trials)) / (1.0 + z2 / trials);
        let half = Z95 / (1.0 + z2 / trials) * (p * (1.0 - p) / trials + z2 / (4.0 * trials * trials)).sqrt();
        // Rounding can leave the ends of the interval a last bit outside of it.
        let ci95 = [(centre - half).max(0.0).min(p), (centre + half).min(1.0).max(p)];
        Self { value: p, stderr: (p * (1.0 - p) / trials).sqrt(), ci95 }
    }
}

impl Metric {
    /// What `n` observations do not tell, and why.
    pub fn missing(n: usize, reason: Missing) -> Self {
        Self { value: None, stderr: None, ci95: None, n, reason: Some(reason) }
    }

    /// An estimate with its error and interval.
    pub fn new(value: f64, stderr: f64, ci95: [f64; 2], n: usize) -> Self {
        Self { value: Some(value), stderr: Some(stderr), ci95: Some(ci95), n, reason: None }
    }

    /// An estimate from a single observation, or a single cluster of them: nothing is known about its error, and the
    /// interval is all that it can be.
    fn alone(value: f64, [low, high]: [f64; 2], n: usize) -> Self {
        let ci95 = Some([low.min(value), high.max(value)]);
        Self { value: Some(value), stderr: None, ci95, n, reason: None }
    }

    /// The proportion of successes in independent trials, as [`Proportion`].
    pub fn proportion(successes: usize, n: usize) -> Self {
        if n == 0 {
            return Self::missing(n, Missing::NothingScored);
        }
        let Proportion { value, stderr, ci95 } = Proportion::of(successes, n);
        Self::new(value, stderr, ci95, n)
    }

    /// An estimate whose error is normally distributed; the interval stays within `range`.
    pub fn normal(value: f64, stderr: f64, n: usize, range: [f64; 2]) -> Self {
        let [low, high] = range;
        let half = Z95 * stderr;
        match n {
            0 => Self::missing(n, Missing::NothingScored),
            1 => Self::alone(value, range, n),
            _ => Self::new(value, stderr, [(value - half).max(low).min(value), (value + half).min(high).max(value)], n),
        }
    }

    /// The mean of values between `low` and `high` that come in clusters, such as the turns of one question: the
    /// clusters are independent, the values inside of one are not. The standard error is
    /// `sqrt(G / (G - 1) * sum over clusters of (sum of (x - mean))^2) / n` with G clusters, which is the usual one
    /// where every cluster has one value; the interval is normal and ends where the range does. Without two clusters
    /// nothing is known about the error.
    pub fn clustered_mean(clusters: &[Vec<f64>], range: [f64; 2]) -> Self {
        let n = clusters.iter().map(Vec::len).sum();
        if n == 0 {
            return Self::missing(n, Missing::NothingScored);
        }
        let value = clusters.iter().flatten().sum::<f64>() / n as f64;
        let groups = clusters.iter().filter(|cluster| !cluster.is_empty()).count() as f64;
        if groups < 2.0 {
            return Self::alone(value, range, n);
        }
        let [low, high] = range;
        let residual = |cluster: &Vec<f64>| cluster.iter().map(|x| x - value).sum::<f64>().powi(2);
        let stderr = (groups / (groups - 1.0) * clusters.iter().map(residual).sum::<f64>()).sqrt() / n as f64;
        let ci95 = [(value - Z95 * stderr).max(low).min(value), (value + Z95 * stderr).min(high).max(value)];
        Self::new(value, stderr, ci95, n)
    }

    /// The share of successes where a trial can also count as a part of one, such as a tie as a half: values from 0 to 1, in
    /// clusters of which one is independent of another. Wilson's interval where every cluster is a success or a failure, and
    /// where all values are 0 or all are 1; else that of [`Metric::clustered_mean`].
    pub fn clustered_share(clusters: &[Vec<f64>]) -> Self {
        let full: Vec<&Vec<f64>> = clusters.iter().filter(|cluster| !cluster.is_empty()).collect();
        let all = |wanted: f64| full.iter().copied().flatten().all(|&value| value == wanted);
        let is_single_trial = |cluster: &&Vec<f64>| matches!(cluster[..], [0.0] | [1.0]);
        if !full.is_empty() && !full.iter().all(is_single_trial) && !all(0.0) && !all(1.0) {
            return Self::clustered_mean(clusters, [0.0, 1.0]);
        }
        let successes = full.iter().filter(|cluster| cluster[0] == 1.0).count();
        let n = full.iter().map(|cluster| cluster.len()).sum();
        Self { n, ..Self::proportion(successes, full.len()) }
    }

    /// The mean of shares between 0 and 1 with the bootstrap's interval, of 10,000 resamples.
    pub fn bootstrapped_share(values: &[f64], seed: u64) -> Self {
        let n = values.len();
        let mean = |values: &[f64]| Some(values.iter().sum::<f64>() / values.len() as f64);
        let (value, deviation) = mean_and_deviation(values);
        match n {
            0 => Self::missing(n, Missing::NothingScored),
            1 => Self::alone(value, [0.0, 1.0], n),
            _ => {
                let (_, ci95) = bootstrap(values, RESAMPLES, seed, mean).expect("every resample has a mean");
                Self::new(value, deviation / (n as f64).sqrt(), ci95, n)
            }
        }
    }
}

/// The resamples of [`Metric::bootstrapped_share`].
const RESAMPLES: usize = 10_000;

/// The percentile bootstrap (Efron & Tibshirani, An Introduction to the Bootstrap, chapter 13): the rows are drawn with
/// replacement, so many times, from a seed. Returns the statistic's standard error and its 95 % interval, or `None`
/// where one resample in twenty does not determine the statistic.
///
/// # Panics
/// When there are no rows, or fewer than 50 resamples.
pub fn bootstrap<T: Copy>(
    rows: &[T],
    resamples: usize,
    seed: u64,
    statistic: impl Fn(&[T]) -> Option<f64>,
) -> Option<(f64, [f64; 2])> {
    assert!(!rows.is_empty() && resamples >= 50, "a tail needs rows and resamples");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut resample = rows.to_vec();
    let mut values = Vec::with_capacity(resamples);
    for _ in 0..resamples {
        resample.fill_with(|| rows[random.random_range(0..rows.len())]);
        values.extend(statistic(&resample));
    }
    if 20 * (resamples - values.len()) >= resamples {
        return None;
    }
    values.sort_by(f64::total_cmp);
    let tail = values.len() / 40;
    Some((mean_and_deviation(&values).1, [values[tail], values[values.len() - 1 - tail]]))
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
/// Ties are left out; without anything else there is nothing to test. McNemar's exact test is the same function of the two
/// counts of discordant pairs.
pub fn sign_test(wins: usize, losses: usize) -> Option<f64> {
    let n = wins + losses;
    if n == 0 {
        return None;
    }
    let mut log_choose = 0.0;
    let mut tail = 0.0;
    for k in 0..=wins.min(losses) {
        if k > 0 {
            log_choose += ((n - k + 1) as f64).ln() - (k as f64).ln();
        }
        tail += (log_choose - n as f64 * std::f64::consts::LN_2).exp();
    }
    Some((2.0 * tail).min(1.0))
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
        let found = Proportion::of(417, 541);
        assert!((found.value - 0.770_794_824_399_260_6).abs() < 1e-15);
        assert!((found.stderr - 0.018_071).abs() < 1e-6, "{}", found.stderr);
        assert_eq!(Metric::proportion(417, 541), Metric::new(found.value, found.stderr, found.ci95, 541));
        // p = 0.1, n = 10: Newcombe (1998) gives 0.0179 to 0.4042.
        let [low, high] = Proportion::of(1, 10).ci95;
        assert!((low - 0.0179).abs() < 5e-5 && (high - 0.4042).abs() < 5e-5, "{low} {high}");
    }

    #[test]
    fn normal_intervals_are_cut_at_the_range() {
        let interval = |value, stderr, n| Metric::normal(value, stderr, n, [0.0, 100.0]).ci95.unwrap();
        let [low, high] = interval(50.0, 10.0, 9);
        assert!(
            (low - 30.400_360_154_599_5).abs() < 1e-9 && (high - 69.599_639_845_400_5).abs() < 1e-9,
            "{low} {high}"
        );
        assert_eq!(interval(99.0, 10.0, 9)[1], 100.0);
    }

    #[test]
    fn of_nothing_there_is_no_number_and_of_one_no_error() {
        let nothing = Metric::missing(0, Missing::NothingScored);
        assert_eq!(Metric::proportion(0, 0), nothing);
        assert_eq!(Metric::normal(0.0, 0.0, 0, [0.0, 100.0]), nothing);
        assert_eq!(Metric::clustered_mean(&[], [1.0, 10.0]), nothing);
        assert_eq!(Metric::clustered_mean(&[vec![]], [1.0, 10.0]), nothing);
        assert_eq!(Metric::bootstrapped_share(&[], 1), nothing);
        let json = r#"{"value":null,"stderr":null,"ci95":null,"n":0,"reason":"nothing was scored"}"#;
        assert_eq!(serde_json::to_string(&nothing).unwrap(), json);
        assert_eq!(serde_json::from_str::<Metric>(json).unwrap(), nothing);
        assert!(Missing::NotIdentifiable.to_string().starts_with("not identifiable: "));
        for one in [
            Metric::normal(0.5, 0.0, 1, [0.0, 1.0]),
            Metric::clustered_mean(&[vec![0.5]], [0.0, 1.0]),
            Metric::bootstrapped_share(&[0.5], 1),
        ] {
            assert_eq!((one.value, one.stderr, one.ci95, one.reason), (Some(0.5), None, Some([0.0, 1.0]), None));
        }
        // As results were written before.
        let whole = serde_json::from_str(r#"{"value": 0.5, "stderr": 0.25, "ci95": [0.25, 0.75], "n": 4}"#);
        assert_eq!(whole.ok(), Some(Metric::new(0.5, 0.25, [0.25, 0.75], 4)));
    }

    #[test]
    fn a_clustered_mean_is_the_usual_one_without_clusters_and_wider_with_them() {
        // statistics.stdev([1, 2, 4, 9]) / 2 = 1.7795130420052185
        let alone = Metric::clustered_mean(&[vec![1.0], vec![2.0], vec![4.0], vec![9.0]], [1.0, 10.0]);
        assert_eq!((alone.value, alone.n), (Some(4.0), 4));
        let (error, [low, high]) = (alone.stderr.unwrap(), alone.ci95.unwrap());
        assert!((error - 1.779_513_042_005_218_5).abs() < 1e-12);
        assert!((high - 7.487_781_4).abs() < 1e-6 && low == 1.0, "{low} {high}");
        // Each value twice: the mean and its error stay, for nothing was learnt.
        let twice = [1.0, 2.0, 4.0, 9.0].map(|x| vec![x, x]);
        let twice = Metric::clustered_mean(&twice, [1.0, 10.0]);
        assert_eq!((twice.value, twice.n), (Some(4.0), 8));
        assert!((twice.stderr.unwrap() - error).abs() < 1e-12);
        assert_eq!(Metric::clustered_mean(&[vec![3.0, 5.0]], [1.0, 10.0]).ci95, Some([1.0, 10.0]));
    }

    #[test]
    fn a_share_keeps_a_width_where_nothing_varies() {
        let alone = |values: &[f64]| values.iter().map(|&value| vec![value]).collect::<Vec<_>>();
        assert_eq!(Metric::clustered_share(&alone(&[1.0, 0.0, 0.0])), Metric::proportion(1, 3));
        // Ties are halves.
        let ties = alone(&[1.0, 0.5, 0.0, 0.5]);
        assert_eq!(Metric::clustered_share(&ties), Metric::clustered_mean(&ties, [0.0, 1.0]));
        // Six values in three clusters tell as much as three trials.
        let same = Metric::clustered_share(&vec![vec![1.0; 2]; 3]);
        assert_eq!(same, Metric { n: 6, ..Metric::proportion(3, 3) });
        assert!(same.ci95.unwrap()[0] < 0.5);
        assert_eq!(Metric::clustered_share(&[vec![], vec![]]), Metric::missing(0, Missing::NothingScored));
    }

    #[test]
    fn the_interval_stays_in_range_and_holds_the_value() {
        for n in 1..60 {
            for successes in 0..=n {
                let Proportion { value, ci95: [low, high], .. } = Proportion::of(successes, n);
                assert!(0.0 <= low && low <= value && value <= high && high <= 1.0);
                assert!(high - low > 0.05);
            }
        }
    }

    #[test]
    fn the_sign_test_is_the_binomial_test() {
        // 2 * sum(math.comb(n, k) for k in range(min(wins, losses) + 1)) / 2**n, at most 1
        for (wins, losses, p) in
            [(8, 2, 0.109375), (2, 8, 0.109375), (5, 5, 1.0), (1, 0, 1.0), (20, 35, 0.058_064_146_8)]
        {
            let found = sign_test(wins, losses).unwrap();
            assert!((found - p).abs() < 1e-7, "{wins} {losses}: {found}");
        }
        assert!(sign_test(900, 700).is_some_and(|p| p < 1e-6 && p > 0.0));
        assert_eq!(sign_test(0, 0), None);
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
        let found = Metric::bootstrapped_share(&values, 1);
        let [low, high] = found.ci95.unwrap();
        let half = Z95 * (0.25f64 * 0.75 / 800.0).sqrt();
        assert!((low - (0.25 - half)).abs() < 0.003 && (high - (0.25 + half)).abs() < 0.003, "{low} {high}");
        assert_eq!(Metric::bootstrapped_share(&values, 1), found);
        // A statistic that needs one of a few rows is not determined by the resamples without them.
        let rare = |rows: &[f64]| rows.contains(&9.0).then_some(1.0);
        let rows = |times: usize| [vec![9.0; times], vec![0.0; 40 - times]].concat();
        assert_eq!(bootstrap(&rows(1), 1000, 1, rare), None);
        assert_eq!(bootstrap(&rows(6), 1000, 1, rare), Some((0.0, [1.0, 1.0])));
    }
}
