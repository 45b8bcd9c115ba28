//! TRL's conversational layouts: lists of messages, with a `prompt` of its own or with the prompt inside both sides.

use super::fields::{has, is_list, turns};
use super::{Spec, sides};

pub(super) const EXPLICIT: Spec = Spec {
    name: "trl_conversational_explicit",
    fields: "prompt, chosen, rejected: lists of messages",
    fits: |row| ["prompt", "chosen", "rejected"].iter().all(|name| is_list(row, name)),
    parse: |row| Ok(sides::explicit(turns(row, "prompt")?, turns(row, "chosen")?, turns(row, "rejected")?)),
};

pub(super) const IMPLICIT: Spec = Spec {
    name: "trl_conversational_implicit",
    fields: "chosen, rejected: lists of messages that begin with the prompt",
    fits: |row| !has(row, "prompt") && is_list(row, "chosen") && is_list(row, "rejected"),
    parse: |row| sides::implicit(turns(row, "chosen")?, turns(row, "rejected")?),
};
