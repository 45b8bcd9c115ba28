//! `keywords`: words and letters that have to occur, or must not.
//!
//! Keywords are patterns, as in the official checkers; see [`super::pattern`].

use super::instruction::{ArgumentError, Arguments, Check, Instruction, ensure};
use super::pattern::{Flags, Pattern};
use super::text;

pub(super) const INSTRUCTIONS: &[Instruction] = &[
    Instruction { id: "keywords:existence", arguments: &["keywords"], build: existence },
    Instruction { id: "keywords:forbidden_words", arguments: &["forbidden_words"], build: forbidden_words },
    Instruction { id: "keywords:frequency", arguments: &["relation", "keyword", "frequency"], build: frequency },
    Instruction {
        id: "keywords:letter_frequency",
        arguments: &["let_relation", "letter", "let_frequency"],
        build: letter_frequency,
    },
];

fn pattern(name: &'static str, source: &str) -> Result<Pattern, ArgumentError> {
    let flags = Flags { ignore_case: true, ..Flags::default() };
    Pattern::new(source, flags).map_err(|error| ArgumentError::Pattern { name, error })
}

/// Every keyword, in any case, also inside a word.
fn existence(arguments: &Arguments<'_>) -> Result<Check, ArgumentError> {
    let keywords: Vec<(String, Pattern)> = arguments
        .texts("keywords")?
        .into_iter()
        .map(|keyword| Ok((keyword.to_owned(), pattern("keywords", keyword)?)))
        .collect::<Result<_, _>>()?;
    Ok(Check::new(move |response| {
        let missing: Vec<String> = keywords
            .iter()
            .filter(|(_, pattern)| !pattern.is_match(response))
            .map(|(keyword, _)| format!("`{keyword}`"))
            .collect();
        ensure(missing.is_empty(), || format!("did not find {}", missing.join(", ")))
    }))
}

/// None of the words, in any case, as a word of its own.
fn forbidden_words(arguments: &Arguments<'_>) -> Result<Check, ArgumentError> {
    let words: Vec<(String, Pattern)> = arguments
        .texts("forbidden_words")?
        .into_iter()
        .map(|word| {
            // The word itself first: an error should show what the data has.
            pattern("forbidden_words", word)?;
            Ok((word.to_owned(), pattern("forbidden_words", &format!(r"\b{word}\b"))?))
        })
        .collect::<Result<_, _>>()?;
    Ok(Check::new(move |response| {
        let used: Vec<String> = words
            .iter()
            .filter(|(_, pattern)| pattern.is_match(response))
            .map(|(word, _)| format!("`{word}`"))
            .collect();
        ensure(used.is_empty(), || format!("found the forbidden {}", used.join(", ")))
    }))
}

fn frequency(arguments: &Arguments<'_>) -> Result<Check, ArgumentError> {
    let limit = arguments.limit("relation", "frequency")?;
    let keyword = text::strip(arguments.text("keyword")?).to_owned();
    let pattern = pattern("keyword", &keyword)?;
    Ok(Check::new(move |response| limit.verdict_of(pattern.count(response), "occurrence", &format!(" of `{keyword}`"))))
}

/// The number of one letter in the lower-cased response. A character that is no Latin letter is counted literally.
fn letter_frequency(arguments: &Arguments<'_>) -> Result<Check, ArgumentError> {
    let limit = arguments.limit("let_relation", "let_frequency")?;
    let letter = text::strip(arguments.text("letter")?);
    if letter.chars().count() != 1 {
        return Err(arguments.invalid("letter", "a single character"));
    }
    let letter = text::lower(letter);
    Ok(Check::new(move |response| {
        // A capital whose small form is two characters (`İ`) is never equal to one character of a text.
        let count = match letter.chars().count() {
            1 => text::lower(response).matches(letter.as_str()).count(),
            _ => 0,
        };
        limit.verdict_of(count, "occurrence", &format!(" of the letter `{letter}`"))
    }))
}

#[cfg(test)]
mod tests {
    use crate::ifeval::instruction::tests::{assert_verdicts, verdict};
    use serde_json::json;

    #[test]
    fn existence() {
        let id = "keywords:existence";
        let kwargs = json!({"keywords": ["land", "river"]});
        assert_verdicts(id, &kwargs, &["The RIVER island", "river land"], &["river", "lan d river", ""]);
        assert_eq!(verdict(id, &kwargs, "sea").unwrap_err(), "did not find `land`, `river`");
    }

    #[test]
    fn forbidden_words() {
        let id = "keywords:forbidden_words";
        let kwargs = json!({"forbidden_words": ["rock", "don't"]});
        assert_verdicts(id, &kwargs, &["rocks", "rock_", "dont"], &["a ROCK!", "rock-solid", "I don't"]);
        assert_eq!(verdict(id, &kwargs, "Rock").unwrap_err(), "found the forbidden `rock`");
        assert_verdicts(id, &json!({"forbidden_words": ["हिन्दी"]}), &["हिन्दी"], &[]);
    }

    #[test]
    fn frequency() {
        let id = "keywords:frequency";
        let kwargs = json!({"relation": "at least", "keyword": " aa ", "frequency": 2});
        assert_verdicts(id, &kwargs, &["aaaa", "AA b aA"], &["aaa", "a a a a"]);
        let kwargs = json!({"relation": "less than", "keyword": "the", "frequency": 2});
        assert_verdicts(id, &kwargs, &["the", "no"], &["the other"]);
        let reason = verdict(id, &kwargs, "the other").unwrap_err();
        assert_eq!(reason, "found 2 occurrences of `the`, fewer than 2 required");
    }

    #[test]
    fn letter_frequency() {
        let id = "keywords:letter_frequency";
        let kwargs = json!({"let_relation": "at least", "letter": "E", "let_frequency": 2});
        assert_verdicts(id, &kwargs, &["eE", "tree"], &["e", "éé"]);
        let kwargs = json!({"let_relation": "less than", "letter": "#", "let_frequency": 2});
        assert_verdicts(id, &kwargs, &["#"], &["##"]);
        let kwargs = json!({"let_relation": "at least", "letter": "İ", "let_frequency": 1});
        assert_verdicts(id, &kwargs, &[], &["İi"]);
    }
}
