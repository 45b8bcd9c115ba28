//! ASFT (Wang et al. 2024, arXiv 2409.10571): each response's probability for itself, without a comparison.

use super::orpo::{below_zero, log1mexp};
use super::pair::{Pair, PairTerm};

/// The alignment term `lambda * (-a - log(1 - e^b))`, a and b the average log-probabilities; the likelihood is added
/// apart.
pub fn asft(pair: &Pair, lambda: f64) -> PairTerm {
    let (chosen, rejected) = (pair.chosen.mean(), below_zero(pair.rejected.mean()));
    PairTerm {
        loss: lambda * (-chosen - log1mexp(rejected)),
        grad_chosen: -lambda / pair.chosen.tokens,
        // d/db -log(1 - e^b) = e^b / (1 - e^b)
        grad_rejected: -lambda * rejected.exp() / rejected.exp_m1() / pair.rejected.tokens,
    }
}
