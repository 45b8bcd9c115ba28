//! OpenAI's preference fine-tuning: `input.messages`, `preferred_output`, `non_preferred_output`.

use serde_json::Value;

use super::fields::{has, is_list, required, turns};
use super::{RowError, Spec, sides};
use crate::data::Preference;
use crate::data::read::Row;

pub(super) const SPEC: Spec = Spec {
    name: "openai_preference",
    fields: "input.messages, preferred_output, non_preferred_output",
    required: &["input", "preferred_output", "non_preferred_output"],
    reads: |_, name| matches!(name, "input" | "preferred_output" | "non_preferred_output"),
    fits: |row| {
        row.get("input").and_then(Value::as_object).is_some_and(|input| has(input, "messages"))
            && is_list(row, "preferred_output")
            && is_list(row, "non_preferred_output")
    },
    parse,
};

fn parse(row: &Row) -> Result<Preference, RowError> {
    let input = required(row, "input")?;
    let input = input.as_object().ok_or_else(|| RowError::Wrong("`input` must be an object with `messages`".into()))?;
    let (chosen, rejected) = (turns(row, "preferred_output")?, turns(row, "non_preferred_output")?);
    Ok(sides::explicit(turns(input, "messages")?, chosen, rejected))
}
