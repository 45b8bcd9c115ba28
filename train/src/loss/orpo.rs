//! The odds ratio of two responses (Hong, Lee and Thorne 2024, equations 3 to 8).

use super::pair::{Pair, PairTerm, at_most, log_sigmoid, logistic};

/// The odds-ratio term of one pair and its derivatives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OddsRatio {
    /// `log(odds(chosen) / odds(rejected))`, odds(P) = P / (1 - P), P the geometric mean of the token probabilities.
    pub log_odds: f64,
    /// `log sigmoid(log_odds)`; the loss is its negative (equation 7).
    pub log_sigmoid: f64,
    /// Derivative of `-log_sigmoid` with respect to the average log-probability of the chosen response.
    pub grad_chosen: f64,
    /// The same for the rejected response.
    pub grad_rejected: f64,
}

/// The odds-ratio term from the average log-probabilities (at most 0) of both responses.
///
/// Derivatives are `-sigmoid(-log_odds) / (1 - P_chosen)` and `sigmoid(-log_odds) / (1 - P_rejected)`, finite however
/// close to 1 the chosen response's probability comes.
///
/// ```
/// let term = orpo_train::loss::odds_ratio(-0.5, -2.0);
/// let odds = |logp: f64| logp.exp() / (1.0 - logp.exp());
/// assert!((term.log_odds - (odds(-0.5) / odds(-2.0)).ln()).abs() < 1e-12);
/// ```
pub fn odds_ratio(chosen: f64, rejected: f64) -> OddsRatio {
    let (chosen, rejected) = (below_zero(chosen), below_zero(rejected));
    let log_odds = (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected));
    let log_sigmoid = log_sigmoid(log_odds);
    let wrong = self::log_sigmoid(-log_odds).exp();
    OddsRatio { log_odds, log_sigmoid, grad_chosen: wrong / chosen.exp_m1(), grad_rejected: -wrong / rejected.exp_m1() }
}

/// `-lambda * log sigmoid(log_odds)` (equation 7 with its weight in equation 6).
pub fn orpo(pair: &Pair, lambda: f64) -> PairTerm {
    let term = odds_ratio(pair.chosen.mean(), pair.rejected.mean());
    PairTerm {
        loss: -lambda * term.log_sigmoid,
        grad_chosen: lambda * term.grad_chosen / pair.chosen.tokens,
        grad_rejected: lambda * term.grad_rejected / pair.rejected.tokens,
    }
}

/// `-log sigmoid(beta * log_odds)`: the odds ratio with a temperature (arXiv 2502.01237).
pub fn orpo_beta(pair: &Pair, beta: f64) -> PairTerm {
    soft_odds(pair, beta, 0.0)
}

/// The cross-entropy of `beta * log_odds` with a label that is wrong with probability `wrong`.
pub(super) fn soft_odds(pair: &Pair, beta: f64, wrong: f64) -> PairTerm {
    let (chosen, rejected) = (below_zero(pair.chosen.mean()), below_zero(pair.rejected.mean()));
    let log_odds = (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected));
    let term = logistic(beta * log_odds, wrong).scaled(beta);
    PairTerm {
        loss: term.value,
        grad_chosen: -term.slope / chosen.exp_m1() / pair.chosen.tokens,
        grad_rejected: term.slope / rejected.exp_m1() / pair.rejected.tokens,
    }
}

/// A probability of exactly 1 (a mean of log-probabilities that rounded to 0) has infinite odds and slopes; a distance
/// from it that is out of reach of 32-bit log-probabilities keeps every product finite, in 32 bits, too. NaN stays NaN.
pub(super) fn below_zero(logp: f64) -> f64 {
    at_most(logp, -1e-36)
}

/// `log(1 - e^x)` for x < 0, exact at both ends (Maechler 2012).
pub fn log1mexp(x: f64) -> f64 {
    if x > -std::f64::consts::LN_2 { (-x.exp_m1()).ln() } else { (-x.exp()).ln_1p() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivatives_equal_difference_quotients() {
        for (a, b) in [(-0.5, -2.0), (-2.0, -0.5), (-1e-3, -3.0), (-8.0, -9.0)] {
            let h = 1e-6 * f64::min(-a, -b);
            let term = odds_ratio(a, b);
            let quotient = |up: OddsRatio, down: OddsRatio| -(up.log_sigmoid - down.log_sigmoid) / (2.0 * h);
            let da = quotient(odds_ratio(a + h, b), odds_ratio(a - h, b));
            let db = quotient(odds_ratio(a, b + h), odds_ratio(a, b - h));
            assert!((term.grad_chosen - da).abs() <= 1e-6 * da.abs().max(1e-3), "{} {da}", term.grad_chosen);
            assert!((term.grad_rejected - db).abs() <= 1e-6 * db.abs().max(1e-3), "{} {db}", term.grad_rejected);
        }
    }

    #[test]
    fn nothing_is_infinite_or_nan_at_the_ends() {
        for chosen in [0.0, -1e-300, -1e-12, -1.0, -700.0, -1e4] {
            for rejected in [-1e-12, -1.0, -700.0, -1e4] {
                let term = odds_ratio(chosen, rejected);
                let all = [term.log_odds, term.log_sigmoid, term.grad_chosen, term.grad_rejected];
                assert!(all.iter().all(|x| x.is_finite()), "{chosen}, {rejected}: {term:?}");
            }
        }
    }
}
