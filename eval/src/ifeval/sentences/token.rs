//! Punkt's tokens: words with the full stop that follows them, and punctuation.

use std::borrow::Cow;

use crate::ifeval::text::{self, is_digit, is_space, is_word};

/// The type of all numbers.
pub(super) const NUMBER: &str = "##number##";

/// The tokens of a text (`PunktLanguageVars.word_tokenize` on each line).
pub(super) fn tokens(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').flat_map(|line| {
        let mut rest = line;
        std::iter::from_fn(move || {
            rest = rest.trim_start_matches(is_space);
            let token;
            (token, rest) = rest.split_at(token_length(rest)?);
            Some(token)
        })
    })
}

/// The length of the token at the beginning of a text that does not begin with white space.
fn token_length(text: &str) -> Option<usize> {
    let first = text.chars().next()?;
    if let Some(length) = dash_or_ellipsis(text) {
        return Some(length);
    }
    if !begins_word(first) {
        return Some(first.len_utf8());
    }
    let end = text.char_indices().skip(1).map(|(at, _)| at).find(|&at| ends_word(&text[at..]));
    Some(end.unwrap_or(text.len()))
}

fn begins_word(c: char) -> bool {
    !matches!(c, '(' | '"' | '`' | '{' | '[' | ':' | ';' | '&' | '#' | '*' | '@' | ')' | '}' | ']' | '-' | ',')
}

/// Whether a character ends the word before it wherever it stands.
pub(super) fn never_within_word(c: char) -> bool {
    matches!(c, ')' | '"' | ';' | '}' | ']' | '*' | ':' | '@' | '\'' | '(' | '{' | '[' | '?' | '!')
}

/// Whether a word ends before a text. A comma ends it only where something else would.
fn ends_word(text: &str) -> bool {
    let ends = |text: &str| {
        text.chars().next().is_none_or(|c| is_space(c) || never_within_word(c)) || dash_or_ellipsis(text).is_some()
    };
    ends(text) || text.strip_prefix(',').is_some_and(ends)
}

/// The length of two or more dashes, two or more full stops, or three or more full stops with one white space between them.
fn dash_or_ellipsis(text: &str) -> Option<usize> {
    let run = |c| text.len() - text.trim_start_matches(c).len();
    match run('-').max(run('.')) {
        0 => None,
        1 => spaced_ellipsis(text),
        length => Some(length),
    }
}

fn spaced_ellipsis(text: &str) -> Option<usize> {
    let mut rest = text;
    let mut length = None;
    let mut stops = 0;
    while let Some(after) = rest.strip_prefix('.') {
        stops += 1;
        if stops >= 3 {
            length = Some(text.len() - after.len());
        }
        match after.strip_prefix(is_space) {
            Some(after) => rest = after,
            None => break,
        }
    }
    length
}

/// `..` or longer.
pub(super) fn is_ellipsis(token: &str) -> bool {
    token.len() > 1 && token.bytes().all(|byte| byte == b'.')
}

/// One letter and a full stop. What is a letter is that to `[^\W\d]`, so `_` is one.
pub(super) fn is_initial(token: &str) -> bool {
    let mut letters = token.strip_suffix('.').unwrap_or_default().chars();
    matches!((letters.next(), letters.next()), (Some(c), None) if is_word(c) && !is_digit(c))
}

/// `^-?[\.,]?\d[\d,\.-]*\.?$`
fn is_number(token: &str) -> bool {
    let token = token.strip_prefix('-').unwrap_or(token);
    let token = token.strip_prefix(['.', ',']).unwrap_or(token);
    token.starts_with(is_digit) && token.chars().all(|c| is_digit(c) || matches!(c, ',' | '.' | '-'))
}

/// The type of a token: its small letters, and one type for all numbers.
pub(super) fn token_type(token: &str) -> Cow<'static, str> {
    if is_number(token) { NUMBER.into() } else { text::lower(token).into() }
}

/// A type without its final full stop, if that is not all of it.
pub(super) fn without_stop(token_type: &str) -> &str {
    token_type.strip_suffix('.').filter(|stem| !stem.is_empty()).unwrap_or(token_type)
}

/// Whether the first character is a capital.
pub(super) fn is_capitalised(token: &str) -> bool {
    text::is_upper(first(token))
}

