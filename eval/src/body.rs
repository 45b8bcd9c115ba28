//! What a user changes in the bodies of requests: servers differ in the fields that they take.
//!
//! ```
//! use orpo_eval::body::{Edit, Edits};
//! use serde_json::json;
//!
//! let edits = ["max_tokens=", "max_completion_tokens=4096", "reasoning_effort=low"];
//! let edits: Edits = edits.into_iter().map(str::parse::<Edit>).collect::<Result<_, _>>()?;
//! let mut body = json!({"model": "m", "max_tokens": 1280});
//! edits.apply(body.as_object_mut().expect("it is an object"));
//! assert_eq!(body, json!({"model": "m", "max_completion_tokens": 4096, "reasoning_effort": "low"}));
//! # Ok::<(), String>(())
//! ```

use std::str::FromStr;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

/// Fields that are not for the user to change here, and why.
const FIXED: [(&str, &str); 3] = [
    ("model", "a flag of its own names the model"),
    ("messages", "it is what is asked"),
    ("stream", "replies are read as a whole"),
];

/// A field to be set, or taken out. As text: `KEY=VALUE`, or `KEY=`.
#[derive(Debug, Clone, PartialEq)]
pub struct Edit {
    key: String,
    value: Option<Value>,
}

impl FromStr for Edit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, or KEY= to take a field out")?;
        let key = key.trim();
        if key.is_empty() {
            return Err("the name before `=` is missing".into());
        }
        if let Some((_, reason)) = FIXED.iter().find(|(fixed, _)| *fixed == key) {
            return Err(format!("`{key}` cannot be changed: {reason}"));
        }
        Ok(Self { key: key.to_owned(), value: value_of(value.trim())? })
    }
}

/// JSON, or a word that needs no quotation marks; nothing is no value.
fn value_of(text: &str) -> Result<Option<Value>, String> {
    match (text, serde_json::from_str(text)) {
        ("", _) => Ok(None),
        (_, Ok(value)) => Ok(Some(value)),
        ("True" | "False" | "None", _) => Err(format!("`{text}` is Python; JSON has true, false and null")),
        (_, Err(error)) if text.starts_with(['{', '[', '"']) => Err(format!("`{text}` is not JSON: {error}")),
        _ => Ok(Some(text.into())),
    }
}

/// Edits, one after the other. As JSON: an object with the last value of each field, null where it is taken out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Edits(Vec<Edit>);

impl FromIterator<Edit> for Edits {
    fn from_iter<I: IntoIterator<Item = Edit>>(edits: I) -> Self {
        Self(edits.into_iter().collect())
    }
}

impl Edits {
    /// Changes the fields of a body.
    pub fn apply(&self, body: &mut Map<String, Value>) {
        for Edit { key, value } in &self.0 {
            match value {
                Some(value) => drop(body.insert(key.clone(), value.clone())),
                None => drop(body.shift_remove(key)),
            }
        }
    }

    /// True if the field gets a value.
    pub fn sets(&self, field: &str) -> bool {
        self.0.iter().rev().find(|edit| edit.key == field).is_some_and(|edit| edit.value.is_some())
    }

    /// True if nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Edits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields: Map<String, Value> =
            self.0.iter().map(|edit| (edit.key.clone(), edit.value.clone().unwrap_or_default())).collect();
        fields.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn edits(texts: &[&str]) -> Edits {
        texts.iter().map(|text| text.parse::<Edit>().unwrap()).collect()
    }

    #[test]
    fn values_are_json_or_words() {
        for (text, value) in [
            ("a=1", Some(json!(1))),
            ("a=1.5", Some(json!(1.5))),
            ("a=true", Some(json!(true))),
            ("a=null", Some(json!(null))),
            ("a=low", Some(json!("low"))),
            ("a=\"1\"", Some(json!("1"))),
            ("a={\"b\": [1]}", Some(json!({"b": [1]}))),
            ("a=b=c", Some(json!("b=c"))),
            (" a = 1 ", Some(json!(1))),
            ("a=", None),
        ] {
            assert_eq!(text.parse::<Edit>().unwrap(), Edit { key: "a".into(), value }, "{text}");
        }
        for (text, problem) in [
            ("a", "KEY=VALUE"),
            ("=1", "the name before `=` is missing"),
            ("a={1}", "is not JSON"),
            ("a=True", "JSON has true"),
            ("messages=", "what is asked"),
            ("model=m", "names the model"),
            ("stream=true", "as a whole"),
        ] {
            let message = text.parse::<Edit>().unwrap_err();
            assert!(message.contains(problem), "{message}");
        }
    }

    #[test]
    fn the_last_edit_of_a_field_counts() {
        let changes = edits(&["a=1", "b=", "a=2", "c=3", "c="]);
        let mut body = json!({"x": 0, "b": 1, "a": 0});
        changes.apply(body.as_object_mut().unwrap());
        assert_eq!(body, json!({"x": 0, "a": 2}));
        assert_eq!(serde_json::to_value(&changes).unwrap(), json!({"a": 2, "b": null, "c": null}));
        assert_eq!(["a", "b", "c", "x"].map(|field| changes.sets(field)), [true, false, false, false]);
        assert!(edits(&[]).is_empty() && !changes.is_empty());
    }
}
