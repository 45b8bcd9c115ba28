//! DPO-Positive (Pal et al. 2024, "Smaug"): DPO that keeps the chosen response's probability up.

use super::pair::{Pair, PairTerm, at_least_zero, logistic};

/// `-log sigmoid(beta (h_w - h_l - lambda max(0, -h_w)))`, h the log-ratios.
pub fn dpop(ratios: &Pair, beta: f64, lambda: f64) -> PairTerm {
    let lost = at_least_zero(-ratios.chosen.logp);
    let term = logistic(beta * (ratios.margin() - lambda * lost), 0.0).scaled(beta);
    let weight = if lost > 0.0 { 1.0 + lambda } else { 1.0 };
    PairTerm { loss: term.value, grad_chosen: weight * term.slope, grad_rejected: -term.slope }
}
