//! `samples.jsonl`: one line for each example, with the response and the verdicts on it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::example::{Example, Score, Scorer};

/// A line of `samples.jsonl`.
///
/// ```json
/// {"key": 1, "prompt": "Name three rivers, without commas.", "response": "Rhine, Danube, Elbe",
///  "instruction_id_list": ["punctuation:no_comma"], "strict": [false], "loose": [false],
///  "reasons": ["found 2 commas, exactly 0 required"], "finish_reason": "stop", "error": null}
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The example's key.
    pub key: Value,
    /// The example's prompt.
    pub prompt: String,
    /// The response; null where there is none.
    pub response: Option<String>,
    /// The example's instructions.
    pub instruction_id_list: Vec<String>,
    /// The verdicts, in the order of the instructions; no entries where there is no response.
    #[serde(flatten)]
    pub score: Score,
    /// Why the server stopped; `length` is a response that was cut off.
    #[serde(default)]
    pub finish_reason: Option<String>,
    /// Why there is no response.
    #[serde(default)]
    pub error: Option<String>,
}

/// What became of an example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A response.
    Answered(Answer),
    /// A request that failed for this reason.
    Failed(String),
    /// No response in the file of responses.
    Missing,
}

/// A response and why it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The text.
    pub response: String,
    /// What the server said.
    pub finish_reason: Option<String>,
}

impl Sample {
    /// Scores the outcome of an example.
    pub fn new(example: &Example, scorer: &Scorer, outcome: Outcome) -> Self {
        let none = Score { strict: Vec::new(), loose: Vec::new(), reasons: Vec::new() };
        let (score, response, finish_reason, error) = match outcome {
            Outcome::Answered(Answer { response, finish_reason }) => {
                (scorer.score(&response), Some(response), finish_reason, None)
            }
            Outcome::Failed(problem) => (none, None, None, Some(problem)),
            Outcome::Missing => (none, None, None, None),
        };
        Self {
            key: example.key.clone(),
            prompt: example.prompt.clone(),
            response,
            instruction_id_list: example.instruction_id_list.clone(),
            score,
            finish_reason,
            error,
        }
    }
}
