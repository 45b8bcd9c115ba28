//! TRL's conversational layouts: lists of messages, with a `prompt` of its own or with the prompt inside both sides. A side
//! beside a `prompt` may be the text of the model's turn.

use super::fields::{has, is_list, is_string, is_turns, reply, turns};
use super::{Spec, sides};
use crate::data::read::Row;

pub(super) const EXPLICIT: Spec = Spec {
    name: "trl_conversational_explicit",
    fields: "prompt, chosen, rejected: lists of messages",
    required: &["prompt", "chosen", "rejected"],
    reads: |_, name| matches!(name, "prompt" | "chosen" | "rejected"),
    fits: |row| is_turns(row, "prompt") && is_reply(row, "chosen") && is_reply(row, "rejected"),
    parse: |row| Ok(sides::explicit(turns(row, "prompt")?, reply(row, "chosen")?, reply(row, "rejected")?)),
};

pub(super) const IMPLICIT: Spec = Spec {
    name: "trl_conversational_implicit",
    fields: "chosen, rejected: lists of messages that begin with the prompt",
    required: &["chosen", "rejected"],
    reads: |_, name| matches!(name, "chosen" | "rejected"),
    fits: |row| !has(row, "prompt") && is_list(row, "chosen") && is_list(row, "rejected"),
    parse: |row| sides::implicit(turns(row, "chosen")?, turns(row, "rejected")?),
};

fn is_reply(row: &Row, name: &str) -> bool {
    is_string(row, name) || is_turns(row, name)
}
