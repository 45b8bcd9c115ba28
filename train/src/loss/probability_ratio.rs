//! The probability ratio in the place of the odds ratio (Hong, Lee and Thorne 2024, section 7.1).

use super::pair::{Pair, PairTerm, Slope, logistic};

/// `-lambda * log sigmoid(beta (a - b))`, a and b the average log-probabilities.
pub fn probability_ratio(pair: &Pair, beta: f64, lambda: f64) -> PairTerm {
    let term = logistic(beta * pair.mean_margin(), 0.0);
    Slope { value: lambda * term.value, slope: lambda * beta * term.slope }.of_mean_margin(pair)
}
