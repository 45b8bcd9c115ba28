//! JSON as Python's `json.dumps` writes it, so that files can be compared with those of the reference implementations.

use std::io;

use serde::Serialize;
use serde_json::ser::Formatter;

/// Which characters are written as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Characters {
    /// Only printable ASCII; Python's default.
    Ascii,
    /// All; `ensure_ascii=False`.
    Unicode,
}

/// A value on one line, with a space behind every comma and colon. Floats must be finite.
///
/// # Panics
/// When the value has a map whose keys are no strings.
pub fn dumps(value: &impl Serialize, characters: Characters) -> String {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Spaced { characters });
    value.serialize(&mut serializer).expect("keys are strings");
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

struct Spaced {
    characters: Characters,
}

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if self.characters == Characters::Unicode {
            return writer.write_all(fragment.as_bytes());
        }
        for character in fragment.chars() {
            if matches!(character, ' '..='~') {
                writer.write_all(&[character as u8])?;
            } else {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_equal_those_of_python() {
        // json.dumps({"a": [], "b": [1, True, None, 0.5], "c": {"d": "é\u007f😀\n\u0001\"/\\"}})
        let value = json!({"a": [], "b": [1, true, null, 0.5], "c": {"d": "é\u{7f}😀\n\u{1}\"/\\"}});
        assert_eq!(
            dumps(&value, Characters::Ascii),
            r#"{"a": [], "b": [1, true, null, 0.5], "c": {"d": "\u00e9\u007f\ud83d\ude00\n\u0001\"/\\"}}"#
        );
        // The same with ensure_ascii=False.
        assert_eq!(
            dumps(&value, Characters::Unicode),
            "{\"a\": [], \"b\": [1, true, null, 0.5], \"c\": {\"d\": \"é\u{7f}😀\\n\\u0001\\\"/\\\\\"}}"
        );
    }
}
