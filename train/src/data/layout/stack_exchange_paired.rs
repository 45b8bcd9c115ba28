//! Paired Stack Exchange answers: `question`, the better answer `response_j`, the worse `response_k`.

use super::fields::{is_string, string};
use super::{RowError, Spec, sides};
use crate::data::Preference;
use crate::data::read::Row;

pub(super) const SPEC: Spec = Spec {
    name: "stack_exchange_paired",
    fields: "question, response_j, response_k",
    required: &["question", "response_j", "response_k"],
    reads: |_, name| matches!(name, "question" | "response_j" | "response_k"),
    fits: |row| ["question", "response_j", "response_k"].iter().all(|name| is_string(row, name)),
    parse,
};

fn parse(row: &Row) -> Result<Preference, RowError> {
    let (chosen, rejected) = (string(row, "response_j")?, string(row, "response_k")?);
    Ok(sides::question(Vec::new(), string(row, "question")?, chosen, rejected))
}
