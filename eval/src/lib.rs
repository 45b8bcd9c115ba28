//! Measures a chat model through the one thing that all servers share, the OpenAI HTTP API, or from saved responses.
//!
//! A task is data, a scorer and metrics; [`ifeval`] is one. Its centre is a pure function from a response to verdicts:
//!
//! ```
//! use orpo_eval::ifeval::Example;
//! use serde_json::json;
//!
//! let example: Example = serde_json::from_value(json!({
//!     "key": 1, "prompt": "Say hello, in quotes.",
//!     "instruction_id_list": ["startend:quotation"], "kwargs": [{}]
//! }))?;
//! let score = example.score("Sure!\n\"Hello\"")?;
//! assert!(!score.strict[0] && score.loose[0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Around it: [`client`] asks servers, [`judge`] asks models for verdicts, [`store`] keeps what they said, [`stats`] puts intervals around numbers,
//! [`results`] is the file that a run leaves, and [`cli`] ties them to a command line.

pub mod breaker;
pub mod cli;
pub mod client;
pub mod ifeval;
pub mod jsonl;
pub mod judge;
pub mod progress;
pub mod results;
pub mod stats;
pub mod store;
pub mod table;
