//! Reading JSONL: one object a line, blank lines allowed.

use std::path::Path;

use orpo_chat::Message;
use serde_json::{Map, Value};

use super::{Preference, Text};
use crate::error::TrainError;

/// What a file held, each with its line (counted from 1).
pub type Rows<T> = Vec<(usize, T)>;

/// Reads preference pairs: objects with `prompt`, `chosen` and `rejected`, all strings or all lists of
/// `{"role", "content"}`; other keys are left alone.
///
/// # Errors
/// The first line that is not such an object, with the field that is missing or wrong.
pub fn read_preferences(path: &Path) -> Result<Rows<Preference>, TrainError> {
    read_lines(path, |row| {
        let preference =
            Preference { prompt: text(row, "prompt")?, chosen: text(row, "chosen")?, rejected: text(row, "rejected")? };
        let plain = |text: &Text| matches!(text, Text::Plain(_));
        let first = plain(&preference.prompt);
        if plain(&preference.chosen) != first || plain(&preference.rejected) != first {
            return Err("`prompt`, `chosen` and `rejected` must be all strings or all lists of messages".into());
        }
        Ok(preference)
    })
}

/// Reads documents for next-token training: objects with `messages` (a list) or `text` (a string).
///
/// # Errors
/// The first line that is not such an object.
pub fn read_documents(path: &Path) -> Result<Rows<Text>, TrainError> {
    read_lines(path, |row| match (row.get("messages"), row.get("text")) {
        (Some(_), None) => match text(row, "messages")? {
            chat @ Text::Chat(_) => Ok(chat),
            Text::Plain(_) => Err("`messages` must be a list of messages".into()),
        },
        (None, Some(_)) => match text(row, "text")? {
            plain @ Text::Plain(_) => Ok(plain),
            Text::Chat(_) => Err("`text` must be a string".into()),
        },
        _ => Err("exactly one of `messages` and `text` is needed".into()),
    })
}

fn read_lines<T>(path: &Path, parse: impl Fn(&Map<String, Value>) -> Result<T, String>) -> Result<Rows<T>, TrainError> {
    let bytes = std::fs::read(path).map_err(|e| TrainError::read(path, e))?;
    let mut rows = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let row_error = |reason: String| TrainError::row(path, index + 1, reason);
        let line = std::str::from_utf8(line).map_err(|e| row_error(format!("not UTF-8: {e}")))?;
        if line.trim().is_empty() {
            continue;
        }
        let value: Value = serde_json::from_str(line).map_err(|e| row_error(format!("not JSON: {e}")))?;
        let object = value.as_object().ok_or_else(|| row_error("not a JSON object".into()))?;
        rows.push((index + 1, parse(object).map_err(row_error)?));
    }
    if rows.is_empty() {
        return Err(TrainError::invalid(path, "it holds no rows"));
    }
    Ok(rows)
}

/// A field as text: a string or a non-empty list of messages.
fn text(row: &Map<String, Value>, field: &str) -> Result<Text, String> {
    match row.get(field) {
        None => {
            let keys: Vec<String> = row.keys().map(|key| format!("`{key}`")).collect();
            Err(format!("no `{field}` (its fields are {})", keys.join(", ")))
        }
        Some(Value::String(text)) => Ok(Text::Plain(text.clone())),
        Some(list @ Value::Array(items)) if !items.is_empty() => {
            let messages: Vec<Message> = serde_json::from_value(list.clone())
                .map_err(|e| format!("`{field}` is not a list of messages: {e}"))?;
            Ok(Text::Chat(messages))
        }
        Some(_) => Err(format!("`{field}` must be a string or a non-empty list of messages")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        file
    }

    #[test]
    fn both_layouts_and_blank_lines() {
        let content = br#"
{"prompt": "a", "chosen": "b", "rejected": "c", "id": 7}

{"prompt": [{"role": "user", "content": "a"}], "chosen": [{"role": "assistant", "content": "b"}], "rejected": [{"role": "assistant", "content": "c"}]}
"#;
        let rows = read_preferences(file(content).path()).unwrap();
        assert_eq!(rows.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 4]);
        assert_eq!(rows[0].1.chosen, Text::Plain("b".into()));
        assert_eq!(rows[1].1.rejected, Text::Chat(vec![Message::assistant("c")]));
    }

    #[test]
    fn a_wrong_row_is_named_with_line_and_field() {
        let good = r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#;
        for (row, expected) in [
            (&br#"{"prompt": "a", "chosen": "b"}"#[..], "line 2: no `rejected` (its fields are `prompt`, `chosen`)"),
            (br#"{"prompt": "a", "chosen": 3, "rejected": "c"}"#, "line 2: `chosen` must be a string"),
            (
                br#"{"prompt": "a", "chosen": [{"role": "x"}], "rejected": "c"}"#,
                "line 2: `chosen` is not a list of messages",
            ),
            (
                br#"{"prompt": [{"role": "user", "content": "a"}], "chosen": "b", "rejected": "c"}"#,
                "all strings or all lists",
            ),
            (b"{oops", "line 2: not JSON"),
            (b"[]", "line 2: not a JSON object"),
            (b"{\"prompt\": \"\xff\"}", "line 2: not UTF-8"),
        ] {
            let content = [good.as_bytes(), row].join(&b'\n');
            let error = read_preferences(file(&content).path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(read_preferences(file(b"\n").path()).unwrap_err().to_string().contains("no rows"));
    }

    #[test]
    fn documents() {
        let content = br#"{"messages": [{"role": "user", "content": "a"}]}
{"text": "b"}"#;
        let rows = read_documents(file(content).path()).unwrap();
        assert_eq!(rows[1].1, Text::Plain("b".into()));
        let error = read_documents(file(b"{\"prompt\": 1}").path()).unwrap_err().to_string();
        assert!(error.contains("`messages` and `text`"), "{error}");
    }
}
