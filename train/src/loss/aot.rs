//! AOT (Melnyk et al. 2024): the margins' distribution over the batch, not each margin, is compared with the reference's.

use super::pair::{Pair, PairTerm, logistic};

/// `-log sigmoid(beta (m - m'))` on the sorted margins m of the policy and m' of the reference, with label smoothing.
/// Term i is that of pair i, with the reference margin of the same rank. TRL's `"aot"`.
pub fn aot(policy: &[Pair], reference: &[(f64, f64)], beta: f64, label_smoothing: f64) -> Vec<PairTerm> {
    let mut reference: Vec<f64> = reference.iter().map(|(chosen, rejected)| chosen - rejected).collect();
    reference.sort_by(f64::total_cmp);
    let mut order: Vec<usize> = (0..policy.len()).collect();
    order.sort_by(|a, b| policy[*a].margin().total_cmp(&policy[*b].margin()));
    let mut terms = vec![PairTerm { loss: 0.0, grad_chosen: 0.0, grad_rejected: 0.0 }; policy.len()];
    for (rank, pair) in order.into_iter().enumerate() {
        let difference = policy[pair].margin() - reference[rank];
        terms[pair] = logistic(beta * difference, label_smoothing).scaled(beta).of_margin();
    }
    terms
}
