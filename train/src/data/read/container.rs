//! What a file is, by its first bytes, and its rows one after the other.

use std::fs::File;
use std::io::{BufRead, BufReader, Chain, Cursor, Read};
use std::ops::ControlFlow;
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::{Row, json, parquet};
use crate::error::TrainError;

/// Takes a row and its number; says whether more are wanted, or what is wrong with this one.
pub(super) type Sink<'a> = dyn FnMut(usize, Row) -> Result<ControlFlow<()>, String> + 'a;

/// Bytes that tell one container from another.
const HEAD: usize = 512;

/// Gives every object of a file to `sink`, numbered from 1, until it has enough. Returns what the numbers count: a
/// `line` of JSONL (blank ones count) or a `row` of a JSON array or of parquet. Nothing but one row, or one row group
/// of parquet, is in memory at a time.
///
/// # Errors
/// When the file cannot be read or is none of these, or `sink` refuses a row.
pub(super) fn each_row(path: &Path, sink: &mut Sink<'_>) -> Result<&'static str, TrainError> {
    if path.is_dir() {
        return Err(TrainError::invalid(path, "it is a directory; name its files, for example `DIR/*.jsonl`"));
    }
    let file = File::open(path).map_err(|e| TrainError::read(path, e))?;
    let (head, reader) = peek(BufReader::new(file)).map_err(|e| TrainError::read(path, e))?;
    if head.starts_with(b"PAR1") {
        parquet::each_row(path, sink)?;
        return Ok("row");
    }
    if head.starts_with(&[0x1f, 0x8b]) {
        let (head, reader) =
            peek(BufReader::new(MultiGzDecoder::new(reader))).map_err(|e| TrainError::read(path, e))?;
        return text_rows(path, &head, reader, sink);
    }
    text_rows(path, &head, reader, sink)
}

fn text_rows(
    path: &Path,
    head: &[u8],
    mut reader: impl BufRead,
    sink: &mut Sink<'_>,
) -> Result<&'static str, TrainError> {
    const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
    let mut start = head;
    if let Some(rest) = head.strip_prefix(BYTE_ORDER_MARK) {
        reader.read_exact(&mut [0; 3]).map_err(|e| TrainError::read(path, e))?;
        start = rest;
    }
    if start.starts_with(b"version https://git-lfs") {
        let reason = "it is a Git LFS pointer, not the data; fetch the file with `git lfs pull`";
        return Err(TrainError::invalid(path, reason));
    }
    if start.trim_ascii_start().starts_with(b"[") {
        json::array_rows(path, reader, sink)?;
        return Ok("row");
    }
    json::line_rows(path, reader, sink)?;
    Ok("line")
}

/// The first bytes of `reader`, and the reader as if they had not been read.
#[expect(clippy::type_complexity, reason = "the type says exactly this")]
fn peek<R: BufRead>(mut reader: R) -> std::io::Result<(Vec<u8>, Chain<Cursor<Vec<u8>>, R>)> {
    let mut head = Vec::new();
    reader.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
    Ok((head.clone(), Cursor::new(head).chain(reader)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use serde_json::{Value, json};

    use super::*;

    type Found = (&'static str, Vec<(usize, Value)>);

    fn rows(content: &[u8]) -> Result<Found, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let mut rows = Vec::new();
        let unit = each_row(file.path(), &mut |number, row| {
            rows.push((number, Value::Object(row)));
            Ok(ControlFlow::Continue(()))
        });
        unit.map(|unit| (unit, rows)).map_err(|error| error.to_string())
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn lines_and_arrays_plain_and_compressed_are_told_apart_by_content() {
        let lines = b"\n{\"a\": 1}\r\n\n{\"a\": 2}";
        let expected = vec![(2, json!({"a": 1})), (4, json!({"a": 2}))];
        assert_eq!(rows(lines).unwrap(), ("line", expected.clone()));
        assert_eq!(rows(&gzip(lines)).unwrap(), ("line", expected.clone()));
        let members = [gzip(&lines[..10]), gzip(&lines[10..])].concat();
        assert_eq!(rows(&members).unwrap(), ("line", expected));

        let expected = vec![(1, json!({"a": 1})), (2, json!({"a": 2}))];
        for array in [&b"[{\"a\": 1},{\"a\": 2}]"[..], b"\xef\xbb\xbf \n[\n {\"a\":\n1},\n {\"a\": 2}\n]\n"] {
            assert_eq!(rows(array).unwrap(), ("row", expected.clone()));
            assert_eq!(rows(&gzip(array)).unwrap(), ("row", expected.clone()));
        }
        assert_eq!(rows(b"").unwrap(), ("line", vec![]));
        assert_eq!(rows(b"[]").unwrap(), ("row", vec![]));
    }

    #[test]
    fn what_is_broken_is_said() {
        let compressed = gzip(&b"{\"a\": 1}\n".repeat(50));
        for (content, expected) in [
            (&compressed[..compressed.len() / 2], "cannot read"),
            (b"[{\"a\": 1}, 3]", "row 2: not a JSON object"),
            (b"[{\"a\": 1}", "row 2: not JSON"),
            (b"[{\"a\": 1}] {\"a\": 2}", "after the array"),
            (b"{\"a\": 1}\n[1]", "line 2: not a JSON object"),
            (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
            (b"PAR1 but no more", "parquet"),
        ] {
            let error = rows(content).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let error = each_row(Path::new("/"), &mut |_, _| Ok(ControlFlow::Continue(()))).unwrap_err().to_string();
        assert!(error.contains("directory"), "{error}");
    }
}
