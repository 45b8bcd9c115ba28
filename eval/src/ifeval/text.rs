//! Text as Python's `str` and `re` see it.
//!
//! The official IFEval checkers are Python 3.11 (Unicode 14), and a verdict can hang on details where Rust differs: `\w`
//! is alphanumeric or `_`, so it has `²` and `½` but neither combining marks nor joiners; `\s` and `strip` have the
//! separators U+001C to U+001F; ignoring case makes `i` match `İ` and `ı`. Every checker reads text through this module.
//!
//! The classes come from the Unicode tables of the regex parser, cut to the characters that Unicode 14 had assigned.

use std::sync::LazyLock;

/// White space to `\s`, `str.strip` and `str.split`, as the inside of a bracketed class for the `regex` crate.
pub const SPACE: &str = r"\t-\r\x1c- \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}";

static WORD: LazyLock<CharClass> = LazyLock::new(|| CharClass::unicode14(r"[\p{L}\p{N}_]"));
static DIGIT: LazyLock<CharClass> = LazyLock::new(|| CharClass::unicode14(r"\p{Nd}"));
static UPPER: LazyLock<CharClass> = LazyLock::new(|| CharClass::unicode14(r"\p{Uppercase}"));
// Five letters that Unicode 14 had already but made small only later.
static LOWER: LazyLock<CharClass> =
    LazyLock::new(|| CharClass::unicode14(r"[\p{Lowercase}--[\x{10fc}\x{a7f2}-\x{a7f4}\x{ab69}]]"));
static TITLE: LazyLock<CharClass> = LazyLock::new(|| CharClass::unicode14(r"\p{Lt}"));

/// A set of characters: a bitmap for ASCII, sorted ranges for the rest.
struct CharClass {
    ascii: u128,
    ranges: Vec<(char, char)>,
}

impl CharClass {
    /// The characters of a class, in regex syntax, that Unicode 14 has.
    fn unicode14(class: &str) -> Self {
        let pattern = format!(r"[{class}&&\p{{age:14.0}}]");
        let hir = regex_syntax::parse(&pattern).expect("the classes of this module are valid");
        let regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class)) = hir.kind() else {
            unreachable!("a bracketed class parses to a Unicode class")
        };
        let ranges: Vec<_> = class.ranges().iter().map(|range| (range.start(), range.end())).collect();
        let ascii = (0..128u8)
            .filter(|&byte| ranges.iter().any(|&(start, end)| (start..=end).contains(&char::from(byte))))
            .fold(0, |bits, byte| bits | 1 << byte);
        Self { ascii, ranges }
    }

    fn contains(&self, c: char) -> bool {
        if c.is_ascii() {
            return self.ascii >> u32::from(c) & 1 == 1;
        }
        let after = self.ranges.partition_point(|&(start, _)| start <= c);
        after > 0 && c <= self.ranges[after - 1].1
    }
}

/// Whether `\w` matches.
pub fn is_word(c: char) -> bool {
    WORD.contains(c)
}

/// Whether `\d` matches.
pub fn is_digit(c: char) -> bool {
    DIGIT.contains(c)
}

/// Whether `\s` matches, which is also what `str.strip` removes.
pub fn is_space(c: char) -> bool {
    matches!(c, '\t'..='\r' | '\x1c'..=' ' | '\u{85}' | '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}')
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202f}' | '\u{205f}' | '\u{3000}')
}

/// `str.strip()`.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `not text.strip()`: nothing but white space.
pub fn is_blank(text: &str) -> bool {
    text.chars().all(is_space)
}

/// `str.lower()`. Capitals newer than Unicode 14 stay as they are.
pub fn lower(text: &str) -> String {
    let newer = |c: char| !c.is_ascii() && c.is_uppercase() && !UPPER.contains(c);
    let mut lowered = String::with_capacity(text.len());
    // Cutting at an unassigned character loses no context: it is neither cased nor ignorable, so the rule for the final
    // sigma looks no further than it.
    for piece in text.split_inclusive(newer) {
        match piece.chars().next_back().filter(|&c| newer(c)) {
            Some(last) => {
                lowered.push_str(&piece[..piece.len() - last.len_utf8()].to_lowercase());
                lowered.push(last);
            }
            None => lowered.push_str(&piece.to_lowercase()),
        }
    }
    lowered
}

/// `str.isupper()`: a capital, and neither a small nor a title-case letter.
pub fn is_upper(text: &str) -> bool {
    text.chars().any(|c| UPPER.contains(c)) && first_not_upper(text).is_none()
}

/// `str.isupper()` of one character.
pub fn is_capital(c: char) -> bool {
    UPPER.contains(c)
}

/// `str.islower()`: a small letter, and neither a capital nor a title-case letter.
pub fn is_lower(text: &str) -> bool {
    text.chars().any(|c| LOWER.contains(c)) && first_not_lower(text).is_none()
}

/// The first character that keeps a text from being upper-case.
pub fn first_not_upper(text: &str) -> Option<char> {
    text.chars().find(|&c| LOWER.contains(c) || TITLE.contains(c))
}

/// The first character that keeps a text from being lower-case.
pub fn first_not_lower(text: &str) -> Option<char> {
    text.chars().find(|&c| UPPER.contains(c) || TITLE.contains(c))
}

