//! Ids to text, one at a time.

use tokenizers::Tokenizer;

use crate::ChatError;

/// How many prompt tokens are decoded along with the reply. Some tokenizers treat the first token of a text
/// differently (a leading space is dropped), so that a reply decoded alone would not be the one in context.
const CONTEXT_TOKENS: usize = 6;
/// Among how many tokens at the end of the prompt those are looked for.
const PROMPT_TAIL: usize = 64;

/// Decodes a reply token by token. The concatenation of everything it returns equals what `tokenizers` decodes from all
/// tokens at once: text is held back until nothing that follows can change it. That takes a character whose bytes are
/// spread over several tokens, and a run of single-byte tokens (`<0x0A>`), which is decoded as a whole: one byte that
/// does not fit makes all characters of its run invalid.
#[derive(Debug, Clone)]
pub struct StreamDecoder {
    ids: Vec<u32>,
    /// Tokens before this index are no longer needed as context.
    context_from: usize,
    /// Tokens before this index have been emitted.
    emitted_to: usize,
    skip_special_tokens: bool,
    /// Whether `ids` begins with the context, and no longer with the end of the prompt.
    started: bool,
}

/// How a token takes part in decoding.
#[derive(PartialEq, Eq)]
enum Part {
    /// It is text of its own.
    Text,
    /// It is one byte of a run.
    Byte,
    /// It is left out; a run continues after it.
    Nothing,
}

impl StreamDecoder {
    /// A decoder for a reply that follows `prompt_ids`.
    pub fn new(prompt_ids: &[u32], skip_special_tokens: bool) -> Self {
        let ids = prompt_ids[prompt_ids.len().saturating_sub(PROMPT_TAIL)..].to_vec();
        Self { ids, context_from: 0, emitted_to: 0, skip_special_tokens, started: false }
    }

    /// Adds one token and returns the text that became certain with it (often empty).
    ///
    /// # Errors
    /// [`ChatError::Tokenizer`] when the tokenizer cannot decode the ids.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String, ChatError> {
        self.start(tokenizer);
        self.ids.push(id);
        if self.part(tokenizer, id) != Part::Text {
            return Ok(String::new());
        }
        let (before, text) = self.decode_window(tokenizer)?;
        if text.len() <= before.len() || text.ends_with('\u{FFFD}') {
            return Ok(String::new());
        }
        self.context_from = self.emitted_to;
        self.emitted_to = self.ids.len();
        Ok(continuation(&before, &text))
    }

    /// Ends the reply: returns what was held back, with U+FFFD for bytes that never became a character.
    ///
    /// # Errors
    /// [`ChatError::Tokenizer`] when the tokenizer cannot decode the ids.
    pub fn finish(mut self, tokenizer: &Tokenizer) -> Result<String, ChatError> {
        self.start(tokenizer);
        let (before, text) = self.decode_window(tokenizer)?;
        Ok(continuation(&before, &text))
    }

    /// Keeps as context the last tokens of the prompt that are text: a run of bytes at its end would join the reply's.
    fn start(&mut self, tokenizer: &Tokenizer) {
        if self.started {
            return;
        }
        self.started = true;
        let text = self.ids.iter().rposition(|id| self.part(tokenizer, *id) == Part::Text);
        self.ids.truncate(text.map_or(0, |last| last + 1));
        self.ids.drain(..self.ids.len().saturating_sub(CONTEXT_TOKENS));
        self.emitted_to = self.ids.len();
    }

    fn part(&self, tokenizer: &Tokenizer, id: u32) -> Part {
        let Some(token) = tokenizer.id_to_token(id) else { return Part::Nothing };
        if self.skip_special_tokens && tokenizer.get_added_vocabulary().is_special_token(&token) {
            return Part::Nothing;
        }
        let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
        match digits {
            Some(digits) if digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok() => Part::Byte,
            _ => Part::Text,
        }
    }

    fn decode_window(&self, tokenizer: &Tokenizer) -> Result<(String, String), ChatError> {
        let decode = |ids: &[u32]| {
            tokenizer.decode(ids, self.skip_special_tokens).map_err(|error| ChatError::Tokenizer(error.to_string()))
        };
        Ok((decode(&self.ids[self.context_from..self.emitted_to])?, decode(&self.ids[self.context_from..])?))
    }
}

/// What `text` has beyond `before`. A later byte can make bytes before it invalid, so that `before` need not be the
/// beginning of `text`: then everything after what both have in common.
fn continuation(before: &str, text: &str) -> String {
    let common = text.char_indices().zip(before.chars()).find(|((_, a), b)| a != b);
    let from = common.map_or(before.len().min(text.len()), |((at, _), _)| at);
    text[from..].to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens of single bytes, and one of a digit.
    fn tokenizer() -> Tokenizer {
        let bytes = (0..256).map(|byte| format!("\"<0x{byte:02X}>\": {byte}")).collect::<Vec<_>>().join(", ");
        let json = format!(
            r#"{{"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
                "truncation": null, "padding": null,
                "decoder": {{"type": "Sequence", "decoders": [{{"type": "ByteFallback"}}, {{"type": "Fuse"}}]}},
                "model": {{"type": "BPE", "byte_fallback": true, "vocab": {{{bytes}, "3": 256}}, "merges": []}}}}"#
        );
        json.parse().unwrap()
    }

    fn stream(ids: &[u32]) -> String {
        let tokenizer = tokenizer();
        let mut decoder = StreamDecoder::new(&[256], false);
        let mut text: String = ids.iter().map(|id| decoder.push(&tokenizer, *id).unwrap()).collect();
        text.push_str(&decoder.finish(&tokenizer).unwrap());
        text
    }

    #[test]
    fn bytes_become_characters_when_they_are_complete() {
        assert_eq!(stream(&[0x61, 0xC3, 0xA9, 256]), "aé3");
        assert_eq!(stream(&[0xC3]), "\u{FFFD}");
    }

    #[test]
    fn one_wrong_byte_makes_its_run_invalid_as_in_tokenizers() {
        assert_eq!(stream(&[0x61, 0xFD, 256, 0x62]), "\u{FFFD}\u{FFFD}3b");
    }

    #[test]
    fn a_stream_of_any_tokens_equals_the_decoding_of_all() {
        let tokenizer = tokenizer();
        let mut state = 1_u32;
        for length in 0..200 {
            let ids: Vec<u32> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    [256, 0x0A, 0x61, 0xC3, 0xA9, 0xF0, 0x9F, 0xA6, 0x80, 0xFD][(state >> 16) as usize % 10]
                })
                .collect();
            assert_eq!(stream(&ids), tokenizer.decode(&ids, false).unwrap(), "{ids:?}");
        }
    }

    #[test]
    fn bytes_at_the_end_of_the_prompt_do_not_join_the_reply() {
        let tokenizer = tokenizer();
        let mut decoder = StreamDecoder::new(&[256, 0x0A], false);
        assert_eq!(decoder.push(&tokenizer, 0xFD).unwrap(), "");
        assert_eq!(decoder.push(&tokenizer, 256).unwrap(), "\u{FFFD}3");
    }
}
