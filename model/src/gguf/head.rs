//! The head of a GGUF file: what it says of its model, and where its tensors lie.
//!
//! Layout: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::BTreeMap;
use std::io::{self, Read};

/// No key or text that matters here is longer; a larger length is a corrupt file.
const MAX_TEXT_BYTES: u64 = 1 << 24;
/// A tensor has at most four axes.
const MAX_AXES: u32 = 4;
/// Tensors begin at multiples of this where the file does not say otherwise.
const ALIGNMENT: u64 = 32;

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Entry {
    Number(f64),
    Flag(bool),
    Text(String),
    /// Its content is passed over: no list describes a model that is computed here.
    List,
}

/// Where a tensor lies, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tensor {
    /// Rows first, as in safetensors; the file has the axes the other way round.
    pub shape: Vec<usize>,
    /// The type, by its number in `ggml`.
    pub kind: u32,
    /// From the beginning of the file.
    pub offset: u64,
}

/// The head of a file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Head {
    entries: BTreeMap<String, Entry>,
    pub(super) tensors: BTreeMap<String, Tensor>,
}

impl Head {
    /// Reads a head, of version 2 or 3.
    ///
    /// # Errors
    /// When it ends too early or is none.
    pub fn read(file: &mut dyn Read) -> io::Result<Self> {
        let file = &mut Counted { file, bytes: 0 };
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
            let kind = u32::from_le_bytes(bytes(file)?);
            let entry = entry(file, kind)?;
            head.entries.insert(key, entry);
        }
        for _ in 0..tensors {
            let name = text(file)?;
            let axes = u32::from_le_bytes(bytes(file)?);
            if axes > MAX_AXES {
                return Err(corrupt(&format!("`{name}` has {axes} axes")));
            }
            let mut shape = Vec::new();
            for _ in 0..axes {
                let axis = u64::from_le_bytes(bytes(file)?);
                shape.insert(0, usize::try_from(axis).map_err(|_| corrupt(&format!("`{name}` is too large")))?);
            }
            let (kind, offset) = (u32::from_le_bytes(bytes(file)?), u64::from_le_bytes(bytes(file)?));
            let twice = format!("`{name}` is there twice");
            if head.tensors.insert(name, Tensor { shape, kind, offset }).is_some() {
                return Err(corrupt(&twice));
            }
        }
        let alignment = head.count("general.alignment").map_or(ALIGNMENT, |alignment| alignment as u64).max(1);
        let data = file.bytes.next_multiple_of(alignment);
        for (name, tensor) in &mut head.tensors {
            let offset = tensor.offset.checked_add(data);
            tensor.offset = offset.ok_or_else(|| corrupt(&format!("`{name}` lies nowhere")))?;
        }
        Ok(head)
    }

    /// The architecture, or `none`.
    pub fn architecture(&self) -> &str {
        self.text("general.architecture").unwrap_or("none")
    }

    /// A text by its key.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.entries.get(key) {
            Some(Entry::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// A positive whole number by its key.
    pub fn count(&self, key: &str) -> Option<usize> {
        let number = self.number(key)?;
        (number >= 1.0 && number.fract() == 0.0 && number < 2f64.powi(53)).then_some(number as usize)
    }

    /// The tensors' names.
    pub fn tensors(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(super) fn number(&self, key: &str) -> Option<f64> {
        match self.entries.get(key) {
            Some(Entry::Number(number)) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn contains(&self, tensor: &str) -> bool {
        self.tensors.contains_key(tensor)
    }
}

/// Counts what is read.
struct Counted<'a> {
    file: &'a mut dyn Read,
    bytes: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
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
    if file.take(length).read_to_end(&mut text)? as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    String::from_utf8(text).map_err(|_| corrupt("a text is not UTF-8"))
}

/// A value of a type by its number.
fn entry(file: &mut impl Read, kind: u32) -> io::Result<Entry> {
    Ok(match kind {
        0 => Entry::Number(u8::from_le_bytes(bytes(file)?).into()),
        1 => Entry::Number(i8::from_le_bytes(bytes(file)?).into()),
        2 => Entry::Number(u16::from_le_bytes(bytes(file)?).into()),
        3 => Entry::Number(i16::from_le_bytes(bytes(file)?).into()),
        4 => Entry::Number(u32::from_le_bytes(bytes(file)?).into()),
        5 => Entry::Number(i32::from_le_bytes(bytes(file)?).into()),
        6 => Entry::Number(f32::from_le_bytes(bytes(file)?).into()),
        7 => Entry::Flag(bytes::<1>(file)? != [0]),
        8 => Entry::Text(text(file)?),
        9 => {
            let kind = u32::from_le_bytes(bytes(file)?);
            let length = u64::from_le_bytes(bytes(file)?);
            // Lists of lists are allowed by the format, and written by nobody.
            if kind == 9 {
                return Err(corrupt("a list of lists"));
            }
            (0..length).try_for_each(|_| entry(file, kind).map(drop))?;
            Entry::List
        }
        10 => Entry::Number(u64::from_le_bytes(bytes(file)?) as f64),
        11 => Entry::Number(i64::from_le_bytes(bytes(file)?) as f64),
        12 => Entry::Number(f64::from_le_bytes(bytes(file)?)),
        _ => return Err(corrupt(&format!("unknown value type {kind}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
    }

    /// A text, a number, a list, and a tensor of two axes.
    fn file() -> Vec<u8> {
        let word = [string("general.architecture"), 8_u32.to_le_bytes().to_vec(), string("llama")].concat();
        let number = [string("n"), 6_u32.to_le_bytes().to_vec(), 0.5_f32.to_le_bytes().to_vec()].concat();
        let list = [string("tokens"), 9_u32.to_le_bytes().to_vec(), 8_u32.to_le_bytes().to_vec()].concat();
        let list = [list, 2_u64.to_le_bytes().to_vec(), string("a"), string("b")].concat();
        let head = [b"GGUF".to_vec(), 3_u32.to_le_bytes().to_vec(), 1_u64.to_le_bytes().to_vec()].concat();
        let axes = [2_u32.to_le_bytes().to_vec(), 3_u64.to_le_bytes().to_vec(), 5_u64.to_le_bytes().to_vec()].concat();
        let tensor = [string("w"), axes, 8_u32.to_le_bytes().to_vec(), 64_u64.to_le_bytes().to_vec()].concat();
        [head, 3_u64.to_le_bytes().to_vec(), word, number, list, tensor].concat()
    }

    #[test]
    fn a_head_tells_of_the_model_and_its_tensors() {
        let bytes = file();
        let head = Head::read(&mut &*bytes).unwrap();
        assert_eq!((head.architecture(), head.number("n"), head.count("n")), ("llama", Some(0.5), None));
        let data = (bytes.len() as u64).next_multiple_of(32);
        assert_eq!(head.tensors["w"], Tensor { shape: vec![5, 3], kind: 8, offset: data + 64 });
    }

    #[test]
    fn a_head_that_ends_too_early_or_is_none_is_refused() {
        let bytes = file();
        assert!((0..bytes.len()).all(|end| Head::read(&mut &bytes[..end]).is_err()));
        let refused = |bytes: &[u8]| Head::read(&mut &*bytes).unwrap_err().to_string();
        assert!(refused(b"GGML....").contains("does not begin with `GGUF`"));
        assert!(refused(b"GGUF\x01\0\0\0").contains("version 1 is not 2 or 3"));
        // The length of a text that no file can have.
        assert!(refused(&[&bytes[..24], &[0xff; 8]].concat()).contains("too long"));
    }
}
