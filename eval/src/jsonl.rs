//! The one reader of input files, with the line in every error.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use orpo_files::{FileError, non_finite, replace_outside_strings};
use serde::de::{DeserializeOwned, IgnoredAny};

/// What is wrong with an input, and where.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// A line that cannot be used.
    #[error("{}:{line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// The file as a whole.
    #[error("cannot use `{}`: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl From<FileError> for InputError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Read { path, source } | FileError::Write { path, source } => {
                Self::File { path, problem: source.to_string() }
            }
            FileError::Invalid { path, reason } => Self::File { path, problem: reason },
        }
    }
}

/// The bytes of a file: unpacked if it is compressed with gzip, and without a byte order mark.
///
/// # Errors
/// When it cannot be read, or is plainly not UTF-8 text.
pub fn read(path: &Path) -> Result<Vec<u8>, InputError> {
    Ok(orpo_files::read_text(path)?)
}

/// The text of a file, as [`read`].
///
/// # Errors
/// As [`read`], and at the first line that is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, InputError> {
    let bytes = read(path)?;
    decode(path, &bytes).map(str::to_owned)
}

/// The text of a JSON file, for `serde_json`: Python's `NaN` and `Infinity` are null.
///
/// # Errors
/// As [`read_text`].
pub fn read_json(path: &Path) -> Result<String, InputError> {
    let bytes = read(path)?;
    decode(path, &bytes).map(|text| standard(text).into_owned())
}

const BYTE_ORDER_MARK: &str = "\u{feff}";

fn decode<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str, InputError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        let column = before.iter().rev().take_while(|&&byte| byte != b'\n').count() + 1;
        let problem = format!("invalid UTF-8 at byte {column} of the line; save the file as UTF-8");
        InputError::Line { path: path.to_owned(), line, problem }
    })
}

/// JSON in the words of the standard. What other programs write outside of strings becomes: `NaN` and `Infinity`, as
/// Python has them, null; a byte order mark, as joined files have it, a space; and a lone carriage return a line end.
fn standard(text: &str) -> Cow<'_, str> {
    const OTHERS: [(&str, &str); 3] = [(BYTE_ORDER_MARK, " "), ("\r\n", "\n"), ("\r", "\n")];
    if !["NaN", "Infinity", BYTE_ORDER_MARK, "\r"].iter().any(|word| text.contains(word)) {
        return Cow::Borrowed(text);
    }
    replace_outside_strings(text, |rest| {
        let other = || OTHERS.iter().find(|(word, _)| rest.starts_with(word)).map(|(word, by)| (word.len(), *by));
        non_finite(rest).map(|length| (length, "null")).or_else(other)
    })
}

/// The rows of a file with their line numbers, in any of the layouts that programs write: one row a line, objects over
/// several lines, one list, or one object around a list (`{"data": [...]}`). Blank lines are skipped.
///
/// # Errors
/// At the first line that is not UTF-8 or not a row.
pub fn rows<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<Vec<(usize, T)>, InputError> {
    let text = standard(decode(path, bytes)?);
    let json = Json { path, text: &text };
    let start = json.after_space(0);
    if text[start..].starts_with('[') {
        return json.elements(start + 1, true);
    }
    if let Some(list) = json.list_inside(start) {
        return json.elements(list + 1, false);
    }
    let is_whole = |line: &str| serde_json::from_str::<IgnoredAny>(line).is_ok();
    let mut first = text.lines().filter(|line| !line.trim().is_empty()).take(2);
    // The second line tells, too: the first one may be the broken one.
    if first.any(is_whole) { json.lines() } else { json.objects(start) }
}

/// The text of a file and its name in messages.
#[derive(Clone, Copy)]
struct Json<'a> {
    path: &'a Path,
    text: &'a str,
}

type Rows<T> = Result<Vec<(usize, T)>, InputError>;

