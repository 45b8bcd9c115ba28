//! Words and punctuation, as NLTK's `word_tokenize` divides English.
//!
//! The text is cut into [sentences](super::sentences), and each is rewritten by the substitutions of `NLTKWordTokenizer` in
//! NLTK 3.9.1 (after the Penn Treebank's sed script), in their order, until white space alone divides its tokens:
//!
//! ```
//! use orpo_eval::ifeval::words;
//!
//! assert_eq!(words::tokenize("\"I can't,\" he said."), ["``", "I", "ca", "n't", ",", "''", "he", "said", "."]);
//! ```

use super::sentences;
use super::text::{fold, is_blank, is_digit, is_space, is_word};

/// The tokens of a text. Straight double quotes become pairs of backticks or apostrophes.
pub fn tokenize(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rewriting = Rewriting::default();
    for sentence in sentences::split(text) {
        tokens.extend(rewriting.tokens(sentence).map(str::to_owned));
    }
    tokens
}

/// A sentence on its way to tokens, and room for its next form.
#[derive(Default)]
struct Rewriting {
    text: String,
    next: String,
}

impl Rewriting {
    fn tokens(&mut self, sentence: &str) -> impl Iterator<Item = &str> {
        self.text.clear();
        self.text.push_str(sentence);
        self.opening_quotes();
        self.punctuation();
        self.brackets_and_dashes();
        self.closing_quotes();
        self.contractions();
        self.text.split(is_space).filter(|token| !token.is_empty())
    }

    /// `STARTING_QUOTES`.
    fn opening_quotes(&mut self) {
        self.substitute("«“‘„`", |_, rest| {
            let backticks = run(rest, '`');
            let length = if backticks > 0 { backticks } else { rest.chars().next()?.len_utf8() };
            Some((length, [" ", &rest[..length], " "]))
        });
        if self.text.starts_with('"') {
            self.text.replace_range(..1, "``");
        }
        self.space_out("``");
        self.substitute("\"'", |before, rest| {
            let quoted = rest.strip_prefix('"').or_else(|| rest.strip_prefix("''"))?;
            before.ends_with([' ', '(', '[', '{', '<']).then_some((rest.len() - quoted.len(), [" `` "]))
        });
        // An apostrophe before a letter on its own, if the two are no clitic. (NLTK names clitics of two letters here, too,
        // but after those it finds no single letter.)
        self.substitute("'", |_, rest| {
            let letter = rest[1..].chars().next().filter(|&c| is_word(c) && !"DMNST".contains(fold(c)))?;
            let alone = !rest[1 + letter.len_utf8()..].starts_with(is_word);
            alone.then_some((1, ["' "]))
        });
    }

    /// `PUNCTUATION`.
    fn punctuation(&mut self) {
        self.final_stop(&[']', ')', '}', '>', '"', '\'', '»', '”', '’', ' '], " ");
        self.substitute(":,", |_, rest| {
            // The next character is used up, so a mark right after a mark stays with what follows it.
            let next = rest[1..].chars().next().filter(|&c| !is_digit(c))?.len_utf8();
            Some((1 + next, [" ", &rest[..1], " ", &rest[1..=next]]))
        });
        if self.text.ends_with([':', ',']) {
            self.text.insert(self.text.len() - 1, ' ');
            self.text.push(' ');
        }
        self.substitute(".", |_, rest| {
            let length = run(rest, '.');
            (length > 1).then(|| (length, [" ", &rest[..length], " "]))
        });
        self.space_out_each(";@#$%&");
        self.final_stop(&[']', ')', '}', '>', '"', '\''], "");
        self.space_out_each("?!");
        self.substitute("'", |before, rest| {
            (ends_with_other_than(before, "'") && rest.starts_with("' ")).then_some((2, [" ' "]))
        });
        self.space_out_each("*");
    }

