//! LLaMA-Factory's Alpaca layout for pairs: `instruction`, `input`, `history`, and the replies as `chosen` and `rejected` or
//! as a list `output` of two, the better one first.

use orpo_chat::Message;
use serde_json::Value;

use super::fields::{has, is_list, is_string, list, optional_string, string};
use super::{RowError, Spec, sides};
use crate::data::Preference;
use crate::data::read::Row;

pub(super) const SPEC: Spec = Spec {
    name: "alpaca_ranking",
    fields: "instruction, input, chosen and rejected or output = [chosen, rejected], optional history",
    required: &["instruction", "chosen", "rejected"],
    reads: |row, name| match name {
        "instruction" | "input" | "history" => true,
        "chosen" | "rejected" => names_replies(row),
        _ => name == "output" && !names_replies(row),
    },
    fits: |row| {
        let has_replies = is_string(row, "chosen") && is_string(row, "rejected") || is_list(row, "output");
        is_string(row, "instruction") && has_replies && !has(row, "prompt")
    },
    parse,
};

/// True where the replies have columns of their own. A string `output` beside them is something else.
fn names_replies(row: &Row) -> bool {
    row.contains_key("chosen") && row.contains_key("rejected") && (has(row, "chosen") || !is_list(row, "output"))
}

fn parse(row: &Row) -> Result<Preference, RowError> {
    let (chosen, rejected) = if names_replies(row) || !row.contains_key("output") {
        (string(row, "chosen")?, string(row, "rejected")?)
    } else {
        match list(row, "output")? {
            [Value::String(chosen), Value::String(rejected)] => (chosen.as_str(), rejected.as_str()),
            replies => {
                let reason = "`output` must be a list of two strings, the better one first";
                return Err(RowError::Wrong(format!("{reason}, not a list of {}", replies.len())));
            }
        }
    };
    let question = match (string(row, "instruction")?, optional_string(row, "input")?.unwrap_or_default()) {
        (instruction, "") => instruction.to_string(),
        ("", input) => input.to_string(),
        (instruction, input) => format!("{instruction}\n{input}"),
    };
    Ok(sides::question(history(row)?, &question, chosen, rejected))
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
        let listed = json!({"instruction": "i", "input": "x", "output": ["a", "b"], "history": [["q", "r"]]});
        let named =
            json!({"instruction": "i\nx", "chosen": "a", "rejected": "b", "history": [["q", "r"]], "output": "c"});
        let pair = parse(listed.as_object().unwrap()).unwrap();
        assert_eq!(pair, parse(named.as_object().unwrap()).unwrap());
        let prompt = vec![Message::user("q"), Message::assistant("r"), Message::user("i\nx")];
        assert_eq!(pair, sides::explicit(prompt, vec![Message::assistant("a")], vec![Message::assistant("b")]));
        let one = json!({"instruction": "i", "output": ["a"]});
        assert!(matches!(parse(one.as_object().unwrap()), Err(RowError::Wrong(reason)) if reason.contains("`output`")));
    }
}
