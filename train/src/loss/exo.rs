//! EXO (Ji et al. 2024, equation 16): the reverse Kullback-Leibler divergence to smoothed labels.

use super::pair::{Pair, PairTerm, Slope, log_sigmoid, sigmoid};

/// `q (log q - log(1 - e)) + (1 - q)(log(1 - q) - log e)`, q = sigmoid(beta m) of the margin m of log-ratios, e > 0 the
/// label smoothing. TRL's `"exo_pair"`.
pub fn exo_pair(ratios: &Pair, beta: f64, label_smoothing: f64) -> PairTerm {
    let x = beta * ratios.margin();
    let (right, wrong) = (log_sigmoid(x) - (-label_smoothing).ln_1p(), log_sigmoid(-x) - label_smoothing.ln());
    let (q, p) = (sigmoid(x), sigmoid(-x));
    Slope { value: q * right + p * wrong, slope: q * p * (right - wrong) }.scaled(beta).of_margin()
}
