//! One turn of a conversation, and what is done to turns before any template sees them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One turn: who speaks and what is said. Further keys (`name`, `tool_calls`, ...) are kept for the template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or what the template knows.
    pub role: String,
    /// The text of the turn.
    pub content: String,
    /// All other keys, as they came.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    /// A turn with a role and a text and nothing else.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), extra: Map::new() }
    }

    /// A turn of the user.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// A turn of the assistant.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }
}

/// Why a `content` is not a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// It is neither a string nor a list of parts.
    #[error("must be a string or a list of text parts")]
    WrongType,
    /// A part is neither a string nor an object with a `text`.
    #[error("part {index} has no `text`")]
    NoText {
        /// Counted from 0.
        index: usize,
    },
    /// A part is an image, a sound or something else that is not text.
    #[error("part {index} is of type `{kind}`; only `text` is supported")]
    NotText {
        /// Counted from 0.
        index: usize,
        /// The part's `type`.
        kind: String,
    },
}

/// The text of a `content`: a string as it is, the text parts of a list joined by newlines (as vLLM joins them), and
/// `None` for null. A part is a string or an object with `text`, whose `type`, if stated, is `text`.
///
/// # Errors
/// [`ContentError`] with the part at fault.
pub fn content_text(content: &Value) -> Result<Option<String>, ContentError> {
    let parts = match content {
        Value::Null => return Ok(None),
        Value::String(text) => return Ok(Some(text.clone())),
        Value::Array(parts) => parts,
        _ => return Err(ContentError::WrongType),
    };
    let texts = parts.iter().enumerate().map(|(index, part)| part_text(index, part));
    Ok(Some(texts.collect::<Result<Vec<_>, _>>()?.join("\n")))
}

fn part_text(index: usize, part: &Value) -> Result<&str, ContentError> {
    if let Some(text) = part.as_str() {
        return Ok(text);
    }
    match part.get("type").and_then(Value::as_str) {
        None | Some("text") => part.get("text").and_then(Value::as_str).ok_or(ContentError::NoText { index }),
        Some(kind) => Err(ContentError::NotText { index, kind: kind.to_string() }),
    }
}

/// The conversation as templates expect it, whether it comes from a data file or a request:
/// `developer`, OpenAI's later name, is `system`; the arguments of calls are objects where they came as JSON text (text
/// that is not a JSON object stays text, such as arguments cut off by a token limit); results of calls carry the name of
/// their function. As in `transformers`, keys that are null are left out, and reasoning is found under each of its names.
pub(crate) fn normalised(messages: &[Message]) -> Vec<Message> {
    let mut messages = messages.to_vec();
    let mut functions = Map::new();
    for message in &mut messages {
        message.extra.retain(|_, value| !value.is_null());
        name_reasoning(&mut message.extra);
        if message.role == "developer" {
            message.role = "system".into();
        }
        for call in message.extra.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
            // OpenAI wraps name and arguments in `function`; other data has them in the call itself.
            if let Some(arguments) = call.get_mut("arguments") {
                as_object(arguments);
            }
            if let Some(arguments) = call.get_mut("function").and_then(|function| function.get_mut("arguments")) {
                as_object(arguments);
            }
            if let Some(id) = call["id"].as_str() {
                let name = [&call["function"]["name"], &call["name"]].into_iter().find(|name| name.is_string());
                functions.extend(name.map(|name| (id.to_string(), name.clone())));
            }
        }
        let name = message.extra.get("tool_call_id").and_then(Value::as_str).and_then(|id| functions.get(id));
        if let Some(name) = name
            && !message.extra.contains_key("name")
        {
            message.extra.insert("name".into(), name.clone());
        }
    }
    messages
}

/// Templates read reasoning as `reasoning_content` or, those of gpt-oss, as `thinking`; some servers call it `reasoning`.
fn name_reasoning(extra: &mut Map<String, Value>) {
    let names = ["reasoning_content", "thinking", "reasoning"];
    if let Some(reasoning) = names.iter().find_map(|name| extra.get(*name)).cloned() {
        extra.entry("thinking").or_insert_with(|| reasoning.clone());
        extra.insert("reasoning_content".into(), reasoning);
    }
}

/// JSON text of an object becomes that object; no text at all, a function without arguments, an empty one.
fn as_object(arguments: &mut Value) {
    if let Some(text) = arguments.as_str() {
        let object = if text.is_empty() { Ok(Map::new()) } else { serde_json::from_str(text) };
        if let Ok(object) = object {
            *arguments = Value::Object(object);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_text_of_a_content() {
        let text = |text: &str| Ok(Some(text.to_string()));
        for (content, expected) in [
            (json!("a"), text("a")),
            (json!(null), Ok(None)),
            (json!([{"type": "text", "text": "a"}, {"text": "b"}, "c"]), text("a\nb\nc")),
            (json!([]), text("")),
            (json!(3), Err(ContentError::WrongType)),
            (json!(["a", {"type": "text"}]), Err(ContentError::NoText { index: 1 })),
            (json!([3]), Err(ContentError::NoText { index: 0 })),
            (
                json!([{"type": "image_url", "image_url": {"url": "x"}}]),
                Err(ContentError::NotText { index: 0, kind: "image_url".into() }),
            ),
        ] {
            assert_eq!(content_text(&content), expected, "{content}");
        }
    }

    fn call(arguments: Value) -> Message {
        let mut message = Message::assistant("");
        let call = json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}});
        message.extra.insert("tool_calls".into(), json!([call]));
        message
    }

    #[test]
    fn arguments_become_objects_where_they_are_json() {
        for (arguments, expected) in [
            (json!(r#"{"city": "Oslo", "n": 1.50}"#), json!({"city": "Oslo", "n": 1.50})),
            (json!(""), json!({})),
            (json!({"city": "Oslo"}), json!({"city": "Oslo"})),
            (json!(r#"{"city": "Os"#), json!(r#"{"city": "Os"#)),
            (json!("[1]"), json!("[1]")),
        ] {
            assert_eq!(normalised(&[call(arguments)]), [call(expected)]);
        }
    }

    #[test]
    fn developers_are_systems_and_results_have_names() {
        let mut result = Message::new("tool", "2");
        result.extra.insert("tool_call_id".into(), json!("1"));
        let messages = normalised(&[Message::new("developer", "x"), call(json!({})), result]);
        assert_eq!(messages[0], Message::new("system", "x"));
        assert_eq!(messages[2].extra["name"], "f");
    }

    #[test]
    fn reasoning_has_every_name_and_nulls_are_left_out() {
        let mut message = Message::assistant("x");
        message.extra.insert("reasoning".into(), json!("r"));
        message.extra.insert("tool_calls".into(), json!(null));
        let extra = serde_json::to_value(&normalised(&[message])[0].extra).unwrap();
        assert_eq!(extra, json!({"reasoning": "r", "thinking": "r", "reasoning_content": "r"}));
    }
}
