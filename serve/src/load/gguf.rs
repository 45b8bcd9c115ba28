//! The head of a GGUF file: what it says about its model, and whether the engine would compute that model rightly.
//!
//! Layout: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// Architectures whose tokens were compared with those of `transformers`.
const ARCHITECTURES: [&str; 2] = ["llama", "qwen2"];
/// mistralrs' key-value cache grows by so many positions, and fails when that steps over the context.
const CACHE_STEP: u64 = 512;
/// No key or text that matters here is longer; a larger length is a corrupt file.
const MAX_TEXT_BYTES: u64 = 1 << 24;

/// Why a GGUF file cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// It cannot be read to the end of its head.
    #[error("cannot read `{}`: {source}; is it a whole GGUF file?", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The engine cannot run this model, or would compute it wrongly.
    #[error("cannot serve `{}`: {reason}; serve the safetensors checkpoint with --quantize instead", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// A GGUF file that can be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gguf {
    /// The file.
    pub file: PathBuf,
    /// How many tokens prompt and reply may have together.
    pub context_length: usize,
}

impl Gguf {
    /// Reads the head of `file`.
    ///
    /// # Errors
    /// [`GgufError`]: no whole GGUF file, an untested architecture, or scaled rotary positions, which mistralrs passes
    /// over in these files.
    pub fn open(file: &Path) -> Result<Self, GgufError> {
        let path = file.to_path_buf();
        let head = File::open(file).and_then(|file| Head::read(&mut BufReader::new(file)));
        let head = head.map_err(|source| GgufError::Read { path: path.clone(), source })?;
        match head.context_length() {
            Ok(context_length) => Ok(Self { file: path, context_length }),
            Err(reason) => Err(GgufError::Unsupported { path, reason }),
        }
    }
}

/// The texts and whole numbers among the metadata, and the tensors' names.
#[derive(Debug, Default)]
struct Head {
    texts: Vec<(String, String)>,
    numbers: Vec<(String, u64)>,
    tensors: Vec<String>,
}

impl Head {
    fn read(file: &mut impl Read) -> io::Result<Self> {
        if &bytes::<4>(file)? != b"GGUF" {
            return Err(corrupt("it does not begin with `GGUF`"));
        }
        let version = u32::from_le_bytes(bytes(file)?);
        if !(2..=3).contains(&version) {
            return Err(corrupt(&format!("GGUF version {version} is not 2 or 3")));
        }
        let (tensors, entries) = (u64::from_le_bytes(bytes(file)?), u64::from_le_bytes(bytes(file)?));
        let mut head = Self::default();
        for _ in 0..entries {
            let key = text(file)?;
            match u32::from_le_bytes(bytes(file)?) {
                8 => head.texts.push((key, text(file)?)),
                4 => head.numbers.push((key, u32::from_le_bytes(bytes(file)?).into())),
                10 => head.numbers.push((key, u64::from_le_bytes(bytes(file)?))),
                kind => skip(file, kind)?,
            }
        }
        for _ in 0..tensors {
            head.tensors.push(text(file)?);
            let axes = u32::from_le_bytes(bytes(file)?);
            // The axes, the type, the offset.
            discard(file, u64::from(axes) * 8 + 4 + 8)?;
        }
        Ok(head)
    }

    fn context_length(&self) -> Result<usize, String> {
        let text = |key: &str| self.texts.iter().find(|(name, _)| name == key).map(|(_, text)| text.as_str());
        let number = |key: &str| self.numbers.iter().find(|(name, _)| name == key).map(|(_, number)| *number);
        let architecture = text("general.architecture").unwrap_or("none");
        if !ARCHITECTURES.contains(&architecture) {
            let known = ARCHITECTURES.join(", ");
            return Err(format!("architecture `{architecture}` is not supported in GGUF; supported are {known}"));
        }
        if let Some(scaling) = text(&format!("{architecture}.rope.scaling.type")).filter(|scaling| *scaling != "none") {
            return Err(format!("`rope.scaling.type` = {scaling} is not supported in GGUF"));
        }
        if self.tensors.iter().any(|name| name.starts_with("rope_f")) {
            return Err("scaled rotary frequencies (`rope_freqs`) are not supported in GGUF".into());
        }
        let positions = number(&format!("{architecture}.context_length")).filter(|positions| *positions > 0);
        let positions = positions.ok_or_else(|| format!("`{architecture}.context_length` is missing"))?;
        let context = if positions > CACHE_STEP { positions / CACHE_STEP * CACHE_STEP } else { positions };
        usize::try_from(context).map_err(|error| error.to_string())
    }
}

