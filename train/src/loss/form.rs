//! The choice of a loss on pairs as a value.

use super::divergence::Divergence;
use super::pair::{Pair, PairTerm, Response};
use super::simpo::alphapo_reward;
use super::{aot, asft, cpo, discopop, dpop, exo, ipo, nca, orpo, probability_ratio, simpo, sppo};

/// The formula. Each is a function of log-probabilities; with [`PairLoss::reference`] of log-ratios.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Form {
    /// [`orpo::orpo`], `beta` being its lambda.
    Orpo,
    /// [`orpo::orpo_beta`].
    OrpoBeta,
    /// [`probability_ratio::probability_ratio`].
    ProbabilityRatio {
        /// Weight of the term.
        lambda: f64,
    },
    /// [`asft::asft`], `beta` being its lambda.
    Asft,
    /// [`cpo::sigmoid_margin`]: CPO, DPO, conservative DPO.
    Sigmoid {
        /// Share of labels taken as wrong.
        label_smoothing: f64,
    },
    /// [`cpo::hinge_margin`].
    Hinge,
    /// [`cpo::robust_margin`].
    Robust {
        /// Share of labels taken as flipped, below 1/2.
        label_smoothing: f64,
    },
    /// [`ipo::ipo`].
    Ipo,
    /// [`ipo::ipo_sum`].
    IpoSum,
    /// [`simpo::simpo`]; with a reference and `gamma` = 0 length-normalised DPO.
    Simpo {
        /// Target margin.
        gamma: f64,
        /// Share of labels taken as wrong.
        label_smoothing: f64,
    },
    /// [`simpo::alphapo`].
    AlphaPo {
        /// Target margin.
        gamma: f64,
        /// Curvature of the reward.
        alpha: f64,
        /// Share of labels taken as wrong.
        label_smoothing: f64,
    },
    /// [`sppo::sppo_hard`].
    SppoHard,
    /// [`sppo::cal_dpo`].
    CalDpo,
    /// [`nca::nca_pair`].
    NcaPair,
    /// [`nca::bco_pair`].
    BcoPair,
    /// [`nca::apo_zero`].
    ApoZero,
    /// [`nca::apo_down`].
    ApoDown,
    /// [`exo::exo_pair`].
    ExoPair {
        /// Share of labels taken as wrong, above 0.
        label_smoothing: f64,
    },
    /// [`discopop::discopop`].
    Discopop {
        /// Temperature of the blend.
        tau: f64,
    },
    /// [`dpop::dpop`].
    Dpop {
        /// Weight of the penalty.
        lambda: f64,
    },
    /// [`aot::aot`]; it needs a reference.
    Aot {
        /// Share of labels taken as wrong.
        label_smoothing: f64,
    },
}

/// A loss on pairs with its parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairLoss {
    /// The formula.
    pub form: Form,
    /// Scale of rewards; for ORPO and ASFT the weight of the term.
    pub beta: f64,
    /// Whether it looks at log-ratios to a reference model.
    pub reference: bool,
    /// What takes the place of log-ratios, where it is not they themselves.
    pub divergence: Option<Divergence>,
}

impl PairLoss {
    /// A loss without a reference model.
    pub fn free(form: Form, beta: f64) -> Self {
        Self { form, beta, reference: false, divergence: None }
    }

    /// The term of every pair. `references` are the reference model's sums, chosen and rejected, where the loss looks at
    /// them.
    pub fn terms(&self, pairs: &[Pair], references: &[(f64, f64)]) -> Vec<PairTerm> {
        if let Form::Aot { label_smoothing } = self.form {
            return aot::aot(pairs, references, self.beta, label_smoothing);
        }
        if !self.reference {
            return pairs.iter().map(|pair| self.term(pair)).collect();
        }
        let ratios = pairs.iter().zip(references).map(|(pair, reference)| pair.relative_to(*reference));
        match &self.divergence {
            None => ratios.map(|ratios| self.term(&ratios)).collect(),
            Some(divergence) => ratios.map(|ratios| divergence.term(&ratios, |scores| self.term(scores))).collect(),
        }
    }