    /// Sets the full stop apart that ends the text, with a gap between it and the quotes and brackets that close the text.
    fn final_stop(&mut self, closing: &[char], gap: &str) {
        let Some((before, after)) = self.text.rsplit_once('.') else { return };
        let rest = after.trim_start_matches(closing);
        if !ends_with_other_than(before, ".") || !is_blank(rest) {
            return;
        }
        let stop = before.len();
        self.text.truncate(self.text.len() - rest.len());
        self.text.insert_str(stop + 1, gap);
        self.text.insert(stop, ' ');
        self.text.push(' ');
    }

    /// `PARENS_BRACKETS` and `DOUBLE_DASHES`.
    fn brackets_and_dashes(&mut self) {
        self.space_out_each("[](){}<>");
        self.space_out("--");
    }

    /// `ENDING_QUOTES`.
    fn closing_quotes(&mut self) {
        self.text.insert(0, ' ');
        self.text.push(' ');
        self.space_out_each("»”’");
        self.space_out("''");
        self.substitute("\"", |_, _| Some((1, [" '' "])));
        self.substitute_at(is_space, |_, rest| {
            let length = rest.len() - rest.trim_start_matches(is_space).len();
            (&rest[..length] != " ").then_some((length, [" "]))
        });
        self.clitics("'", &["'s ", "'S ", "'m ", "'M ", "'d ", "'D ", "' "]);
        self.clitics("'nN", &["'ll ", "'LL ", "'re ", "'RE ", "'ve ", "'VE ", "n't ", "N'T "]);
    }

    /// Parts endings of words, given with their first characters, from what they follow.
    fn clitics(&mut self, starts: &str, endings: &[&str]) {
        self.substitute(starts, |before, rest| {
            let ending = endings.iter().find(|&&ending| rest.starts_with(ending))?;
            ends_with_other_than(before, "' ").then(|| (ending.len(), [" ", &rest[..ending.len()]]))
        });
    }

    /// `CONTRACTIONS2` and `CONTRACTIONS3`: words that are two, in any case.
    fn contractions(&mut self) {
        const PARTS: [(&str, &str); 8] = [
            ("can", "not"),
            ("d", "'ye"),
            ("gim", "me"),
            ("gon", "na"),
            ("got", "ta"),
            ("lem", "me"),
            ("more", "'n"),
            ("wan", "na"),
        ];
        // No two of these can overlap or touch, so one pass does what NLTK does in eight.
        self.substitute("cdglmwCDGLMW", |before, rest| {
            let begins = !before.ends_with(is_word);
            let parts = PARTS.iter().filter(|_| begins).find_map(|&(first, second)| {
                let (parts, after) = two_parts(rest, first, second)?;
                let ends = if first == "wan" { after.starts_with(is_space) } else { !after.starts_with(is_word) };
                ends.then_some(parts)
            });
            parts.map(|(first, second)| (first.len() + second.len(), [" ", first, " ", second, " "]))
        });
        for verb in ["is", "was"] {
            self.substitute("'", |before, rest| {
                let ((it, verb), after) = two_parts(rest, "'t", verb)?;
                let matches = before.ends_with(' ') && !after.starts_with(is_word);
                matches.then_some((it.len() + verb.len(), [it, " ", verb, " "]))
            });
        }
    }

    /// Puts a space on both sides of some characters.
    fn space_out_each(&mut self, characters: &str) {
        self.substitute(characters, |_, rest| {
            let length = rest.chars().next()?.len_utf8();
            Some((length, [" ", &rest[..length], " "]))
        });
    }

    /// Puts a space on both sides of a text, wherever it occurs.
    fn space_out(&mut self, text: &str) {
        self.substitute(&text[..1], |_, rest| {
            let length = text.len();
            rest.starts_with(text).then(|| (length, [" ", &rest[..length], " "]))
        });
    }

