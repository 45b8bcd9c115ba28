//! The n-grams of a text: sequences of one to three characters within a word and its margins.
//!
//! langdetect's `NGram`. Characters that say the same about a language are joined first: all Hangul are one character,
//! and so on. Of a word in capitals only the first letter counts.

use super::profiles::{Gram, Profiles};
use crate::ifeval::text;

/// The n-grams of a text that the profiles have, in the order of the text, each by its place in the profiles.
pub fn known(text: &[char], profiles: &Profiles) -> Vec<usize> {
    let mut found = Vec::new();
    let mut window = Window::new();
    for &c in text {
        window.push(normalise(c, profiles));
        found.extend(window.grams().filter_map(|gram| profiles.find(gram)));
    }
    found
}

/// The character that stands for others like it.
fn normalise(c: char, profiles: &Profiles) -> char {
    match c {
        'A'..='Z' | 'a'..='z' => c,
        '\0'..='\x7f' | '\u{a0}' | '«' | '°' | '»' => ' ',
        // Romanian: a comma below is written as a cedilla.
        'ș' => 'ş',
        'ț' => 'ţ',
        // The Farsi yeh is the Arabic one.
        '\u{6cc}' => '\u{64a}',
        // Vietnamese letters with tones.
        '\u{1ea0}'..='\u{1eff}' => 'ể',
        // General punctuation.
        '\u{2000}'..='\u{206f}' => ' ',
        // Hiragana, Katakana, Bopomofo with its extension, Hangul.
        '\u{3040}'..='\u{309f}' => 'あ',
        '\u{30a0}'..='\u{30ff}' => 'ア',
        '\u{3100}'..='\u{312f}' | '\u{31a0}'..='\u{31bf}' => 'ㄅ',
        '\u{ac00}'..='\u{d7af}' => '가',
        '\u{4e00}'..='\u{9fff}' => profiles.kanji(c),
        _ => c,
    }
}

/// The last characters of a text, at most three and none before the last space.
struct Window {
    characters: [char; 3],
    len: usize,
    /// Whether the last two characters are capitals.
    capital_word: bool,
}

impl Window {
    fn new() -> Self {
        Self { characters: [' '; 3], len: 1, capital_word: false }
    }

    fn last(&self) -> char {
        self.characters[self.len - 1]
    }

    fn push(&mut self, c: char) {
        let last = self.last();
        if last == ' ' {
            *self = Self::new();
            if c == ' ' {
                return;
            }
        } else if self.len == self.characters.len() {
            self.characters.rotate_left(1);
            self.len -= 1;
        }
        self.characters[self.len] = c;
        self.len += 1;
        self.capital_word = text::is_capital(last) && text::is_capital(c);
    }

    /// The n-grams that end with the last character, the shortest first.
    fn grams(&self) -> impl Iterator<Item = Gram> + '_ {
        let longest = if self.capital_word { 0 } else { self.len };
        (1..=longest).map(|n| &self.characters[self.len - n..self.len]).filter(|&gram| gram != [' ']).map(Gram::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ifeval::language::profiles::embedded;
    use proptest::prelude::*;

    /// The n-grams of a text without normalisation, as texts.
    fn grams(text: &str) -> Vec<String> {
        let mut window = Window::new();
        let mut grams = Vec::new();
        for c in text.chars() {
            window.push(c);
            grams.extend(window.grams().map(Gram::text));
        }
        grams
    }

    /// The same from the whole text at each place. An n-gram lies within one word; its first character may be the space
    /// before it (there is one before the text), its last the space after it. It counts unless two capitals end it.
    fn grams_by_definition(text: &str) -> Vec<String> {
        let padded: Vec<char> = std::iter::once(' ').chain(text.chars()).collect();
        let mut grams = Vec::new();
        for end in 2..=padded.len() {
            for gram in (1..=3.min(end)).map(|n| &padded[end - n..end]) {
                let within_a_word = gram.iter().any(|&c| c != ' ') && !(gram.len() == 3 && gram[1] == ' ');
                if within_a_word && !padded[end - 2..end].iter().all(|c| c.is_uppercase()) {
                    grams.push(gram.iter().collect());
                }
            }
        }
        grams
    }

    /// With langdetect's `NGram`: `add_char` of each character, then `get(1)`, `get(2)`, `get(3)`.
    #[test]
    fn grams_are_those_of_langdetect() {
        assert_eq!(grams("ab cA"), ["a", " a", "b", "ab", " ab", "b ", "ab ", "c", " c", "A", "cA", " cA"]);
        assert_eq!(grams("ADEf G"), ["A", " A", "f", "Ef", "DEf", "f ", "Ef ", "G", " G"]);
        assert_eq!(grams("  é  É"), ["é", " é", "é ", " é ", "É", " É"]);
    }

    #[test]
    fn characters_are_joined_with_those_like_them() {
        let normalised = |text: &str| text.chars().map(|c| normalise(c, embedded())).collect::<String>();
        assert_eq!(normalised("aZ@[`{5\0\u{80}é«°»\u{a0}¿"), "aZ      \u{80}é    ¿");
        assert_eq!(normalised("șțȘ\u{6cc}ạỸẞ—"), "şţȘ\u{64a}ểểẞ ");
        assert_eq!(normalised("きゟカーㄆㆠ한ퟰ"), "ああアアㄅㄅ가ퟰ");
        assert_eq!(normalised("椴裏閲仮\u{4e00}🙂"), "佼裏裏亀一🙂");
    }

    proptest! {
        #[test]
        fn the_window_is_the_definition(text in "[aBcD é\n]{0,12}") {
            prop_assert_eq!(grams(&text), grams_by_definition(&text));
        }
    }
}