/// One representative of the characters that `re.IGNORECASE` takes for the same: those whose simple lower case is the
/// same or has the same upper case, which makes `i`, `I`, `İ` and `ı` one, and `s` and `ſ`, and `k` and the Kelvin sign.
pub fn fold(c: char) -> char {
    if c.is_ascii() {
        return c.to_ascii_uppercase();
    }
    let lowered = match c {
        'İ' => 'i',
        _ => c.to_lowercase().next().unwrap_or(c),
    };
    let mut upper = lowered.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(single), None) => single,
        // Pairs that share an upper case of several characters.
        _ => match lowered {
            '\u{1fd3}' => '\u{390}',
            '\u{1fe3}' => '\u{3b0}',
            '\u{fb06}' => '\u{fb05}',
            other => other,
        },
    }
}

/// The number of words: maximal runs of `\w`.
pub fn count_words(text: &str) -> usize {
    let mut words = 0;
    let mut inside = false;
    for c in text.chars() {
        let word = is_word(c);
        words += usize::from(word && !inside);
        inside = word;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};

    #[test]
    fn words_split_where_python_splits_them() {
        assert_eq!(count_words("don't stop_me  now"), 4);
        assert_eq!(count_words("x² + ½ = ①"), 3);
        // A vowel sign is no word character, so a Hindi word falls apart; so does a letter with a combining accent.
        assert_eq!(count_words("हिन्दी"), 3);
        assert_eq!(count_words("rock\u{301}s"), 2);
        assert_eq!(count_words("a\u{200d}b a\u{203f}b"), 4);
        assert_eq!(count_words(""), 0);
    }

    #[test]
    fn case_needs_one_letter_of_the_case_and_none_of_the_other() {
        assert!(is_upper("ABC 1!") && !is_upper("123") && !is_upper("ABc"));
        assert!(is_lower("abc 1!") && !is_lower("123") && !is_lower("abC"));
        assert!(is_upper("Ⓐ") && is_lower("ª"));
        assert!(!is_upper("Aǅ") && !is_lower("aǅ"), "a title-case letter is neither");
        assert!(is_lower("abc 中文") && is_upper("ABC 中文"));
    }

    #[test]
    fn folding_joins_what_ignorecase_joins() {
        for (a, b) in [('i', 'İ'), ('i', 'ı'), ('I', 'i'), ('k', '\u{212a}'), ('s', 'ſ'), ('σ', 'ς'), ('ß', 'ẞ')]
        {
            assert_eq!(fold(a), fold(b), "{a} {b}");
        }
        assert_ne!(fold('ß'), fold('s'));
        assert_ne!(fold('é'), fold('e'));
    }

    #[test]
    fn lower_maps_as_python_does() {
        assert_eq!(lower("İstanbul ΟΔΟΣ ΣΑΣ."), "i\u{307}stanbul οδος σας.");
        // Assigned in Unicode 16, so Python 3.11 knows no small form.
        assert_eq!(lower("A\u{a7cb}B"), "a\u{a7cb}b");
    }

    #[test]
    fn strip_removes_the_separators_too() {
        assert_eq!(strip("\u{1c}\u{85} a b \u{3000}\n"), "a b");
        assert_eq!(strip("\u{200b}a"), "\u{200b}a");
        assert!(is_blank(" \n\u{1f}") && !is_blank("\u{200b}"));
    }

    #[test]
    fn the_space_class_is_the_space_predicate() {
        let class = regex::Regex::new(&format!("^[{SPACE}]$")).unwrap();
        for c in ('\0'..='\u{3100}').chain(['\u{feff}', '\u{e0020}']) {
            assert_eq!(class.is_match(c.encode_utf8(&mut [0; 4])), is_space(c), "{:x}", u32::from(c));
        }
    }

    /// Against code-point ranges read out of Python 3.11: `$ORPO_SHARED/eval/ifeval/components/python_char_classes.json`.
    #[test]
    fn classes_agree_with_python_on_every_code_point() {
        let shared = std::env::var("ORPO_SHARED").unwrap_or_else(|_| "../../shared".into());
        let path = std::path::Path::new(&shared).join("eval/ifeval/components/python_char_classes.json");
        let Ok(text) = std::fs::read_to_string(&path) else {
            println!("skipped: no {}", path.display());
            return;
        };
        let classes: serde_json::Value = serde_json::from_str(&text).unwrap();
        type Predicate = fn(char) -> bool;
        let checks: [(&str, Predicate); 7] = [
            ("re_word", is_word),
            ("re_space", is_space),
            ("str_strip", is_space),
            ("re_digit", is_digit),
            ("str_isupper", |c| UPPER.contains(c)),
            ("str_islower", |c| LOWER.contains(c)),
            ("str_istitle_only", |c| TITLE.contains(c)),
        ];
        for (name, predicate) in checks {
            let ranges: Vec<(u32, u32)> = serde_json::from_value(classes[name].clone()).unwrap();
            let expected: HashSet<u32> = ranges.iter().flat_map(|&(start, end)| start..=end).collect();
            let differing: Vec<String> = ('\0'..=char::MAX)
                .filter(|&c| predicate(c) != expected.contains(&u32::from(c)))
                .map(|c| format!("{:x}", u32::from(c)))
                .collect();
            assert!(differing.is_empty(), "{name}: {}", differing.join(" "));
        }
        let mut folded: HashMap<char, Vec<u32>> = HashMap::new();
        for c in '\0'..=char::MAX {
            folded.entry(fold(c)).or_default().push(u32::from(c));
        }
        for letter in 'a'..='z' {
            let expected: Vec<u32> = match classes["ignorecase_ascii"].get(letter.to_string()) {
                Some(codes) => serde_json::from_value(codes.clone()).unwrap(),
                None => vec![u32::from(letter.to_ascii_uppercase()), u32::from(letter)],
            };
            assert_eq!(folded[&fold(letter)], expected, "{letter}");
        }
    }
}
