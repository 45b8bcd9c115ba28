//! JSON as other programs write it, which is not always JSON.

use std::borrow::Cow;

/// The length of a number at the start of a text that JSON does not have: `NaN`, `Infinity` or `-Infinity`, as Python
/// writes them.
pub fn non_finite(text: &str) -> Option<usize> {
    let name = ["NaN", "Infinity", "-Infinity"].into_iter().find(|name| text.starts_with(name))?;
    let is_longer = text[name.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_');
    (!is_longer).then_some(name.len())
}

/// JSON text with replacements outside of its strings. `replace` is asked at each character there; it answers with the
/// length of what is to be replaced, if anything, and what takes its place. A string ends with its line at the latest, so
/// that a broken one does not hide what follows.
///
/// ```
/// use orpo_files::{non_finite, replace_outside_strings};
/// let null = |rest: &str| non_finite(rest).map(|length| (length, "null"));
/// assert_eq!(replace_outside_strings(r#"{"NaN": [NaN, -Infinity]}"#, null), r#"{"NaN": [null, null]}"#);
/// ```
pub fn replace_outside_strings(text: &str, replace: impl Fn(&str) -> Option<(usize, &'static str)>) -> Cow<'_, str> {
    let mut replaced = String::new();
    let (mut copied, mut in_string, mut is_escaped) = (0, false, false);
    for (at, character) in text.char_indices() {
        if at < copied {
            continue;
        }
        in_string &= !matches!(character, '\n' | '\r');
        if !in_string && let Some((length, replacement)) = replace(&text[at..]) {
            replaced.push_str(&text[copied..at]);
            replaced.push_str(replacement);
            copied = at + length;
            continue;
        }
        if character == '"' && !is_escaped {
            in_string = !in_string;
        }
        is_escaped = in_string && character == '\\' && !is_escaped;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    replaced.push_str(&text[copied..]);
    Cow::Owned(replaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_not_finite_only_as_a_whole_word() {
        for (text, length) in [("NaN", 3), ("NaN,", 3), ("Infinity]", 8), ("-Infinity}", 9)] {
            assert_eq!(non_finite(text), Some(length), "{text}");
        }
        for text in ["", "NaNa", "Infinity1", "-1", "nan", "NaN_"] {
            assert_eq!(non_finite(text), None, "{text}");
        }
    }

    #[test]
    fn strings_are_left_as_they_are() {
        let null = |rest: &str| non_finite(rest).map(|length| (length, "null"));
        for (text, expected) in [
            (r#"["NaN \" NaN", NaN]"#, r#"["NaN \" NaN", null]"#),
            (r#"{"é\\":NaN,"NaN":-Infinity}"#, r#"{"é\\":null,"NaN":null}"#),
            ("NaN", "null"),
            // A string that does not end.
            ("\"NaN\\\nNaN \"NaN\r\nNaN", "\"NaN\\\nnull \"NaN\r\nnull"),
        ] {
            assert_eq!(replace_outside_strings(text, null), expected);
        }
        assert!(matches!(replace_outside_strings("[\"NaN\"]", null), Cow::Borrowed(_)));
    }
}
