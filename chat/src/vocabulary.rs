//! The tokenizer's ids against the rows of a model's embedding.

use crate::error::ChatError;
use crate::tokenizer::ChatTokenizer;

impl ChatTokenizer {
    /// Refuses a tokenizer that makes ids for which an embedding of `rows` rows has none. Entries of the vocabulary that no
    /// text becomes may lie beyond.
    ///
    /// # Errors
    /// [`ChatError::Vocabulary`] with the first such token.
    pub fn check_vocabulary(&self, rows: usize) -> Result<(), ChatError> {
        let mut beyond: Vec<(u32, String)> =
            self.tokenizer().get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
        beyond.retain(|(id, _)| *id as usize >= rows);
        beyond.sort_unstable();
        for (id, token) in beyond {
            // The text of the token; in a byte-level vocabulary it is spelled differently.
            let text = self.decode(&[id], false)?;
            if self.encode(&text)?.contains(&id) {
                return Err(ChatError::Vocabulary { dir: self.dir().to_path_buf(), token, id, rows });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The letters a to c, of which c cannot be merged into what the vocabulary has as `cc`, and an added token.
    fn tokenizer() -> (tempfile::TempDir, ChatTokenizer) {
        let dir = tempfile::tempdir().unwrap();
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
            "pre_tokenizer": null, "decoder": null,
            "added_tokens": [{"id": 4, "content": "<|extra|>", "special": true, "single_word": false,
                              "lstrip": false, "rstrip": false, "normalized": false}],
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "cc": 3}, "merges": []}
        });
        std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let tokenizer = ChatTokenizer::from_dir(dir.path()).unwrap();
        (dir, tokenizer)
    }

    #[test]
    fn a_token_that_can_be_written_needs_a_row() {
        let (_dir, tokenizer) = tokenizer();
        assert!(tokenizer.check_vocabulary(5).is_ok());
        assert!(tokenizer.check_vocabulary(4).unwrap_err().to_string().contains("`<|extra|>`"));
        // No text becomes `cc`, so that the first token without a row is the one after it.
        let refused = tokenizer.check_vocabulary(3).unwrap_err().to_string();
        assert!(refused.contains("`<|extra|>`") && refused.contains("id 4") && refused.contains("3 rows"), "{refused}");
        assert!(tokenizer.check_vocabulary(2).unwrap_err().to_string().contains("`c`"));
    }
}
