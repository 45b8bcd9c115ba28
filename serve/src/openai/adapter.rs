//! The bodies of `POST /v1/load_lora_adapter` and `POST /v1/unload_lora_adapter`, in vLLM's layout.

use std::path::PathBuf;

use super::fields::Fields;
use super::{ApiError, shared};

/// A validated request to load an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadAdapterRequest {
    /// The name that clients are to ask for.
    pub name: String,
    /// Its PEFT directory, on the server's machine.
    pub path: PathBuf,
}

impl LoadAdapterRequest {
    /// Reads and validates a body.
    ///
    /// # Errors
    /// An [`ApiError`] that names the field.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = shared::body(body)?;
        let (name, path) = (text(&mut fields, "lora_name")?, text(&mut fields, "lora_path")?);
        fields.refuse_rest(&[], &[])?;
        Ok(Self { name, path: path.into() })
    }
}

/// A validated request to unload an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnloadAdapterRequest {
    /// Its name.
    pub name: String,
}

impl UnloadAdapterRequest {
    /// Reads and validates a body.
    ///
    /// # Errors
    /// An [`ApiError`] that names the field.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = shared::body(body)?;
        let name = text(&mut fields, "lora_name")?;
        fields.refuse_rest(&[], &[])?;
        Ok(Self { name })
    }
}

fn text(fields: &mut Fields, name: &str) -> Result<String, ApiError> {
    let text = fields.text(name)?;
    if text.is_empty() { Err(fields.invalid(name, "a text that is not empty")) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::ErrorKind::{self, InvalidValue, MissingField, Unsupported};
    use serde_json::{Value, json};

    #[test]
    fn wrong_fields_are_named() {
        let load = |body: &Value| LoadAdapterRequest::parse(body.to_string().as_bytes()).map(drop);
        let unload = |body: &Value| UnloadAdapterRequest::parse(body.to_string().as_bytes()).map(drop);
        type Parse<'a> = &'a dyn Fn(&Value) -> Result<(), ApiError>;
        let cases: [(Parse<'_>, Value, ErrorKind, &str); 6] = [
            (&load, json!({"lora_path": "p"}), MissingField, "lora_name"),
            (&load, json!({"lora_name": "n"}), MissingField, "lora_path"),
            (&load, json!({"lora_name": "", "lora_path": "p"}), InvalidValue, "lora_name"),
            (&load, json!({"lora_name": "n", "lora_path": "p", "load_inplace": true}), Unsupported, "load_inplace"),
            (&unload, json!({"lora_name": 1}), InvalidValue, "lora_name"),
            (&unload, json!({"lora_name": "n", "lora_int_id": 1}), Unsupported, "lora_int_id"),
        ];
        for (parse, body, kind, param) in cases {
            let error = parse(&body).unwrap_err();
            assert_eq!((error.kind(), error.param()), (kind, Some(param)), "{body}");
        }
        assert!(load(&json!({"lora_name": "n", "lora_path": "p"})).is_ok());
    }
}
