//! SimPO (Meng et al. 2024) and AlphaPO (Gupta et al. 2025): rewards from average log-probabilities, and a target margin.

use super::pair::{Pair, PairTerm, bounded_exp, bounded_exp_m1, logistic};

/// `-log sigmoid(beta m - gamma)`, m the margin of averages, with label smoothing as in [`super::sigmoid_margin`]. On
/// log-ratios with gamma = 0 it is TRL's `loss_type = "sigmoid_norm"`.
pub fn simpo(pair: &Pair, beta: f64, gamma: f64, label_smoothing: f64) -> PairTerm {
    logistic(beta * pair.mean_margin() - gamma, label_smoothing).scaled(beta).of_mean_margin(pair)
}

/// SimPO on the rewards `r(x) = (1 - e^(-alpha x)) / alpha` of average log-probabilities x.
pub fn alphapo(pair: &Pair, beta: f64, gamma: f64, alpha: f64, label_smoothing: f64) -> PairTerm {
    let (chosen, rejected) = (pair.chosen.mean(), pair.rejected.mean());
    let margin = alphapo_reward(chosen, alpha) - alphapo_reward(rejected, alpha);
    let term = logistic(beta * margin - gamma, label_smoothing).scaled(beta);
    PairTerm {
        loss: term.value,
        grad_chosen: term.slope * bounded_exp(-alpha * chosen) / pair.chosen.tokens,
        grad_rejected: -term.slope * bounded_exp(-alpha * rejected) / pair.rejected.tokens,
    }
}

/// AlphaPO's reward of an average log-probability; the log-probability itself for `alpha` = 0.
pub(super) fn alphapo_reward(mean: f64, alpha: f64) -> f64 {
    if alpha == 0.0 { mean } else { -bounded_exp_m1(-alpha * mean) / alpha }
}
