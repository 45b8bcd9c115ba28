//! Tokens to reply text: stop strings never leak, characters are never split, log-probabilities stay with their text.

use std::collections::VecDeque;

use orpo_chat::{ChatError, ChatTokenizer, StreamDecoder};

use crate::engine::SampledToken;

/// Finds stop strings in a text that arrives in pieces, and holds back what could become one.
#[derive(Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

impl StopMatcher {
    /// A matcher for `stops`; empty strings are not allowed.
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new() }
    }

    /// Adds `piece`; returns the text that is certain now, and whether a stop string was met (it and all after it is
    /// cut off; of several, the one that begins first counts).
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        if let Some(start) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(start);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self.held.len() - possible_start(&self.held, &self.stops);
        (self.held.drain(..keep).collect(), false)
    }

    /// The text still held back, when nothing more can follow.
    pub fn finish(self) -> String {
        self.held
    }
}

/// The length in bytes of the longest end of `text` that begins one of `words` and is not all of it.
pub(crate) fn possible_start<W: AsRef<str>>(text: &str, words: &[W]) -> usize {
    let longest = words.iter().map(|word| word.as_ref().len()).max().unwrap_or(0).saturating_sub(1);
    let from = text.len().saturating_sub(longest);
    (from..text.len())
        .filter(|&start| text.is_char_boundary(start))
        .find(|&start| words.iter().any(|word| word.as_ref().starts_with(&text[start..])))
        .map_or(0, |start| text.len() - start)
}

/// A token and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// How many characters come before it.
    pub offset: usize,
    /// The token.
    pub token: SampledToken,
}

/// What became certain of a reply.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Delta {
    /// The text, possibly empty.
    pub text: String,
    /// The tokens whose text has begun with it, in order.
    pub tokens: Vec<Placed>,
    /// A stop string was met: the reply ends here.
    pub stopped: bool,
}

/// Turns the tokens of one reply into text.
#[derive(Debug)]
pub struct ReplyText {
    decoder: StreamDecoder,
    stops: StopMatcher,
    /// Tokens whose text is held back, each with the offset in the decoded text at which it begins.
    waiting: VecDeque<(usize, Placed)>,
    /// Bytes.
    decoded: usize,
    /// Bytes.
    emitted: usize,
    /// The text decoded so far, in characters, and what comes before it.
    characters: usize,
}

impl ReplyText {
    /// A reply that ends before the first of `stops`.
    pub fn new(decoder: StreamDecoder, stops: Vec<String>) -> Self {
        Self {
            decoder,
            stops: StopMatcher::new(stops),
            waiting: VecDeque::new(),
            decoded: 0,
            emitted: 0,
            characters: 0,
        }
    }

    /// Counts the offsets of tokens from `characters` on: an echoed prompt comes before the reply.
    pub fn after(mut self, characters: usize) -> Self {
        self.characters = characters;
        self
    }

    /// Adds one token.
    ///
    /// # Errors
    /// [`ChatError::Tokenizer`] when the tokenizer cannot decode.
    pub fn push(&mut self, tokenizer: &ChatTokenizer, token: SampledToken) -> Result<Delta, ChatError> {
        let piece = self.decoder.push(tokenizer.tokenizer(), token.id)?;
        self.waiting.push_back((self.decoded, Placed { offset: self.characters, token }));
        self.decoded += piece.len();
        self.characters += piece.chars().count();
        let (text, stopped) = self.stops.push(&piece);
        self.emitted += text.len();
        Ok(Delta { text, tokens: self.release(), stopped })
    }

    /// Adds a token that has no text.
    pub fn push_unwritten(&mut self, token: SampledToken) {
        self.waiting.push_back((self.decoded, Placed { offset: self.characters, token }));
    }

    /// Ends the reply and returns what was held back.
    ///
    /// # Errors
    /// [`ChatError::Tokenizer`] when the tokenizer cannot decode.
    pub fn finish(mut self, tokenizer: &ChatTokenizer) -> Result<Delta, ChatError> {
        let piece = self.decoder.clone().finish(tokenizer.tokenizer())?;
        let (mut text, stopped) = self.stops.push(&piece);
        self.emitted += text.len();
        let mut tokens = self.release();
        if !stopped {
            tokens.extend(self.waiting.into_iter().map(|(_, token)| token));
            text += &self.stops.finish();
        }
        Ok(Delta { text, tokens, stopped })
    }

    fn release(&mut self) -> Vec<Placed> {
        let certain = self.waiting.partition_point(|&(start, _)| start < self.emitted);
        self.waiting.drain(..certain).map(|(_, token)| token).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `pieces`; returns what came out and whether it ended at a stop string.
    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut matcher = StopMatcher::new(stops.iter().map(ToString::to_string).collect());
        let mut out = Vec::new();
        for piece in pieces {
            let (text, stopped) = matcher.push(piece);
            out.push(text);
            if stopped {
                return (out, true);
            }
        }
        out.push(matcher.finish());
        (out, false)
    }

    #[test]
    fn a_stop_string_across_pieces_does_not_leak() {
        assert_eq!(
            run(&["</s>"], &["hi <", "/", "s", "> there"]),
            (vec!["hi ".into(), "".into(), "".into(), "".into()], true)
        );
    }

    #[test]
    fn a_false_start_is_given_back() {
        let (out, stopped) = run(&["User:"], &["a Us", "e this", " User"]);
        assert_eq!((out, stopped), (vec!["a ".into(), "Use this".into(), " ".into(), "User".into()], false));
    }

    #[test]
    fn the_stop_string_that_begins_first_counts() {
        assert_eq!(run(&["bc", "abcd"], &["xabcd"]), (vec!["x".into()], true));
        assert_eq!(run(&["\n\n", "."], &["one. two\n", "\n"]), (vec!["one".into()], true));
    }

    #[test]
    fn a_repeated_beginning_is_found() {
        let (out, stopped) = run(&["aab"], &["a", "a", "a", "b", "c"]);
        assert_eq!((out.concat(), stopped), ("a".to_string(), true));
    }

    #[test]
    fn characters_of_several_bytes_are_held_whole() {
        let (out, stopped) = run(&["日本"], &["é日", "é", "日", "本"]);
        assert_eq!((out, stopped), (vec!["é".into(), "日é".into(), "".into(), "".into()], true));
    }

    #[test]
    fn without_stop_strings_all_text_passes_at_once() {
        assert_eq!(run(&[], &["a", "b"]), (vec!["a".into(), "b".into(), "".into()], false));
    }
}
