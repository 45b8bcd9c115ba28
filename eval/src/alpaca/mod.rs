//! AlpacaEval 2.0: how often does a judge prefer a model's answers to those of a baseline?
//!
//! The numbers are those of the official program (`alpaca_eval` 0.6.6). A comparison ends in a preference, from 1 (the
//! baseline's answer is better) to 2 (the model's is):
//!
//! ```
//! use orpo_eval::alpaca::metrics::WinRate;
//!
//! let rate = WinRate::of([1.9, 1.2, 1.5]);
//! assert_eq!((rate.n_wins, rate.n_wins_base, rate.n_draws), (1, 1, 1));
//! assert!((rate.win_rate.unwrap() - 53.333333333333336).abs() < 1e-9);
//! ```
//!
//! [`length_controlled`] takes the judge's liking of length out of it. [`answers`] and [`verdicts`] ask the model and
//! the judge, [`outputs`] and [`annotations`] read and write what the official program reads and writes, [`summary`] is
//! what a run finds and [`run`] leaves it on disk.

pub mod annotations;
pub mod answers;
pub mod comparison;
mod folds;
pub mod gamed;
mod leaderboard;
pub mod length_controlled;
pub mod metrics;
pub mod outputs;
pub mod run;
pub(crate) mod solver;
pub mod summary;
mod switch;
pub mod table;
pub mod verdicts;

pub use folds::FoldLayout;
pub use leaderboard::Leaderboard;
pub use switch::is_switched;

/// The name of the task in `results.json`.
pub const TASK: &str = "alpaca";

/// The version of the scoring: it changes when a number can change.
pub const TASK_VERSION: &str = "1";
