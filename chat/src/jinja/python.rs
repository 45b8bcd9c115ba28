//! Text and numbers as Python writes them.

/// Python's `str.isspace` for one character.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Python's `str.rstrip`.
pub fn trim_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// Python's `repr` of a float: the shortest digits that give it again.
pub fn float_repr(number: f64) -> String {
    if number.is_nan() {
        return "nan".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.into();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').expect("it has an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    if (-4..16).contains(&exponent) {
        let fixed = format!("{number}");
        return if fixed.contains('.') { fixed } else { fixed + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// Python's `repr` of a string.
pub fn str_repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => match u32::from(c) {
                code @ 0..=0xFF => out.push_str(&format!("\\x{code:02x}")),
                code @ 0x100..=0xFFFF => out.push_str(&format!("\\u{code:04x}")),
                code => out.push_str(&format!("\\U{code:08x}")),
            },
        }
    }
    out.push(quote);
    out
}

/// Python's `str.isprintable` for one character.
pub fn is_printable(c: char) -> bool {
    // Rust escapes a combining character where a text begins, and otherwise what Python does not print.
    matches!(c, '\'' | '"' | '\\') || ['a', c].iter().collect::<String>().escape_debug().count() == 2
}

/// Python's `str.splitlines`, with the ends of lines or without.
pub fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let is_end = |c: char| {
        matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let Some(at) = rest.find(is_end) else {
            lines.push(rest);
            break;
        };
        let end = rest[at..].chars().next().expect("it was found");
        let length = if rest[at..].starts_with("\r\n") { 2 } else { end.len_utf8() };
        lines.push(if keep_ends { &rest[..at + length] } else { &rest[..at] });
        rest = &rest[at + length..];
    }
    lines
}

/// Python's `str.capitalize`.
pub fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| titlecase(first) + &lowercase_after(first, chars.as_str()))
}

/// The lower case of `rest` where `before` comes before it, which a final sigma depends on.
fn lowercase_after(before: char, rest: &str) -> String {
    let whole = format!("{before}{rest}").to_lowercase();
    let first: usize = before.to_lowercase().map(char::len_utf8).sum();
    whole[first..].to_string()
}

fn titlecase(c: char) -> String {
    let mut upper = c.to_uppercase();
    let first = upper.next().into_iter();
    first.chain(upper.flat_map(char::to_lowercase)).collect()
}

/// Python's `str.title`.
pub fn titled(text: &str) -> String {
    let mut out = String::new();
    let mut in_word = false;
    for c in text.chars() {
        if in_word {
            out.extend(c.to_lowercase());
        } else {
            out.push_str(&titlecase(c));
        }
        in_word = is_cased(c);
    }
    out
}

/// Whether a character has a case.
pub fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase()
}

/// `value` rounded to `places` after the point, half to even on its exact value, as Python's `round`.
pub fn rounded(value: f64, places: i32) -> f64 {
    if places >= 0 {
        let text = format!("{value:.*}", usize::try_from(places).expect("it is not negative"));
        return text.parse().unwrap_or(value);
    }
    let scale = 10_f64.powi(-places);
    (value / scale).round_ties_even() * scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_in_python() {
        let cases = [
            (1.0, "1.0"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1e16, "1e+16"),
            (1e15, "1000000000000000.0"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (-0.0, "-0.0"),
            (1.5e300, "1.5e+300"),
        ];
        for (number, expected) in cases {
            assert_eq!(float_repr(number), expected);
        }
    }

    #[test]
    fn strings_are_quoted_as_in_python() {
        assert_eq!(str_repr("it's"), r#""it's""#);
        assert_eq!(str_repr("'\""), r#"'\'"'"#);
        assert_eq!(str_repr("é\n\u{7f}\u{200d}🦀\u{301}"), "'é\\n\\x7f\\u200d🦀\u{301}'");
    }
}
