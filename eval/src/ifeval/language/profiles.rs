//! How often n-grams occur in texts of each language: langdetect's profiles.
//!
//! They are embedded, and unpacked when a language is first asked for. The file is a raw DEFLATE stream of whole
//! numbers, each in LEB128 (seven bits to a byte, the lowest first, the highest bit set on all bytes but the last):
//!
//! 1. for each language of [`LANGUAGES`], the number of all 1-grams, 2-grams and 3-grams in its texts;
//! 2. the number of different n-grams, and for each, as a [`Gram`] in ascending order, its distance from the one
//!    before;
//! 3. for each n-gram the number of its languages, and for each of those its distance from the one before;
//! 4. for each of those, in the same order, how often the n-gram occurs in the texts of the language;
//! 5. the number of groups of kanji, and for each the number of its characters and, in ascending order, the distance of
//!    each from the one before.
//!
//! The distance of a first one is from 0. `examples/pack_langdetect.rs` writes the file.

use std::io::Read;
use std::sync::LazyLock;

use flate2::read::DeflateDecoder;

/// The languages that are told apart: ISO 639-1 codes, and two kinds of Chinese.
#[rustfmt::skip]
pub const LANGUAGES: [&str; 55] = [
    "af", "ar", "bg", "bn", "ca", "cs", "cy", "da", "de", "el", "en", "es", "et", "fa", "fi", "fr", "gu", "he", "hi",
    "hr", "hu", "id", "it", "ja", "kn", "ko", "lt", "lv", "mk", "ml", "mr", "ne", "nl", "no", "pa", "pl", "pt", "ro",
    "ru", "sk", "sl", "so", "sq", "sv", "sw", "ta", "te", "th", "tl", "tr", "uk", "ur", "vi", "zh-cn", "zh-tw",
];

/// One to three characters in 21 bits each, the last one lowest. None of them is U+0000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gram(u64);

impl Gram {
    pub fn new(characters: &[char]) -> Self {
        Self(characters.iter().fold(0, |bits, &c| bits << 21 | u64::from(u32::from(c))))
    }

    /// The number of its characters.
    fn len(self) -> usize {
        match self.0 {
            0..0x20_0000 => 1,
            0x20_0000..0x400_0000_0000 => 2,
            _ => 3,
        }
    }
}

/// How often an n-gram occurs in the texts of a language.
#[derive(Debug, Clone, Copy)]
struct Occurrences {
    /// An index into [`LANGUAGES`].
    language: u8,
    count: u32,
}

/// What is known about the n-grams of the languages.
#[derive(Debug)]
pub struct Profiles {
    /// For each language the number of 1-grams, 2-grams and 3-grams in its texts.
    totals: Vec<[u32; 3]>,
    /// Sorted.
    grams: Vec<Gram>,
    /// Where the occurrences of each n-gram end; they begin where those of the one before end.
    ends: Vec<usize>,
    occurrences: Vec<Occurrences>,
    /// Kanji, sorted, with the first of their group.
    kanji: Vec<(char, char)>,
}

/// The embedded profiles.
pub fn embedded() -> &'static Profiles {
    static PROFILES: LazyLock<Profiles> =
        LazyLock::new(|| Profiles::unpack(include_bytes!("../../../data/langdetect.bin")));
    &PROFILES
}

impl Profiles {
    /// Reads the format that is described above.
    fn unpack(packed: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(2 * packed.len());
        DeflateDecoder::new(packed).read_to_end(&mut bytes).expect("the embedded profiles are a DEFLATE stream");
        let mut numbers = Numbers(bytes.iter());
        let totals = LANGUAGES.map(|_| [(); 3].map(|()| numbers.next())).to_vec();
        let number_of_grams = numbers.next();
        let mut grams = Vec::with_capacity(number_of_grams as usize);
        let mut bits = 0;
        for _ in 0..number_of_grams {
            bits += numbers.next_long();
            grams.push(Gram(bits));
        }
        let mut ends = Vec::with_capacity(grams.len());
        let mut occurrences = Vec::with_capacity(2 * grams.len());
        for _ in 0..number_of_grams {
            let mut language = 0;
            for _ in 0..numbers.next() {
                language += numbers.next();
                let language = u8::try_from(language).expect("there are 55 languages");
                occurrences.push(Occurrences { language, count: 0 });
            }
            ends.push(occurrences.len());
        }
        for occurrence in &mut occurrences {
            occurrence.count = numbers.next();
        }
        let mut kanji = Vec::new();
        for _ in 0..numbers.next() {
            let mut code_point = 0;
            let mut members = (0..numbers.next()).map(|_| {
                code_point += numbers.next();
                char::from_u32(code_point).expect("the embedded profiles hold characters")
            });
            let first = members.next().expect("a group has members");
            kanji.push((first, first));
            kanji.extend(members.map(|c| (c, first)));
        }
        assert!(numbers.0.as_slice().is_empty(), "the embedded profiles are read to their end");
        kanji.sort_unstable();
        Self { totals, grams, ends, occurrences, kanji }
    }

