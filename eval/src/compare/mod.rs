//! Two models' answers to the same prompts, compared.
//!
//! A judge sees every pair twice, with the answers in either order ([`judging`]), so that a liking for the first place
//! cancels out; or the pair is decided without a model, by how many of the prompt's verifiable instructions each answer
//! follows ([`checklist`]). [`summary`] makes numbers of the pairs:
//!
//! ```
//! use orpo_eval::compare::pair::{Pair, Winner};
//!
//! let pair = Pair { preferences: vec![[Some(0.9), Some(0.7)]], ..Pair::default() };
//! assert_eq!(pair.preference(), Some(0.8));
//! assert_eq!(pair.winner(), Some(Winner::A));
//! let inconsistent = Pair { preferences: vec![[Some(0.9), Some(0.2)]], ..Pair::default() };
//! assert_eq!(inconsistent.winner(), Some(Winner::Tie));
//! ```

pub mod agreement;
pub mod answers;
pub mod checklist;
pub mod judging;
mod length;
pub mod pair;
pub mod summary;
pub mod table;

/// The name of the task in `results.json`.
pub const TASK: &str = "compare";

/// The version of its scoring.
pub const TASK_VERSION: &str = "1";