    /// [`Self::substitute_at`] for matches that begin with one of some characters.
    fn substitute<const N: usize>(
        &mut self,
        starts: &str,
        rule: impl for<'a> Fn(&'a str, &'a str) -> Option<(usize, [&'a str; N])>,
    ) {
        self.substitute_at(|c| starts.contains(c), rule);
    }

    /// `re.sub`: goes through the text from the left and replaces what a rule matches. A rule is asked where a character may
    /// begin a match. It sees the text between the last match and this place, and what follows; it says how many bytes it
    /// replaces, and by what.
    fn substitute_at<const N: usize>(
        &mut self,
        may_start: impl Fn(char) -> bool,
        rule: impl for<'a> Fn(&'a str, &'a str) -> Option<(usize, [&'a str; N])>,
    ) {
        self.next.clear();
        let mut matched = 0;
        let mut from = 0;
        while let Some((offset, c)) = self.text[from..].char_indices().find(|&(_, c)| may_start(c)) {
            let at = from + offset;
            let (before, rest) = (&self.text[matched..at], &self.text[at..]);
            if let Some((length, replacement)) = rule(before, rest) {
                self.next.push_str(before);
                self.next.extend(replacement);
                matched = at + length;
                from = matched;
            } else {
                from = at + c.len_utf8();
            }
        }
        if matched > 0 {
            self.next.push_str(&self.text[matched..]);
            std::mem::swap(&mut self.text, &mut self.next);
        }
    }
}

/// Whether the last character of a text exists and is none of some others.
fn ends_with_other_than(text: &str, others: &str) -> bool {
    text.chars().next_back().is_some_and(|c| !others.contains(c))
}

/// How often an ASCII character is repeated at the beginning of a text.
fn run(text: &str, c: char) -> usize {
    text.len() - text.trim_start_matches(c).len()
}

/// The two parts at the beginning of a text, if in some case they are there, and what follows them.
fn two_parts<'a>(text: &'a str, first: &str, second: &str) -> Option<((&'a str, &'a str), &'a str)> {
    let (first, rest) = prefix(text, first)?;
    let (second, rest) = prefix(rest, second)?;
    Some(((first, second), rest))
}

