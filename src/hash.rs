//! What a file or a setting is: its SHA-256.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use orpo_train::checkpoint::sha256_file;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// A file as it was when it was hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Where it is.
    pub path: PathBuf,
    /// What it holds.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
    /// When it was last written, in nanoseconds since 1970.
    pub modified_ns: u64,
}

/// Hashes files, each once: a file with the size and the time that it had when it was hashed is taken to be the same.
#[derive(Debug, Default)]
pub struct Hashes {
    known: HashMap<PathBuf, Stamp>,
}

impl Hashes {
    /// Takes over what was hashed before; the paths must be absolute.
    pub fn learn(&mut self, stamps: impl IntoIterator<Item = Stamp>) {
        self.known.extend(stamps.into_iter().map(|stamp| (stamp.path.clone(), stamp)));
    }

    /// The file at `path`, hashed unless it is known.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn stamp(&mut self, path: &Path) -> Result<Stamp> {
        let failed = || format!("cannot read `{}`", path.display());
        let metadata = fs::metadata(path).with_context(failed)?;
        let modified = metadata.modified().with_context(failed)?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (bytes, modified_ns) = (metadata.len(), modified.as_nanos() as u64);
        if let Some(known) = self.known.get(path)
            && (known.bytes, known.modified_ns) == (bytes, modified_ns)
        {
            return Ok(known.clone());
        }
        let stamp = Stamp { path: path.to_path_buf(), sha256: sha256_file(path)?, bytes, modified_ns };
        self.known.insert(path.to_path_buf(), stamp.clone());
        Ok(stamp)
    }
}

/// The files below `path`, or `path` itself where it is one, in the order of their names; hidden ones are left out.
///
/// # Errors
/// When a directory cannot be read.
pub fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).with_context(|| format!("cannot read `{}`", path.display()))? {
        let entry = entry.with_context(|| format!("cannot read `{}`", path.display()))?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            files.extend(files_of(&entry.path())?);
        }
    }
    files.sort();
    Ok(files)
}

/// The hash of a JSON value, whatever the order of its keys.
pub fn of_value(value: &Value) -> String {
    of_text(&canonical(value).to_string())
}

/// The hash of a text.
pub fn of_text(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The same value with all keys in order.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(&String, &Value)> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            entries.into_iter().map(|(key, value)| (key.clone(), canonical(value))).collect()
        }
        Value::Array(list) => list.iter().map(canonical).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_value_is_what_it_says_and_not_how() {
        let a: Value = serde_json::from_str(r#"{"a": {"x": 1, "y": [2, {"p": 0, "q": 1}]}, "b": 2}"#).unwrap();
        let b: Value = serde_json::from_str(r#"{"b": 2, "a": {"y": [2, {"q": 1, "p": 0}], "x": 1}}"#).unwrap();
        assert_eq!(of_value(&a), of_value(&b));
        assert_ne!(of_value(&json!([1, 2])), of_value(&json!([2, 1])));
        // printf '{"a":1}' | sha256sum
        assert_eq!(of_value(&json!({"a": 1})), "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862");
    }

    #[test]
    fn a_file_is_hashed_again_only_when_it_was_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "abc").unwrap();
        let mut hashes = Hashes::default();
        let stamp = hashes.stamp(&path).unwrap();
        // What is known is believed: a wrong hash shows that the file was not read.
        let known = Stamp { sha256: "known".into(), ..stamp.clone() };
        hashes.learn([known.clone()]);
        assert_eq!(hashes.stamp(&path).unwrap(), known);
        fs::write(&path, "abcd").unwrap();
        let again = hashes.stamp(&path).unwrap();
        assert!(again.sha256 != known.sha256 && again.sha256 != stamp.sha256);
        assert!(hashes.stamp(&dir.path().join("none")).unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn the_files_of_a_directory_are_all_but_hidden_ones() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("b")).unwrap();
        for name in ["b/c", "a", ".lock"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(files_of(dir.path()).unwrap(), [dir.path().join("a"), dir.path().join("b/c")]);
        assert_eq!(files_of(&dir.path().join("a")).unwrap(), [dir.path().join("a")]);
    }
}