    /// The place of an n-gram that occurs in some language.
    pub fn find(&self, gram: Gram) -> Option<usize> {
        self.grams.binary_search(&gram).ok()
    }

    /// The share that the n-gram at a place has in the n-grams of its length, for each language that has it, as an
    /// index into [`LANGUAGES`].
    pub fn shares(&self, place: usize) -> impl Iterator<Item = (usize, f64)> + '_ {
        let begin = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        let length = self.grams[place].len();
        self.occurrences[begin..self.ends[place]].iter().map(move |&Occurrences { language, count }| {
            let language = usize::from(language);
            (language, f64::from(count) / f64::from(self.totals[language][length - 1]))
        })
    }

    /// The kanji that stands for others with the same distribution.
    pub fn kanji(&self, c: char) -> char {
        self.kanji.binary_search_by_key(&c, |&(member, _)| member).map_or(c, |place| self.kanji[place].1)
    }
}

/// The numbers of an unpacked file.
struct Numbers<'a>(std::slice::Iter<'a, u8>);

impl Numbers<'_> {
    fn next_long(&mut self) -> u64 {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.0.next().expect("the embedded profiles are complete");
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        number
    }

    fn next(&mut self) -> u32 {
        u32::try_from(self.next_long()).expect("the embedded profiles hold 32-bit numbers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    impl Gram {
        pub fn text(self) -> String {
            let code = |place: usize| u32::try_from(self.0 >> (21 * place) & 0x1f_ffff).unwrap();
            (0..self.len()).rev().map(|place| char::from_u32(code(place)).unwrap()).collect()
        }
    }

    #[test]
    fn grams_keep_their_characters() {
        for text in ["a", " a", "ab ", "가", "\u{10ffff}\u{10ffff}", "\u{1}\u{10ffff}\u{10ffff}"] {
            let gram = Gram::new(&text.chars().collect::<Vec<_>>());
            assert_eq!((gram.text(), gram.len()), (text.to_owned(), text.chars().count()));
        }
    }

    #[test]
    fn shares_are_counts_over_totals() {
        // {l: p for l, p in zip(_factory.langlist, _factory.word_lang_prob_map["ñ"]) if p}
        let expected = [
            ("ca", 7.701_077_165_590_752e-5),
            ("es", 0.002_015_994_732_445_837),
            ("et", 1.082_539_240_895_845e-5),
            ("ro", 1.302_768_041_176_236_4e-5),
            ("vi", 2.824_075_927_960_575e-5),
        ];
        let place = embedded().find(Gram::new(&['ñ'])).unwrap();
        let shares: Vec<_> = embedded().shares(place).map(|(language, share)| (LANGUAGES[language], share)).collect();
        assert_eq!(shares, expected);
        assert_eq!(embedded().find(Gram::new(&['1'])), None);
    }

    fn component(name: &str) -> Option<PathBuf> {
        let shared = std::env::var("ORPO_SHARED").unwrap_or_else(|_| "../../shared".into());
        let path = PathBuf::from(shared).join("eval/ifeval/components").join(name);
        if !path.is_file() {
            println!("skipped: no {}", path.display());
            return None;
        }
        Some(path)
    }

    /// Against langdetect's own: `$ORPO_SHARED/eval/ifeval/components/langdetect_profiles.jsonl.gz`.
    #[test]
    fn the_embedded_profiles_are_those_of_langdetect() {
        #[derive(serde::Deserialize)]
        struct Original {
            name: String,
            freq: BTreeMap<String, u32>,
            n_words: [u32; 3],
        }
        let Some(path) = component("langdetect_profiles.jsonl.gz") else { return };
        let mut text = String::new();
        flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
        let profiles = embedded();
        let mut counts = vec![BTreeMap::new(); LANGUAGES.len()];
        for (place, gram) in profiles.grams.iter().enumerate() {
            let begin = place.checked_sub(1).map_or(0, |before| profiles.ends[before]);
            for occurrence in &profiles.occurrences[begin..profiles.ends[place]] {
                counts[usize::from(occurrence.language)].insert(gram.text(), occurrence.count);
            }
        }
        let mut languages = 0;
        for line in text.lines() {
            let original: Original = serde_json::from_str(line).unwrap();
            let index = LANGUAGES.iter().position(|&language| language == original.name).unwrap();
            assert!(counts[index] == original.freq, "{}: other counts", original.name);
            assert_eq!(profiles.totals[index], original.n_words, "{}", original.name);
            languages += 1;
        }
        assert_eq!(languages, LANGUAGES.len());
    }

    /// Against langdetect's own: `$ORPO_SHARED/eval/ifeval/components/langdetect_normalization.json`.
    #[test]
    fn the_groups_of_kanji_are_those_of_langdetect() {
        let Some(path) = component("langdetect_normalization.json") else { return };
        let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let groups: Vec<String> = serde_json::from_value(json["cjk_classes"].clone()).unwrap();
        let mut kanji: Vec<(char, char)> = Vec::new();
        for group in groups {
            kanji.extend(group.chars().map(|c| (c, group.chars().next().unwrap())));
        }
        kanji.sort_unstable();
        assert_eq!(embedded().kanji, kanji);
    }
}
