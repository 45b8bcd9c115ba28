//! IFEval: does a response follow instructions that a program can verify?
//!
//! The verdicts are those of the official checkers (Zhou et al., arXiv 2311.07911). An example is a prompt with the
//! instructions in it:
//!
//! ```
//! use orpo_eval::ifeval::Example;
//!
//! let example: Example = serde_json::from_str(
//!     r#"{"key": 1, "prompt": "Name three rivers, without commas. At least five words.",
//!         "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
//!         "kwargs": [{}, {"relation": "at least", "num_words": 5}]}"#,
//! )?;
//! let score = example.score("Rhine Danube Elbe")?;
//! assert_eq!(score.strict, [true, false]);
//! assert_eq!(score.reasons[1].as_deref(), Some("found 3 words, at least 5 required"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Example::score`] is a pure function; [`data`] and [`responses`] read examples and responses, [`run`] asks a server
//! and writes results, [`export`] writes them as other programs do.

mod change_case;
mod combination;
pub mod data;
mod detectable_content;
mod detectable_format;
mod directory;
mod example;
pub mod export;
mod instruction;
mod json;
mod keywords;
pub mod language;
mod length_constraints;
pub mod metrics;
mod pattern;
mod punctuation;
mod registry;
mod response_language;
pub mod responses;
pub mod run;
pub mod sample;
pub mod sentences;
mod startend;
pub(crate) mod text;
pub mod words;

pub use example::{Example, ExampleError, Score, Scorer};
pub use instruction::{ArgumentError, Check, Verdict};
pub use pattern::PatternError;
pub use registry::{InstructionError, build, ids};

/// The version of the scoring: it changes when a verdict can change.
pub const TASK_VERSION: &str = "2";
