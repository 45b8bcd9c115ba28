//! Intel's Orca DPO pairs: `system`, `question`, `chosen`, `rejected`, all strings.

use super::fields::{is_string, string, system_turn};
use super::{RowError, Spec, sides};
use crate::data::Preference;
use crate::data::read::Row;

pub(super) const SPEC: Spec = Spec {
    name: "orca_dpo_pairs",
    fields: "question, chosen, rejected, optional system",
    fits: |row| ["question", "chosen", "rejected"].iter().all(|name| is_string(row, name)),
    parse,
};

fn parse(row: &Row) -> Result<Preference, RowError> {
    let (chosen, rejected) = (string(row, "chosen")?, string(row, "rejected")?);
    Ok(sides::question(system_turn(row)?, Vec::new(), string(row, "question")?, chosen, rejected))
}
