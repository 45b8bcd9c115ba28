//! ShareGPT with two replies: `conversations` of `{"from", "value"}`, and `chosen` and `rejected` as one turn each or as
//! strings.

use super::fields::{has, is_list, reply, turns};
use super::{Spec, sides};

pub(super) const SPEC: Spec = Spec {
    name: "sharegpt_ranking",
    fields: "conversations, chosen, rejected",
    required: &["conversations", "chosen", "rejected"],
    reads: |_, name| matches!(name, "conversations" | "chosen" | "rejected"),
    fits: |row| is_list(row, "conversations") && has(row, "chosen") && has(row, "rejected"),
    parse: |row| Ok(sides::explicit(turns(row, "conversations")?, reply(row, "chosen")?, reply(row, "rejected")?)),
};
