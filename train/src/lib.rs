//! ORPO training: preference pairs and a base model in, a Hugging Face checkpoint directory out.
//!
//! - [`recipe::Recipe`] is one TOML file that determines a run; [`run::run`] carries it out, top-down.
//! - [`data`] brings pairs to packed token rows, the crate `orpo-model` computes them, [`loss`] turns log-probabilities
//!   into a loss and its gradient, [`optim`] updates the weights.
//! - [`check`] says what a recipe would do before anything runs.
//! - [`checkpoint`] writes what `transformers`, vLLM, llama.cpp and the server of this project load.
//!
//! ```
//! // The loss alone (equation 6 of arXiv 2403.07691), on log-probabilities of one pair.
//! use orpo_train::loss::{NllTarget, PairSpans, preference};
//!
//! let logps = [-1.0, -0.5, -0.7, -2.0];
//! let pair = PairSpans { prompt: 0..1, chosen: 1..3, rejected: 3..4, unlearnt: 0 };
//! let output = preference(&logps, &[pair], 0.1, NllTarget::Full);
//! assert!(output.metrics.log_odds_chosen > 0.0);
//! assert_eq!(output.grad.len(), logps.len());
//! ```

pub mod check;
pub mod checkpoint;
pub mod cli;
pub mod data;
pub mod error;
pub mod evaluate;
pub mod export;
pub mod generate;
pub mod hub;
pub mod loss;
pub mod optim;
pub mod recipe;
pub mod reference;
pub mod run;
pub mod saved;
pub mod score;
pub mod selection;
pub mod step;
pub mod telemetry;
pub mod terminal;
