//! ShareGPT with two replies: `conversations` of `{"from", "value"}`, and `chosen` and `rejected` as one turn each or as
//! strings.

use orpo_chat::Message;
use serde_json::Value;

use super::fields::{has, is_list, required, system_turn, turn, turns};
use super::{RowError, Spec, sides};
use crate::data::Preference;
use crate::data::read::Row;

pub(super) const SPEC: Spec = Spec {
    name: "sharegpt_ranking",
    fields: "conversations, chosen, rejected, optional system",
    fits: |row| is_list(row, "conversations") && has(row, "chosen") && has(row, "rejected"),
    parse,
};

fn parse(row: &Row) -> Result<Preference, RowError> {
    let mut prompt = turns(row, "conversations")?;
    prompt.splice(0..0, system_turn(row)?);
    Ok(sides::explicit(prompt, reply(row, "chosen")?, reply(row, "rejected")?))
}

fn reply(row: &Row, name: &str) -> Result<Vec<Message>, RowError> {
    match required(row, name)? {
        Value::String(text) => Ok(vec![Message::assistant(text)]),
        Value::Array(_) => turns(row, name),
        value => Ok(vec![turn(value, name)?]),
    }
}
