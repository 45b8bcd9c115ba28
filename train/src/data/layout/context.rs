//! Columns beside a conversation that belong to it: a system message, tools; and those that would be lost without a word.

use orpo_chat::Message;
use serde_json::{Value, json};

use super::RowError;
use super::fields::{described, get, is_turn, string, turns};
use crate::data::read::Row;

/// Names of the column with the system message; the first that says something is read.
pub(super) const SYSTEM: [&str; 3] = ["system", "system_prompt", "system_message"];

/// Names of the column with tools; the first that holds some is read.
const TOOLS: [&str; 2] = ["tools", "functions"];

/// The name under which `row` has a system message.
pub(super) fn system_name(row: &Row) -> Option<&'static str> {
    SYSTEM.into_iter().find(|name| row.get(*name).is_some_and(is_filled))
}

fn tools_name(row: &Row) -> Option<&'static str> {
    TOOLS.into_iter().find(|name| row.get(*name).is_some_and(declares_tools))
}

/// True for a column that goes with every conversation.
pub(in crate::data) fn is_context(row: &Row, name: &str) -> bool {
    // A list of no tools is read, too.
    system_name(row) == Some(name)
        || tools_name(row) == Some(name)
        || TOOLS.contains(&name) && !row.get(name).is_some_and(declares_tools)
}

/// True for a value that says something.
pub(in crate::data) fn is_filled(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(items) => items.iter().any(is_filled),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}

/// Puts the system message of the row before the conversation, unless that begins with the same one.
pub(super) fn with_system(row: &Row, mut conversation: Vec<Message>) -> Result<Vec<Message>, RowError> {
    let Some(name) = system_name(row) else { return Ok(conversation) };
    let system = match &row[name] {
        Value::String(_) => vec![Message::new("system", string(row, name)?)],
        _ => turns(row, name)?,
    };
    let is_system = |turn: &Message| matches!(turn.role.as_str(), "system" | "developer");
    if let Some(turn) = system.iter().find(|turn| !is_system(turn)) {
        return Err(RowError::Wrong(format!("`{name}` holds a turn of the role `{}`", turn.role)));
    }
    if conversation.first().is_some_and(is_system) {
        if system.iter().zip(&conversation).all(|(a, b)| is_system(b) && a.content.trim() == b.content.trim()) {
            return Ok(conversation);
        }
        let reason = format!("`{name}` and the conversation's own system message differ; keep one of them");
        return Err(RowError::Wrong(reason));
    }
    conversation.splice(0..0, system);
    Ok(conversation)
}

/// The tools of a row, in OpenAI's layout: a list of objects or its JSON text; functions that are not wrapped as `{"type":
/// "function", "function": ...}` are, as the server wants them.
pub(super) fn tools(row: &Row) -> Result<Vec<Value>, RowError> {
    // OpenAI's preference data have them in `input`.
    let input = row.get("input").and_then(Value::as_object);
    let Some((name, value)) =
        [Some(row), input].into_iter().flatten().find_map(|row| tools_name(row).map(|name| (name, &row[name])))
    else {
        return Ok(Vec::new());
    };
    let wrong =
        |what: String| RowError::Wrong(format!("`{name}` must be a list of tools or its JSON text, not {what}"));
    let parsed = match value {
        Value::String(text) => serde_json::from_str(text).map_err(|_| wrong("a text that is not JSON".into()))?,
        value => value.clone(),
    };
    match parsed {
        Value::Array(tools) => tools
            .into_iter()
            .map(|tool| wrapped(tool).ok_or_else(|| wrong("a list of something else".into())))
            .collect(),
        tool @ Value::Object(_) => {
            let what = described(&tool);
            wrapped(tool).map(|tool| vec![tool]).ok_or_else(|| wrong(what))
        }
        other => Err(wrong(described(&other))),
    }
}

fn wrapped(tool: Value) -> Option<Value> {
    match tool {
        Value::String(text) => wrapped(serde_json::from_str(&text).ok().filter(Value::is_object)?),
        Value::Object(ref fields) if fields.contains_key("function") => Some(tool),
        Value::Object(ref fields) if fields.contains_key("name") => Some(json!({"type": "function", "function": tool})),
        _ => None,
    }
}

fn declares_tools(value: &Value) -> bool {
    match value {
        Value::String(text) => !matches!(text.trim(), "" | "[]" | "null" | "None"),
        value => is_filled(value),
    }
}

/// What a column is that must not be passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::data) enum Overlooked {
    /// Images, sounds or videos.
    Media,
    /// A part of the prompt.
    Prompt,
}

/// Columns with what the model answers, under the names that data sets have for it.
const PROMPTS: [&str; 14] = [
    "prompt",
    "input",
    "inputs",
    "question",
    "questions",
    "instruction",
    "instructions",
    "query",
    "context",
    "problem",
    "user",
    "user_prompt",
    "user_input",
    "user_message",
];

