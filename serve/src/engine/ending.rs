//! How a constrained reply can still end: a short text that completes it.
//!
//! The grammar engine tells which bytes can come next, not how far the end is. So the end is searched for, one JSON token
//! at a time: of the ways to write the next token the cheapest is taken (a closing bracket before a comma, a string
//! before an object), until the text is complete. What is found is not always the shortest end, but it is an end: a reply
//! that keeps enough tokens in hand for it can always be finished.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use llguidance::Matcher;

/// The grammar engine's tokens for the search: all bytes, then the end.
pub(super) const END: u32 = 256;

/// How many states a search looks at before a reply begins, and at each token of it.
const FIRST_SEARCH: usize = 7_000;
pub(super) const LATER_SEARCH: usize = 1_500;
/// A longer end is not searched for.
const MAX_BYTES: usize = 4_096;
/// The assumed cost of opening an object, in bytes. Where a search leads nowhere, most likely into a recursion, it is
/// repeated with the next value.
const OPENING: [usize; 3] = [6, 60, 2_000];
/// The assumed cost of a comma, which promises another value.
const COMMA: usize = 20;
/// The assumed cost of an escape or white space, which no short text needs.
const NEEDLESS: usize = 30;
/// Where more bytes than this can come next, only some of them are tried.
const MANY: usize = 24;
/// How many words of patterns are tried as a whole.
const MAX_WORDS: usize = 16;
/// Bytes that patterns and formats are likely to want.
const LIKELY: &[u8] = b"\"0123456789aAbefnt-+.:/@_ TZPD}],[{";

/// A position in a JSON text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    in_string: bool,
    escaped: bool,
    /// Bytes of the number or the name (`true`) that is being written.
    scalar: usize,
    /// The letter and the digits of the number's exponent.
    exponent: usize,
}

impl Place {
    /// Adds a byte; returns whether it ends a JSON token.
    fn push(&mut self, byte: u8) -> bool {
        if self.in_string {
            let closes = byte == b'"' && !self.escaped;
            self.escaped = byte == b'\\' && !self.escaped;
            self.in_string = !closes;
            return closes;
        }
        self.in_string = byte == b'"';
        let ends = is_structural(byte);
        let is_scalar = !ends && !self.in_string && !byte.is_ascii_whitespace();
        let in_exponent = self.exponent > 0 || (self.scalar > 0 && matches!(byte, b'e' | b'E'));
        let is_sign = matches!(byte, b'+' | b'-');
        self.exponent = if is_scalar && in_exponent { self.exponent + usize::from(!is_sign) } else { 0 };
        self.scalar = if is_scalar { self.scalar + 1 } else { 0 };
        ends
    }

    /// True if a number has more than 24 characters, or an exponent of more than two digits, which a double may not hold.
    fn is_long_number(&self) -> bool {
        self.scalar > 24 || self.exponent > 3
    }

    /// Adds the bytes of a token.
    fn push_all(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.push(byte);
        }
    }
}

fn is_structural(byte: u8) -> bool {
    matches!(byte, b'{' | b'}' | b'[' | b']' | b',' | b':')
}

/// The result of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// This text completes the reply.
    End(Vec<u8>),
    /// Nothing that the vocabulary can write completes it.
    Nothing,
    /// The search was given up.
    Unknown,
}

/// Follows a reply and searches for its end.
pub(super) struct Endings {
    /// Over bytes; always at the reply and what is in `ahead`.
    matcher: Matcher,
    ahead: Vec<u8>,
    place: Place,
    /// True for JSON, which can be searched one JSON token at a time; other texts are searched in one piece.
    json: bool,
    /// The bytes that occur in the vocabulary.
    writable: Arc<[bool; 256]>,
    /// The bytes that are tried where many can come next.
    likely: Arc<[bool; 256]>,
    /// The texts that are tried there as a whole: what allows everything may still wait for one of them.
    words: Arc<[Vec<u8>]>,
}

impl Endings {
    /// At the beginning of a reply. `patterns` are the regular expressions that the grammar holds.
    pub(super) fn new(matcher: Matcher, json: bool, writable: Arc<[bool; 256]>, patterns: &[String]) -> Self {
        let mut likely = [false; 256];
        let bytes = patterns.iter().flat_map(|pattern| pattern.bytes());
        LIKELY.iter().copied().chain(bytes).for_each(|byte| likely[usize::from(byte)] = true);
        let words = patterns.iter().flat_map(|pattern| words(pattern)).take(MAX_WORDS).collect();
        Self { matcher, ahead: Vec::new(), place: Place::default(), json, writable, likely: Arc::new(likely), words }
    }

    /// The position of the reply.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// True in a number of a JSON text that is longer than is useful.
    pub(super) fn is_in_long_number(&self) -> bool {
        self.json && self.place.is_long_number()
    }

