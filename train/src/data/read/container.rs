//! The container of a file, told by its first bytes, and its rows one after the other.

use std::ops::ControlFlow;
use std::path::Path;

use orpo_files::{TextReader, open_text};

use super::{Row, csv, json, parquet};
use crate::error::TrainError;

/// A row as its container gives it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found {
    /// Its columns.
    pub(super) row: Row,
    /// The columns in which Python wrote NaN or an infinity, which are null in `row`.
    pub(super) not_finite: Vec<String>,
}

impl From<Row> for Found {
    fn from(row: Row) -> Self {
        Self { row, not_finite: Vec::new() }
    }
}

/// Takes a row and its number; says if more are wanted, or what is wrong with this one.
pub(super) type Sink<'a> = dyn FnMut(usize, Found) -> Result<ControlFlow<()>, String> + 'a;

/// Gives every row of a file to `sink`, numbered from 1, until it has enough. Returns what the numbers count: a `line` of
/// JSONL (blank ones count) or a `row` of a JSON array, of CSV or of parquet. Nothing but one row, or one row group of
/// parquet, is in memory at a time. With `field` the rows are the list under this key of a JSON object.
///
/// # Errors
/// When the file cannot be read or is none of these, or `sink` refuses a row.
pub(super) fn each_row(path: &Path, field: Option<&str>, sink: &mut Sink<'_>) -> Result<&'static str, TrainError> {
    if path.is_dir() {
        return Err(TrainError::invalid(path, "it is a directory; name its files, for example `DIR/*.jsonl`"));
    }
    let TextReader { head, mut reader } = open_text(path)?;
    let start = head.trim_ascii_start();
    let is_object = start.starts_with(b"{");
    if let Some(field) = field.filter(|_| !is_object) {
        let reason = format!("it is not a JSON object with the key `{field}`; leave out `field`");
        return Err(TrainError::invalid(path, reason));
    }
    if head.starts_with(b"PAR1") {
        parquet::each_row(path, sink)?;
        return Ok("row");
    }
    if start.starts_with(b"[") {
        json::array_rows(path, &mut *reader, sink)?;
        return Ok("row");
    }
    if is_object {
        let keys = json::lists_of(path, &mut *reader)?;
        let mut reader = open_text(path)?.reader;
        if let Some(key) = json::wrapper(&keys, field).map_err(|reason| TrainError::invalid(path, reason))? {
            json::rows_under(path, &mut *reader, &key, sink)?;
            return Ok("row");
        }
        json::object_rows(path, &mut *reader, sink)?;
        return Ok("line");
    }
    if let Some(delimiter) = csv::delimiter(path, start) {
        csv::each_row(path, &mut *reader, delimiter, sink)?;
        return Ok("row");
    }
    json::object_rows(path, &mut *reader, sink)?;
    Ok("line")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use serde_json::{Value, json};

    use super::*;

    type Rows = (&'static str, Vec<(usize, Value)>);

    fn rows_of(name: &str, field: Option<&str>, content: &[u8]) -> Result<Rows, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let mut rows = Vec::new();
        let unit = each_row(&path, field, &mut |number, found| {
            rows.push((number, Value::Object(found.row)));
            Ok(ControlFlow::Continue(()))
        });
        unit.map(|unit| (unit, rows)).map_err(|error| error.to_string())
    }

    fn rows(content: &[u8]) -> Result<Rows, String> {
        rows_of("rows", None, content)
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
    fn objects_may_take_several_lines_or_share_one_and_lines_end_as_they_like() {
        let expected = vec![(1, json!({"a": "}\"{"})), (4, json!({"a": [2]}))];
        for end in ["\n", "\r\n", "\r"] {
            let pretty = ["{", "  \"a\": \"}\\\"{\"", "}", "{\"a\":", "[2]}", ""].join(end);
            assert_eq!(rows(pretty.as_bytes()).unwrap(), ("line", expected.clone()), "{end:?}");
        }
        let expected = vec![(1, json!({"a": 1})), (1, json!({"a": 2})), (2, json!({"a": 3}))];
        assert_eq!(rows(b"{\"a\": 1} {\"a\": 2}\n{\"a\": 3}").unwrap(), ("line", expected));
        assert_eq!(rows(b"{\n\"a\": 1\n}").unwrap(), ("line", vec![(1, json!({"a": 1}))]));
    }

    #[test]
    fn rows_under_a_key() {
        let one = b"{\"version\": \"1.0\", \"data\": [{\"a\": 1},\n {\"a\": 2}], \"size\": 2}";
        let expected = vec![(1, json!({"a": 1})), (2, json!({"a": 2}))];
        assert_eq!(rows(one).unwrap(), ("row", expected.clone()));
        assert_eq!(rows(&gzip(one)).unwrap(), ("row", expected.clone()));
        let splits = b"{\"train\": [{\"a\": 1}, {\"a\": 2}], \"test\": [{\"a\": 3}]}";
        let error = rows(splits).unwrap_err();
        assert!(error.contains("`train` and `test`") && error.contains("field = \"train\""), "{error}");
        assert_eq!(rows_of("rows", Some("train"), splits).unwrap(), ("row", expected));
        assert_eq!(rows_of("rows", Some("test"), splits).unwrap(), ("row", vec![(1, json!({"a": 3}))]));
        // Any name will do where it is given.
        let named = b"{\"pairs\": [{\"a\": 1}], \"notes\": []}";
        assert_eq!(rows_of("rows", Some("pairs"), named).unwrap(), ("row", vec![(1, json!({"a": 1}))]));
        let error = rows_of("rows", Some("dev"), splits).unwrap_err();
        assert!(error.contains("no list under `dev`") && error.contains("`train` and `test`"), "{error}");
        assert!(rows_of("rows", Some("dev"), b"[]").unwrap_err().contains("`dev`"));
        // A row whose turns are a list is a row.
        let row = json!({"messages": [{"role": "user", "content": "a"}], "data": [{"x": 1}]});
        assert_eq!(rows(format!("{row}\n").as_bytes()).unwrap(), ("line", vec![(1, row)]));
    }

    #[test]
    fn comma_separated_values() {
        let expected = vec![
            (1, json!({"prompt": "p, \"q\"", "chosen": " a", "rejected": "b\nc"})),
            (2, json!({"prompt": "2", "chosen": "", "rejected": "d"})),
        ];
        let comma = "prompt,chosen,rejected\r\n\"p, \"\"q\"\"\", a,\"b\nc\"\r\n2,,d\r\n";
        assert_eq!(rows_of("rows.csv", None, comma.as_bytes()).unwrap(), ("row", expected.clone()));
        assert_eq!(rows(&gzip(comma.as_bytes())).unwrap(), ("row", expected.clone()));
        let tab = "\u{feff}prompt\tchosen\trejected\n\"p, \"\"q\"\"\"\t a\t\"b\nc\"\n2\t\td\n";
        assert_eq!(rows_of("rows.tsv", None, tab.as_bytes()).unwrap(), ("row", expected));
        // The index that pandas writes has no name.
        let index = rows(b",chosen,rejected\n0,a,b\n").unwrap();
        assert_eq!(index, ("row", vec![(1, json!({"chosen": "a", "rejected": "b"}))]));
        for (content, part) in [
            (&b"chosen,rejected\na,b\na\n"[..], "row 2: its number of fields is 1, but the header has 2"),
            (b"chosen,chosen\na,b\n", "two columns are called `chosen`"),
            (b"chosen,rejected\na,\xe4\n", "row 1: not UTF-8"),
        ] {
            let error = rows_of("rows.csv", None, content).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn what_is_broken_is_said() {
        let compressed = gzip(&b"{\"a\": 1}\n".repeat(50));
        for (content, expected) in [
            (&compressed[..compressed.len() / 2], "cannot read"),
            (b"[{\"a\": 1}, 3]", "row 2: not a JSON object"),
            (b"[{\"a\": 1}", "row 2: not JSON"),
            (b"[{\"a\": 1},]", "row 2: not JSON"),
            (b"[{\"a\": 1}, {\"a\"", "row 2: not JSON"),
            (b"[{\"a\": 1} {\"a\": 2}]", "row 2: not JSON"),
            (b"[{\"a\": 1}] {\"a\": 2}", "after the array"),
            (b"{\"data\": [{\"a\": 1}, 3]}", "row 2: not a JSON object"),
            (b"{\"a\": 1}\n[1]", "line 2: not a JSON object"),
            (b"{\"a\": 1}\n\n{\"a\": \"cut off\n{\"a\": 2}\n", "line 3: not JSON: EOF while parsing a string"),
            (b"{\"a\": 1}\n{\"a\": 1,\n{\"a\": 2}\n", "line 3: not JSON: key must be a string"),
            (b"{\"a\": 1}\n{\"a\": {\n", "not JSON: EOF while parsing an object"),
            (b"{\"a\": \"\xe4\"}", "line 1: not UTF-8"),
            (b"\xff\xfe{\0", "UTF-16, not UTF-8"),
            (b"\xff\xfe\0\0{\0\0\0", "UTF-32, not UTF-8"),
            (b"\0\0\0{", "UTF-32, not UTF-8"),
            (b"{\0\"\0a\0", "UTF-16, not UTF-8"),
            (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
            (b"<!DOCTYPE html><html>", "a web page"),
            (b"PK\x03\x04", "a zip archive"),
            (b"PAR1 but no more", "parquet"),
            (b"three blind mice", "line 1: not JSON"),
        ] {
            let error = rows(content).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        let end = each_row(Path::new("/"), None, &mut |_, _| Ok(ControlFlow::Continue(())));
        let error = end.unwrap_err().to_string();
        assert!(error.contains("directory"), "{error}");
    }

    #[test]
    fn numbers_that_python_writes_and_json_does_not_have_are_null() {
        let mut found = Vec::new();
        let content = r#"{"text": "NaN, -Infinity \" NaN", "a": NaN, "b": [1, -Infinity], "c": {"d":Infinity}}"#;
        for content in [content.to_string(), format!("[{content}]"), format!("{{\"data\": [{content}]}}")] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), content).unwrap();
            each_row(file.path(), None, &mut |_, row| {
                found.push(row);
                Ok(ControlFlow::Continue(()))
            })
            .unwrap();
        }
        let row = json!({"text": "NaN, -Infinity \" NaN", "a": null, "b": [1, null], "c": {"d": null}});
        let not_finite = ["a", "b", "c"].map(String::from).to_vec();
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|found| Value::Object(found.row.clone()) == row && found.not_finite == not_finite));
        assert!(rows(b"{\"a\": NaNa}").unwrap_err().contains("line 1: not JSON"));
    }

    #[test]
    fn half_a_surrogate_pair_is_named() {
        for content in [&br#"{"a": "x \ud83d y"}"#[..], br#"[{"a": "\ude00"}]"#, br#"{"a": "\ud83d\ud83d\ude00"}"#] {
            let error = rows(content).unwrap_err();
            assert!(error.contains("lone surrogate"), "{error}");
        }
        assert_eq!(rows(br#"{"a": "\ud83d\ude00 \\ud83d"}"#).unwrap().1[0].1, json!({"a": "😀 \\ud83d"}));
    }
}
