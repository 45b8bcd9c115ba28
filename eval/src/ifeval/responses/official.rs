//! The official format: `{"prompt": "...", "response": "..."}`, with `key` in place of `prompt` or beside it.

use serde::Deserialize;
use serde_json::Value;

use super::{Format, Recorded, Row, present, typed};
use crate::ifeval::sample::{Answer, Outcome};

pub(super) const FORMAT: Format = Format { name: "the official format (`prompt` or `key`, and `response`)", is, read };

#[derive(Deserialize)]
struct Fields {
    key: Option<Value>,
    prompt: Option<String>,
    #[serde(deserialize_with = "present")]
    response: Option<String>,
}

fn is(row: &Row) -> bool {
    row.contains_key("response") && (row.contains_key("prompt") || row.contains_key("key"))
}

/// A null response is none: an answer that a model did not give is not scored as an empty one.
fn read(row: Row) -> Result<Recorded, String> {
    let Fields { key, prompt, response } = typed(row)?;
    let answered = |response| Outcome::Answered(Answer { response, finish_reason: None });
    let outcome = response.map_or(Outcome::Missing, answered);
    Ok(Recorded { key, prompt, outcome, example: None, was_stripped: false })
}
