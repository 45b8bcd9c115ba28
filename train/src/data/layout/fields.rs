//! Fields of a row as text and turns. A field that may be left out counts as left out where it is null; of one that must
//! be there a null makes the row unusable.

use orpo_chat::{ContentError, Message, content_text};
use serde_json::Value;

use super::RowError;
use crate::data::Dropped;
use crate::data::read::Row;

/// The field, if it is there.
pub(super) fn get<'r>(row: &'r Row, name: &str) -> Option<&'r Value> {
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

/// True for a list, and for one turn by itself.
pub(super) fn is_turns(row: &Row, name: &str) -> bool {
    get(row, name).is_some_and(|value| value.is_array() || is_turn(value))
}

pub(super) fn is_turn(value: &Value) -> bool {
    value.as_object().is_some_and(|turn| has(turn, "role") || has(turn, "from"))
}

/// A field that must be there.
pub(super) fn required<'r>(row: &'r Row, name: &str) -> Result<&'r Value, RowError> {
    match row.get(name) {
        Some(Value::Null) => Err(Dropped::NullField.into()),
        Some(value) => Ok(value),
        None => Err(RowError::Wrong(format!("no `{name}` ({})", list_of(row)))),
    }
}

/// A field that must be a string.
pub(super) fn string<'r>(row: &'r Row, name: &str) -> Result<&'r str, RowError> {
    let value = required(row, name)?;
    let text = value
        .as_str()
        .ok_or_else(|| RowError::Wrong(format!("`{name}` must be a string, not {}", described(value))))?;
    if is_python_list_of_turns(text) {
        let reason = format!("`{name}` holds turns as Python prints a list; write them as JSON");
        return Err(RowError::Wrong(reason));
    }
    Ok(text)
}

/// What `to_csv` makes of a column of conversations, which would be trained on as a text.
fn is_python_list_of_turns(text: &str) -> bool {
    let start = text.trim_start().strip_prefix("[{'");
    start.is_some_and(|start| ["role'", "content'", "from'", "value'"].iter().any(|key| start.starts_with(key)))
}

/// A field that may be missing and otherwise must be a string.
pub(super) fn optional_string<'r>(row: &'r Row, name: &str) -> Result<Option<&'r str>, RowError> {
    if has(row, name) { string(row, name).map(Some) } else { Ok(None) }
}

/// A field that must be a list.
pub(super) fn list<'r>(row: &'r Row, name: &str) -> Result<&'r [Value], RowError> {
    let value = required(row, name)?;
    let items = value.as_array().map(Vec::as_slice);
    items.ok_or_else(|| RowError::Wrong(format!("`{name}` must be a list, not {}", described(value))))
}

/// A field that must be a list of turns, or one turn.
pub(super) fn turns(row: &Row, name: &str) -> Result<Vec<Message>, RowError> {
    let value = required(row, name)?;
    if is_turn(value) {
        return Ok(vec![turn(value, name)?]);
    }
    let items = list(row, name)?.iter().enumerate();
    items.map(|(index, item)| turn(item, &format!("{name}[{index}]"))).collect()
}

/// A response: turns, or the text of the model's one turn.
pub(super) fn reply(row: &Row, name: &str) -> Result<Vec<Message>, RowError> {
    match required(row, name)? {
        Value::String(_) => Ok(vec![Message::assistant(string(row, name)?)]),
        _ => turns(row, name),
    }
}

