//! Which pairs are shown in the other order.

use sha2::{Digest, Sha512};

use crate::python_random::PythonRandom;

/// Whether the two answers to an instruction change places in the judge's prompt: the coin of `alpaca_eval`'s
/// `RandomSwitchTwoColumnsProcessor`, `random.Random(seed).choices([False, True])` on the seed
/// `"is_switched_outputs" + instruction + str(seed)`.
///
/// ```
/// use orpo_eval::alpaca::is_switched;
///
/// assert!(is_switched("What are the names of some famous actors that started their careers on Broadway?", 0));
/// ```
pub fn is_switched(instruction: &str, seed: u64) -> bool {
    let mut random = seeded(&format!("is_switched_outputs{instruction}{seed}"));
    // choices() takes floor(random() * 2) as the index.
    random.random() >= 0.5
}

/// `random.Random(text)`: the seed is the number whose big-endian bytes are the text and its SHA-512.
fn seeded(text: &str) -> PythonRandom {
    let mut bytes = text.as_bytes().to_vec();
    bytes.extend_from_slice(&Sha512::digest(text));
    let word = |chunk: &[u8]| chunk.iter().fold(0, |word, &byte| word << 8 | u32::from(byte));
    let mut key: Vec<u32> = bytes.rchunks(4).map(word).collect();
    while key.len() > 1 && key.last() == Some(&0) {
        key.pop();
    }
    PythonRandom::from_key(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_those_of_python() {
        // random.Random(text).random()
        for (text, expected) in SEEDED {
            assert_eq!(seeded(text).random(), expected, "{text:?}");
        }
    }

    const SEEDED: [(&str, f64); 4] = [
        ("", 0.960_225_652_564_187_5),
        ("a", 0.272_029_537_753_475_7),
        ("is_switched_outputsé0", 0.459_381_599_254_700_9),
        ("\0\0\0\0\0\0\0\0b", 0.484_198_940_277_389_1),
    ];
}
