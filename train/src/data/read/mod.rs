//! From a data file to rows: the container (JSONL, JSON array, gzip, parquet) gives objects, the layout gives pairs.

mod container;
mod json;
mod parquet;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::layout::{self, Layout, RowError};
use super::{Dropped, Preference, Text};
use crate::error::TrainError;

/// One object of a data file.
pub type Row = Map<String, Value>;

/// How the rows of a file are to be understood.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// The layout; found from the first rows where it is not given.
    pub format: Option<Layout>,
    /// For a field of the layout the name it has in the file.
    pub columns: BTreeMap<String, String>,
}

/// What a file held, in its order.
#[derive(Debug, Clone, PartialEq)]
pub struct FileRows<T> {
    /// How it was understood.
    pub layout: &'static str,
    /// What a row's number counts in this container: `line` or `row`.
    pub unit: &'static str,
    /// Every row with its number (counted from 1), or why it cannot be used.
    pub rows: Vec<(usize, Result<T, Dropped>)>,
    /// Rows that declare tools, which no template is given.
    pub with_tools: usize,
    /// Pairs that are strings, which no template is applied to.
    pub strings: usize,
}

impl<T> FileRows<T> {
    /// The rows that can be used.
    pub fn used(&self) -> impl Iterator<Item = (usize, &T)> {
        self.rows.iter().filter_map(|(number, row)| row.as_ref().ok().map(|row| (*number, row)))
    }

    /// The numbers of the rows that cannot be used, by reason.
    pub fn dropped(&self) -> BTreeMap<Dropped, Vec<usize>> {
        let mut dropped: BTreeMap<Dropped, Vec<usize>> = BTreeMap::new();
        for (number, row) in &self.rows {
            if let Err(reason) = row {
                dropped.entry(*reason).or_default().push(*number);
            }
        }
        dropped
    }
}

/// Rows from which the layout is found.
const DETECTION_ROWS: usize = 16;

/// Reads the preference pairs of a file.
///
/// # Errors
/// When the file cannot be read, its layout is not known, or a row does not fit the layout: with row and field.
pub fn read_preferences(path: &Path, selection: &Selection) -> Result<FileRows<Preference>, TrainError> {
    let layout = match selection.format {
        Some(layout) => layout,
        None => layout::detect(&first_rows(path, selection)?).map_err(|reason| TrainError::invalid(path, reason))?,
    };
    let mut with_tools = 0;
    let (unit, rows) = parse_rows(path, selection, |row| {
        with_tools += usize::from(layout::declares_tools(row));
        let pair = layout.parse(row).map_err(|error| error.in_layout(layout.name()))?;
        pair.unusable().map_or(Ok(pair), |reason| Err(reason.into()))
    })?;
    let is_string = |(_, row): &&(usize, Result<Preference, Dropped>)| {
        row.as_ref().is_ok_and(|pair| matches!(pair.prompt, Text::Plain(_)))
    };
    let strings = rows.iter().filter(is_string).count();
    Ok(FileRows { layout: layout.name(), unit, rows, with_tools, strings })
}

/// Reads documents for next-token training: objects with `messages` (a list of turns) or `text` (a string).
///
/// # Errors
/// When the file cannot be read or a row is not such an object.
pub fn read_documents(path: &Path, selection: &Selection) -> Result<FileRows<Text>, TrainError> {
    let (unit, rows) = parse_rows(path, selection, |row| {
        let text = layout::document(row)?;
        if text.is_empty() { Err(Dropped::EmptySide.into()) } else { Ok(text) }
    })?;
    Ok(FileRows { layout: "documents", unit, rows, with_tools: 0, strings: 0 })
}

type Numbered<T> = Vec<(usize, Result<T, Dropped>)>;

fn parse_rows<T>(
    path: &Path,
    selection: &Selection,
    mut parse: impl FnMut(&Row) -> Result<T, RowError>,
) -> Result<(&'static str, Numbered<T>), TrainError> {
    let mut rows = Vec::new();
    let unit = container::each_row(path, &mut |number, row| {
        let parsed = match parse(&selection.renamed(row)) {
            Ok(parsed) => Ok(parsed),
            Err(RowError::Unusable(reason)) => Err(reason),
            Err(RowError::Wrong(reason)) => return Err(reason),
        };
        rows.push((number, parsed));
        Ok(ControlFlow::Continue(()))
    })?;
    if rows.is_empty() {
        return Err(TrainError::invalid(path, "it holds no rows"));
    }
    Ok((unit, rows))
}

