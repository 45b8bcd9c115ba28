//! The bytes behind a single token, as log-probability listings show them.

use std::collections::HashMap;

use orpo_chat::ChatTokenizer;

/// Knows how a tokenizer writes bytes in its vocabulary.
#[derive(Debug)]
pub struct TokenBytes {
    /// The byte behind each character of a byte-level vocabulary; `None` for SentencePiece-like ones.
    byte_level: Option<HashMap<char, u8>>,
}

impl TokenBytes {
    /// Reads the kind of vocabulary off the tokenizer's decoder.
    pub fn new(tokenizer: &ChatTokenizer) -> Self {
        let decoder = serde_json::to_string(&tokenizer.tokenizer().get_decoder()).unwrap_or_default();
        Self { byte_level: decoder.contains("\"ByteLevel\"").then(byte_level_alphabet) }
    }

    /// The bytes of token `id`: possibly only a part of a character, and empty for an id that is not in the vocabulary.
    pub fn of(&self, tokenizer: &ChatTokenizer, id: u32) -> Vec<u8> {
        let piece = tokenizer.tokenizer().id_to_token(id).unwrap_or_default();
        match &self.byte_level {
            // Added tokens are written as they are; they are the ones with characters outside of the alphabet.
            Some(alphabet) => piece
                .chars()
                .map(|c| alphabet.get(&c).copied())
                .collect::<Option<Vec<u8>>>()
                .unwrap_or(piece.into_bytes()),
            None => fallback_byte(&piece).map_or_else(|| piece.replace('▁', " ").into_bytes(), |byte| vec![byte]),
        }
    }
}

/// The byte of a piece like `<0x0A>`.
fn fallback_byte(piece: &str) -> Option<u8> {
    let hex = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() == 2 { u8::from_str_radix(hex, 16).ok() } else { None }
}

/// GPT-2's table: printable bytes stand for themselves, the others are moved up from U+0100 on.
fn byte_level_alphabet() -> HashMap<char, u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut moved = 0x100;
    (0..=u8::MAX)
        .map(|byte| {
            if printable(byte) {
                return (char::from(byte), byte);
            }
            let c = char::from_u32(moved).expect("U+0100 to U+0143 are characters");
            moved += 1;
            (c, byte)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_gpt_2_s() {
        let alphabet = byte_level_alphabet();
        assert_eq!(alphabet.len(), 256);
        assert_eq!(alphabet[&'Ġ'], b' ');
        assert_eq!(alphabet[&'Ċ'], b'\n');
        assert_eq!(alphabet[&'a'], b'a');
    }

    #[test]
    fn fallback_bytes_are_read() {
        assert_eq!(fallback_byte("<0x0A>"), Some(b'\n'));
        assert_eq!(fallback_byte("<0x>"), None);
        assert_eq!(fallback_byte("<unk>"), None);
    }
}
