//! JSON as servers write it, which is not always JSON.
//!
//! Python servers write `NaN` and `Infinity`, some send a byte order mark, text that was cut inside a character leaves half
//! a surrogate pair, and a log-probability may be `-1e400`. None of this says anything about the text of a reply, so it must
//! not cost the reply.

use std::borrow::Cow;

use serde_json::Value;

/// The JSON value in some bytes. Numbers that are not finite become null, half surrogate pairs and invalid UTF-8 become the
/// replacement character, and control characters may stand in strings.
///
/// # Errors
/// When the bytes are not JSON even so.
pub fn parse(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    serde_json::from_slice(bytes)
        .or_else(|error| serde_json::from_str(&repaired(&String::from_utf8_lossy(bytes))).map_err(|_| error))
}

/// The text with everything replaced that serde_json refuses and Python's parser reads.
fn repaired(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (piece, length): (Cow<'_, str>, usize) = match first {
            '"' => string(rest),
            'a'..='z' | 'A'..='Z' | '0'..='9' | '+' | '-' | '.' => word(rest),
            other => (Cow::Borrowed(&rest[..other.len_utf8()]), other.len_utf8()),
        };
        out.push_str(&piece);
        rest = &rest[length..];
    }
    out
}

/// A literal or a number at the start of a text, and its length.
fn word(text: &str) -> (Cow<'_, str>, usize) {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let length = text.bytes().position(|byte| !is_part(byte)).unwrap_or(text.len());
    let word = &text[..length];
    match word.parse::<f64>() {
        Ok(number) if !number.is_finite() => ("null".into(), length),
        _ => (word.into(), length),
    }
}

/// A string at the start of a text, quotation marks included, and its length.
fn string(text: &str) -> (Cow<'_, str>, usize) {
    let mut out = String::from('"');
    let mut at = 1;
    while let Some(character) = text[at..].chars().next() {
        at += character.len_utf8();
        match character {
            '"' => {
                out.push('"');
                break;
            }
            '\\' => {
                let (escape, length) = escape(&text[at..]);
                out.push('\\');
                out.push_str(escape);
                at += length;
            }
            control if control < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => out.push(other),
        }
    }
    (out.into(), at)
}

/// What follows a backslash at the start of a text, with a half surrogate pair replaced; and its length.
fn escape(text: &str) -> (&str, usize) {
    const REPLACEMENT: &str = "ufffd";
    const UNIT: usize = REPLACEMENT.len();
    let unit = |text: &str| {
        let digits = text.get(..UNIT)?.strip_prefix('u')?;
        u16::from_str_radix(digits, 16).ok()
    };
    match unit(text) {
        Some(0xd800..=0xdbff) => {
            let low = text[UNIT..].strip_prefix('\\').and_then(unit);
            if matches!(low, Some(0xdc00..=0xdfff)) {
                (&text[..2 * UNIT + 1], 2 * UNIT + 1)
            } else {
                (REPLACEMENT, UNIT)
            }
        }
        Some(0xdc00..=0xdfff) => (REPLACEMENT, UNIT),
        _ => {
            let length = text.chars().next().map_or(0, char::len_utf8);
            (&text[..length], length)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_python_writes_is_read() {
        let text = "\u{feff}{\"a\": [NaN, -Infinity, Infinity, 1e400, -1.5e3, true, null], \"NaN \\\" b\": \"NaN, \\ud83d \
                    \\ud83d\\ude00 \\ude00 tab:\t.\"}";
        let expected = json!({
            "a": [null, null, null, null, -1500.0, true, null],
            "NaN \" b": "NaN, \u{fffd} \u{1f600} \u{fffd} tab:\t.",
        });
        assert_eq!(parse(text.as_bytes()).unwrap(), expected);
        assert_eq!(parse(b"{\"a\": \"\xff\", \"b\": NaN}").unwrap(), json!({"a": "\u{fffd}", "b": null}));
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in
            ["", "{", "<html>", "{\"a\": \"", "{\"a\": \"\\", "{\"a\": nothing}", "\"\\ud83d", "\"\\u12", "{} {}"]
        {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
