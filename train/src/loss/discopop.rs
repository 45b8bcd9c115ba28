//! DiscoPOP (Lu et al. 2024, equation 5): a loss that a language model found.

use super::pair::{Pair, PairTerm, Slope, bounded_exp, log_sigmoid, sigmoid};

/// `(1 - k)(-log sigmoid(x)) + k e^-x`, x = beta times the margin of log-ratios, k = sigmoid(x / tau). TRL's
/// `"discopop"`.
pub fn discopop(ratios: &Pair, beta: f64, tau: f64) -> PairTerm {
    let x = beta * ratios.margin();
    let (k, rest) = (sigmoid(x / tau), sigmoid(-x / tau));
    let logistic = -log_sigmoid(x);
    // k e^-x in one exponential: far below zero the factors are 0 and infinite. Above tau = 1 the product itself grows.
    let weighted = bounded_exp(log_sigmoid(x / tau) - x);
    let slope = -k * rest / tau * logistic - rest * sigmoid(-x) + (rest / tau - 1.0) * weighted;
    Slope { value: rest * logistic + weighted, slope }.scaled(beta).of_margin()
}
