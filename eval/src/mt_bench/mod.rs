//! MT-Bench: conversations of two turns, judged by a model (Zheng et al., arXiv 2306.05685).
//!
//! A model answers questions of eight categories; a judge gives every answer a score of 1 to 10 ([`single`]), or says
//! which of two models answered better ([`pairwise`]). Files, prompts and aggregation are those of FastChat's
//! `llm_judge`:
//!
//! ```
//! use orpo_eval::mt_bench::verdict::{NoScore, Rule, score};
//!
//! assert_eq!(score("Clear and correct. Rating: [[9]]", Rule::Strict), Ok(9.0));
//! // What the official program takes for the score 1.
//! assert_eq!(score("The answer follows [1] closely.", Rule::Strict), Err(NoScore::Absent));
//! assert_eq!(score("The answer follows [1] closely.", Rule::Official), Ok(1.0));
//! ```
//!
//! The pure parts: [`plan`] lists what is judged and renders the requests ([`render`]), [`judged`] reads the replies
//! ([`verdict`]), [`single`] and [`pairwise`] aggregate. [`generate`] asks the model, [`import`] takes judgments from a
//! file, [`summary`] is what a run leaves.

pub mod answer;
pub mod category;
pub mod generate;
mod id;
pub mod import;
pub mod judge_prompt;
pub mod judged;
pub mod judgment;
pub mod pairwise;
pub mod plan;
mod question;
pub mod render;
pub mod run;
pub mod single;
pub mod summary;
pub mod table;
mod template;
mod turn;
pub mod verdict;

pub use answer::Answers;
pub use id::Id;
pub use judge_prompt::JudgePrompts;
pub use question::{OFFICIAL, Question, Questions, QuestionsError};
pub use template::Template;
pub use turn::Turn;

/// The version of the scoring: it changes when a verdict or a metric can change.
pub const TASK_VERSION: &str = "1";
