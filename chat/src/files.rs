//! Files of a tokenizer directory, each of which may be missing.

use std::path::Path;

use serde_json::Value;

use crate::ChatError;
use crate::templates::TEMPLATES_DIR;

/// The files of a model directory that belong to its tokenizer, besides templates in a directory of their own.
const TOKENIZER_FILES: [&str; 5] =
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json"];

/// True if the file `name` of a model directory belongs to the tokenizer (not to the model).
pub fn is_tokenizer_file(name: &str) -> bool {
    let template = name.strip_prefix(TEMPLATES_DIR).and_then(|name| name.strip_prefix('/'));
    TOKENIZER_FILES.contains(&name) || template.is_some_and(|name| name.ends_with(".jinja") && !name.contains('/'))
}

/// The names of the files in `dir` that belong to the tokenizer, in order.
pub fn tokenizer_files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = TOKENIZER_FILES.map(String::from).to_vec();
    for entry in std::fs::read_dir(dir.join(TEMPLATES_DIR)).into_iter().flatten().flatten() {
        names.push(format!("{TEMPLATES_DIR}/{}", entry.file_name().to_string_lossy()));
    }
    names.retain(|name| is_tokenizer_file(name) && dir.join(name).is_file());
    names.sort();
    names
}

/// The text of a file, or `None` where there is none.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>, ChatError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim_start_matches('\u{feff}').to_string())),
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
