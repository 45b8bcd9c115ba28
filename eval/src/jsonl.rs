//! Files with one JSON object a line, read with the line in every error, and files written so that they are whole.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// What is wrong with an input, and where.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// A line that cannot be used.
    #[error("{}:{line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// The file as a whole.
    #[error("cannot use `{}`: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// The bytes of a file.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>, InputError> {
    fs::read(path).map_err(|error| InputError::File { path: path.to_owned(), problem: error.to_string() })
}

/// The rows of a file with their line numbers; blank lines are skipped.
///
/// # Errors
/// At the first line that is not UTF-8 or not a row.
pub fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<Vec<(usize, T)>, InputError> {
    let mut rows = Vec::new();
    for (index, bytes) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = index + 1;
        let failed = |problem| InputError::Line { path: path.to_owned(), line, problem };
        let text = std::str::from_utf8(bytes)
            .map_err(|error| failed(format!("invalid UTF-8 at byte {} of the line", error.valid_up_to() + 1)))?;
        if text.trim().is_empty() {
            continue;
        }
        let row = serde_json::from_str(text).map_err(|error| failed(describe(&error)))?;
        rows.push((line, row));
    }
    Ok(rows)
}

/// The message of a JSON error without its line, which is always 1 here.
fn describe(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    let kind = if error.is_data() { "not a usable row" } else { "invalid JSON" };
    format!("{kind}: {message} (column {})", error.column())
}

/// Writes a file under its name only when it is whole: into a sibling, to the disk, then renamed.
///
/// # Errors
/// When the sibling cannot be written or renamed.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut sibling = path.as_os_str().to_owned();
    sibling.push(".tmp");
    let mut file = fs::File::create(&sibling)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&sibling, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    struct Row {
        name: String,
    }

    fn message(bytes: &[u8]) -> String {
        parse::<Row>(Path::new("f.jsonl"), bytes).unwrap_err().to_string()
    }

    #[test]
    fn rows_carry_their_lines() {
        let rows = parse::<Row>(Path::new("f"), b"{\"name\": \"a\"}\r\n\n{\"name\": \"b\"}").unwrap();
        let rows: Vec<_> = rows.iter().map(|(line, row)| (*line, row.name.as_str())).collect();
        assert_eq!(rows, [(1, "a"), (3, "b")]);
    }

    #[test]
    fn errors_name_file_line_and_cause() {
        assert_eq!(message(b"\n{"), "f.jsonl:2: invalid JSON: EOF while parsing an object (column 1)");
        assert_eq!(message(b"{}"), "f.jsonl:1: not a usable row: missing field `name` (column 2)");
        assert_eq!(message(b"{\"name\": \"\xff\"}"), "f.jsonl:1: invalid UTF-8 at byte 11 of the line");
    }
}
