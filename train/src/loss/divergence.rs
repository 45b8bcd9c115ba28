//! f-DPO (Wang et al. 2023): other divergences from the reference than the reverse Kullback-Leibler one.

use serde::{Deserialize, Serialize};

use super::pair::{Pair, PairTerm, Response, Slope, bounded_exp, bounded_exp_m1, log_sigmoid, sigmoid};

/// A divergence by what it makes of a log-ratio x, which then stands in the loss in the place of x.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Divergence {
    /// `1 - e^-x`.
    ForwardKl,
    /// `log 2 + log sigmoid(x)`.
    JensenShannon,
    /// `(e^((alpha - 1) x) - 1) / (alpha - 1)`; alpha must not be 1.
    Alpha(f64),
}

impl Divergence {
    /// The term of `loss` on the scores of the responses instead of their log-ratios.
    pub fn term(&self, ratios: &Pair, loss: impl Fn(&Pair) -> PairTerm) -> PairTerm {
        let (chosen, rejected) = (self.score(ratios.chosen.logp), self.score(ratios.rejected.logp));
        let term = loss(&Pair {
            chosen: Response { logp: chosen.value, ..ratios.chosen },
            rejected: Response { logp: rejected.value, ..ratios.rejected },
        });
        PairTerm {
            loss: term.loss,
            grad_chosen: term.grad_chosen * chosen.slope,
            grad_rejected: term.grad_rejected * rejected.slope,
        }
    }

    fn score(&self, x: f64) -> Slope {
        match *self {
            Self::ForwardKl => Slope { value: -bounded_exp_m1(-x), slope: bounded_exp(-x) },
            Self::JensenShannon => Slope { value: std::f64::consts::LN_2 + log_sigmoid(x), slope: sigmoid(-x) },
            Self::Alpha(alpha) => {
                let exponent = (alpha - 1.0) * x;
                Slope { value: bounded_exp_m1(exponent) / (alpha - 1.0), slope: bounded_exp(exponent) }
            }
        }
    }
}
