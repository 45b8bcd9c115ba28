//! LLaMA-Factory v1: whole conversations in `chosen_messages` and `rejected_messages`, contents as lists of parts.

use super::fields::{is_list, turns};
use super::{Spec, sides};

pub(super) const SPEC: Spec = Spec {
    name: "llama_factory_v1",
    fields: "chosen_messages, rejected_messages",
    required: &["chosen_messages", "rejected_messages"],
    reads: |_, name| matches!(name, "chosen_messages" | "rejected_messages"),
    fits: |row| is_list(row, "chosen_messages") && is_list(row, "rejected_messages"),
    parse: |row| sides::implicit(turns(row, "chosen_messages")?, turns(row, "rejected_messages")?),
};
