//! Files with one JSON object a line, read with the line in every error, and files written so that they are whole.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

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

/// The bytes of a file; one that is compressed with gzip is unpacked.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>, InputError> {
    const GZIP: &[u8] = &[0x1f, 0x8b];
    let unpacked = || {
        let bytes = fs::read(path)?;
        if !bytes.starts_with(GZIP) {
            return Ok(bytes);
        }
        let mut unpacked = Vec::new();
        MultiGzDecoder::new(&bytes[..]).read_to_end(&mut unpacked)?;
        Ok(unpacked)
    };
    unpacked().map_err(|error: io::Error| InputError::File { path: path.to_owned(), problem: error.to_string() })
}

/// The SHA-256 of some bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The rows of a file with their line numbers, be it one row a line or a single JSON list.
///
/// # Errors
/// As [`parse`].
pub fn rows<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<Vec<(usize, T)>, InputError> {
    match bytes.iter().position(|byte| !byte.is_ascii_whitespace()) {
        Some(start) if bytes[start] == b'[' => elements(path, bytes, start + 1),
        _ => parse(path, bytes),
    }
}

/// The elements of a list that begins in front of `at`.
fn elements<T: DeserializeOwned>(path: &Path, bytes: &[u8], mut at: usize) -> Result<Vec<(usize, T)>, InputError> {
    let line_of = |at: usize| 1 + bytes[..at].iter().filter(|&&byte| byte == b'\n').count();
    let failed = |line, problem| InputError::Line { path: path.to_owned(), line, problem };
    let text = std::str::from_utf8(bytes)
        .map_err(|error| failed(line_of(error.valid_up_to()), "invalid UTF-8 on this line".to_owned()))?;
    let after_space = |at: usize| text.len() - text[at..].trim_ascii_start().len();
    let mut rows = Vec::new();
    let (mut line, mut counted) = (1, 0);
    loop {
        at = after_space(at);
        if rows.is_empty() && text[at..].starts_with(']') {
            break;
        }
        line += bytes[counted..at].iter().filter(|&&byte| byte == b'\n').count();
        counted = at;
        let mut stream = serde_json::Deserializer::from_str(&text[at..]).into_iter();
        match stream.next() {
            Some(Ok(row)) => rows.push((line, row)),
            Some(Err(error)) => return Err(failed(line + error.line().saturating_sub(1), describe(&error))),
            None => return Err(failed(line, "invalid JSON: the list does not end".into())),
        }
        at = after_space(at + stream.byte_offset());
        match text[at..].chars().next() {
            Some(',') => at += 1,
            Some(']') => break,
            _ => return Err(failed(line_of(at), "invalid JSON: expected `,` or `]` behind this element".into())),
        }
    }
    let rest = after_space(at + 1);
    if rest < text.len() {
        return Err(failed(line_of(rest), "invalid JSON: something follows the list".into()));
    }
    Ok(rows)
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
    fn a_list_is_as_good_as_lines() {
        let rows = |text: &str| {
            let rows = super::rows::<Row>(Path::new("f"), text.as_bytes()).map_err(|error| error.to_string())?;
            Ok(rows.into_iter().map(|(line, row)| (line, row.name)).collect::<Vec<_>>())
        };
        let found = [(2, "a".to_owned()), (5, "b".to_owned())];
        assert_eq!(rows("[\n  {\"name\": \"a\"},\n\n\n{\n\"name\": \"b\"} ]\n").unwrap(), found);
        assert_eq!(rows("{\"name\": \"a\"}").unwrap(), [(1, "a".to_owned())]);
        assert_eq!(rows(" [ ] ").unwrap(), []);
        for (text, message) in [
            ("[{\"name\": \"a\"},\n{}]", "f:2: not a usable row: missing field `name`"),
            ("[{\"name\": \"a\"},\n", "f:2: invalid JSON: the list does not end"),
            ("[{\"name\": \"a\"}\n{}]", "f:2: invalid JSON: expected `,` or `]`"),
            ("[{\"name\": \"a\"},]", "f:1: invalid JSON: "),
            ("[]\n{}", "f:2: invalid JSON: something follows the list"),
            ("[{\"name\"\n: 3}]", "f:2: not a usable row: invalid type"),
        ] {
            let error: String = rows(text).unwrap_err();
            assert!(error.starts_with(message), "{error}");
        }
    }

    #[test]
    fn a_packed_file_is_unpacked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f.jsonl.gz");
        let mut encoder = flate2::write::GzEncoder::new(fs::File::create(&path).unwrap(), flate2::Compression::fast());
        encoder.write_all(b"{}\n").unwrap();
        encoder.finish().unwrap();
        assert_eq!(read(&path).unwrap(), b"{}\n");
        fs::write(&path, [0x1f, 0x8b, 8]).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("f.jsonl.gz"));
    }

    #[test]
    fn errors_name_file_line_and_cause() {
        assert_eq!(message(b"\n{"), "f.jsonl:2: invalid JSON: EOF while parsing an object (column 1)");
        assert_eq!(message(b"{}"), "f.jsonl:1: not a usable row: missing field `name` (column 2)");
        assert_eq!(message(b"{\"name\": \"\xff\"}"), "f.jsonl:1: invalid UTF-8 at byte 11 of the line");
    }
}