impl Json<'_> {
    fn failed(&self, line: usize, problem: impl Into<String>) -> InputError {
        InputError::Line { path: self.path.to_owned(), line, problem: problem.into() }
    }

    fn line_of(&self, at: usize) -> usize {
        1 + self.text[..at].bytes().filter(|&byte| byte == b'\n').count()
    }

    fn after_space(&self, at: usize) -> usize {
        self.text.len() - self.text[at..].trim_ascii_start().len()
    }

    /// The value that begins at a place, and where it ends. `None` at the end of the text.
    fn value<T: DeserializeOwned>(&self, at: usize) -> Option<Result<(T, usize), serde_json::Error>> {
        let mut stream = serde_json::Deserializer::from_str(&self.text[at..]).into_iter();
        Some(stream.next()?.map(|value| (value, at + stream.byte_offset())))
    }

    /// One row a line.
    fn lines<T: DeserializeOwned>(&self) -> Rows<T> {
        let lines = (1..).zip(self.text.lines()).filter(|(_, line)| !line.trim().is_empty());
        let row = |(line, text)| match serde_json::from_str(text) {
            Ok(row) => Ok((line, row)),
            Err(error) => Err(self.failed(line, describe(&error))),
        };
        lines.map(row).collect()
    }

    /// One row after the other, whatever lines they take.
    fn objects<T: DeserializeOwned>(&self, mut at: usize) -> Rows<T> {
        let (mut rows, mut lines) = (Vec::new(), Lines::default());
        while at < self.text.len() {
            let line = lines.up_to(self.text, at);
            let Some(row) = self.value(at) else { break };
            let (row, end) =
                row.map_err(|error| self.failed(line + error.line().saturating_sub(1), describe(&error)))?;
            rows.push((line, row));
            at = self.after_space(end);
        }
        Ok(rows)
    }

    /// The elements of a list that begins in front of `at`, which may be all that the file holds.
    fn elements<T: DeserializeOwned>(&self, mut at: usize, is_all: bool) -> Rows<T> {
        let (mut rows, mut lines) = (Vec::new(), Lines::default());
        loop {
            at = self.after_space(at);
            if rows.is_empty() && self.text[at..].starts_with(']') {
                break;
            }
            let line = lines.up_to(self.text, at);
            let end = match self.value(at) {
                Some(Ok((row, end))) => {
                    rows.push((line, row));
                    end
                }
                Some(Err(error)) => return Err(self.failed(line + error.line().saturating_sub(1), describe(&error))),
                None => return Err(self.failed(line, "invalid JSON: the list does not end")),
            };
            at = self.after_space(end);
            match self.text[at..].chars().next() {
                Some(',') => at += 1,
                Some(']') => break,
                _ => {
                    let problem = "invalid JSON: expected `,` or `]` after this element";
                    return Err(self.failed(self.line_of(at), problem));
                }
            }
        }
        let rest = self.after_space(at + 1);
        if is_all && rest < self.text.len() {
            return Err(self.failed(self.line_of(rest), "invalid JSON: something follows the list"));
        }
        Ok(rows)
    }

    /// Where the list of rows begins in a file that is one object around it: the field `data`, or the only field.
    fn list_inside(&self, start: usize) -> Option<usize> {
        let next = |at: usize, wanted: char| self.text[at..].starts_with(wanted).then(|| self.after_space(at + 1));
        let mut fields: Vec<(String, usize)> = Vec::new();
        let mut at = next(start, '{')?;
        loop {
            let (name, end) = self.value::<String>(at)?.ok()?;
            let value = next(self.after_space(end), ':')?;
            fields.push((name, value));
            let (_, end) = self.value::<IgnoredAny>(value)?.ok()?;
            at = self.after_space(end);
            match next(at, ',') {
                Some(field) => at = field,
                None => break,
            }
        }
        let is_the_only_object = next(at, '}')? == self.text.len();
        let is_only = fields.len() == 1;
        let (_, list) = fields.into_iter().find(|(name, _)| is_only || name == "data")?;
        let first = next(list, '[')?;
        (is_the_only_object && self.text[first..].starts_with(['{', ']'])).then_some(list)
    }
}

/// Counts lines from the front.
#[derive(Default)]
struct Lines {
    ended: usize,
    counted: usize,
}

impl Lines {
    /// The line that a place is on, which must not lie before the last one that was asked for.
    fn up_to(&mut self, text: &str, at: usize) -> usize {
        self.ended += text[self.counted..at].bytes().filter(|&byte| byte == b'\n').count();
        self.counted = at;
        1 + self.ended
    }
}

