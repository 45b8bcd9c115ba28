//! Intel's Orca DPO pairs, and others like it: a question (`question`, `input`, `query` or `problem`), `chosen` and
//! `rejected`, all strings. With a system message beside it a `prompt` is such a question, too.

use super::context::SYSTEM;
use super::fields::{has, is_string, string};
use super::{RowError, Spec, sides};
use crate::data::Preference;
use crate::data::read::Row;

pub(super) const SPEC: Spec = Spec {
    name: "orca_dpo_pairs",
    fields: "question (or input, query, problem, or prompt beside system), chosen, rejected: strings",
    required: &["question", "chosen", "rejected"],
    reads: |row, name| matches!(name, "chosen" | "rejected") || name == question_name(row),
    fits: |row| {
        let has_system = SYSTEM.iter().any(|name| has(row, name));
        let has_question = is_string(row, question_name(row)) && (has_system || !has(row, "prompt"));
        has_question && is_string(row, "chosen") && is_string(row, "rejected")
    },
    parse,
};

/// The column with the question: the first that there is.
fn question_name(row: &Row) -> &'static str {
    const NAMES: [&str; 5] = ["question", "prompt", "input", "query", "problem"];
    NAMES.into_iter().find(|name| has(row, name)).unwrap_or("question")
}

fn parse(row: &Row) -> Result<Preference, RowError> {
    let (chosen, rejected) = (string(row, "chosen")?, string(row, "rejected")?);
    Ok(sides::question(Vec::new(), string(row, question_name(row))?, chosen, rejected))
}

#[cfg(test)]
mod tests {
    use orpo_chat::Message;
    use serde_json::json;

    use super::*;
    use crate::data::layout::detect;

    #[test]
    fn a_question_has_several_names() {
        let turns = vec![Message::new("system", "s"), Message::user("q")];
        let expected = sides::explicit(turns, vec![Message::assistant("a")], vec![Message::assistant("b")]);
        for name in ["question", "input", "query", "problem", "prompt"] {
            let row = json!({"system": "s", name: "q", "chosen": "a", "rejected": "b"});
            let row = row.as_object().unwrap();
            let layout = detect(std::slice::from_ref(row)).unwrap();
            assert_eq!((layout.name(), layout.parse(row, false).unwrap()), ("orca_dpo_pairs", expected.clone()));
        }
        let plain = json!({"prompt": "q", "chosen": "a", "rejected": "b"});
        assert_eq!(detect(&[plain.as_object().unwrap().clone()]).unwrap().name(), "trl_standard_explicit");
    }
}