/// A text parted after a prefix that is there in some case.
fn prefix<'a>(text: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    let mut rest = text.chars();
    prefix.chars().all(|c| rest.next().is_some_and(|other| fold(other) == fold(c))).then(|| {
        let rest = rest.as_str();
        (&text[..text.len() - rest.len()], rest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use regex::Regex;
    use std::sync::LazyLock;

    #[test]
    fn punctuation_stands_alone() {
        assert_eq!(
            tokenize("Buy it (3,5 kg): $3.88, ok?"),
            ["Buy", "it", "(", "3,5", "kg", ")", ":", "$", "3.88", ",", "ok", "?"]
        );
        assert_eq!(
            tokenize("Well... a--b [*x*] e.g."),
            ["Well", "...", "a", "--", "b", "[", "*", "x", "*", "]", "e.g", "."]
        );
        assert_eq!(tokenize("12:30::a,"), ["12:30", ":", ":a", ","]);
    }

    #[test]
    fn double_quotes_become_opening_or_closing_ones() {
        assert_eq!(
            tokenize("\"A\" (\"b\") said “C”"),
            ["``", "A", "''", "(", "``", "b", "''", ")", "said", "“", "C", "”"]
        );
        assert_eq!(tokenize("He said ''no''."), ["He", "said", "``", "no", "''", "."]);
    }

    #[test]
    fn clitics_and_contractions_are_parted() {
        assert_eq!(
            tokenize("I'm sure they've CAN'T it's"),
            ["I", "'m", "sure", "they", "'ve", "CA", "N'T", "it", "'s"]
        );
        assert_eq!(
            tokenize("Cannot gımme 'tis'twas wanna."),
            ["Can", "not", "gım", "me", "'t", "is", "'t", "was", "wan", "na", "."]
        );
        assert_eq!(tokenize("the 'a' of 'em"), ["the", "'", "a", "'", "of", "'em"]);
    }

    #[test]
    fn letters_are_those_of_python() {
        // `ſ` is an `s` where case is ignored, and a combining accent is no word character.
        assert_eq!(tokenize("'ſ 'x\u{301}"), ["'ſ", "'", "x\u{301}"]);
        assert_eq!(tokenize(":٣ :²"), [":٣", ":", "²"]);
    }

    /// The substitutions of `nltk/tokenize/destructive.py`, one after the other. They mean the same to the `regex` crate,
    /// without look-ahead and on the characters below.
    const SUBSTITUTIONS: [(&str, &str); 33] = [
        ("([«“‘„]|[`]+)", " ${1} "),
        ("^\"", "``"),
        ("(``)", " ${1} "),
        (r#"([ \(\[{<])("|'{2})"#, "${1} `` "),
        (r"(?i)(')([\w&&[^mtsdn]])\b", "${1} ${2}"),
        (r#"([^\.])(\.)([\]\)}>"'»”’ ]*)\s*$"#, "${1} ${2} ${3} "),
        (r"([:,])([^\d])", " ${1} ${2}"),
        (r"([:,])$", " ${1} "),
        (r"\.{2,}", " ${0} "),
        (r"[;@#$%&]", " ${0} "),
        (r#"([^\.])(\.)([\]\)}>"']*)\s*$"#, "${1} ${2}${3} "),
        (r"[?!]", " ${0} "),
        (r"([^'])' ", "${1} ' "),
        (r"[*]", " ${0} "),
        (r"[\]\[\(\)\{\}<>]", " ${0} "),
        ("--", " -- "),
        (r"\A|\z", " "),
        ("([»”’])", " ${1} "),
        ("''", " '' "),
        ("\"", " '' "),
        (r"\s+", " "),
        (r"([^' ])('[sS]|'[mM]|'[dD]|') ", "${1} ${2} "),
        (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", "${1} ${2} "),
        (r"(?i)\b(can)(not)\b", " ${1} ${2} "),
        (r"(?i)\b(d)('ye)\b", " ${1} ${2} "),
        (r"(?i)\b(gim)(me)\b", " ${1} ${2} "),
        (r"(?i)\b(gon)(na)\b", " ${1} ${2} "),
        (r"(?i)\b(got)(ta)\b", " ${1} ${2} "),
        (r"(?i)\b(lem)(me)\b", " ${1} ${2} "),
        (r"(?i)\b(more)('n)\b", " ${1} ${2} "),
        (r"(?i)\b(wan)(na)(\s)", " ${1} ${2} ${3}"),
        (r"(?i) ('t)(is)\b", " ${1} ${2} "),
        (r"(?i) ('t)(was)\b", " ${1} ${2} "),
    ];

    fn slow(sentence: &str) -> Vec<String> {
        static PATTERNS: LazyLock<[Regex; 33]> =
            LazyLock::new(|| SUBSTITUTIONS.map(|(pattern, _)| Regex::new(pattern).unwrap()));
        let steps = PATTERNS.iter().zip(SUBSTITUTIONS);
        let text = steps.fold(sentence.to_owned(), |text, (pattern, (_, replacement))| {
            pattern.replace_all(&text, replacement).into_owned()
        });
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn assert_agreement(sentence: &str) {
        let mut rewriting = Rewriting::default();
        assert_eq!(rewriting.tokens(sentence).collect::<Vec<_>>(), slow(sentence), "{sentence:?}");
    }

    #[test]
    fn repetitions_agree_with_the_substitutions() {
        for unit in [
            ".", "\"", "a.", "(", "'", "''", "`", "' ", "a' ", "'s ", "n't ", "'a", "--", "-", ":", ",5", "?\"", ".)",
            ".» ", "* ", "cannot ", "wanna ", "'tis", " 'twas", "...)))", "<\"",
        ] {
            for times in 0..30 {
                assert_agreement(unit.repeat(times).trim_end());
                assert_agreement(&format!("b{}", unit.repeat(times).trim_end()));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn agrees_with_the_substitutions(
            sentence in "([:,.;@#$?!*'\"`«“‘„»”’]|[.\"'»”’)\\]]{2,4}|[\\[(){}<>]|-{1,3}|[ \n]|[A-Za-e5é]|[a5][:,.']|'(s|re|VE|tis|Twas) |n't |(cannot|d'ye|GIMME|gonna|gotta|Lemme|more'n|wanna)[ .'a]?){0,20}"
        ) {
            // Sentences do not end in white space.
            assert_agreement(sentence.trim_end());
        }
    }
}