    /// Follows the reply; false if the grammar does not allow these bytes.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> bool {
        if self.go(&[]).is_err() || self.matcher.consume_tokens(&tokens(bytes)).is_err() {
            return false;
        }
        self.place.push_all(bytes);
        true
    }

    /// Takes back the last [`Self::advance`], which was at `place`.
    pub(super) fn retreat(&mut self, bytes: usize, place: Place) {
        // A failure shows at the next use.
        let _ = self.go(&[]).and_then(|()| self.matcher.rollback(bytes));
        self.place = place;
    }

    /// True if `text` completes the reply.
    pub(super) fn completes(&mut self, text: &[u8]) -> bool {
        self.go(&[]).is_ok() && self.completes_here(text)
    }

    fn completes_here(&mut self, text: &[u8]) -> bool {
        if self.matcher.is_stopped() {
            return text.is_empty() && !self.matcher.is_error();
        }
        let mut tokens = tokens(text);
        tokens.push(END);
        self.matcher.validate_tokens(&tokens).is_ok_and(|valid| valid == tokens.len())
    }

    /// Searches for a text that completes the reply, and tries `tail`, an end that was known before, as the last part.
    pub(super) fn search(&mut self, tail: &[u8], effort: usize) -> Found {
        let mut tried = OPENING.iter().map(|&opening| self.search_with(tail, opening, effort / OPENING.len()));
        tried.find(|found| *found != Found::Unknown).unwrap_or(Found::Unknown)
    }

    /// Searches for a text of which `length` is small: in every way, before a reply begins.
    pub(super) fn shortest(&mut self, length: impl Fn(&[u8]) -> usize) -> Found {
        let found = OPENING.map(|opening| self.search_with(&[], opening, FIRST_SEARCH));
        if found.contains(&Found::Nothing) {
            return Found::Nothing;
        }
        let ends = found.into_iter().filter_map(|found| match found {
            Found::End(text) => Some(text),
            Found::Nothing | Found::Unknown => None,
        });
        ends.min_by_key(|text| length(text)).map_or(Found::Unknown, Found::End)
    }

    fn search_with(&mut self, tail: &[u8], opening: usize, effort: usize) -> Found {
        Search { endings: self, opening, left: effort, cut: false }.end(tail).unwrap_or(Found::Unknown)
    }

    /// True if an end is found once the vocabulary is taken to hold every byte.
    pub(super) fn is_found_with_every_byte(&mut self) -> bool {
        let writable = std::mem::replace(&mut self.writable, Arc::new([true; 256]));
        let found = self.search(&[], FIRST_SEARCH);
        self.writable = writable;
        matches!(found, Found::End(_))
    }

    /// Moves the matcher to `path` after the reply.
    fn go(&mut self, path: &[u8]) -> anyhow::Result<()> {
        anyhow::ensure!(!self.matcher.is_error(), "the grammar failed");
        let common = self.ahead.iter().zip(path).take_while(|(a, b)| a == b).count();
        if self.ahead.len() > common {
            self.matcher.rollback(self.ahead.len() - common)?;
            self.ahead.truncate(common);
        }
        if path.len() > common {
            self.matcher.consume_tokens(&tokens(&path[common..]))?;
            self.ahead.extend(&path[common..]);
        }
        Ok(())
    }
}

impl Clone for Endings {
    fn clone(&self) -> Self {
        Self {
            matcher: self.matcher.deep_clone(),
            ahead: self.ahead.clone(),
            place: self.place,
            json: self.json,
            writable: self.writable.clone(),
            likely: self.likely.clone(),
            words: self.words.clone(),
        }
    }
}

/// The parts of a pattern that stand for themselves, of two bytes or more.
fn words(pattern: &str) -> Vec<Vec<u8>> {
    let mut words = vec![String::new()];
    let mut characters = pattern.chars();
    while let Some(c) = characters.next() {
        let literal = match c {
            '\\' => characters.next().filter(|c| !c.is_alphanumeric()),
            c if c.is_alphanumeric() || " _-@:/,;!#%&=~<>'".contains(c) => Some(c),
            _ => None,
        };
        match (literal, words.last_mut()) {
            (Some(c), Some(word)) => word.push(c),
            _ => words.push(String::new()),
        }
    }
    words.into_iter().filter(|word| word.len() > 1).map(String::into_bytes).collect()
}

fn tokens(bytes: &[u8]) -> Vec<u32> {
    bytes.iter().map(|&byte| u32::from(byte)).collect()
}

/// One search.
struct Search<'a> {
    endings: &'a mut Endings,
    opening: usize,
    /// How many more states are looked at.
    left: usize,
    /// Set when an alternative was skipped.
    cut: bool,
}

/// A way to continue a JSON token. The cheapest comes first, then the order of bytes decides.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    cost: usize,
    path: Vec<u8>,
    place: Place,
    ended: bool,
}

