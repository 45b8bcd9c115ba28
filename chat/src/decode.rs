//! Ids to text, one at a time.

use tokenizers::Tokenizer;

use crate::ChatError;

/// How many prompt tokens are decoded along with the reply. Some tokenizers treat the first token of a text
/// differently (a leading space is dropped), so that a reply decoded alone would not be the one in context.
const CONTEXT_TOKENS: usize = 6;

/// Decodes a reply token by token. The concatenation of everything it returns equals the text of all tokens decoded
/// at once after the prompt; an unfinished UTF-8 character is held back until it is complete or the reply ends.
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
        if text.len() <= before.len() || text.ends_with('\u{FFFD}') || !text.is_char_boundary(before.len()) {
            return Ok(String::new());
        }
        self.context_from = self.emitted_to;
        self.emitted_to = self.ids.len();
        Ok(text[before.len()..].to_string())
    }

    /// Ends the reply: returns what was held back, with U+FFFD for bytes that never became a character.
    ///
    /// # Errors
    /// [`ChatError::Tokenizer`] when the tokenizer cannot decode the ids.
    pub fn finish(mut self, tokenizer: &Tokenizer) -> Result<String, ChatError> {
        let (before, text) = self.decode_window(tokenizer)?;
        self.emitted_to = self.ids.len();
        Ok(text.get(before.len()..).unwrap_or_default().to_string())
    }

    fn decode_window(&self, tokenizer: &Tokenizer) -> Result<(String, String), ChatError> {
        let decode = |ids: &[u32]| {
            tokenizer.decode(ids, self.skip_special_tokens).map_err(|error| ChatError::Tokenizer(error.to_string()))
        };
        Ok((decode(&self.ids[self.context_from..self.emitted_to])?, decode(&self.ids[self.context_from..])?))
    }
}
