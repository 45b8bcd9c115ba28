//! Fields of a JSON object with errors that name them.

use serde_json::Value;

/// A positive whole number, if it is there.
pub fn optional_count(json: &Value, field: &str) -> Result<Option<usize>, String> {
    match json.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0) {
            Some(n) => Ok(Some(n)),
            None => Err(format!("`{field}` must be a positive whole number, got {value}")),
        },
    }
}

/// A positive whole number.
pub fn count(json: &Value, field: &str) -> Result<usize, String> {
    optional_count(json, field)?.ok_or(format!("`{field}` is missing"))
}

/// A number, if it is there.
pub fn optional_number(json: &Value, field: &str) -> Result<Option<f64>, String> {
    match json.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or(format!("`{field}` must be a number, got {value}")),
    }
}

/// True or false.
pub fn flag(json: &Value, field: &str, default: bool) -> Result<bool, String> {
    match json.get(field) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => value.as_bool().ok_or(format!("`{field}` must be true or false, got {value}")),
    }
}

/// Refuses a field that is there and is none of `supported`.
pub fn require(json: &Value, field: &str, supported: &[Value]) -> Result<(), String> {
    match json.get(field) {
        None | Some(Value::Null) => Ok(()),
        Some(value) if supported.contains(value) => Ok(()),
        Some(value) => {
            let list: Vec<String> = supported.iter().map(ToString::to_string).collect();
            Err(format!("`{field}` is {value}; supported: {}", list.join(", ")))
        }
    }
}
