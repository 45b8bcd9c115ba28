//! Whether Python's `json.loads` accepts a text.
//!
//! It is laxer than the standard in some places (`NaN`, `Infinity`, lone surrogate escapes, numbers of any exponent) and
//! stricter in one (an integer has at most 4300 digits). Nesting is followed on the heap, so its depth has no limit; Python
//! gives up with an exception, and no verdict, at about a thousand levels.

/// The most digits of an integer: CPython's default for the conversion of strings.
const MAX_INTEGER_DIGITS: usize = 4300;

/// What the reader is inside of, and what may come next.
enum Open {
    /// After `[` or `,`.
    Array,
    /// After `{` or `,`.
    Object,
}

/// Checks a whole text.
///
/// # Errors
/// What is wrong, and at which byte.
pub(super) fn check(text: &str) -> Result<(), String> {
    let mut reader = Reader { bytes: text.as_bytes(), at: 0 };
    let mut open: Vec<Open> = Vec::new();
    reader.skip_space();
    'value: loop {
        // A value begins here.
        match reader.peek() {
            Some(b'[') => {
                reader.at += 1;
                reader.skip_space();
                if reader.peek() != Some(b']') {
                    open.push(Open::Array);
                    continue 'value;
                }
                reader.at += 1;
            }
            Some(b'{') => {
                reader.at += 1;
                reader.skip_space();
                if reader.peek() != Some(b'}') {
                    reader.key()?;
                    open.push(Open::Object);
                    continue 'value;
                }
                reader.at += 1;
            }
            _ => reader.scalar()?,
        }
        // A value has ended: close what it completes, up to a comma.
        loop {
            reader.skip_space();
            let Some(container) = open.last() else { break 'value };
            match (container, reader.peek()) {
                (Open::Array, Some(b',')) => {
                    reader.at += 1;
                    reader.skip_space();
                    continue 'value;
                }
                (Open::Object, Some(b',')) => {
                    reader.at += 1;
                    reader.skip_space();
                    reader.key()?;
                    continue 'value;
                }
                (Open::Array, Some(b']')) | (Open::Object, Some(b'}')) => {
                    reader.at += 1;
                    open.pop();
                }
                _ => return reader.expected("a comma or the end of the list or object"),
            }
        }
    }
    if reader.at == reader.bytes.len() { Ok(()) } else { reader.expected("the end of the text") }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn expected<T>(&self, what: &str) -> Result<T, String> {
        Err(format!("expected {what} at byte {}", self.at))
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn skip_digits(&mut self) -> usize {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        self.at - start
    }

    /// A key, its colon, and the white space around it.
    fn key(&mut self) -> Result<(), String> {
        if self.peek() != Some(b'"') {
            return self.expected("a key in double quotes");
        }
        self.string()?;
        self.skip_space();
        if self.peek() != Some(b':') {
            return self.expected("a colon");
        }
        self.at += 1;
        self.skip_space();
        Ok(())
    }

    fn scalar(&mut self) -> Result<(), String> {
        if self.peek() == Some(b'"') {
            return self.string();
        }
        for word in ["null", "true", "false", "NaN", "Infinity", "-Infinity"] {
            if self.bytes[self.at..].starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(());
            }
        }
        self.number()
    }

    fn string(&mut self) -> Result<(), String> {
        self.at += 1;
        loop {
            match self.peek() {
                None => return self.expected("the end of a string"),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(0..0x20) => return self.expected("no control character inside a string"),
                Some(b'\\') => {
                    let escape = match self.bytes.get(self.at + 1) {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
                        Some(b'u') => {
                            let digits = self.bytes.get(self.at + 2..self.at + 6);
                            if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
                                return self.expected("`\\u` and four hexadecimal digits");
                            }
                            6
                        }
                        _ => return self.expected("a valid escape"),
                    };
                    self.at += escape;
                }
                Some(_) => self.at += 1,
            }
        }
    }

    /// A number; whatever does not continue it is left for the caller.
    fn number(&mut self) -> Result<(), String> {
        let start = self.at;
        let after_sign = start + usize::from(self.peek() == Some(b'-'));
        self.at = after_sign;
        let digits = match self.peek() {
            Some(b'0') => {
                self.at += 1;
                1
            }
            Some(b'1'..=b'9') => self.skip_digits(),
            _ => {
                self.at = start;
                return self.expected("a value");
            }
        };
        let mut integer = true;
        let mut end = self.at;
        if self.peek() == Some(b'.') {
            self.at += 1;
            if self.skip_digits() > 0 {
                integer = false;
                end = self.at;
            }
        }
        self.at = end;
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            if self.skip_digits() > 0 {
                integer = false;
                end = self.at;
            }
        }
        self.at = end;
        if integer && digits > MAX_INTEGER_DIGITS {
            return Err(format!("an integer of {digits} digits at byte {start}, more than {MAX_INTEGER_DIGITS}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::check;
    use proptest::prelude::*;

    #[test]
    fn accepts_what_python_accepts() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let accepted = [
            "1",
            "-0.5e+3",
            "1e400",
            "\"a\"",
            "null",
            "NaN",
            "-Infinity",
            "[]",
            "{}",
            "[1, [2], {\"a\": {}}]",
            r#"{"a": 1, "a": 2}"#,
            r#""\ud800""#,
            "\"\u{7f}é\"",
            " \r\n\t1 ",
            &deep,
        ];
        for text in accepted {
            assert_eq!(check(text), Ok(()), "{:.40}", text);
        }
    }

    #[test]
    fn rejects_what_python_rejects() {
        let long = "1".repeat(4301);
        let rejected = [
            "",
            " ",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "{a:1}",
            "{'a':1}",
            "01",
            "1.",
            ".5",
            "+1",
            "-",
            "1e",
            "tru",
            "nan",
            "\"a",
            "\"\n\"",
            r#""\x""#,
            r#""\u12g4""#,
            "\u{feff}1",
            "1 2",
            "[1}",
            "{\"a\" 1}",
            "\u{a0}1",
            "//c\n1",
            &long,
        ];
        for text in rejected {
            assert!(check(text).is_err(), "{:.40}", text);
        }
        assert_eq!(check(&"1".repeat(4300)), Ok(()));
        assert_eq!(check("[1 2]"), Err("expected a comma or the end of the list or object at byte 3".into()));
    }

    proptest! {
        /// Apart from the known differences, a strict parser decides alike.
        #[test]
        fn agrees_with_a_strict_parser(text in r#"[\[\]{}:,"a1.e0 \-]{0,14}|(\[|\{"a":)(1|"b"|\[\]|\{\}|null)[,\]} ]{0,3}"#) {
            let strict = serde_json::from_str::<serde_json::Value>(&text);
            let overflow = strict.as_ref().is_err_and(|error| error.to_string().contains("out of range"));
            prop_assume!(!overflow);
            prop_assert_eq!(check(&text).is_ok(), strict.is_ok());
        }
    }
}