/// `{"role", "content"}`, or `{"from", "value"}` with ShareGPT's names of speakers. The content is a string or a list of
/// parts, of which only text can be used.
pub(super) fn turn(value: &Value, name: &str) -> Result<Message, RowError> {
    let object = value.as_object().ok_or_else(|| {
        RowError::Wrong(format!("`{name}` must be a turn with `role` and `content`, not {}", described(value)))
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
        Some(content) => text_of(content, name)?,
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

/// The text of a content as the server reads it; none where it is null. LLaMA-Factory calls the text of a part `value`.
fn text_of(content: &Value, name: &str) -> Result<Option<String>, RowError> {
    let parts = content.as_array().map(|parts| parts.iter().map(named_text).collect::<Value>());
    content_text(parts.as_ref().unwrap_or(content)).map_err(|error| match error {
        ContentError::NotText { .. } => Dropped::Media.into(),
        ContentError::WrongType => {
            RowError::Wrong(format!("the content of `{name}` {error}, not {}", described(content)))
        }
        ContentError::NoText { .. } => RowError::Wrong(format!("the content of `{name}`: {error}")),
    })
}

fn named_text(part: &Value) -> Value {
    let mut part = part.clone();
    if let Some(fields) = part.as_object_mut()
        && !has(fields, "text")
        && let Some(value) = fields.remove("value")
    {
        fields.insert("text".into(), value);
    }
    part
}

/// `its fields are ...`.
pub(super) fn list_of(row: &Row) -> String {
    let names: Vec<String> = row.keys().map(|key| format!("`{key}`")).collect();
    if names.is_empty() { "it has no fields".into() } else { format!("its fields are {}", names.join(", ")) }
}

/// What a value is, in words.
pub(super) fn described(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "true or false".into(),
        Value::Number(_) => "a number".into(),
        Value::String(_) => "a string".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(fields) => {
            let names: Vec<String> = fields.keys().map(|key| format!("`{key}`")).collect();
            if names.is_empty() { "an object".into() } else { format!("an object with {}", names.join(", ")) }
        }
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
            // Joined as the server joins them.
            (
                json!({"role": "x", "content": [{"type": "text", "value": "a"}, {"text": "b"}, "c"]}),
                Message::new("x", "a\nb\nc"),
            ),
            (json!({"role": "assistant", "content": null, "tool_calls": [{"name": "f"}]}), call),
        ] {
            assert_eq!(turn(&value, "t").unwrap(), expected);
        }
        for value in [json!({"role": "user", "content": null}), json!({"role": "user"})] {
            assert_eq!(turn(&value, "t").unwrap_err(), RowError::Unusable(Dropped::NoText));
        }
        let image = json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]});
        assert_eq!(turn(&image, "t").unwrap_err(), RowError::Unusable(Dropped::Media));
    }

    #[test]
    fn one_turn_is_a_list_of_one() {
        let row = json!({"chosen": {"from": "gpt", "value": "a"}, "rejected": "b", "prompt": {"answer": "c"}});
        let row = row.as_object().unwrap();
        assert_eq!(reply(row, "chosen").unwrap(), [Message::assistant("a")]);
        assert_eq!(reply(row, "rejected").unwrap(), [Message::assistant("b")]);
        let expected = RowError::Wrong("`prompt` must be a list, not an object with `answer`".into());
        assert_eq!(turns(row, "prompt").unwrap_err(), expected);
    }

    #[test]
    fn a_wrong_turn_is_named() {
        for (value, expected) in [
            (json!("a"), "`t` must be a turn"),
            (json!({"content": "a"}), "`t` has neither `role` nor `from` (its fields are `content`)"),
            (json!({"role": 3, "content": "a"}), "`t`: `role` must be a string, not a number"),
            (json!({"from": "alien", "value": "a"}), "`t`: `from` is `alien`"),
            (
                json!({"role": "user", "content": 3}),
                "the content of `t` must be a string or a list of text parts, not a n",
            ),
            (json!({"role": "user", "content": [3]}), "the content of `t`: part 0 has no `text`"),
        ] {
            let RowError::Wrong(reason) = turn(&value, "t").unwrap_err() else { panic!("{value}") };
            assert!(reason.contains(expected), "{reason}");
        }
    }

    #[test]
    fn a_null_drops_the_row_and_a_missing_field_does_not() {
        let row = json!({"chosen": null, "rejected": "[{'role': 'assistant', 'content': 'b'}]"});
        let row = row.as_object().unwrap();
        assert_eq!(string(row, "chosen").unwrap_err(), RowError::Unusable(Dropped::NullField));
        let RowError::Wrong(reason) = string(row, "prompt").unwrap_err() else { panic!() };
        assert_eq!(reason, "no `prompt` (its fields are `chosen`, `rejected`)");
        let RowError::Wrong(reason) = string(row, "rejected").unwrap_err() else { panic!() };
        assert!(reason.contains("as Python prints a list"), "{reason}");
    }
}
