//! The arguments of a call.

use super::error::{Error, Result};
use super::value::Value;

/// Values by position and by name.
#[derive(Default)]
pub struct CallArgs {
    pub positional: Vec<Value>,
    pub named: Vec<(String, Value)>,
}

impl CallArgs {
    /// The value of each of `parameters`, as far as it was given.
    ///
    /// # Errors
    /// For an argument too many, one that is not known, or one that is given twice.
    pub fn bind<const N: usize>(self, function: &str, parameters: [&str; N]) -> Result<[Option<Value>; N]> {
        if self.positional.len() > N {
            return Err(Error::new(format!("`{function}` takes at most {N} arguments")));
        }
        let mut values = [const { None }; N];
        for (value, given) in values.iter_mut().zip(self.positional) {
            *value = Some(given);
        }
        for (name, given) in self.named {
            let Some(at) = parameters.iter().position(|parameter| *parameter == name) else {
                return Err(Error::new(format!("`{function}` has no argument `{name}`")));
            };
            if values[at].replace(given).is_some() {
                return Err(Error::new(format!("`{function}` got two values for `{name}`")));
            }
        }
        Ok(values)
    }

    /// The values by position, of a function that knows no names.
    pub fn unnamed(self, function: &str) -> Result<Vec<Value>> {
        match self.named.first() {
            Some((name, _)) => Err(Error::new(format!("`{function}` has no argument `{name}`"))),
            None => Ok(self.positional),
        }
    }
}

/// The whole number in `value`, or `default` where none was given.
pub fn int_or(value: Option<Value>, default: i128, function: &str) -> Result<i128> {
    match value {
        None => Ok(default),
        Some(value) => value.as_int().ok_or_else(|| Error::new(format!("`{function}` needs a whole number"))),
    }
}

/// The string in `value`; `None` where it was not given or is none.
pub fn optional_str(value: Option<Value>, function: &str) -> Result<Option<String>> {
    match value {
        None | Some(Value::None) => Ok(None),
        Some(Value::Str(text)) => Ok(Some(text.text.to_string())),
        Some(Value::Undefined(message)) => Err(Error::new(&*message)),
        Some(other) => Err(Error::new(format!("`{function}` needs a string, not a {}", other.type_name()))),
    }
}

/// The string in `value`, which must be given.
pub fn needed_str(value: Option<Value>, function: &str) -> Result<String> {
    optional_str(value, function)?.ok_or_else(|| Error::new(format!("`{function}` needs a string")))
}
