//! Fields of a row as text and turns. A field that is null counts as absent.

use orpo_chat::Message;
use serde_json::Value;

use super::RowError;
use crate::data::Dropped;
use crate::data::read::Row;

/// The field, if it is there.
fn get<'r>(row: &'r Row, name: &str) -> Option<&'r Value> {
    row.get(name).filter(|value| !value.is_null())
}

pub(super) fn has(row: &Row, name: &str) -> bool {
    get(row, name).is_some()
}

pub(super) fn is_string(row: &Row, name: &str) -> bool {
    get(row, name).is_some_and(Value::is_string)
}

pub(super) fn is_list(row: &Row, name: &str) -> bool {
    get(row, name).is_some_and(Value::is_array)
}

/// A field that must be there.
pub(super) fn required<'r>(row: &'r Row, name: &str) -> Result<&'r Value, RowError> {
    get(row, name).ok_or_else(|| RowError::Wrong(format!("no `{name}` ({})", list_of(row))))
}

/// A field that must be a string.
pub(super) fn string<'r>(row: &'r Row, name: &str) -> Result<&'r str, RowError> {
    let value = required(row, name)?;
    value.as_str().ok_or_else(|| RowError::Wrong(format!("`{name}` must be a string, not {}", kind(value))))
}

/// A field that may be missing and otherwise must be a string.
pub(super) fn optional_string<'r>(row: &'r Row, name: &str) -> Result<Option<&'r str>, RowError> {
    if has(row, name) { string(row, name).map(Some) } else { Ok(None) }
}

/// A field that must be a list.
pub(super) fn list<'r>(row: &'r Row, name: &str) -> Result<&'r [Value], RowError> {
    let value = required(row, name)?;
    let items = value.as_array().map(Vec::as_slice);
    items.ok_or_else(|| RowError::Wrong(format!("`{name}` must be a list, not {}", kind(value))))
}

/// A field that must be a list of turns.
pub(super) fn turns(row: &Row, name: &str) -> Result<Vec<Message>, RowError> {
    let items = list(row, name)?.iter().enumerate();
    items.map(|(index, item)| turn(item, &format!("{name}[{index}]"))).collect()
}

/// The system turn of a row with a `system` column, if it says anything.
pub(super) fn system_turn(row: &Row) -> Result<Option<Message>, RowError> {
    let text = optional_string(row, "system")?.filter(|text| !text.is_empty());
    Ok(text.map(|text| Message::new("system", text)))
}

/// `{"role", "content"}`, or `{"from", "value"}` with ShareGPT's names of speakers. The content is a string or a list of
/// parts, of which only text can be used.
pub(super) fn turn(value: &Value, name: &str) -> Result<Message, RowError> {
    let object = value.as_object().ok_or_else(|| {
        RowError::Wrong(format!("`{name}` must be a turn with `role` and `content`, not {}", kind(value)))
    })?;
    let within = |error: RowError| match error {
        RowError::Wrong(reason) => RowError::Wrong(format!("`{name}`: {reason}")),
        unusable => unusable,
    };
    let role = match optional_string(object, "role").map_err(within)? {
        Some(role) => role,
        None if has(object, "from") => speaker(string(object, "from").map_err(within)?, name)?,
        None => return Err(RowError::Wrong(format!("`{name}` has neither `role` nor `from` ({})", list_of(object)))),
    };
    let content = match ["content", "value"].iter().find_map(|key| object.get(*key)) {
        Some(content) => content_text(content, name)?,
        None => None,
    };
    let has_content = content.is_some();
    let mut message = Message::new(role, content.unwrap_or_default());
    for (key, value) in object {
        let known = matches!(key.as_str(), "role" | "from" | "content" | "value" | "loss_weight");
        // Columnar files give every turn all keys of any turn.
        if !known && !value.is_null() {
            message.extra.insert(key.clone(), value.clone());
        }
    }
    if !has_content && !message.extra.contains_key("tool_calls") {
        return Err(Dropped::NoText.into());
    }
    Ok(message)
}

