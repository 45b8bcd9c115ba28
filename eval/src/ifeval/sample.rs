//! `samples.jsonl`: one line for each example, with the response and the verdicts on it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::example::{Example, Score, Scorer};
use crate::reasoning::Reasoning;

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
    /// The response as it was scored; null where there is none.
    pub response: Option<String>,
    /// The response with its reasoning, where reasoning was taken out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw_response: Option<String>,
    /// The example's instructions.
    pub instruction_id_list: Vec<String>,
    /// The verdicts, in the order of the instructions; no entries where there is no response.
    #[serde(flatten)]
    pub score: Score,
    /// Why the server stopped; `length` is a response that was cut off.
    #[serde(default)]
    pub finish_reason: Option<String>,
    /// Whether the reasoning did not end, so that there is no answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unterminated_reasoning: bool,
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
    /// The text as the model gave it.
    pub response: String,
    /// What the server said.
    pub finish_reason: Option<String>,
}

impl Sample {
    /// Scores the outcome of an example, without the response's reasoning.
    pub fn new(example: &Example, scorer: &Scorer, outcome: Outcome, reasoning: &Reasoning) -> Self {
        let mut sample = Self {
            key: example.key.clone(),
            prompt: example.prompt.clone(),
            response: None,
            raw_response: None,
            instruction_id_list: example.instruction_id_list.clone(),
            score: Score { strict: Vec::new(), loose: Vec::new(), reasons: Vec::new() },
            finish_reason: None,
            unterminated_reasoning: false,
            error: None,
        };
        match outcome {
            Outcome::Answered(Answer { response, finish_reason }) => {
                let (answer, raw) = match reasoning.strip(&response) {
                    Some(stripped) => {
                        sample.unterminated_reasoning = stripped.answer.is_none();
                        (stripped.answer.unwrap_or_default(), Some(response))
                    }
                    None => (response, None),
                };
                sample.score = scorer.score(&answer);
                (sample.response, sample.raw_response, sample.finish_reason) = (Some(answer), raw, finish_reason);
            }
            Outcome::Failed(problem) => sample.error = Some(problem),
            Outcome::Missing => {}
        }
        sample
    }

    /// The response as the model gave it.
    pub fn raw(&self) -> Option<&str> {
        self.raw_response.as_deref().or(self.response.as_deref())
    }
}