fn first_rows(path: &Path, selection: &Selection) -> Result<Vec<Row>, TrainError> {
    let mut rows = Vec::new();
    container::each_row(path, &mut |_, row| {
        rows.push(selection.renamed(row));
        Ok(if rows.len() < DETECTION_ROWS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    if rows.is_empty() {
        return Err(TrainError::invalid(path, "it holds no rows"));
    }
    Ok(rows)
}

impl Selection {
    /// The row with its fields under the layout's names.
    fn renamed(&self, mut row: Row) -> Row {
        // All are taken out before any is put back, so that two columns may change places.
        let taken: Vec<_> = self.columns.iter().map(|(name, column)| (name, row.remove(column))).collect();
        for (name, value) in taken {
            if let Some(value) = value {
                row.insert(name.clone(), value);
            }
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use orpo_chat::Message;

    use super::*;

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        file
    }

    fn read(content: &[u8]) -> Result<FileRows<Preference>, String> {
        read_preferences(file(content).path(), &Selection::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn rows_keep_their_line_and_those_without_use_their_reason() {
        let content = br#"
{"prompt": "a", "chosen": "b", "rejected": "c", "id": 7}

{"prompt": "a", "chosen": "b", "rejected": "b"}
{"prompt": "a", "chosen": "", "rejected": "b"}
{"prompt": "a", "chosen": "b", "rejected": "b"}"#;
        let rows = read(content).unwrap();
        assert_eq!((rows.layout, rows.unit), ("trl_standard_explicit", "line"));
        let used: Vec<_> = rows.used().map(|(line, pair)| (line, pair.chosen.clone())).collect();
        assert_eq!(used, [(2, Text::Plain("b".into()))]);
        let dropped: Vec<_> = rows.dropped().into_iter().collect();
        assert_eq!(dropped, [(Dropped::EqualSides, vec![4, 6]), (Dropped::EmptySide, vec![5])]);
    }

    #[test]
    fn a_wrong_row_is_named_with_line_and_field() {
        let good = r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#;
        for (row, expected) in [
            (&br#"{"prompt": "a", "chosen": "b"}"#[..], "line 2: no `rejected` (its fields are `prompt`, `chosen`)"),
            (br#"{"prompt": "a", "chosen": 3, "rejected": "c"}"#, "line 2: `chosen` must be a string"),
            (br#"{"prompt": [], "chosen": "b", "rejected": "c"}"#, "line 2: `prompt` must be a string, not a list"),
            (b"{oops", "line 2: not JSON"),
            (b"[]", "line 2: not a JSON object"),
            (b"{\"prompt\": \"\xff\"}", "line 2: not UTF-8"),
        ] {
            let error = read(&[good.as_bytes(), row].join(&b'\n')).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(read(b"\n").unwrap_err().contains("no rows"));
    }

    #[test]
    fn columns_are_renamed_and_may_change_places() {
        let content = br#"{"question": "q", "chosen": "worse", "rejected": "better"}"#;
        let columns = [("prompt", "question"), ("chosen", "rejected"), ("rejected", "chosen")];
        let columns = columns.map(|(name, column)| (name.to_string(), column.to_string())).into();
        let selection = Selection { format: None, columns };
        let rows = read_preferences(file(content).path(), &selection).unwrap();
        let (_, pair) = rows.used().next().unwrap();
        let plain = |text: &str| Text::Plain(text.into());
        assert_eq!((&pair.prompt, &pair.chosen), (&plain("q"), &plain("better")));
    }

    #[test]
    fn a_format_makes_turns_of_plain_strings() {
        let content = br#"{"prompt": "q", "chosen": "a", "rejected": "b"}"#;
        let columns = [("question".to_string(), "prompt".to_string())].into();
        let selection = Selection { format: Some(Layout::named("orca_dpo_pairs").unwrap()), columns };
        let rows = read_preferences(file(content).path(), &selection).unwrap();
        let (_, pair) = rows.used().next().unwrap();
        assert_eq!(pair.prompt, Text::Chat(vec![Message::user("q")]));
        let error = read_preferences(file(content).path(), &Selection { columns: BTreeMap::new(), ..selection });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("line 1: no `question`") && error.contains("`orca_dpo_pairs`"), "{error}");
    }

    #[test]
    fn documents() {
        let content = br#"{"messages": [{"role": "user", "content": "a"}]}
{"text": "b"}
{"text": ""}"#;
        let rows = read_documents(file(content).path(), &Selection::default()).unwrap();
        let used: Vec<_> = rows.used().map(|(_, text)| text.clone()).collect();
        assert_eq!(used, [Text::Chat(vec![Message::user("a")]), Text::Plain("b".into())]);
        assert_eq!(rows.dropped()[&Dropped::EmptySide], [3]);
        let error = read_documents(file(b"{\"prompt\": 1}").path(), &Selection::default()).unwrap_err().to_string();
        assert!(error.contains("`messages` and `text`"), "{error}");
    }
}
