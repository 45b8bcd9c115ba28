//! The literals that Python's `ast.literal_eval` reads: judges were asked for "a valid Python dictionary".

use serde_json::{Map, Number, Value};

/// Nesting beyond this is refused, as Python's own parser does somewhere.
const DEEPEST: usize = 100;

/// Reads a text that is one literal: numbers, strings, `True`, `False`, `None`, lists, tuples, sets and dictionaries
/// with string keys. Tuples and sets become arrays; byte strings, complex numbers and other keys are refused.
///
/// # Errors
/// When it is anything else, with the reason.
pub fn parse(text: &str) -> Result<Value, String> {
    let mut reader = Reader { rest: text.trim_start_matches([' ', '\t']), depth: 0 };
    let value = reader.value()?;
    reader.space();
    if reader.rest.is_empty() { Ok(value) } else { Err(reader.unexpected()) }
}

struct Reader<'a> {
    rest: &'a str,
    depth: usize,
}

impl<'a> Reader<'a> {
    /// Passes over white space and comments; new lines do not matter inside brackets, nor in front of the end.
    fn space(&mut self) {
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']);
            match self.rest.strip_prefix('#') {
                Some(comment) => self.rest = comment.find('\n').map_or("", |end| &comment[end..]),
                None => return,
            }
        }
    }

    fn take(&mut self, token: &str) -> bool {
        self.rest.strip_prefix(token).is_some_and(|rest| {
            self.rest = rest;
            true
        })
    }

    fn unexpected(&self) -> String {
        match self.rest.chars().next() {
            Some(c) => format!("`{c}` is not expected there in a Python literal"),
            None => "the Python literal ends too early".into(),
        }
    }

    fn value(&mut self) -> Result<Value, String> {
        if self.depth > DEEPEST {
            return Err("the Python literal is nested too deeply".into());
        }
        self.depth += 1;
        let value = match self.rest.chars().next() {
            Some('[') => self.list(']').map(|(values, _)| Value::Array(values)),
            Some('(') => self.list(')').map(|(mut values, is_tuple)| match values.len() {
                1 if !is_tuple => values.remove(0),
                _ => Value::Array(values),
            }),
            Some('{') => self.braces(),
            Some('-') => {
                self.take("-");
                self.space();
                self.number(true)
            }
            Some('\'' | '"') => self.strings(),
            Some('r' | 'R' | 'u' | 'U') if self.rest[1..].starts_with(['\'', '"']) => self.strings(),
            Some(c) if c.is_ascii_digit() || c == '.' => self.number(false),
            _ => self.name(),
        };
        self.depth -= 1;
        value
    }

    fn name(&mut self) -> Result<Value, String> {
        for (name, value) in [("True", Value::Bool(true)), ("False", Value::Bool(false)), ("None", Value::Null)] {
            let whole = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
            if self.rest.strip_prefix(name).is_some_and(whole) {
                self.take(name);
                return Ok(value);
            }
        }
        Err(self.unexpected())
    }

    fn number(&mut self, negative: bool) -> Result<Value, String> {
        let is_part = |(index, c): &(usize, char)| {
            let exponent_sign = matches!(c, '+' | '-') && self.rest[..*index].ends_with(['e', 'E']);
            c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '_') || exponent_sign
        };
        let end = self.rest.char_indices().take_while(is_part).count();
        let (digits, rest) = self.rest.split_at(end);
        let failed = || format!("`{digits}` is no number of a Python literal");
        if digits.is_empty() || rest.starts_with(|c: char| c.is_alphanumeric()) {
            return Err(self.unexpected());
        }
        let text = format!("{}{}", if negative { "-" } else { "" }, digits.replace('_', ""));
        let number = match text.parse::<i64>() {
            Ok(integer) => Number::from(integer),
            Err(_) => text.parse::<f64>().ok().and_then(Number::from_f64).ok_or_else(failed)?,
        };
        self.rest = rest;
        Ok(Value::Number(number))
    }

    /// Values between brackets, and whether there was a comma.
    fn list(&mut self, close: char) -> Result<(Vec<Value>, bool), String> {
        self.rest = &self.rest[1..];
        let (mut values, mut comma) = (Vec::new(), true);
        let mut commas = false;
        loop {
            self.space();
            if self.rest.starts_with(close) {
                self.rest = &self.rest[1..];
                return Ok((values, commas));
            }
            if !comma {
                return Err(self.unexpected());
            }
            values.push(self.value()?);
            self.space();
            comma = self.take(",");
            commas |= comma;
        }
    }

    fn braces(&mut self) -> Result<Value, String> {
        let before = self.rest;
        self.rest = &self.rest[1..];
        let (mut map, mut comma) = (Map::new(), true);
        loop {
            self.space();
            if self.take("}") {
                return Ok(Value::Object(map));
            }
            if !comma {
                return Err(self.unexpected());
            }
            let key = self.value()?;
            self.space();
            if !self.take(":") {
                // A set, then.
                if !map.is_empty() {
                    return Err(self.unexpected());
                }
                self.rest = before;
                return self.list('}').map(|(values, _)| Value::Array(values));
            }
            let Value::String(key) = key else { return Err(format!("the key {key} is no string")) };
            self.space();
            let value = self.value()?;
            map.insert(key, value);
            self.space();
            comma = self.take(",");
        }
    }

    /// Adjacent strings are one.
    fn strings(&mut self) -> Result<Value, String> {
        let mut text = String::new();
        loop {
            self.string(&mut text)?;
            let before = self.rest;
            // Outside of brackets a new line ends the literal.
            if self.depth > 1 {
                self.space();
            } else {
                self.rest = self.rest.trim_start_matches([' ', '\t']);
            }
            let after_prefix = self.rest.strip_prefix(['r', 'R', 'u', 'U']).unwrap_or(self.rest);
            if !after_prefix.starts_with(['\'', '"']) {
                self.rest = before;
                return Ok(Value::String(text));
            }
        }
    }

    fn string(&mut self, text: &mut String) -> Result<(), String> {
        let raw = self.rest.starts_with(['r', 'R']);
        self.rest = self.rest.strip_prefix(['r', 'R', 'u', 'U']).unwrap_or(self.rest);
        let quote = ["'''", "\"\"\"", "'", "\""].into_iter().find(|quote| self.take(quote)).ok_or(self.unexpected())?;
        loop {
            if self.take(quote) {
                return Ok(());
            }
            let Some(c) = self.rest.chars().next() else { return Err(self.unexpected()) };
            if c == '\n' && quote.len() == 1 {
                return Err("a string of the Python literal goes over the end of its line".into());
            }
            self.rest = &self.rest[c.len_utf8()..];
            if c != '\\' {
                text.push(c);
            } else if raw {
                text.push(c);
                if let Some(next) = self.rest.chars().next() {
                    text.push(next);
                    self.rest = &self.rest[next.len_utf8()..];
                }
            } else {
                self.escape(text)?;
            }
        }
    }

    /// What follows a backslash.
    fn escape(&mut self, text: &mut String) -> Result<(), String> {
        let Some(c) = self.rest.chars().next() else { return Err(self.unexpected()) };
        self.rest = &self.rest[c.len_utf8()..];
        let width = match c {
            '\n' => return Ok(()),
            'n' => Err('\n'),
            't' => Err('\t'),
            'r' => Err('\r'),
            'a' => Err('\x07'),
            'b' => Err('\x08'),
            'f' => Err('\x0c'),
            'v' => Err('\x0b'),
            '\\' | '\'' | '"' => Err(c),
            'x' => Ok(2),
            'u' => Ok(4),
            'U' => Ok(8),
            '0'..='7' => {
                let more = self.rest.chars().take(2).take_while(|c| ('0'..='7').contains(c)).count();
                let code = format!("{c}{}", &self.rest[..more]);
                self.rest = &self.rest[more..];
                Err(u32::from_str_radix(&code, 8).ok().and_then(char::from_u32).expect("three octal digits"))
            }
            // Python keeps the backslash of an escape that it does not know.
            other => {
                text.push('\\');
                Err(other)
            }
        };
        match width {
            Err(c) => text.push(c),
            Ok(width) => {
                let code = self.rest.get(..width).and_then(|digits| u32::from_str_radix(digits, 16).ok());
                let c = code.and_then(char::from_u32).ok_or("an escape of the Python literal names no character")?;
                text.push(c);
                self.rest = &self.rest[width..];
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn literals_are_read() {
        for (text, value) in [
            (
                "[\n {'model': 'model_1', 'rank': 1},\n {\"model\": \"m\", 'rank': 2,} ]\n",
                json!([{"model": "model_1", "rank": 1}, {"model": "m", "rank": 2}]),
            ),
            ("  (1, -2.5e-1, True, None)", json!([1, -0.25, true, null])),
            ("(1)", json!(1)),
            ("(1,)", json!([1])),
            ("()", json!([])),
            ("{1, 2} # a set", json!([1, 2])),
            ("{}", json!({})),
            ("'it\\'s' \"\\u00fc\\x41\\101\\q\"", json!("it'süAA\\q")),
            ("r'\\n' '''a\nb'''", json!("\\na\nb")),
            ("[False]", json!([false])),
            ("1_000", json!(1000)),
            ("99999999999999999999", json!(1e20)),
        ] {
            assert_eq!(parse(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let deep = "[".repeat(5000);
        for text in [
            "",
            "[",
            "[1 2]",
            "{'a': 1 'b': 2}",
            "true",
            "Trueish",
            "f(1)",
            "'a",
            "'a\nb'",
            "1 2",
            "b'a'",
            "{1: 2}",
            "[1]]",
            "'\\xzz'",
            "m",
            "--",
            "[1,,2]",
            "1+1",
            "'\\",
            deep.as_str(),
            "'a'\n'b'",
            "1é",
            "-é",
            "ré",
        ] {
            assert!(parse(text).is_err(), "{text:.20}");
        }
    }

    proptest! {
        /// Every JSON text without escapes of its own is a Python literal, but for the names of the constants.
        #[test]
        fn json_is_read_as_json(
            keys in prop::collection::vec("[a-z ü]{0,3}", 0..4),
            number in any::<i64>(),
            truth: bool,
        ) {
            let map: Map<String, Value> = keys.into_iter().map(|key| (key, number.into())).collect();
            let value = serde_json::json!([map, truth, null, 0.5, "ü"]);
            let text = value.to_string().replace("true", "True").replace("false", "False").replace("null", "None");
            prop_assert_eq!(parse(&text), Ok(value));
        }

        #[test]
        fn nothing_panics(text in r#"[-\[\](){}'"\\:, \n0-7xuUréTrue.eE_#]{0,24}"#) {
            let _ = parse(&text);
        }
    }
}
