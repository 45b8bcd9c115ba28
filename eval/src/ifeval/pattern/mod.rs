//! Regular expressions of the data, with the meaning that Python's `re` gives them.
//!
//! Keywords and section titles are unescaped patterns to the official checkers: `C++` is a possessive repetition there and
//! `a.b` matches `aXb`. The `regex` crate reads the same source differently (`\w`, `\b`, ignoring case), so the part of
//! the dialect that makes sense in a keyword is parsed here and run by a linear-time simulation: no input, however
//! adversarial, backtracks.
//!
//! Supported: literals, `.`, classes, groups, `|`, greedy and lazy repetition, `^ $ \A \Z \b \B`, the classes
//! `\d \s \w` and their negations, character escapes. Look-around, back-references, named groups and inline flags are
//! refused with their name; a possessive repetition is accepted where it means the same as a greedy one.

mod machine;
mod parse;

use machine::Program;

/// A compiled pattern.
#[derive(Debug, Clone)]
pub struct Pattern {
    program: Program,
}

/// How letters and lines are treated.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flags {
    /// `re.IGNORECASE`.
    pub ignore_case: bool,
    /// `re.MULTILINE`: `^` and `$` match at every line.
    pub multiline: bool,
}

/// Why a source is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{source_text}` is not a usable pattern: {problem}")]
pub struct PatternError {
    /// The offending source.
    pub source_text: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Pattern {
    /// Compiles a source.
    ///
    /// # Errors
    /// When Python would refuse it, or when it uses what this dialect leaves out.
    pub fn new(source: &str, flags: Flags) -> Result<Self, PatternError> {
        let failed = |problem: String| PatternError { source_text: source.to_owned(), problem };
        let tree = parse::parse(source, flags.ignore_case).map_err(failed)?;
        let program = Program::compile(&tree, flags).map_err(failed)?;
        Ok(Self { program })
    }

    /// `re.search(...) is not None`.
    pub fn is_match(&self, text: &str) -> bool {
        self.program.search(text, 0, None).is_some()
    }

    /// `len(re.findall(...))`.
    pub fn count(&self, text: &str) -> usize {
        let mut count = 0;
        let (mut from, mut not_empty_at) = (0, None);
        while let Some((start, end)) = self.program.search(text, from, not_empty_at) {
            count += 1;
            from = end;
            // After an empty match the next one may begin at the same place, if it is not empty.
            not_empty_at = (start == end).then_some(end);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IGNORE_CASE: Flags = Flags { ignore_case: true, multiline: false };

    fn count(source: &str, text: &str) -> usize {
        Pattern::new(source, Flags::default()).unwrap().count(text)
    }

    fn found(source: &str, text: &str) -> bool {
        Pattern::new(source, IGNORE_CASE).unwrap().is_match(text)
    }

    #[test]
    fn finds_literals_anywhere_and_ignores_case_as_python_does() {
        assert!(found("land", "ISLANDS"));
        assert!(found("kiss", "\u{212a}İſs"));
        assert!(!found("straße", "STRASSE"));
        assert!(found("straße", "STRAẞE"));
    }

    #[test]
    fn boundaries_follow_pythons_word_characters() {
        assert!(found(r"\brock\b", "to Rock, or not"));
        assert!(!found(r"\brock\b", "rocks"));
        assert!(found(r"\brock\b", "rock\u{301}"), "a combining mark is no word character");
        assert!(!found(r"\brock\b", "rock²"), "a superscript is one");
        assert!(found(r"\Boc\B", "rock"));
    }

    #[test]
    fn metacharacters_mean_what_they_mean_in_python() {
        assert!(found("a.c", "abc") && !found("a.c", "a\nc"));
        assert!(found("C++", "in c and"), "possessive repetition of C");
        assert!(!found(r"C\+\+", "in C and") && found(r"C\+\+", "in C++ and"));
        assert!(found("cat|dog", "hotdog"));
        assert!(found("[a-c]x", "BX") && !found("[^a-c]x", "BX"));
        assert!(found("[]x]", "]") && found(r"[\d-]", "-") && found("a{,2}b", "b"));
        assert!(found("a{b", "a{b") && found("x{1", "x{1"));
        assert!(found(r"\u00e9\x41", "éa"));
        assert!(found("(?:ab){2}", "ABAB"));
        assert!(found("^a$", "a\n") && !found("^a$", "b\na"));
    }

    #[test]
    fn counts_as_findall_does() {
        assert_eq!(count("aa", "aaaaa"), 2);
        assert_eq!(count("", "abc"), 4);
        assert_eq!(count("a??", "a"), 3);
        assert_eq!(count("a*", "baac"), 4);
        assert_eq!(count("a|ab", "abab"), 2);
        assert_eq!(count(r"\s?Section\s?\d+\s?", "Section 1\nSection ٣ Section"), 2);
    }

    #[test]
    fn refuses_by_name() {
        let problem = |source| Pattern::new(source, Flags::default()).unwrap_err().problem;
        assert_eq!(problem("*a"), "nothing to repeat at `*`");
        assert_eq!(problem("a**"), "multiple repeat at `*`");
        assert_eq!(problem("(a"), "missing `)`");
        assert_eq!(problem("a)"), "unbalanced `)`");
        assert_eq!(problem("[a"), "unterminated character class");
        assert_eq!(problem("[b-a]"), "bad character range `b-a`");
        assert_eq!(problem(r"a\"), "trailing `\\`");
        assert_eq!(problem(r"\q"), r"bad escape `\q`");
        assert_eq!(problem("a{3,2}"), "the minimum of `{3,2}` is above its maximum");
        assert!(problem("(?=a)").starts_with("`(?=` is not supported"), "{}", problem("(?=a)"));
        assert!(problem(r"(a)\1").contains("back-reference"));
        assert!(problem("(a|b)++").contains("possessive"));
        assert!(problem("(((a{99}){99}){99}){99}").contains("too large"));
    }

    #[test]
    fn nested_repetition_ends() {
        // A backtracking engine would take longer than anybody waits.
        let text = "a".repeat(20_000);
        assert!(!found("(a*)*b", &text));
        assert_eq!(count("(a|a)*c?", &text), 2);
    }

    proptest! {
        /// Where both dialects agree (ASCII, no empty match), the engine counts what the `regex` crate counts.
        #[test]
        fn agrees_with_the_regex_crate(
            source in r"(a|b|\.|\[ab\]|\\w|\(a\|b\)|a\(b\|c\)|\\b|\\s){1,3}(a|c\[bc\]\?|b\+|b\+\?|a\{1,2\})(a|b)?",
            text in "[abc \n]{0,24}",
        ) {
            let expected = regex::Regex::new(&source).unwrap().find_iter(&text).count();
            prop_assert_eq!(count(&source, &text), expected);
        }
    }
}
