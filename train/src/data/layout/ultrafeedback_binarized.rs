//! HuggingFaceH4's binarised UltraFeedback: `prompt` as a string, and whole conversations in `chosen` and `rejected`.

use orpo_chat::Message;

use super::fields::{is_string, is_turns, string, turns};
use super::{RowError, Spec, sides};
use crate::data::Preference;
use crate::data::preference::speaks_for_model;
use crate::data::read::Row;

pub(super) const SPEC: Spec = Spec {
    name: "ultrafeedback_binarized",
    fields: "prompt: a string; chosen, rejected: lists of messages",
    required: &["prompt", "chosen", "rejected"],
    reads: |_, name| matches!(name, "prompt" | "chosen" | "rejected"),
    fits: |row| is_string(row, "prompt") && is_turns(row, "chosen") && is_turns(row, "rejected"),
    parse,
};

fn parse(row: &Row) -> Result<Preference, RowError> {
    let prompt = string(row, "prompt")?;
    let (chosen, rejected) = (turns(row, "chosen")?, turns(row, "rejected")?);
    let starts_with_reply = |turns: &[Message]| turns.first().is_some_and(|turn| speaks_for_model(&turn.role));
    if starts_with_reply(&chosen) && starts_with_reply(&rejected) {
        return Ok(sides::explicit(vec![Message::user(prompt)], chosen, rejected));
    }
    // The conversations hold the prompt, with the turns before it that the string leaves out.
    sides::implicit(chosen, rejected)
}
