//! Comma-, tab- and semicolon-separated values with a header.

use std::collections::HashSet;
use std::io::BufRead;
use std::path::Path;

use csv::{ErrorKind, ReaderBuilder};
use serde_json::Value;

use super::container::Sink;
use super::{Row, json};
use crate::data::layout::is_column;
use crate::error::TrainError;

/// The character between the fields of a file that begins with `head`, if its name ends in `.csv` or `.tsv` or its header
/// names columns of a layout.
pub(super) fn delimiter(path: &Path, head: &[u8]) -> Option<u8> {
    let line = head.split(|byte| matches!(byte, b'\n' | b'\r')).next().unwrap_or_default();
    let count = |delimiter: u8| line.iter().filter(|byte| **byte == delimiter).count();
    let delimiter = [b',', b'\t', b';'].into_iter().rev().max_by_key(|delimiter| count(*delimiter))?;
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let is_named = [".csv", ".tsv"].iter().any(|end| name.trim_end_matches(".gz").ends_with(end));
    let has_columns = || {
        let mut names = line.split(|byte| *byte == delimiter).filter_map(|name| std::str::from_utf8(name).ok());
        count(delimiter) > 0 && names.any(|name| is_column(name.trim_matches([' ', '"'])))
    };
    (!line.is_empty() && (is_named || has_columns())).then_some(delimiter)
}

/// Gives every record to `sink`, numbered without the header.
pub(super) fn each_row(
    path: &Path,
    reader: &mut dyn BufRead,
    delimiter: u8,
    sink: &mut Sink<'_>,
) -> Result<(), TrainError> {
    let mut reader = ReaderBuilder::new().delimiter(delimiter).from_reader(reader);
    let names = reader.headers().map_err(|error| wrong(path, 0, error))?.clone();
    let mut seen = HashSet::new();
    if let Some(name) = names.iter().find(|name| !name.is_empty() && !seen.insert(*name)) {
        return Err(TrainError::invalid(path, format!("two columns are called `{name}`")));
    }
    for (number, record) in (1..).zip(reader.records()) {
        let record = record.map_err(|error| wrong(path, number, error))?;
        // An index without a name is no column of the data.
        let cells = names.iter().zip(&record).filter(|(name, _)| !name.is_empty());
        let row: Row = cells.map(|(name, cell)| (name.trim().to_string(), Value::from(cell))).collect();
        if sink(number, row.into()).map_err(|reason| TrainError::row(path, "row", number, reason))?.is_break() {
            break;
        }
    }
    Ok(())
}

fn wrong(path: &Path, number: usize, error: csv::Error) -> TrainError {
    let reason = match error.into_kind() {
        ErrorKind::Io(error) => return TrainError::read(path, error),
        ErrorKind::Utf8 { .. } => json::NOT_UTF8.to_string(),
        ErrorKind::UnequalLengths { expected_len, len, .. } => format!(
            "its number of fields is {len}, but the header has {expected_len}; a field with a delimiter or a line end in it \
             needs quotes"
        ),
        kind => format!("not CSV: {kind:?}"),
    };
    TrainError::row(path, "row", number, reason)
}
