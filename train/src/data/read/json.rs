//! JSON objects one after the other, a JSON array of objects, and such an array under a key of an object.

use std::borrow::Cow;
use std::io::{self, BufRead};
use std::ops::ControlFlow;
use std::path::Path;

use orpo_files::{non_finite, replace_outside_strings};
use serde::de::IgnoredAny;
use serde_json::{Deserializer, Error, Value};

use super::Row;
use super::container::{Found, Sink};
use super::scan::{Nesting, Scanner, read_line};
use crate::error::TrainError;

/// What is said of bytes that are not UTF-8.
pub(super) const NOT_UTF8: &str =
    "not UTF-8; convert the file, for example from latin-1 with `iconv -f LATIN1 -t UTF-8`";

/// Objects one after the other: one per line, several on a line, or one on several lines.
pub(super) fn object_rows(path: &Path, reader: &mut dyn BufRead, sink: &mut Sink<'_>) -> Result<(), TrainError> {
    let mut line = Vec::new();
    // The lines of an object that is not complete, and the number of the first.
    let (mut text, mut first) = (String::new(), 1);
    let mut nesting = Nesting::default();
    // Length from which an incomplete text is looked at for errors, so that a broken line does not swallow the rest of the
    // file; it doubles, so that a long object is not parsed over and over.
    let mut unchecked = 0;
    let mut number = 0;
    while read_line(reader, &mut line).map_err(|e| TrainError::read(path, e))? {
        number += 1;
        let said = std::str::from_utf8(&line).map_err(|_| TrainError::row(path, "line", number, NOT_UTF8))?;
        if text.is_empty() {
            if said.trim().is_empty() {
                continue;
            }
            first = number;
        } else {
            text.push('\n');
        }
        text.push_str(said);
        nesting.feed(&line);
        if nesting.is_open() {
            if text.len() >= unchecked {
                let error = values::<IgnoredAny>(&finite(&text)).err().filter(|error| !error.is_eof());
                if let Some(error) = error {
                    return Err(at_line(path, first, &text, &error));
                }
                unchecked = 2 * text.len();
            }
            continue;
        }
        for row in rows(&text).map_err(|error| at_line(path, first, &text, &error))? {
            let wrong = |reason: String| TrainError::row(path, "line", first, reason);
            if sink(first, row.map_err(wrong)?).map_err(wrong)?.is_break() {
                return Ok(());
            }
        }
        (nesting, unchecked) = (Nesting::default(), 0);
        text.clear();
    }
    match values::<IgnoredAny>(&finite(&text)) {
        Err(error) => Err(at_line(path, first, &text, &error)),
        Ok(_) => Ok(()),
    }
}

/// The objects of one array, read one at a time.
pub(super) fn array_rows(path: &Path, reader: &mut dyn BufRead, sink: &mut Sink<'_>) -> Result<(), TrainError> {
    let mut scanner = Scanner::new(reader);
    if elements(path, &mut scanner, sink)?.is_continue()
        && scanner.peek().map_err(|e| TrainError::read(path, e))?.is_some()
    {
        return Err(TrainError::invalid(path, "something follows after the array, which must be all of the file"));
    }
    Ok(())
}

/// The objects of the array under `key` of the object that the file is.
pub(super) fn rows_under(
    path: &Path,
    reader: &mut dyn BufRead,
    key: &str,
    sink: &mut Sink<'_>,
) -> Result<(), TrainError> {
    let mut scanner = Scanner::new(reader);
    let read = |error| TrainError::read(path, error);
    while let Some(found) = scanner.key().map_err(read)? {
        if found == key && scanner.peek().map_err(read)? == Some(b'[') {
            return elements(path, &mut scanner, sink).map(|_| ());
        }
        scanner.skip().map_err(read)?;
    }
    Err(TrainError::invalid(path, format!("it has no list under `{key}`")))
}

/// The keys of the first object of a file, and if a list is under each.
pub(super) fn lists_of(path: &Path, reader: &mut dyn BufRead) -> Result<Vec<(String, bool)>, TrainError> {
    let mut scanner = Scanner::new(reader);
    let read = |error| TrainError::read(path, error);
    let mut keys = Vec::new();
    while let Some(key) = scanner.key().map_err(read)? {
        keys.push((key, scanner.peek().map_err(read)? == Some(b'[')));
        scanner.skip().map_err(read)?;
    }
    Ok(keys)
}

/// Keys under which files keep all of their rows, or the rows of a split.
const WRAPPERS: [&str; 16] = [
    "data",
    "rows",
    "examples",
    "instances",
    "items",
    "records",
    "dataset",
    "train",
    "training",
    "test",
    "validation",
    "valid",
    "val",
    "dev",
    "eval",
    "evaluation",
];

/// Columns by which an object is known as a row.
const ROW_COLUMNS: [&str; 7] = ["chosen", "rejected", "prompt", "messages", "conversations", "text", "question"];

/// The key under which the rows are, if the first object of a file, whose keys are given, is not a row itself.
///
/// # Errors
/// When several keys may be meant, or there is no list under `field`.
pub(super) fn wrapper(keys: &[(String, bool)], field: Option<&str>) -> Result<Option<String>, String> {
    let lists = || keys.iter().filter(|(_, is_list)| *is_list).map(|(key, _)| key.as_str());
    if let Some(field) = field {
        return match lists().find(|key| *key == field) {
            Some(key) => Ok(Some(key.into())),
            None => Err(format!("it has no list under `{field}`; it has {}", listed(&lists().collect::<Vec<_>>()))),
        };
    }
    if keys.iter().any(|(key, _)| ROW_COLUMNS.contains(&key.as_str())) {
        return Ok(None);
    }
    let found: Vec<&str> = lists().filter(|key| WRAPPERS.contains(key)).collect();
    match found.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(only.to_string())),
        [first, ..] => Err(format!(
            "it has rows under {}; say which are meant: {{ source = \"...\", field = \"{first}\" }}",
            listed(&found)
        )),
    }
}

