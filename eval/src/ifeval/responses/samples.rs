//! `samples.jsonl` of a run.

use serde::Deserialize;
use serde_json::Value;

use super::{Format, Recorded, Row, present, typed};
use crate::ifeval::sample::{Answer, Outcome};
use crate::reply;

/// What a run calls its file.
pub(super) const FILE_NAME: &str = "samples.jsonl";

pub(super) const FORMAT: Format =
    Format { name: "samples.jsonl of orpo-eval (`key`, `prompt`, `response`, `reasons`, ...)", is, read };

#[derive(Deserialize)]
struct Fields {
    key: Value,
    prompt: String,
    #[serde(deserialize_with = "present")]
    response: Option<String>,
    raw_response: Option<String>,
    finish_reason: Option<String>,
    error: Option<String>,
}

fn is(row: &Row) -> bool {
    ["key", "prompt", "response", "reasons"].iter().all(|name| row.contains_key(*name))
}

/// The response is the one that the model gave, with its reasoning. A null response is none: its request failed, or
/// there was nothing to score. Neither is one that its server did not finish.
fn read(row: Row) -> Result<Recorded, String> {
    let Fields { key, prompt, response, raw_response, finish_reason, error } = typed(row)?;
    let was_stripped = raw_response.is_some();
    let outcome = match (raw_response.or(response), error) {
        (Some(_), _) if reply::is_failure(finish_reason.as_deref()) => {
            Outcome::Failed(format!("the reply ended with `{}`", finish_reason.unwrap_or_default()))
        }
        (Some(response), _) => Outcome::Answered(Answer { response, finish_reason }),
        (None, Some(error)) => Outcome::Failed(error),
        (None, None) => Outcome::Missing,
    };
    Ok(Recorded { key: Some(key), prompt: Some(prompt), outcome, example: None, was_stripped })
}
