//! IPO (Azar et al. 2023, equation 17): the margin is drawn to a fixed distance.

use super::pair::{Pair, PairTerm, Slope};

/// `(m - 1 / (2 beta))^2`, m the margin of averages, as TRL has it (on log-ratios for DPO's `loss_type = "ipo"`).
pub fn ipo(pair: &Pair, beta: f64) -> PairTerm {
    squared(pair.mean_margin(), beta).of_mean_margin(pair)
}

/// The same with the margin of sums, as the paper writes it.
pub fn ipo_sum(pair: &Pair, beta: f64) -> PairTerm {
    squared(pair.margin(), beta).of_margin()
}

fn squared(margin: f64, beta: f64) -> Slope {
    let error = margin - 0.5 / beta;
    Slope { value: error * error, slope: 2.0 * error }
}
