//! Losses that know by how much one response is better: MMPO (arXiv 2410.03145) and ODPO (Amini et al. 2024).

use super::orpo::soft_odds;
use super::pair::{Pair, PairTerm, logistic, sigmoid};

/// DPO with the soft label `sigmoid(gamma (s_w - s_l))`, s the scores: `margin` is their difference.
pub fn mmpo(ratios: &Pair, margin: f64, beta: f64, gamma: f64) -> PairTerm {
    logistic(beta * ratios.margin(), sigmoid(-gamma * margin)).scaled(beta).of_margin()
}

/// The same soft label on the log odds ratio, without a reference model.
pub fn mmpo_odds(pair: &Pair, margin: f64, gamma: f64) -> PairTerm {
    soft_odds(pair, 1.0, sigmoid(-gamma * margin))
}

/// `-log sigmoid(beta m - alpha log(s_w - s_l))`, m the margin of log-ratios; without offset where the scores are equal.
pub fn odpo(ratios: &Pair, margin: f64, beta: f64, alpha: f64) -> PairTerm {
    let offset = if margin > 0.0 { alpha * margin.ln() } else { 0.0 };
    logistic(beta * ratios.margin() - offset, 0.0).scaled(beta).of_margin()
}