    fn term(&self, pair: &Pair) -> PairTerm {
        let beta = self.beta;
        match self.form {
            Form::Orpo => orpo::orpo(pair, beta),
            Form::OrpoBeta => orpo::orpo_beta(pair, beta),
            Form::ProbabilityRatio { lambda } => probability_ratio::probability_ratio(pair, beta, lambda),
            Form::Asft => asft::asft(pair, beta),
            Form::Sigmoid { label_smoothing } => cpo::sigmoid_margin(pair, beta, label_smoothing),
            Form::Hinge => cpo::hinge_margin(pair, beta),
            Form::Robust { label_smoothing } => cpo::robust_margin(pair, beta, label_smoothing),
            Form::Ipo => ipo::ipo(pair, beta),
            Form::IpoSum => ipo::ipo_sum(pair, beta),
            Form::Simpo { gamma, label_smoothing } => simpo::simpo(pair, beta, gamma, label_smoothing),
            Form::AlphaPo { gamma, alpha, label_smoothing } => {
                simpo::alphapo(pair, beta, gamma, alpha, label_smoothing)
            }
            Form::SppoHard => sppo::sppo_hard(pair, beta),
            Form::CalDpo => sppo::cal_dpo(pair, beta),
            Form::NcaPair => nca::nca_pair(pair, beta),
            Form::BcoPair => nca::bco_pair(pair, beta),
            Form::ApoZero => nca::apo_zero(pair, beta),
            Form::ApoDown => nca::apo_down(pair, beta),
            Form::ExoPair { label_smoothing } => exo::exo_pair(pair, beta, label_smoothing),
            Form::Discopop { tau } => discopop::discopop(pair, beta, tau),
            Form::Dpop { lambda } => dpop::dpop(pair, beta, lambda),
            Form::Aot { .. } => unreachable!("it is a function of the batch"),
        }
    }

    /// Whether it looks at averages per token rather than at sums; TRL logs as `logps/*` what CPO's and ORPO's losses
    /// look at, and sums for every loss with a reference.
    pub(super) fn averages(&self) -> bool {
        let of_sums = matches!(self.form, Form::Sigmoid { .. } | Form::Hinge | Form::IpoSum | Form::Robust { .. });
        !self.reference && !of_sums
    }

    /// A response's reward as TRL logs it, without the factor `beta`.
    pub(super) fn score(&self, response: &Response) -> f64 {
        match self.form {
            Form::AlphaPo { alpha, .. } => alphapo_reward(response.mean(), alpha),
            _ if self.averages() => response.mean(),
            _ => response.logp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log-probability that is no number must not become one on its way through a limit.
    #[test]
    fn what_is_not_a_number_stays_none() {
        let (label_smoothing, lambda, gamma) = (0.1, 1.0, 0.5);
        let forms = [
            Form::Orpo,
            Form::OrpoBeta,
            Form::ProbabilityRatio { lambda },
            Form::Asft,
            Form::Sigmoid { label_smoothing },
            Form::Hinge,
            Form::Robust { label_smoothing },
            Form::Ipo,
            Form::IpoSum,
            Form::Simpo { gamma, label_smoothing },
            Form::AlphaPo { gamma, alpha: 0.5, label_smoothing },
            Form::SppoHard,
            Form::CalDpo,
            Form::NcaPair,
            Form::BcoPair,
            Form::ApoZero,
            Form::ApoDown,
            Form::ExoPair { label_smoothing },
            Form::Discopop { tau: 0.05 },
            Form::Dpop { lambda },
            Form::Aot { label_smoothing },
        ];
        let response = |logp| Response { logp, tokens: 3.0 };
        for form in forms {
            for divergence in [None, Some(Divergence::ForwardKl), Some(Divergence::Alpha(0.5))] {
                let loss = PairLoss { divergence, reference: divergence.is_some(), ..PairLoss::free(form, 0.1) };
                for (chosen, rejected) in [(f64::NAN, -2.0), (-2.0, f64::NAN), (f64::NAN, f64::NAN)] {
                    let pair = Pair { chosen: response(chosen), rejected: response(rejected) };
                    let term = loss.terms(&[pair], &[(-1.0, -1.0)])[0];
                    assert!(term.loss.is_nan(), "{form:?} with {divergence:?}: {chosen}, {rejected} give {term:?}");
                }
            }
        }
        assert!(super::super::kto_baseline(&[f64::NAN, 1.0]).is_nan());
    }
}
