//! Losses as pure functions of log-probabilities, with their gradients by hand.
//!
//! The model gives one log-probability per scored token; a [`PairSpans`] says which of them are a pair's prompt, its
//! chosen and its rejected response. [`preference`] and [`next_token`] turn them into a number, its gradient with
//! respect to every log-probability, and the metrics that TRL logs.

mod batch;
mod orpo;

pub use batch::{LossOutput, NllTarget, PairSpans, PreferenceMetrics, next_token, preference};
pub use orpo::{OddsRatio, log1mexp, odds_ratio};
