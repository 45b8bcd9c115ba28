//! Files of a tokenizer directory, each of which may be missing.

use std::path::Path;

use serde_json::Value;

use crate::ChatError;

/// The text of a file, or `None` where there is none.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>, ChatError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ChatError::Read { path: path.to_path_buf(), source }),
    }
}

/// The JSON of a file, or `None` where there is none.
pub(crate) fn read_json(path: &Path) -> Result<Option<Value>, ChatError> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| ChatError::Parse { path: path.to_path_buf(), reason: error.to_string() })
}
