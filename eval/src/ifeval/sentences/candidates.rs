//! The places where a sentence could end.

use crate::ifeval::text::is_space;

use super::token::never_within_word;

/// A `.`, `?` or `!` that could end a sentence. All offsets are in bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Candidate<'a> {
    /// Where the sentence would end: after the mark.
    pub end: usize,
    /// Where the next one would begin.
    pub next: usize,
    /// From the word that the mark belongs to through the token after the mark.
    pub context: &'a str,
}

/// The candidates of a text (`_match_potential_end_contexts`).
///
/// Of several marks in the same word only the last one counts. A word begins after ASCII white space; where there is none
/// since the mark before, the marks share a word, unless nothing at all stood between that word's beginning and that mark.
pub(super) fn candidates(text: &str) -> Vec<Candidate<'_>> {
    let mut candidates = Vec::new();
    let mut word = 0..0;
    for (mark, byte) in text.bytes().enumerate() {
        if !matches!(byte, b'.' | b'?' | b'!') {
            continue;
        }
        let end = mark + 1;
        let Some((next, context_end)) = following(text, end) else { continue };
        let start = match text[word.end..mark].rfind([' ', '\t', '\n', '\r', '\x0b', '\x0c']) {
            // White space at offset 0 does not count in NLTK, where 0 also says that there is none.
            None | Some(0) => word.start,
            Some(space) => word.end + space + 1,
        };
        if start < word.end {
            candidates.pop();
        }
        word = start..mark;
        candidates.push(Candidate { end, next, context: &text[start..context_end] });
    }
    candidates
}

/// What follows a mark that can end a sentence: where a next sentence would begin, and where the token ends that the
/// decision looks at. That token is one character of punctuation, or whatever stands after white space.
fn following(text: &str, end: usize) -> Option<(usize, usize)> {
    let rest = &text[end..];
    let first = rest.chars().next()?;
    if never_within_word(first) {
        return Some((end, end + first.len_utf8()));
    }
    let token = rest.trim_start_matches(is_space);
    if token.len() == rest.len() || token.is_empty() {
        return None;
    }
    let next = text.len() - token.len();
    Some((next, next + token.find(is_space).unwrap_or(token.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contexts(text: &str) -> Vec<&str> {
        candidates(text).iter().map(|candidate| candidate.context).collect()
    }

    #[test]
    fn the_last_mark_of_a_word_counts() {
        assert_eq!(contexts("Very bad acting!!! I promise."), ["acting!!! I"]);
        assert_eq!(contexts("(One.) Two. Three"), ["(One.)", "Two. Three"]);
        assert_eq!(contexts("3.14 e.g this.\u{3000}That"), ["this.\u{3000}That"]);
        assert_eq!(contexts("a. b.\u{a0}c. d"), ["a. b.", "b.\u{a0}c. d"]);
    }

    #[test]
    fn the_first_mark_counts_alone_where_no_word_is_before_it() {
        assert_eq!(contexts("!!) a"), ["!!", "!!)"]);
        assert_eq!(contexts(" !)!) a"), [" !)!)"], "white space at the beginning of a text is part of its first word");
    }

    #[test]
    fn a_mark_without_a_following_token_ends_nothing() {
        assert_eq!(contexts("The end. \n"), Vec::<&str>::new());
        assert_eq!(contexts("a.b 1.5 ...x"), Vec::<&str>::new());
    }

    #[test]
    fn a_sentence_begins_after_white_space_or_at_punctuation() {
        let text = "é. x!)";
        assert_eq!(
            candidates(text),
            [Candidate { end: 3, next: 4, context: "é. x!)" }, Candidate { end: 6, next: 6, context: "x!)" }]
        );
    }

    /// `_match_potential_end_contexts` line by line, on code points.
    fn slow(text: &str) -> Vec<(usize, usize, String)> {
        let text: Vec<char> = text.chars().collect();
        let bytes = |end: usize| text[..end].iter().map(|c| c.len_utf8()).sum::<usize>();
        let mut found = Vec::new();
        let (mut previous_slice, mut previous_match) = (0..0, None);
        for start in 0..text.len() {
            let Some((next, context_end)) = slow_match(&text[start..]) else { continue };
            let before = &text[previous_slice.end..start];
            let last_space = before.iter().rposition(|c| " \t\n\r\x0b\x0c".contains(*c)).unwrap_or(0);
            let word_start = if last_space != 0 { last_space + previous_slice.end + 1 } else { previous_slice.start };
            if let Some(previous) = previous_match.take()
                && previous_slice.end <= word_start
            {
                found.push(previous);
            }
            let context = text[word_start..start + context_end].iter().collect();
            previous_match = Some((bytes(start + 1), bytes(start + next), context));
            previous_slice = word_start..start;
        }
        found.extend(previous_match);
        found
    }

    /// The pattern of `period_context_re` at one place: where the next sentence and where the context ends.
    fn slow_match(text: &[char]) -> Option<(usize, usize)> {
        let after = text.strip_prefix(&['.']).or(text.strip_prefix(&['!'])).or(text.strip_prefix(&['?']))?;
        if after.first().is_some_and(|c| ")\";}]*:@'({[!?".contains(*c)) {
            return Some((1, 2));
        }
        let spaces = after.iter().take_while(|c| is_space(**c)).count();
        let others = after[spaces..].iter().take_while(|c| !is_space(**c)).count();
        (spaces > 0 && others > 0).then_some((1 + spaces, 1 + spaces + others))
    }

    #[test]
    fn repetitions_agree_with_a_transcription() {
        for unit in [".", "?\"", "a.a.a.", "...)))", "! ! !", " ", ". ", "a.\u{a0}", ".) ", "\n.", "x. y.) "] {
            for text in (0..30).map(|times| unit.repeat(times) + "a") {
                let found: Vec<_> =
                    candidates(&text).into_iter().map(|c| (c.end, c.next, c.context.to_owned())).collect();
                assert_eq!(found, slow(&text), "{text:?}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn agrees_with_a_transcription(text in "([.?!]|[.?!]{2}|[a)'\n\t\r\x0b\x0c\x1c\u{85}\u{a0}é,]| |[.] ){0,24}") {
            let found: Vec<_> = candidates(&text).into_iter().map(|c| (c.end, c.next, c.context.to_owned())).collect();
            prop_assert_eq!(found, slow(&text));
        }
    }
}
