//! Intervals.

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
}
