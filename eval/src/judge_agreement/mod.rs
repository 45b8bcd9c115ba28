//! How far a judge can be trusted: its decisions beside stored ones, of an official judge or of people.
//!
//! A [`reference`](reference) is a list of pairs of answers with a vote or several on each. A judge is asked about the same
//! pairs, in both orders, or its decisions are read from a file ([`decisions`]). [`summary`] makes numbers of both:
//!
//! ```
//! use orpo_eval::judge_agreement::confusion::Confusion;
//! use orpo_eval::compare::pair::Winner::{A, B, Tie};
//!
//! let confusion = Confusion::of([(A, A), (B, B), (A, B), (B, Tie)]);
//! assert_eq!((confusion.agreed(), confusion.total()), (2, 4));
//! ```

pub mod confusion;
pub mod decisions;
pub mod item;
pub mod people;
pub mod ranking;
pub mod reference;
pub mod sample;
pub mod summary;
pub mod table;

pub use item::{Item, Vote};

/// The name of the task in `results.json`.
pub const TASK: &str = "judge-agreement";

/// The version of its scoring.
pub const TASK_VERSION: &str = "1";
