//! Reading a JSON object field by field, with errors that name the field.

use serde_json::{Map, Value};

use super::{ApiError, ErrorKind};

/// A field's name, and whether a value of it asks for nothing.
pub(super) type Neutral = (&'static str, fn(&Value) -> bool);

/// The fields of an object that have not been read yet. `null` counts as absent, as OpenAI has it.
pub(super) struct Fields {
    fields: Map<String, Value>,
    /// The path of the object, `""` or `messages[0].`.
    prefix: String,
}

impl Fields {
    /// The fields of `value`, an object at `prefix` (empty for the body itself, else with a dot at its end).
    pub(super) fn new(value: Value, prefix: &str) -> Result<Self, ApiError> {
        let Value::Object(fields) = value else {
            let name = prefix.trim_end_matches('.');
            return Err(match name {
                "" => ApiError::new(
                    ErrorKind::InvalidJson,
                    format!("the body must be a JSON object, not {}", kind(&value)),
                ),
                _ => wrong_type(name, "an object", &value),
            });
        };
        Ok(Self { fields, prefix: prefix.to_string() })
    }

    /// The full name of a field of this object.
    pub(super) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Takes a field out.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        #[cfg(test)]
        tests::note(self.path(name));
        self.fields.remove(name).filter(|value| !value.is_null())
    }

    /// True if the field is there, be it null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    /// Takes a field out that must be there.
    pub(super) fn require(&mut self, name: &str) -> Result<Value, ApiError> {
        self.take(name).ok_or_else(|| {
            let path = self.path(name);
            ApiError::of_field(ErrorKind::MissingField, &path, format!("`{path}` is required"))
        })
    }

    /// A string that must be there.
    pub(super) fn text(&mut self, name: &str) -> Result<String, ApiError> {
        match self.require(name)? {
            Value::String(text) => Ok(text),
            other => Err(wrong_type(&self.path(name), "a string", &other)),
        }
    }

    /// A number in `low..=high`.
    pub(super) fn number(&mut self, name: &str, low: f64, high: f64) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if (low..=high).contains(&number) => Ok(Some(number)),
            Some(number) => Err(self.invalid(name, &format!("must be between {low} and {high}, not {number}"))),
            None => Err(wrong_type(&self.path(name), "a number", &value)),
        }
    }

    /// A whole number of at least `low`.
    pub(super) fn integer(&mut self, name: &str, low: i64) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match whole(&value).map(i64::try_from) {
            Some(Ok(number)) if number >= low => Ok(Some(number)),
            Some(Ok(number)) => Err(self.invalid(name, &format!("must be at least {low}, not {number}"))),
            Some(Err(_)) => Err(self.out_of_range(name, low.into(), i64::MAX.into())),
            None => Err(wrong_type(&self.path(name), "a whole number", &value)),
        }
    }

    /// A number of tokens of at least `low`.
    pub(super) fn limit(&mut self, name: &str, low: i64) -> Result<Option<usize>, ApiError> {
        let limit = self.integer(name, low)?;
        Ok(limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)))
    }

    /// The error of a number outside of its range.
    pub(super) fn out_of_range(&self, name: &str, low: i128, high: i128) -> ApiError {
        self.invalid(name, &format!("must be between {low} and {high}"))
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| wrong_type(&self.path(name), "true or false", &value))
    }

    /// The error of a field with a value that cannot be.
    pub(super) fn invalid(&self, name: &str, what: &str) -> ApiError {
        let path = self.path(name);
        let message = format!("`{path}` {what}");
        ApiError::of_field(ErrorKind::InvalidValue, path, message)
    }

    /// Refuses what is left: fields in `harmless` may have any value, fields in `neutral` one that asks for nothing,
    /// all others are refused by name.
    pub(super) fn refuse_rest(self, harmless: &[&str], neutral: &[Neutral]) -> Result<(), ApiError> {
        #[cfg(test)]
        harmless.iter().chain(neutral.iter().map(|(name, _)| name)).for_each(|name| tests::note(self.path(name)));
        for (name, value) in &self.fields {
            let asks_for_nothing =
                neutral.iter().find(|(other, _)| other == name).map(|(_, asks_for_nothing)| asks_for_nothing(value));
            if value.is_null() || harmless.contains(&name.as_str()) || asks_for_nothing == Some(true) {
                continue;
            }
            let path = self.path(name);
            let message = match asks_for_nothing {
                Some(_) => format!("this value of `{path}` is not supported by this server; leave the field out"),
                None => format!("`{path}` is not supported by this server; leave it out"),
            };
            return Err(ApiError::of_field(ErrorKind::Unsupported, path, message));
        }
        Ok(())
    }
}

/// A whole number, however it is written: `8.0` is 8. What is too large to be read exactly is out of every range.
pub(super) fn whole(value: &Value) -> Option<i128> {
    /// Doubles hold every whole number up to here.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if let Some(number) = value.as_i64() {
        return Some(number.into());
    }
    if let Some(number) = value.as_u64() {
        return Some(number.into());
    }
    let number = value.as_f64().filter(|number| number.fract() == 0.0)?;
    Some(if number.abs() <= EXACT { number as i128 } else { i128::MAX })
}

/// Values of fields that ask for nothing.
pub(super) mod nothing {
    use serde_json::Value;

    pub(in super::super) fn is_false(value: &Value) -> bool {
        value == false
    }

    pub(in super::super) fn is_true(value: &Value) -> bool {
        value == true
    }

    pub(in super::super) fn is_zero(value: &Value) -> bool {
        value.as_f64() == Some(0.0)
    }

    pub(in super::super) fn is_one(value: &Value) -> bool {
        value.as_f64() == Some(1.0)
    }

    /// An empty text, list or object.
    pub(in super::super) fn is_empty(value: &Value) -> bool {
        match value {
            Value::String(text) => text.is_empty(),
            Value::Array(values) => values.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            _ => false,
        }
    }
}

/// The error of a field with a value of another type.
pub(super) fn wrong_type(path: &str, expected: &str, value: &Value) -> ApiError {
    ApiError::of_field(ErrorKind::InvalidValue, path, format!("`{path}` must be {expected}, not {}", kind(value)))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "this number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Which fields the parsers know, noted as they ask for them: for the comparison with the published document.
#[cfg(test)]
pub(super) mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    thread_local! {
        static KNOWN: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
    }

    /// Notes the path of a field.
    pub(super) fn note(path: String) {
        KNOWN.with_borrow_mut(|known| known.insert(path));
    }

    /// The paths that were noted in this thread since the last time.
    pub fn known() -> BTreeSet<String> {
        KNOWN.take()
    }
}