/// ShareGPT's names. Results of tools go by several; the call itself is the model's turn.
fn speaker<'a>(from: &'a str, name: &str) -> Result<&'a str, RowError> {
    Ok(match from {
        "human" | "user" => "user",
        "gpt" | "assistant" | "model" | "chatgpt" | "bing" | "bard" | "function_call" | "tool_call" => "assistant",
        "system" => "system",
        "observation" | "tool" | "function" | "function_response" | "tool_response" => "tool",
        other => {
            let known = "human, gpt, system, function_call, observation and function";
            return Err(RowError::Wrong(format!("`{name}`: `from` is `{other}`, which is none of {known}")));
        }
    })
}

/// The text of a content; none where it is null.
fn content_text(content: &Value, name: &str) -> Result<Option<String>, RowError> {
    match content {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        Value::Array(parts) => parts.iter().map(|part| part_text(part, name)).collect::<Result<_, _>>().map(Some),
        other => Err(RowError::Wrong(format!("the content of `{name}` must be a string, not {}", kind(other)))),
    }
}

fn part_text<'v>(part: &'v Value, name: &str) -> Result<&'v str, RowError> {
    match part {
        Value::String(text) => Ok(text),
        Value::Object(fields) => match fields.get("type").and_then(Value::as_str) {
            None | Some("text") => ["text", "value"]
                .iter()
                .find_map(|key| fields.get(*key)?.as_str())
                .ok_or_else(|| RowError::Wrong(format!("a part of `{name}` has no `text`"))),
            Some(_) => Err(Dropped::NoText.into()),
        },
        other => Err(RowError::Wrong(format!("a part of `{name}` must be a text, not {}", kind(other)))),
    }
}

/// `its fields are ...`.
pub(super) fn list_of(row: &Row) -> String {
    let names: Vec<String> = row.keys().map(|key| format!("`{key}`")).collect();
    if names.is_empty() { "it has no fields".into() } else { format!("its fields are {}", names.join(", ")) }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn turns_of_every_kind() {
        let mut call = Message::assistant("");
        call.extra.insert("tool_calls".into(), json!([{"name": "f"}]));
        for (value, expected) in [
            (json!({"role": "user", "content": "a", "name": null, "loss_weight": 1.0}), Message::user("a")),
            (json!({"from": "gpt", "value": "a"}), Message::assistant("a")),
            (json!({"from": "function_call", "value": "a"}), Message::assistant("a")),
            (json!({"from": "observation", "value": "a"}), Message::new("tool", "a")),
            (
                json!({"role": "x", "content": [{"type": "text", "value": "a"}, {"text": "b"}, "c"]}),
                Message::new("x", "abc"),
            ),
            (json!({"role": "assistant", "content": null, "tool_calls": [{"name": "f"}]}), call),
        ] {
            assert_eq!(turn(&value, "t").unwrap(), expected);
        }
        for value in [
            json!({"role": "user", "content": null}),
            json!({"role": "user"}),
            json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
        ] {
            assert_eq!(turn(&value, "t").unwrap_err(), RowError::Unusable(Dropped::NoText));
        }
    }

    #[test]
    fn a_wrong_turn_is_named() {
        for (value, expected) in [
            (json!("a"), "`t` must be a turn"),
            (json!({"content": "a"}), "`t` has neither `role` nor `from` (its fields are `content`)"),
            (json!({"role": 3, "content": "a"}), "`t`: `role` must be a string, not a number"),
            (json!({"from": "alien", "value": "a"}), "`t`: `from` is `alien`"),
            (json!({"role": "user", "content": 3}), "the content of `t` must be a string, not a number"),
            (json!({"role": "user", "content": [3]}), "a part of `t` must be a text, not a number"),
        ] {
            let RowError::Wrong(reason) = turn(&value, "t").unwrap_err() else { panic!("{value}") };
            assert!(reason.contains(expected), "{reason}");
        }
    }
}
