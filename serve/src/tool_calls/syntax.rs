//! The pieces that calls are written in, found in a text that may not be whole yet.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

/// Ends a call of [`Style::Hermes`](super::Style::Hermes).
pub(super) const HERMES_END: &str = "</tool_call>";
/// What Llama 3 may write before a call.
pub(super) const PYTHON_TAG: &str = "<|python_tag|>";

/// The beginning of a call whose name comes first, up to the arguments.
pub(super) static HEAD: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"^\{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*\{"#).expect("it is a constant")
});

/// The beginning of an object, up to its first key.
pub(super) static FIRST_KEY: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"^\{\s*"([^"]*)""#).expect("it is a constant"));
/// The keys that a call can begin with.
pub(super) const KEYS: [&str; 5] = ["name", "arguments", "parameters", "id", "type"];

/// A reading of text that does not begin with a bracket.
pub(super) enum Named {
    /// A function's name, and where its arguments begin.
    Call { name: String, arguments: usize },
    /// More text decides.
    Perhaps,
    /// Something else.
    No,
}

/// Reads `name[ARGS]{`, with `[CALL_ID]id` between or without `[ARGS]`, as the versions of Mistral's format have it.
pub(super) fn named_call(text: &str, names: &[String]) -> Named {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let length = text.find(|c| !is_of_name(c)).unwrap_or(text.len());
    let name = &text[..length];
    if length == text.len() {
        return if names.iter().any(|known| known.starts_with(name)) { Named::Perhaps } else { Named::No };
    }
    if !names.iter().any(|known| known == name) {
        return Named::No;
    }
    let mut rest = text[length..].trim_start();
    for marker in ["[CALL_ID]", "[ARGS]"] {
        if rest.len() < marker.len() && marker.starts_with(rest) {
            return Named::Perhaps;
        }
        if let Some(after) = rest.strip_prefix(marker) {
            let id = if marker == "[CALL_ID]" { after.find(|c| !is_of_name(c)) } else { Some(0) };
            let Some(id) = id else { return Named::Perhaps };
            rest = after[id..].trim_start();
        }
    }
    match rest.chars().next() {
        None => Named::Perhaps,
        Some('{') => Named::Call { name: name.into(), arguments: text.len() - rest.len() },
        Some(_) => Named::No,
    }
}

/// Name and arguments of a whole call object.
pub(super) fn call(text: &str) -> Option<(String, String)> {
    let mut call: Map<String, Value> = serde_json::from_str(text).ok()?;
    let Value::String(name) = call.remove("name")? else { return None };
    let arguments = match call.remove("arguments").or_else(|| call.remove("parameters")) {
        None => "{}".into(),
        // Some models write the text of the object.
        Some(Value::String(text)) => {
            serde_json::from_str::<Map<String, Value>>(&text).ok()?;
            text
        }
        Some(object @ Value::Object(_)) => object.to_string(),
        Some(_) => return None,
    };
    Some((name, arguments))
}

/// Finds the end of a JSON object that comes in pieces.
#[derive(Debug, Clone, Default)]
pub(super) struct Balance {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Balance {
    /// One that is inside of an object already.
    pub(super) fn inside() -> Self {
        Self { depth: 1, ..Self::default() }
    }

    /// How much of `text` belongs to the object, if it ends in it.
    pub(super) fn end(&mut self, text: &str) -> Option<usize> {
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(at + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}