impl Search<'_> {
    fn end(&mut self, tail: &[u8]) -> anyhow::Result<Found> {
        let (mut done, mut place) = (Vec::new(), self.endings.place);
        loop {
            self.endings.go(&done)?;
            if self.endings.completes_here(&[]) {
                return Ok(Found::End(done));
            }
            if !tail.is_empty() && self.endings.completes_here(tail) {
                done.extend(tail);
                return Ok(Found::End(done));
            }
            match self.token(&done, place)? {
                Some(way) => (done, place) = (way.path, way.place),
                None if self.left == 0 || self.cut || done.len() >= MAX_BYTES => return Ok(Found::Unknown),
                None => return Ok(Found::Nothing),
            }
        }
    }

    /// The cheapest next token after `done`, or the whole rest where there are no tokens.
    fn token(&mut self, done: &[u8], place: Place) -> anyhow::Result<Option<Way>> {
        let mut ways = BinaryHeap::from([Reverse(Way { cost: 0, path: done.to_vec(), place, ended: false })]);
        // States that allow the same after the same number of bytes are taken for one.
        let mut seen = BTreeSet::new();
        while let Some(Reverse(way)) = ways.pop() {
            if way.ended {
                return Ok(Some(way));
            }
            if self.left == 0 || way.path.len() >= MAX_BYTES {
                self.left = 0;
                return Ok(None);
            }
            self.left -= 1;
            self.endings.go(&way.path)?;
            let is_new = way.path.len() > done.len();
            if self.endings.matcher.is_stopped() || (is_new && self.endings.matcher.is_accepting()?) {
                return Ok(Some(way));
            }
            let mask = self.endings.matcher.compute_mask()?;
            let mut next: Vec<u8> = (0..=u8::MAX).filter(|&byte| mask.get(usize::from(byte))).collect();
            if self.endings.json && way.place.scalar > 0 && next.iter().any(|&byte| is_structural(byte)) {
                if is_new {
                    return Ok(Some(way));
                }
                // A number that can end does.
                next.retain(|&byte| is_structural(byte));
            }
            let mut hasher = DefaultHasher::new();
            next.hash(&mut hasher);
            if !seen.insert((way.path.len(), way.place.in_string, hasher.finish())) {
                self.cut = true;
                continue;
            }
            if next.len() > MANY && (way.place.in_string || !self.endings.json) {
                for word in self.endings.words.clone().iter() {
                    if self.endings.matcher.validate_tokens(&tokens(word))? == word.len() {
                        let mut place = way.place;
                        place.push_all(word);
                        let path = [way.path.as_slice(), word].concat();
                        // Before other paths of that length, which may be taken for the same state.
                        ways.push(Reverse(Way { cost: way.cost + word.len() - 1, path, place, ended: false }));
                    }
                }
            }
            for byte in self.tried(next) {
                let mut place = way.place;
                let ended = place.push(byte) && self.endings.json;
                let cost = way.cost + 1 + self.price(byte, way.place);
                let path = [way.path.as_slice(), &[byte]].concat();
                ways.push(Reverse(Way { cost, path, place, ended }));
            }
        }
        Ok(None)
    }

    /// Which of the bytes that can come next are tried.
    fn tried(&mut self, next: Vec<u8>) -> Vec<u8> {
        let mut next: Vec<u8> = next.into_iter().filter(|&byte| self.endings.writable[usize::from(byte)]).collect();
        if next.len() > MANY && next.iter().any(|&byte| self.endings.likely[usize::from(byte)]) {
            self.cut = true;
            next.retain(|&byte| self.endings.likely[usize::from(byte)]);
        }
        next
    }

    /// The extra cost of a byte.
    fn price(&self, byte: u8, place: Place) -> usize {
        if !self.endings.json {
            return 0;
        }
        match byte {
            b'\\' if place.in_string => NEEDLESS,
            _ if place.in_string => 0,
            b'{' => self.opening,
            b'[' => self.opening / 2,
            b',' => COMMA,
            byte if byte.is_ascii_whitespace() => NEEDLESS,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_patterns_stand_for_themselves() {
        let words = |pattern: &str| {
            super::words(pattern).into_iter().map(|word| String::from_utf8(word).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(words(r"foo|bar$"), ["foo", "bar"]);
        assert_eq!(words(r"^(v\d+\.x: )?é[^ab]*end\.$"), [".x: ", "é", "ab", "end."]);
    }

    #[test]
    fn json_tokens_end_where_they_end() {
        let mut place = Place::default();
        let ends: Vec<bool> = br#"{"a\"b" : -12,t}"#.iter().map(|&byte| place.push(byte)).collect();
        let shown: String = ends.iter().map(|&end| if end { 'x' } else { '.' }).collect();
        assert_eq!(shown, "x.....x.x....x.x");
        place.push_all(b"[-1.5e");
        assert_eq!((place.scalar, place.exponent), (5, 1));
        place.push_all(b"-30");
        assert!(!place.is_long_number());
        place.push_all(b"8");
        assert!(place.is_long_number());
        place.push_all(b",true,1234567890123456789012345");
        assert_eq!((place.scalar, place.exponent, place.is_long_number()), (25, 0, true));
    }
}
