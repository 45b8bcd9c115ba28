//! KTO (Ethayarajh et al. 2024): single responses that are desirable or not, against a common baseline.
//!
//! Its data are not pairs, so it is a library function only.

use super::pair::{at_least_zero, sigmoid_slope};

/// The baseline `max(0, mean of log-ratios)` of responses paired with other rows' prompts. No gradient goes through it.
pub fn kto_baseline(mismatched_ratios: &[f64]) -> f64 {
    at_least_zero(mismatched_ratios.iter().sum::<f64>() / mismatched_ratios.len() as f64)
}

/// `1 - sigmoid(beta (ratio - baseline))` for a desirable response, `1 - sigmoid(beta (baseline - ratio))` for another,
/// and the derivative with respect to its summed log-probability. Class weights multiply both.
pub fn kto(ratio: f64, baseline: f64, beta: f64, desirable: bool) -> (f64, f64) {
    let sign = if desirable { -beta } else { beta };
    let miss = sigmoid_slope(sign * (ratio - baseline));
    (miss.value, sign * miss.slope)
}