fn listed(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        None => "none".into(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

/// The objects of the array at which `scanner` is.
fn elements(path: &Path, scanner: &mut Scanner<'_>, sink: &mut Sink<'_>) -> Result<ControlFlow<()>, TrainError> {
    let read = |error: io::Error| TrainError::read(path, error);
    scanner.advance().map_err(read)?;
    if scanner.peek().map_err(read)? == Some(b']') {
        scanner.advance().map_err(read)?;
        return Ok(ControlFlow::Continue(()));
    }
    let mut bytes = Vec::new();
    for number in 1.. {
        let wrong = |reason: String| TrainError::row(path, "row", number, reason);
        bytes.clear();
        scanner.value(&mut bytes).map_err(read)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| wrong(NOT_UTF8.into()))?;
        let mut rows = rows(text).map_err(|error| wrong(explained(text, &error)))?;
        let row = rows.pop().unwrap_or_else(|| Err("not JSON: a value is missing".into())).map_err(wrong)?;
        if sink(number, row).map_err(wrong)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        match scanner.peek().map_err(read)? {
            Some(b',') => scanner.advance().map_err(read)?,
            Some(b']') => {
                scanner.advance().map_err(read)?;
                break;
            }
            other => {
                let reason = match other {
                    None => "not JSON: the file ends within the array",
                    Some(_) => "not JSON: expected `,` or `]` before it",
                };
                return Err(TrainError::row(path, "row", number + 1, reason));
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// All values of a text.
fn values<T: serde::de::DeserializeOwned>(text: &str) -> Result<Vec<T>, Error> {
    Deserializer::from_str(text).into_iter().collect()
}

/// The objects of a text, which may hold NaN and infinities as Python writes them.
fn rows(text: &str) -> Result<Vec<Result<Found, String>>, Error> {
    let found = match values::<Value>(text) {
        Ok(values) => values.into_iter().map(|value| (value, false)).collect::<Vec<_>>(),
        Err(error) => match finite(text) {
            Cow::Borrowed(_) => return Err(error),
            Cow::Owned(text) => values::<Value>(&text)?.into_iter().map(|value| (value, true)).collect(),
        },
    };
    Ok(found.into_iter().map(|(value, has_marks)| object(value, has_marks)).collect())
}

fn object(value: Value, has_marks: bool) -> Result<Found, String> {
    let Value::Object(row) = value else { return Err("not a JSON object".into()) };
    let mut found = Found::from(row);
    if has_marks {
        for (name, value) in &mut found.row {
            if clear_marks(value) {
                found.not_finite.push(name.clone());
            }
        }
    }
    Ok(found)
}

/// Takes the place of a number that is not finite until its column is known; JSON text cannot have it by chance.
const MARK: &str = "\0not finite";
const MARK_AS_JSON: &str = "\"\\u0000not finite\"";

/// Makes every mark null; true if there was one.
fn clear_marks(value: &mut Value) -> bool {
    match value {
        Value::String(text) if text == MARK => {
            *value = Value::Null;
            true
        }
        Value::Array(items) => items.iter_mut().map(clear_marks).filter(|found| *found).count() > 0,
        Value::Object(fields) => fields.values_mut().map(clear_marks).filter(|found| *found).count() > 0,
        _ => false,
    }
}

/// The text with a mark for each `NaN`, `Infinity` and `-Infinity` outside of strings.
fn finite(text: &str) -> Cow<'_, str> {
    replace_outside_strings(text, |rest| non_finite(rest).map(|length| (length, MARK_AS_JSON)))
}

/// The error of a text that begins on the line `first`, with the line on which it is.
fn at_line(path: &Path, first: usize, text: &str, error: &Error) -> TrainError {
    TrainError::row(path, "line", first + error.line().saturating_sub(1), explained(text, error))
}

fn explained(text: &str, error: &Error) -> String {
    if has_lone_surrogate(text) {
        return "not JSON: a lone surrogate (half of a pair such as `\\ud83d\\ude00`), which is not a character".into();
    }
    let said = error.to_string();
    let reason = said.rsplit_once(" at line ").map_or(said.as_str(), |(reason, _)| reason);
    format!("not JSON: {reason} (column {})", error.column())
}

/// True if an escape is half of a surrogate pair without the other.
fn has_lone_surrogate(text: &str) -> bool {
    let code = |rest: &str| rest.strip_prefix("\\u").and_then(|rest| u16::from_str_radix(rest.get(..4)?, 16).ok());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        rest = &rest[at..];
        let length = match code(rest) {
            Some(0xd800..=0xdbff) if !matches!(code(&rest[6..]), Some(0xdc00..=0xdfff)) => return true,
            Some(0xd800..=0xdbff) => 12,
            Some(0xdc00..=0xdfff) => return true,
            Some(_) => 6,
            // The backslash and what it escapes, which may be longer than a byte.
            None => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
        };
        rest = &rest[length..];
    }
    false
}

/// A string that holds the turns of a conversation as JSON, as CSV files do, as these turns.
pub(super) fn turns_of_text(text: &str) -> Option<Value> {
    if !text.trim_start().starts_with("[{") && !text.trim_start().starts_with("[ {") {
        return None;
    }
    let turns: Vec<Row> = serde_json::from_str(text).ok()?;
    let is_turn = |turn: &Row| turn.contains_key("role") || turn.contains_key("from");
    (!turns.is_empty() && turns.iter().all(is_turn)).then(|| turns.into_iter().map(Value::Object).collect())
}
