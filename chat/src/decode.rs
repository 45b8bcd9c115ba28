//! Ids to text, one at a time.

use tokenizers::Tokenizer;

use crate::ChatError;

/// How many prompt tokens are decoded along with the reply. Some tokenizers treat the first token of a text
/// differently (a leading space is dropped), so that a reply decoded alone would not be the one in context.
const CONTEXT_TOKENS: usize = 6;

/// Decodes a reply token by token. The concatenation of everything it returns equals the text of all tokens decoded
/// at once after the prompt; an unfinished UTF-8 character is held back until it is complete or the reply ends. (A token
/// of one byte that stands as a character until a later byte makes the run invalid is an exception: it stays.)
#[derive(Debug, Clone)]
pub struct StreamDecoder {
    ids: Vec<u32>,
    /// Tokens before this index are no longer needed as context.
    context_from: usize,
    /// Tokens before this index have been emitted.
    emitted_to: usize,
    skip_special_tokens: bool,
}

impl StreamDecoder {
    /// A decoder for a reply that follows `prompt_ids`.
    pub fn new(prompt_ids: &[u32], skip_special_tokens: bool) -> Self {
        let ids = prompt_ids[prompt_ids.len().saturating_sub(CONTEXT_TOKENS)..].to_vec();
        Self { context_from: 0, emitted_to: ids.len(), ids, skip_special_tokens }
    }

    /// Adds one token and returns the text that became certain with it (often empty).
    ///
    /// # Errors
    /// [`ChatError::Tokenizer`] when the tokenizer cannot decode the ids.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String, ChatError> {
        self.ids.push(id);
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
        let (before, text) = self.decode_window(tokenizer)?;
        self.emitted_to = self.ids.len();
        Ok(continuation(&before, &text))
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
    fn nothing_is_lost_behind_bytes_that_are_no_character() {
        let text = stream(&[0x61, 0xFD, 256, 0x62]);
        assert!(text.starts_with('a') && text.ends_with("3b"), "{text:?}");
    }
}