/// Whether the first character is a small letter.
pub(super) fn is_uncapitalised(token: &str) -> bool {
    text::is_lower(first(token))
}

fn first(token: &str) -> &str {
    &token[..token.chars().next().map_or(0, char::len_utf8)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use regex::Regex;

    fn all(text: &str) -> Vec<&str> {
        tokens(text).collect()
    }

    #[test]
    fn words_keep_their_full_stop_and_lose_other_punctuation() {
        assert_eq!(all("(Mr. O'Neil, e.g.,\nsaid:)"), ["(", "Mr.", "O", "'Neil", ",", "e.g.", ",", "said", ":", ")"]);
        assert_eq!(all("What?! 1,5 a,b -x --y"), ["What", "?", "!", "1,5", "a,b", "-", "x", "--", "y"]);
    }

    #[test]
    fn ellipses_are_tokens_if_they_are_dense_or_evenly_spaced() {
        assert_eq!(all("so... .... ok"), ["so", "...", "....", "ok"]);
        assert_eq!(all("so . . . . x"), ["so", ". . . .", "x"]);
        assert_eq!(all("so . . x"), ["so", ".", ".", "x"]);
        assert_eq!(all("a. .\t. ."), ["a", ". .\t. ."]);
        assert_eq!(all(".\n.\n."), [".", ".", "."], "a line is read alone");
        assert!(is_ellipsis("..") && !is_ellipsis(".") && !is_ellipsis(". . ."));
    }

    #[test]
    fn types_ignore_case_and_the_value_of_numbers() {
        for number in ["5", "-1,000.50", ".5", "5.", "1-2", "٣.", ",3."] {
            assert_eq!(token_type(number), NUMBER, "{number}");
        }
        for (token, expected) in [("Mr.", "mr."), ("5th", "5th"), ("--5", "--5"), ("ΑΣ.", "ας."), (".", ".")] {
            assert_eq!(token_type(token), expected);
        }
        assert_eq!([without_stop("mr."), without_stop("."), without_stop("a")], ["mr", ".", "a"]);
    }

    #[test]
    fn an_initial_is_one_letter_and_a_full_stop() {
        assert!(["J.", "é.", "_.", "²."].iter().all(|token| is_initial(token)));
        assert!(["J", ".", "5.", "-.", "Jo.", "J.."].iter().all(|token| !is_initial(token)));
    }

    /// The patterns of `PunktLanguageVars`, tried at one place after the other, without look-ahead.
    fn slow(text: &str) -> Vec<&str> {
        let punctuation = r"(?:-{2,}|\.{2,}|(?:\.\s){2,}\.)";
        let other = r#"(?:[)";}\]*:@'({\[?!])"#;
        let end = format!(r"\s|$|{other}|{punctuation}");
        let [punctuation, end] = [format!(r"\A{punctuation}"), format!(r"\A(?:{end}|,(?:{end}))")]
            .map(|source| Regex::new(&source).unwrap());
        let start = Regex::new(r#"\A[^("`{\[:;&#*@)}\]\-,\s]"#).unwrap();
        let mut found = Vec::new();
        for line in text.split('\n') {
            let mut at = 0;
            while let Some(c) = line[at..].chars().next() {
                let rest = &line[at..];
                let ends = || rest.char_indices().map(|(end, _)| end).skip(1).chain([rest.len()]);
                let length = if let Some(run) = punctuation.find(rest) {
                    run.len()
                } else if start.is_match(rest) {
                    ends().find(|&length| end.is_match(&rest[length..])).unwrap()
                } else if c.is_whitespace() {
                    at += c.len_utf8();
                    continue;
                } else {
                    c.len_utf8()
                };
                found.push(&rest[..length]);
                at += length;
            }
        }
        found
    }

    #[test]
    fn repetitions_agree_with_the_patterns() {
        for unit in [".", ". ", "-", ".-", ",", ",.", "a.", "a,", "7.", ".\u{a0}", "?\"", "...)))", "(", "a'"] {
            for text in (0..30).map(|times| format!("b{}", unit.repeat(times))) {
                assert_eq!(all(&text), slow(&text), "{text:?}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn agrees_with_the_patterns(text in "([.]{1,3}|[.] |-{1,2}|[a-c]{1,3}|[,:)\"'?!#\n \u{a0}é5]){0,16}") {
            prop_assert_eq!(all(&text), slow(&text));
        }
    }
}
