//! Measures a chat model through the one thing that all servers share, the OpenAI HTTP API, or from saved responses.
//!
//! A task is data, a scorer and metrics: [`ifeval`], [`alpaca`], [`mt_bench`], [`compare`]; [`judge_agreement`] is one about judges. The centre of the first is a pure
//! function from a response to verdicts:
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
//! Around it: [`client`] asks a server for a [`reply`], [`asking`] asks it many questions, [`judge`] asks models for
//! verdicts, [`store`] keeps what they said, [`reasoning`] leaves of it what is to be judged, [`stats`] puts intervals around
//! numbers, [`results`] is the file that a run leaves, [`report`] makes a page of them, [`official`] fetches published data,
//! and [`cli`] ties them to a command line.

pub mod alpaca;
pub mod asking;
pub mod bias;
pub mod body;
pub mod breaker;
pub mod cli;
pub mod client;
pub mod clock;
pub mod compare;
pub mod error_body;
pub mod ifeval;
pub mod jsonl;
pub mod judge;
pub mod judge_agreement;
pub mod learning;
pub mod lenient_json;
pub mod mt_bench;
pub mod official;
pub mod progress;
pub mod python_json;
pub mod python_random;
pub mod rank;
pub mod reasoning;
mod rejection;
pub mod reply;
pub mod report;
pub mod results;
mod retry;
pub mod server;
pub mod settings;
pub mod stats;
pub mod store;
pub mod table;
pub mod threshold;