/// The message of a JSON error without its line, which is counted from the beginning of the row.
fn describe(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    let kind = if error.is_data() { "not a usable row" } else { "invalid JSON" };
    format!("{kind}: {message} (column {})", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    struct Row {
        name: Option<String>,
    }

    fn named(bytes: &[u8]) -> Result<Vec<(usize, String)>, String> {
        #[derive(Deserialize)]
        struct Named {
            name: String,
        }
        let rows = rows::<Named>(Path::new("f"), bytes).map_err(|error| error.to_string())?;
        Ok(rows.into_iter().map(|(line, row)| (line, row.name)).collect())
    }

    fn expected(lines: [usize; 2]) -> Vec<(usize, String)> {
        vec![(lines[0], "a".into()), (lines[1], "b".into())]
    }

    #[test]
    fn rows_carry_their_lines_in_every_layout() {
        for (text, lines) in [
            ("{\"name\": \"a\"}\r\n\n{\"name\": \"b\"}", [1, 3]),
            ("{\"name\": \"a\"}\r\r{\"name\": \"b\"}\r", [1, 3]),
            ("\u{feff}{\"name\": \"a\"}\n\u{feff}{\"name\": \"b\"}\n", [1, 2]),
            ("{\n \"name\": \"a\"\n}\n{\n \"name\":\n \"b\"}\n", [1, 4]),
            ("{\"name\": \"a\"} {\"name\": \"b\"}", [1, 1]),
            ("[\n  {\"name\": \"a\"},\n\n\n{\n\"name\": \"b\"} ]\n", [2, 5]),
            ("{\"data\": [\n{\"name\": \"a\"},\n{\"name\": \"b\"}\n]}", [2, 3]),
            ("{\"version\": {},\n\"data\": [{\"name\": \"a\"},\n{\"name\": \"b\"}], \"n\": 2}", [2, 3]),
            ("{\"examples\": [{\"name\": \"a\"}, {\"name\": \"b\"}]}", [1, 1]),
        ] {
            assert_eq!(named(text.as_bytes()).unwrap(), expected(lines), "{text:?}");
        }
        for nothing in ["", "\n \n", " [ ] ", "{\"data\": []}", "\u{feff}"] {
            assert_eq!(named(nothing.as_bytes()).unwrap(), [], "{nothing:?}");
        }
    }

    #[test]
    fn a_single_row_with_a_list_is_still_a_row() {
        #[derive(Deserialize)]
        struct Example {
            kwargs: Vec<IgnoredAny>,
        }
        let row = b"{\"key\": 1, \"kwargs\": [{}, {}]}";
        assert_eq!(rows::<Example>(Path::new("f"), row).unwrap()[0].1.kwargs.len(), 2);
        assert!(named(b"{\"data\": 3}").unwrap_err().contains("missing field `name`"));
    }

    #[test]
    fn numbers_that_only_python_writes_are_null_outside_of_strings() {
        let text = r#"{"score": NaN, "name": "NaN \" Infinity", "low": [-Infinity, Infinity]}"#;
        assert_eq!(named(text.as_bytes()).unwrap(), [(1, "NaN \" Infinity".to_owned())]);
        assert_eq!(rows::<Row>(Path::new("f"), b"{\"name\": NaN}").unwrap()[0].1.name, None);
        // A string that does not end does not hide what is on the next line.
        let message = named(b"{\"name\": \"a\", \"x\": 1}\n{\"name\": \"b\n{\"name\": NaN}").unwrap_err();
        assert!(message.starts_with("f:2: invalid JSON: "), "{message}");
    }

    #[test]
    fn errors_name_file_line_and_cause() {
        for (text, message) in [
            ("\n{", "f:2: invalid JSON: EOF while parsing an object (column 1)"),
            ("{}", "f:1: not a usable row: missing field `name` (column 2)"),
            ("{\"name\": \"a\"\n{\"name\": \"b\"}", "f:1: invalid JSON: EOF while parsing an object"),
            ("{\"name\": \"a\"}\n{\"name\": 3}", "f:2: not a usable row: invalid type: integer `3`"),
            ("{\n\"name\": \"a\"\n}\n{\n\"name\": 3\n}", "f:5: not a usable row: invalid type: integer `3`"),
            ("[{\"name\": \"a\"},\n{}]", "f:2: not a usable row: missing field `name`"),
            ("[{\"name\": \"a\"},\n", "f:2: invalid JSON: the list does not end"),
            ("[{\"name\": \"a\"}\n{}]", "f:2: invalid JSON: expected `,` or `]` after this element"),
            ("[{\"name\": \"a\"},]", "f:1: invalid JSON: "),
            ("[]\n{}", "f:2: invalid JSON: something follows the list"),
            ("[{\"name\"\n: 3}]", "f:2: not a usable row: invalid type"),
            ("{\"data\": [{\"name\": \"a\"},\n{}]}", "f:2: not a usable row: missing field `name`"),
        ] {
            let error = named(text.as_bytes()).unwrap_err();
            assert!(error.starts_with(message), "{error}");
        }
        let message = named(b"\n{\"name\": \"\xff\"}").unwrap_err();
        assert_eq!(message, "f:2: invalid UTF-8 at byte 11 of the line; save the file as UTF-8");
    }

    #[test]
    fn a_file_that_is_not_utf_8_is_refused_where_it_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, b"\xef\xbb\xbf{}\n").unwrap();
        assert_eq!((read(&path).unwrap(), read_text(&path).unwrap()), (b"{}\n".to_vec(), "{}\n".into()));
        std::fs::write(&path, b"\n\xe9").unwrap();
        let message = read_text(&path).unwrap_err().to_string();
        assert!(message.ends_with("f:2: invalid UTF-8 at byte 1 of the line; save the file as UTF-8"), "{message}");
        for (content, expected) in [(&b"{\0}\0"[..], "it is UTF-16, not UTF-8"), (b"\x1f\x8b\x08", "")] {
            std::fs::write(&path, content).unwrap();
            let message = read(&path).unwrap_err().to_string();
            assert!(message.contains(&format!("cannot use `{}`: {expected}", path.display())), "{message}");
        }
    }
}
