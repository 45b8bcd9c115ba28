//! `settings.json`: what the content of an output directory belongs to, so that nothing else is mixed into it.

use std::path::{Path, PathBuf};

use orpo_files::{Difference, differences, write_file};
use serde::Serialize;
use serde_json::Value;

use crate::jsonl::{self, InputError};

const FILE_NAME: &str = "settings.json";

/// Compares the settings of a run with those in a directory, or puts them there. `contents` are the names of files that
/// belong to the settings. As long as a directory holds none of them, its settings may change: a run that got nowhere can be
/// repeated in another way.
///
/// # Errors
/// When the directory holds something else, or its file cannot be read or written.
pub fn check<S: Serialize>(directory: &Path, settings: &S, contents: &[&str]) -> Result<(), InputError> {
    let refused = |problem: String| InputError::File { path: directory.to_owned(), problem };
    let wanted = serde_json::to_value(settings).expect("settings have string keys");
    let path = directory.join(FILE_NAME);
    let is_empty = |name: &str| directory.join(name).metadata().is_ok_and(|file| file.len() == 0);
    let content = contents.iter().find(|name| directory.join(name).exists() && !is_empty(name));
    let write = |path: PathBuf| {
        let json = format!("{wanted:#}\n");
        write_file(&path, json.as_bytes()).map_err(InputError::from)
    };
    match content {
        Some(name) if !path.exists() => {
            return Err(refused(format!("it holds `{name}` of something else; choose another --out")));
        }
        None if !path.exists() => return write(path),
        _ => {}
    }
    let text = jsonl::read_json(&path)?;
    let found: Value =
        serde_json::from_str(&text).map_err(|error| InputError::File { path, problem: error.to_string() })?;
    let describe = |found: &Difference<'_>| format!("{} {}, not {}", found.key(), found.before, found.after);
    let mut differences: Vec<String> = differences(&found, &wanted).iter().map(describe).collect();
    differences.sort();
    if differences.is_empty() {
        return Ok(());
    }
    if content.is_none() && found["task"] == wanted["task"] {
        return write(directory.join(FILE_NAME));
    }
    Err(refused(format!(
        "it holds a run with other settings: {}; choose another --out or repeat those settings",
        differences.join("; ")
    )))
}

/// The settings that a directory has, if it has any.
///
/// # Errors
/// When its file cannot be read.
pub fn read(directory: &Path) -> Result<Option<Value>, InputError> {
    let path = directory.join(FILE_NAME);
    if !path.exists() {
        return Ok(None);
    }
    let text = jsonl::read_json(&path)?;
    serde_json::from_str(&text).map(Some).map_err(|error| InputError::File { path, problem: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_directory_belongs_to_one_kind_of_run() {
        let directory = tempfile::tempdir().unwrap();
        let check = |settings: &Value| check(directory.path(), settings, &["results.json"]);
        check(&json!({"task": "t", "n": 1})).unwrap();
        check(&json!({"n": 1, "task": "t"})).unwrap();
        check(&json!({"n": 1, "task": "t", "later": null})).unwrap();
        // Nothing belongs to these settings yet.
        check(&json!({"task": "t", "n": 0})).unwrap();
        check(&json!({"task": "t", "n": 1})).unwrap();
        assert!(check(&json!({"task": "u", "n": 1})).is_err());
        std::fs::write(directory.path().join("results.json"), "{}").unwrap();
        let message = check(&json!({"task": "t", "n": 2, "m": 3})).unwrap_err().to_string();
        assert!(message.contains("other settings: m null, not 3; n 1, not 2; choose another --out"), "{message}");
        std::fs::write(directory.path().join(FILE_NAME), "{\"sampling\": {\"seed\": 1, \"top_p\": 0.5}}").unwrap();
        let message = check(&json!({"sampling": {"seed": 1, "top_p": 1.0}})).unwrap_err().to_string();
        assert!(message.contains("other settings: sampling.top_p 0.5, not 1.0; choose"), "{message}");
        std::fs::remove_file(directory.path().join(FILE_NAME)).unwrap();
        let message = check(&json!({})).unwrap_err().to_string();
        assert!(message.contains("holds `results.json` of something else"), "{message}");
    }
}