fn corrupt(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

fn bytes<const N: usize>(file: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn text(file: &mut impl Read) -> io::Result<String> {
    let length = u64::from_le_bytes(bytes(file)?);
    if length > MAX_TEXT_BYTES {
        return Err(corrupt("a text is too long"));
    }
    let mut text = Vec::new();
    file.take(length).read_to_end(&mut text)?;
    String::from_utf8(text).map_err(|_| corrupt("a text is not UTF-8"))
}

fn discard(file: &mut impl Read, length: u64) -> io::Result<()> {
    match io::copy(&mut file.take(length), &mut io::sink())? == length {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Steps over a value of a type by its number.
fn skip(file: &mut impl Read, kind: u32) -> io::Result<()> {
    match kind {
        0 | 1 | 7 => discard(file, 1),
        2 | 3 => discard(file, 2),
        4..=6 => discard(file, 4),
        10..=12 => discard(file, 8),
        8 => {
            let length = u64::from_le_bytes(bytes(file)?);
            discard(file, length)
        }
        9 => {
            let kind = u32::from_le_bytes(bytes(file)?);
            let length = u64::from_le_bytes(bytes(file)?);
            // Lists of lists are allowed by the format, and written by nobody.
            if kind == 9 {
                return Err(corrupt("a list of lists"));
            }
            (0..length).try_for_each(|_| skip(file, kind))
        }
        _ => Err(corrupt(&format!("unknown value type {kind}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
    }

    fn number(key: &str, value: u32) -> Vec<u8> {
        [string(key), 4_u32.to_le_bytes().to_vec(), value.to_le_bytes().to_vec()].concat()
    }

    fn word(key: &str, value: &str) -> Vec<u8> {
        [string(key), 8_u32.to_le_bytes().to_vec(), string(value)].concat()
    }

    fn file(entries: &[Vec<u8>], tensor: &str) -> Vec<u8> {
        let list = [string("tokens"), 9_u32.to_le_bytes().to_vec(), 8_u32.to_le_bytes().to_vec()].concat();
        let list = [list, 2_u64.to_le_bytes().to_vec(), string("a"), string("b")].concat();
        let head = [b"GGUF".to_vec(), 3_u32.to_le_bytes().to_vec(), 1_u64.to_le_bytes().to_vec()].concat();
        let count = (entries.len() as u64 + 1).to_le_bytes().to_vec();
        // Two axes, a type, an offset.
        [head, count, list, entries.concat(), string(tensor), 2_u32.to_le_bytes().to_vec(), vec![0; 28]].concat()
    }

    fn context(bytes: &[u8]) -> Result<usize, String> {
        Head::read(&mut &*bytes).map_err(|error| error.to_string())?.context_length()
    }

    #[test]
    fn the_context_is_what_the_cache_can_hold() {
        for (positions, expected) in [(256, 256), (512, 512), (1000, 512), (4096, 4096)] {
            let entries = [word("general.architecture", "llama"), number("llama.context_length", positions)];
            assert_eq!(context(&file(&entries, "output.weight")), Ok(expected));
        }
    }

    #[test]
    fn what_would_be_computed_wrongly_is_refused() {
        let llama = || vec![word("general.architecture", "llama"), number("llama.context_length", 512)];
        let scaled = [llama(), vec![word("llama.rope.scaling.type", "yarn")]].concat();
        for (bytes, words) in [
            (file(&[word("general.architecture", "gemma2")], "a"), "`gemma2` is not supported"),
            (file(&scaled, "a"), "rope.scaling.type"),
            (file(&llama(), "rope_freqs.weight"), "rope_freqs"),
            (file(&llama()[..1], "a"), "context_length"),
            (b"GGML....".to_vec(), "does not begin"),
        ] {
            let refused = context(&bytes).unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
        let whole = file(&llama(), "a");
        assert!((0..whole.len()).all(|end| context(&whole[..end]).is_err()));
    }
}
