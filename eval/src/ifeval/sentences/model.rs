//! What Punkt has learnt about English.
//!
//! The model is that of NLTK's data package `punkt_tab`. `eval/data/punkt_english.deflate` is its four files in one text,
//! compressed by raw deflate: the sections `abbrev_types.txt`, `collocations.tab`, `sent_starters.txt` and
//! `ortho_context.tab` in this order, divided by an empty line, the lines of each sorted. A line is one type; in
//! `collocations.tab` two with a tab between them; in `ortho_context.tab` a type, a tab and a sum of flags.
//! `cargo run -p orpo-eval --example pack_punkt -- DIRECTORY FILE` writes it.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::LazyLock;

/// Flag of a type: seen with a capital within a sentence.
pub(super) const CAPITAL_WITHIN: u8 = 1 << 2;
/// Flags of a type: seen with a capital at the beginning of a sentence, within one, or where it could be either.
pub(super) const CAPITAL: u8 = 1 << 1 | CAPITAL_WITHIN | 1 << 3;
/// Flag of a type: seen with a small letter at the beginning of a sentence.
pub(super) const SMALL_FIRST: u8 = 1 << 4;
/// Flags of a type: seen with a small letter, likewise.
pub(super) const SMALL: u8 = SMALL_FIRST | 1 << 5 | 1 << 6;

/// The English model, unpacked when it is first asked for.
pub(super) static ENGLISH: LazyLock<Model<'static>> = LazyLock::new(|| {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let packed: &[u8] = include_bytes!("../../../data/punkt_english.deflate");
        let mut text = String::new();
        flate2::read::DeflateDecoder::new(packed).read_to_string(&mut text).expect("the packed model is whole");
        text
    });
    Model::parse(&TEXT).expect("the packed model has its four sections")
});

/// A Punkt model. Types are tokens in small letters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Model<'a> {
    /// Abbreviations, without their final full stop.
    pub abbreviations: HashSet<&'a str>,
    /// Pairs of which the first is often followed by a full stop that ends no sentence, and then by the second.
    pub collocations: HashSet<(&'a str, &'a str)>,
    /// What often begins a sentence.
    pub sentence_starters: HashSet<&'a str>,
    contexts: HashMap<&'a str, u8>,
}

impl<'a> Model<'a> {
    /// Reads the text form.
    fn parse(text: &'a str) -> Option<Self> {
        let mut sections = text.split("\n\n");
        let abbreviations = sections.next()?.lines().collect();
        let collocations = sections.next()?.lines().map(|line| line.split_once('\t')).collect::<Option<_>>()?;
        let sentence_starters = sections.next()?.lines().collect();
        let flags = |line: &'a str| {
            let (token_type, flags) = line.split_once('\t')?;
            Some((token_type, flags.parse().ok()?))
        };
        let contexts = sections.next()?.lines().map(flags).collect::<Option<_>>()?;
        Some(Self { abbreviations, collocations, sentence_starters, contexts })
    }

    /// The flags of a type: how it was written in the training text.
    pub fn contexts(&self, token_type: &str) -> u8 {
        self.contexts.get(token_type).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_sums_over_places() {
        assert_eq!((CAPITAL, SMALL), (2 + 4 + 8, 16 + 32 + 64));
        assert_eq!(ENGLISH.contexts("the") & SMALL, SMALL);
        assert_eq!(ENGLISH.contexts("no such type"), 0);
    }

    #[test]
    fn what_is_not_a_model_is_refused() {
        assert_eq!(Model::parse("a\n\nb\tc\n\nd"), None, "a section is missing");
        assert_eq!(Model::parse("a\n\nb\n\nd\n\ne\t2"), None, "a collocation is not a pair");
        assert_eq!(Model::parse("a\n\nb\tc\n\nd\n\ne\t256"), None, "flags have one byte");
        assert!(Model::parse("a\n\nb\tc\n\nd\n\ne\t255").is_some());
    }

    /// Against the files that were packed: `$ORPO_SHARED/eval/ifeval/components/punkt_english`.
    #[test]
    fn the_embedded_model_is_nltks() {
        let shared = std::env::var("ORPO_SHARED").unwrap_or_else(|_| "../../shared".into());
        let directory = std::path::Path::new(&shared).join("eval/ifeval/components/punkt_english");
        if !directory.is_dir() {
            println!("skipped: no {}", directory.display());
            return;
        }
        let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap();
        let [abbreviations, collocations, starters, contexts] =
            ["abbrev_types.txt", "collocations.tab", "sent_starters.txt", "ortho_context.tab"].map(read);
        let set = |text: &'static str| text.split_terminator('\n').collect::<HashSet<_>>();
        let pairs = |text: &'static str| -> Vec<(&str, &str)> {
            text.split_terminator('\n').map(|line| line.split_once('\t').unwrap()).collect()
        };
        let expected = Model {
            abbreviations: set(abbreviations.leak()),
            collocations: pairs(collocations.leak()).into_iter().collect(),
            sentence_starters: set(starters.leak()),
            contexts: pairs(contexts.leak()).into_iter().map(|(key, flags)| (key, flags.parse().unwrap())).collect(),
        };
        assert_eq!(expected.contexts.len(), 20_366);
        assert!(*ENGLISH == expected);
    }
}
