//! LLaMA-Factory's Alpaca layout for pairs: `instruction`, `input`, `system`, `history`, and the replies as `chosen` and
//! `rejected` or as a list `output` of two, the better one first.

use orpo_chat::Message;
use serde_json::Value;

use super::fields::{has, is_list, is_string, list, optional_string, string, system_turn};
use super::{RowError, Spec, sides};
use crate::data::Preference;
use crate::data::read::Row;

pub(super) const SPEC: Spec = Spec {
    name: "alpaca_ranking",
    fields: "instruction, input, chosen and rejected or output = [chosen, rejected], optional system and history",
    fits: |row| {
        is_string(row, "instruction")
            && (is_list(row, "output") || is_string(row, "chosen") && is_string(row, "rejected"))
    },
    parse,
};

fn parse(row: &Row) -> Result<Preference, RowError> {
    let (chosen, rejected) = if has(row, "output") {
        match list(row, "output")? {
            [Value::String(chosen), Value::String(rejected)] => (chosen.as_str(), rejected.as_str()),
            _ => return Err(RowError::Wrong("`output` must be a list of two strings, the better one first".into())),
        }
    } else {
        (string(row, "chosen")?, string(row, "rejected")?)
    };
    let question = match (string(row, "instruction")?, optional_string(row, "input")?.unwrap_or_default()) {
        (instruction, "") => instruction.to_string(),
        ("", input) => input.to_string(),
        (instruction, input) => format!("{instruction}\n{input}"),
    };
    Ok(sides::question(system_turn(row)?, history(row)?, &question, chosen, rejected))
}

/// `[[question, answer], ...]`.
fn history(row: &Row) -> Result<Vec<Message>, RowError> {
    let mut turns = Vec::new();
    if has(row, "history") {
        for pair in list(row, "history")? {
            match pair.as_array().map(Vec::as_slice) {
                Some([Value::String(question), Value::String(answer)]) => {
                    turns.extend([Message::user(question), Message::assistant(answer)]);
                }
                _ => return Err(RowError::Wrong("`history` must be a list of [question, answer]".into())),
            }
        }
    }
    Ok(turns)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_ways_to_write_the_replies() {
        let listed =
            json!({"instruction": "i", "input": "x", "output": ["a", "b"], "history": [["q", "r"]], "system": "s"});
        let named =
            json!({"instruction": "i\nx", "chosen": "a", "rejected": "b", "history": [["q", "r"]], "system": "s"});
        let pair = parse(listed.as_object().unwrap()).unwrap();
        assert_eq!(pair, parse(named.as_object().unwrap()).unwrap());
        let prompt =
            vec![Message::new("system", "s"), Message::user("q"), Message::assistant("r"), Message::user("i\nx")];
        assert_eq!(pair, sides::explicit(prompt, vec![Message::assistant("a")], vec![Message::assistant("b")]));
        let one = json!({"instruction": "i", "output": ["a"]});
        assert!(matches!(parse(one.as_object().unwrap()), Err(RowError::Wrong(reason)) if reason.contains("`output`")));
    }
}