/// What the column `name`, which is filled and not read, is if it must not be passed over. A text that the columns that are
/// read hold as well is no loss. Turns are taken for a prompt only where none is marked (`is_marked`): data sets keep those of
/// judges, too.
pub(in crate::data) fn overlooked(
    row: &Row,
    name: &str,
    is_marked: bool,
    reads: impl Fn(&str) -> bool,
) -> Option<Overlooked> {
    let value = get(row, name)?;
    let lower = name.to_ascii_lowercase();
    if matches!(lower.as_str(), "image" | "images" | "video" | "videos" | "audio" | "audios") {
        return Some(Overlooked::Media);
    }
    let texts = match value {
        Value::String(text) if PROMPTS.contains(&lower.as_str()) => vec![text.as_str()],
        Value::Array(items) if !is_marked && items.iter().all(is_turn) => {
            items.iter().filter_map(|turn| (turn.get("content").or_else(|| turn.get("value")))?.as_str()).collect()
        }
        Value::Array(rounds) if lower == "history" => {
            rounds.iter().filter_map(Value::as_array).flatten().filter_map(Value::as_str).collect()
        }
        _ => return None,
    };
    let mut read = String::new();
    row.iter().filter(|(name, _)| reads(name)).for_each(|(_, value)| add_words(value, &mut read));
    let is_read = |text: &&str| {
        let mut words = String::new();
        add_words(&Value::from(*text), &mut words);
        read.contains(&words)
    };
    (!texts.iter().all(is_read)).then_some(Overlooked::Prompt)
}

/// Puts the words of all strings in `value` after `words`, with one space before and after each.
fn add_words(value: &Value, words: &mut String) {
    match value {
        Value::String(text) => text.split_whitespace().for_each(|word| {
            words.push_str(word);
            words.push(' ');
        }),
        Value::Array(items) => items.iter().for_each(|item| add_words(item, words)),
        Value::Object(fields) => fields.values().for_each(|field| add_words(field, words)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(value: Value) -> Row {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn the_system_message_comes_first_once() {
        let conversation = || vec![Message::user("q")];
        let expected = vec![Message::new("system", "s"), Message::user("q")];
        for system in [
            json!({"system": "s"}),
            json!({"system": null, "system_prompt": "s"}),
            json!({"system": [{"role": "system", "content": "s"}]}),
            json!({"system": {"role": "system", "content": "s"}}),
        ] {
            let row = row(system);
            assert_eq!(with_system(&row, conversation()).unwrap(), expected);
            assert_eq!(with_system(&row, expected.clone()).unwrap(), expected);
        }
        for none in [json!({}), json!({"system": ""}), json!({"system": []})] {
            assert_eq!(with_system(&row(none), conversation()).unwrap(), conversation());
        }
        for (wrong, part) in [
            (json!({"system": 3}), "`system` must be a list, not a number"),
            (json!({"system": [{"role": "user", "content": "s"}]}), "a turn of the role `user`"),
        ] {
            let RowError::Wrong(reason) = with_system(&row(wrong), conversation()).unwrap_err() else { panic!() };
            assert!(reason.contains(part), "{reason}");
        }
        let RowError::Wrong(reason) = with_system(&row(json!({"system": "t"})), expected).unwrap_err() else {
            panic!()
        };
        assert!(reason.contains("differ"), "{reason}");
    }

    #[test]
    fn tools_are_what_the_server_is_given() {
        let bare = json!({"name": "f", "parameters": {"type": "object"}});
        let tool = json!({"type": "function", "function": bare});
        for value in [
            json!({"tools": [tool]}),
            json!({"tools": json!([tool]).to_string()}),
            json!({"tools": [bare.to_string()]}),
            json!({"tools": bare.to_string()}),
            json!({"tools": [], "functions": [bare]}),
            json!({"input": {"messages": [], "tools": [tool]}}),
        ] {
            assert_eq!(tools(&row(value.clone())).unwrap(), std::slice::from_ref(&tool), "{value}");
        }
        for value in [json!({}), json!({"tools": "[]"}), json!({"tools": null, "functions": []}), json!({"tools": ""})]
        {
            assert_eq!(tools(&row(value.clone())).unwrap(), Vec::<Value>::new(), "{value}");
        }
        for value in
            [json!({"tools": "a hammer"}), json!({"tools": [3]}), json!({"tools": {"a": 1}}), json!({"tools": 7})]
        {
            let RowError::Wrong(reason) = tools(&row(value)).unwrap_err() else { panic!() };
            assert!(reason.contains("`tools` must be a list of tools"), "{reason}");
        }
    }

    #[test]
    fn what_looks_like_a_prompt_is_not_passed_over() {
        let reads = |name: &str| matches!(name, "chosen" | "rejected");
        let found = |value: Value, name: &str| overlooked(&row(value), name, false, reads);
        let question = json!({"question": "What  is it?", "chosen": "Q: What is\nit? A: this", "rejected": "b"});
        assert_eq!(found(question, "question"), None);
        for name in ["question", "Input", "context"] {
            let lost = json!({name: "What is it?", "chosen": "a", "rejected": "b"});
            assert_eq!(found(lost, name), Some(Overlooked::Prompt));
        }
        let history = json!({"history": [["q", "a"]], "chosen": "b", "rejected": "c"});
        assert_eq!(found(history, "history"), Some(Overlooked::Prompt));
        assert_eq!(found(json!({"history": [[]], "chosen": "b", "rejected": "c"}), "history"), None);
        let turns = json!({"trajectory": [{"from": "user", "value": "q r"}], "chosen": "a", "rejected": "b"});
        assert_eq!(found(turns.clone(), "trajectory"), Some(Overlooked::Prompt));
        assert_eq!(overlooked(&row(turns), "trajectory", true, reads), None);
        assert_eq!(found(json!({"source": "q", "chosen": "a"}), "source"), None);
        assert_eq!(found(json!({"images": ["a.png"], "chosen": "a"}), "images"), Some(Overlooked::Media));
    }
}
