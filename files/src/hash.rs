//! SHA-256, in lower-case hexadecimal.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::FileError;

/// Bytes that are read at once.
const BUFFER: usize = 1 << 20;

/// The SHA-256 of some bytes.
pub fn sha256(bytes: impl AsRef<[u8]>) -> String {
    hex(&Sha256::digest(bytes))
}

/// The SHA-256 of a file.
///
/// # Errors
/// When it cannot be read.
pub fn sha256_file(path: &Path) -> Result<String, FileError> {
    File::open(path).and_then(|file| sha256_stream(file, |_| {})).map_err(|error| FileError::read(path, error))
}

/// The SHA-256 of what a reader gives until its end. `advance` is told the number of bytes of every piece.
///
/// # Errors
/// From the reader.
pub fn sha256_stream(mut reader: impl Read, mut advance: impl FnMut(usize)) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..count]);
        advance(count);
    }
}

/// JSON with the keys of every object in order, without white space: the same text for the same value.
pub fn canonical_json(value: &Value) -> String {
    sorted(value).to_string()
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            entries.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect()
        }
        Value::Array(list) => list.iter().map(sorted).collect(),
        scalar => scalar.clone(),
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// FIPS 180-2, appendix B.1.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn the_digest_of_the_standard_s_example() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        assert_eq!(sha256_file(file.path()).unwrap(), ABC);
        assert_eq!(sha256("abc"), ABC);
        let error = sha256_file(Path::new("none")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read `none`: "), "{error}");
    }

    #[test]
    fn a_stream_is_hashed_in_pieces_that_are_counted() {
        let bytes = vec![7; 2 * BUFFER + 5];
        let mut counted = 0;
        assert_eq!(sha256_stream(&bytes[..], |count| counted += count).unwrap(), sha256(&bytes));
        assert_eq!(counted, bytes.len());
    }

    #[test]
    fn a_value_is_the_same_text_in_any_order_of_its_keys() {
        let a: Value = serde_json::from_str(r#"{"a": {"x": 1, "y": [2, {"p": 0.5, "q": null}]}, "b": "é\n"}"#).unwrap();
        let b: Value = serde_json::from_str(r#"{"b": "é\n", "a": {"y": [2, {"q": null, "p": 0.5}], "x": 1}}"#).unwrap();
        assert_eq!(canonical_json(&a), r#"{"a":{"x":1,"y":[2,{"p":0.5,"q":null}]},"b":"é\n"}"#);
        assert_eq!(canonical_json(&a), canonical_json(&b));
        assert_ne!(canonical_json(&json!([1, 2])), canonical_json(&json!([2, 1])));
        // printf '{"a":1}' | sha256sum
        let expected = "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862";
        assert_eq!(sha256(canonical_json(&json!({"a": 1}))), expected);
    }
}
