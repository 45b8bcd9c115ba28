//! Losses as pure functions of log-probabilities, with their gradients by hand.
//!
//! The model gives one log-probability per scored token; a [`PairSpans`] says which of them are a pair's prompt, its
//! chosen and its rejected response. [`pairwise`] and [`next_token`] turn them into a number, its gradient with respect
//! to every log-probability, and the metrics that TRL logs.
//!
//! The losses themselves are functions of a [`Pair`]: two summed log-probabilities with their lengths. [`PairLoss`] is
//! the choice of one of them as a value; those that need more than a pair and its reference (scores of the responses,
//! unpaired responses) are functions only.

mod aot;
mod asft;
mod batch;
mod cpo;
mod discopop;
mod divergence;
mod dpop;
mod exo;
mod form;
mod ipo;
mod kto;
mod mmpo;
mod nca;
mod orpo;
mod pair;
mod probability_ratio;
mod simpo;
mod sppo;

pub use aot::aot;
pub use asft::asft;
pub use batch::{LossOutput, NllTarget, PairSpans, PreferenceMetrics, next_token, nll_weights, pairwise, preference};
pub use cpo::{hinge_margin, robust_margin, sigmoid_margin};
pub use discopop::discopop;
pub use divergence::Divergence;
pub use dpop::dpop;
pub use exo::exo_pair;
pub use form::{Form, PairLoss};
pub use ipo::{ipo, ipo_sum};
pub use kto::{kto, kto_baseline};
pub use mmpo::{mmpo, mmpo_odds, odpo};
pub use nca::{apo_down, apo_zero, bco_pair, nca_pair};
pub use orpo::{OddsRatio, log1mexp, odds_ratio, orpo, orpo_beta};
pub use pair::{Pair, PairTerm, Response};
pub use probability_ratio::probability_ratio;
pub use simpo::{alphapo, simpo};
pub use sppo::{cal_dpo, sppo_hard};
