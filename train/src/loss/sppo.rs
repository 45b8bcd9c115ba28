//! Losses that draw each log-ratio to a fixed value.

use super::pair::{Pair, PairTerm, logistic};

/// `(h_w - 1 / (2 beta))^2 + (h_l + 1 / (2 beta))^2`, h the log-ratios: SPPO (Wu et al. 2024, equation 4.7) with
/// probabilities 1 and 0. TRL's `"sppo_hard"`.
pub fn sppo_hard(ratios: &Pair, beta: f64) -> PairTerm {
    let (chosen, rejected) = (ratios.chosen.logp - 0.5 / beta, ratios.rejected.logp + 0.5 / beta);
    PairTerm { loss: chosen * chosen + rejected * rejected, grad_chosen: 2.0 * chosen, grad_rejected: 2.0 * rejected }
}

/// `-log sigmoid(h_w - h_l)` and the squares of [`sppo_hard`]: Cal-DPO (Xiao et al. 2024).
pub fn cal_dpo(ratios: &Pair, beta: f64) -> PairTerm {
    let (contrast, squares) = (logistic(ratios.margin(), 0.0), sppo_hard(ratios, beta));
    PairTerm {
        loss: contrast.value + squares.loss,
        grad_chosen: contrast.slope + squares.grad_chosen,
        grad_rejected: -contrast.slope + squares.grad_rejected,
    }
}
