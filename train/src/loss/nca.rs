//! Losses that judge each response's reward `r = beta * log-ratio` by itself.

use super::pair::{Pair, PairTerm, logistic, sigmoid_slope};

/// `-log sigmoid(r_w) - 1/2 log sigmoid(-r_w) - 1/2 log sigmoid(-r_l)`: NCA (Chen et al. 2024) for pairs. TRL's
/// `"nca_pair"`.
pub fn nca_pair(ratios: &Pair, beta: f64) -> PairTerm {
    let (chosen, rejected) = (beta * ratios.chosen.logp, beta * ratios.rejected.logp);
    let (good, bad, other) = (logistic(chosen, 0.0), logistic(chosen, 1.0), logistic(rejected, 1.0));
    PairTerm {
        loss: good.value + 0.5 * bad.value + 0.5 * other.value,
        grad_chosen: beta * (good.slope + 0.5 * bad.slope),
        grad_rejected: beta * 0.5 * other.slope,
    }
}

/// `-log sigmoid(r_w) - log sigmoid(-r_l)`: BCO (Jung et al. 2024) without its running baseline. TRL's `"bco_pair"`.
pub fn bco_pair(ratios: &Pair, beta: f64) -> PairTerm {
    let (good, bad) = (logistic(beta * ratios.chosen.logp, 0.0), logistic(beta * ratios.rejected.logp, 1.0));
    PairTerm { loss: good.value + bad.value, grad_chosen: beta * good.slope, grad_rejected: beta * bad.slope }
}

/// `1 - sigmoid(r_w) + sigmoid(r_l)`: APO (D'Oosterlinck et al. 2024, equation 7), for chosen responses better than the
/// model's own. TRL's `"apo_zero"`.
pub fn apo_zero(ratios: &Pair, beta: f64) -> PairTerm {
    let (miss, hit) = (sigmoid_slope(-beta * ratios.chosen.logp), sigmoid_slope(beta * ratios.rejected.logp));
    PairTerm { loss: miss.value + hit.value, grad_chosen: -beta * miss.slope, grad_rejected: beta * hit.slope }
}

/// `sigmoid(r_w) + 1 - sigmoid(r_w - r_l)`: APO (equation 8), for chosen responses worse than the model's own. TRL's
/// `"apo_down"`.
pub fn apo_down(ratios: &Pair, beta: f64) -> PairTerm {
    let (hit, miss) = (sigmoid_slope(beta * ratios.chosen.logp), sigmoid_slope(-beta * ratios.margin()));
    PairTerm {
        loss: hit.value + miss.value,
        grad_chosen: beta * (hit.slope - miss.slope),
        grad_rejected: beta * miss.slope,
    }
}
