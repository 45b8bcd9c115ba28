//! Losses of the margin of summed log-probabilities: CPO (Xu et al. 2024), and on log-ratios DPO (Rafailov et al. 2023).

use super::pair::{Pair, PairTerm, Slope, at_least_zero, log_sigmoid, logistic, sigmoid};

/// `-(1 - e) log sigmoid(beta m) - e log sigmoid(-beta m)`, m the margin, e the label smoothing: CPO; on log-ratios DPO,
/// and with e > 0 conservative DPO. TRL's `loss_type = "sigmoid"`.
pub fn sigmoid_margin(pair: &Pair, beta: f64, label_smoothing: f64) -> PairTerm {
    logistic(beta * pair.margin(), label_smoothing).scaled(beta).of_margin()
}

/// `max(0, 1 - beta m)`: SLiC without calibration. TRL's `loss_type = "hinge"`.
pub fn hinge_margin(pair: &Pair, beta: f64) -> PairTerm {
    let gap = 1.0 - beta * pair.margin();
    Slope { value: at_least_zero(gap), slope: if gap > 0.0 { -beta } else { 0.0 } }.of_margin()
}

/// `(-(1 - e) log sigmoid(beta m) + e log sigmoid(-beta m)) / (1 - 2e)`: robust DPO (Chowdhury et al. 2024), unbiased
/// where a share e < 1/2 of the labels is flipped. TRL's `loss_type = "robust"`.
pub fn robust_margin(pair: &Pair, beta: f64, label_smoothing: f64) -> PairTerm {
    let (x, e) = (beta * pair.margin(), label_smoothing);
    let value = -(1.0 - e) * log_sigmoid(x) + e * log_sigmoid(-x);
    let slope = -(1.0 - e) * sigmoid(-x) - e * sigmoid(x);
    Slope { value: value / (1.0 - 2.0 * e), slope: slope / (1.0 - 2.0 * e) }.scaled(beta).of_margin()
}
