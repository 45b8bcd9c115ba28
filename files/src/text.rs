//! Text files, whatever wrote them: compressed with gzip or not, with a byte order mark or without; and the files that are
//! taken for text and are none.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use crate::FileError;

/// Bytes by which a file is known.
const HEAD: usize = 512;
const GZIP: &[u8] = b"\x1f\x8b";
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The content of a file that was opened by [`open_text`].
pub struct TextReader {
    /// Its first bytes, at most 512, which `reader` gives as well.
    pub head: Vec<u8>,
    /// All of it, from the beginning.
    pub reader: Box<dyn BufRead>,
}

/// Opens a text file: what is read is decompressed and has no byte order mark. Parquet files, which are told by their first
/// bytes, are left to the caller.
///
/// # Errors
/// When it cannot be read, or is plainly not text in UTF-8: what it is, and what to do.
pub fn open_text(path: &Path) -> Result<TextReader, FileError> {
    let read = |error| FileError::read(path, error);
    let file = File::open(path).map_err(read)?;
    let mut text = peek(Box::new(BufReader::new(file))).map_err(read)?;
    if text.head.starts_with(GZIP) {
        text = peek(Box::new(BufReader::new(MultiGzDecoder::new(text.reader)))).map_err(read)?;
    }
    if let Some(reason) = unreadable(&text.head) {
        return Err(FileError::invalid(path, reason));
    }
    if text.head.starts_with(BYTE_ORDER_MARK) {
        text.reader.read_exact(&mut [0; BYTE_ORDER_MARK.len()]).map_err(read)?;
        text.head.drain(..BYTE_ORDER_MARK.len());
    }
    Ok(text)
}

/// The bytes of a text file, as [`open_text`] gives them.
///
/// # Errors
/// As [`open_text`].
pub fn read_text(path: &Path) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    open_text(path)?.reader.read_to_end(&mut bytes).map_err(|error| FileError::read(path, error))?;
    Ok(bytes)
}

/// The first bytes of `reader`, and the reader as if they had not been read.
fn peek(mut reader: Box<dyn BufRead>) -> io::Result<TextReader> {
    let mut head = Vec::new();
    reader.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
    Ok(TextReader { head: head.clone(), reader: Box::new(Cursor::new(head).chain(reader)) })
}

/// The reason why a file that begins like this cannot be read as text.
fn unreadable(head: &[u8]) -> Option<String> {
    if is_lfs_pointer(head) {
        return Some("it is a Git LFS pointer, not the data; fetch the file with `git lfs pull`".into());
    }
    // Text that begins with an ASCII character has a zero byte there in UTF-16 and UTF-32.
    let first = &head[..head.len().min(4)];
    if first.len() == 4 && (first[..2] == [0; 2] || first[2..] == [0; 2]) {
        return Some("it is UTF-32, not UTF-8; convert it, for example with `iconv -f UTF-32 -t UTF-8`".into());
    }
    if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") || first.contains(&0) {
        return Some("it is UTF-16, not UTF-8; convert it, for example with `iconv -f UTF-16 -t UTF-8`".into());
    }
    const OTHERS: [(&[u8], &str); 5] = [
        (b"PK\x03\x04", "a zip archive"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
        (b"\xfd7zXZ", "compressed with xz"),
        (b"BZh", "compressed with bzip2"),
        (b"ARROW1", "an Arrow file, not parquet"),
    ];
    if let Some((_, name)) = OTHERS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Some(format!(
            "it is {name}; unpack it to JSONL, JSON, CSV or parquet first (gzip can be read as it is)"
        ));
    }
    let start = head.trim_ascii_start();
    let is_page = [&b"<!doctype html"[..], b"<html"]
        .iter()
        .any(|tag| start.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag)));
    is_page.then(|| "it is a web page, not data; download the file itself".into())
}

/// True if a file that begins like this is what Git leaves in the place of a large one that it has not fetched.
pub fn is_lfs_pointer(head: &[u8]) -> bool {
    head.starts_with(b"version https://git-lfs")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn read(content: &[u8]) -> Result<Vec<u8>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        read_text(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_is_read_whatever_wrote_it() {
        let marked = b"\xef\xbb\xbf{}\n";
        let members = [gzip(b"{"), gzip(b"}\n")].concat();
        for content in [&b"{}\n"[..], marked, &gzip(b"{}\n"), &gzip(marked), &members] {
            assert_eq!(read(content).unwrap(), b"{}\n");
        }
        let long = "a\n".repeat(HEAD);
        assert_eq!(read(long.as_bytes()).unwrap(), long.as_bytes());
        assert_eq!(read(b"").unwrap(), b"");
    }

    #[test]
    fn the_head_is_part_of_what_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), gzip(&[b"\xef\xbb\xbf".to_vec(), vec![b'a'; 2 * HEAD]].concat())).unwrap();
        let mut text = open_text(file.path()).unwrap();
        assert_eq!(text.head, vec![b'a'; HEAD - 3]);
        let mut all = Vec::new();
        text.reader.read_to_end(&mut all).unwrap();
        assert_eq!(all, vec![b'a'; 2 * HEAD]);
    }

    #[test]
    fn what_is_not_text_is_named() {
        let utf16 = |order: fn(u16) -> [u8; 2]| "{}".encode_utf16().flat_map(order).collect::<Vec<u8>>();
        for (content, expected) in [
            (&utf16(u16::to_le_bytes)[..], "UTF-16, not UTF-8"),
            (&utf16(u16::to_be_bytes), "UTF-16, not UTF-8"),
            (b"\xff\xfe{\0", "UTF-16, not UTF-8"),
            (b"\xe5\x65{\0", "UTF-16, not UTF-8"),
            (b"\xff\xfe\0\0{\0\0\0", "UTF-32, not UTF-8"),
            (b"\0\0\0{", "UTF-32, not UTF-8"),
            (&gzip(b"{\0\"\0a\0"), "UTF-16, not UTF-8"),
            (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
            (b"\n<!DOCTYPE html><html>", "a web page"),
            (b"PK\x03\x04", "a zip archive"),
            (&gzip(b"abc")[..5], "cannot read"),
        ] {
            let error = read(content).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
}
