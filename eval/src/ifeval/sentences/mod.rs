//! Sentences, as NLTK's Punkt tokeniser divides English.
//!
//! Punkt (Kiss and Strunk, "Unsupervised Multilingual Sentence Boundary Detection", Computational Linguistics 32, 2006) asks
//! of every `.`, `?` and `!` that could end a sentence whether it does, given the word before it and the token after it. The
//! rules and the quirks are those of `PunktSentenceTokenizer` in NLTK 3.9.1 with its English model, sentence by sentence:
//!
//! ```
//! use orpo_eval::ifeval::sentences;
//!
//! let text = "Mr. Smith paid $3.88 in St. Louis. (Really?) Yes!";
//! assert_eq!(sentences::split(text), ["Mr. Smith paid $3.88 in St. Louis.", "(Really?)", "Yes!"]);
//! ```
//!
//! The time is linear in the length of the text, where NLTK's is quadratic on some.

mod boundary;
mod candidates;
mod model;
mod token;

use std::ops::Range;

use self::model::ENGLISH;
use super::text::is_space;

/// The number of sentences.
pub fn count(text: &str) -> usize {
    split(text).len()
}

/// The sentences of a text, without the white space between them. A blank text has none.
pub fn split(text: &str) -> Vec<&str> {
    with_closing_punctuation(text, &slices(text))
}

/// What lies between the boundaries.
fn slices(text: &str) -> Vec<Range<usize>> {
    let mut slices = Vec::new();
    let mut start = 0;
    for candidate in candidates::candidates(text) {
        if boundary::inside(&ENGLISH, candidate.context) {
            slices.push(start..candidate.end);
            start = candidate.next;
        }
    }
    slices.push(start..text.trim_end_matches(is_space).len());
    slices
}

/// Moves quotes and brackets that begin a slice to the end of the sentence before it, which they close.
fn with_closing_punctuation<'a>(text: &'a str, slices: &[Range<usize>]) -> Vec<&'a str> {
    let mut sentences = Vec::new();
    let mut start = 0;
    for (index, slice) in slices.iter().enumerate() {
        let next = slices.get(index + 1).cloned().unwrap_or(text.len()..text.len());
        let (end, next_start) = closing_punctuation(text, &next).unwrap_or((slice.end, next.start));
        if start < end {
            sentences.push(&text[start..end]);
        }
        start = next_start;
    }
    sentences
}

/// Where the closing quotes and brackets end with which a slice begins, and where the sentence after them begins. They must
/// be all of the slice or stand before white space or a dash, `--`.
fn closing_punctuation(text: &str, slice: &Range<usize>) -> Option<(usize, usize)> {
    let rest = text[slice.clone()].trim_start_matches(['"', '\'', ')', ']', '}']);
    let sentence = rest.trim_start_matches(is_space);
    let apart = rest.is_empty() || sentence.len() < rest.len() || rest.starts_with("--");
    (rest.len() < slice.len() && apart).then_some((slice.end - rest.len(), slice.end - sentence.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use regex::Regex;

    #[test]
    fn closing_punctuation_goes_with_its_sentence() {
        assert_eq!(split("(One.) \"Two!\" 'Three?'  Four"), ["(One.)", "\"Two!\"", "'Three?'", "Four"]);
        assert_eq!(split("He left.) --It rained."), ["He left.)", "--It rained."]);
        assert_eq!(split("She said no.\"Then"), ["She said no.", "\"Then"]);
        assert_eq!(split("Done!)]"), ["Done!)]"]);
    }

    #[test]
    fn only_marks_divide() {
        assert_eq!(split("One\n\nTwo"), ["One\n\nTwo"]);
        assert_eq!(split("一。二。"), ["一。二。"]);
        assert_eq!(split("  One.\n\n Two.\n"), ["  One.", "Two."]);
        assert_eq!(count(" \n\u{1c}"), 0);
    }

    #[test]
    fn a_run_of_marks_divides_once_except_at_the_beginning() {
        assert_eq!(split("Stop!!! Now"), ["Stop!!!", "Now"]);
        assert_eq!(split("!!! Stop"), ["!", "!!", "Stop"]);
    }

    /// `_realign_boundaries` line by line.
    fn slow<'a>(text: &'a str, slices: &[Range<usize>]) -> Vec<&'a str> {
        // The last alternative but one is a look-ahead in NLTK, so the dashes are no part of the match.
        let pattern = Regex::new(r#"(?m)\A["')\]}]+?(?:\s+|(--)|$)"#).unwrap();
        let mut sentences = Vec::new();
        let mut realign = 0;
        for (index, first) in slices.iter().enumerate() {
            let first = first.start + realign..first.end;
            match slices.get(index + 1).map(|second| (second, pattern.captures(&text[second.clone()]))) {
                Some((second, Some(captures))) => {
                    let found = &captures[0][..captures.get(1).map_or(captures[0].len(), |dashes| dashes.start())];
                    sentences.push(&text[first.start..second.start + found.trim_end().len()]);
                    realign = found.len();
                }
                _ => {
                    realign = 0;
                    sentences.extend(Some(&text[first]).filter(|sentence| !sentence.is_empty()));
                }
            }
        }
        sentences
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn realignment_agrees_with_a_transcription(text in "([.?!]|[)'\"\\]}]|[)'.] |--|[a\n é]){0,24}") {
            prop_assert_eq!(split(&text), slow(&text, &slices(&text)));
        }
    }
}
