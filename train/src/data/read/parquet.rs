//! Parquet by its record interface: uncompressed, snappy and zstd, one row group at a time.

use std::fs::File;
use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row as Record};
use serde_json::{Number, Value};

use super::Row;
use super::container::Sink;
use crate::error::TrainError;

/// Gives every row to `sink`.
pub(super) fn each_row(path: &Path, sink: &mut Sink<'_>) -> Result<(), TrainError> {
    let wrong = |error: ParquetError| {
        let reason = format!("parquet: {error}; uncompressed, snappy and zstd files can be read");
        TrainError::invalid(path, reason)
    };
    let file = File::open(path).map_err(|e| TrainError::read(path, e))?;
    let reader = SerializedFileReader::new(file).map_err(wrong)?;
    let mut number = 0;
    for index in 0..reader.num_row_groups() {
        let group = reader.get_row_group(index).map_err(wrong)?;
        for record in group.get_row_iter(None).map_err(wrong)? {
            number += 1;
            let row = object(record.map_err(wrong)?);
            let flow = sink(number, row.into()).map_err(|reason| TrainError::row(path, "row", number, reason))?;
            if flow.is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn object(record: Record) -> Row {
    record.into_columns().into_iter().map(|(name, field)| (name, json(field))).collect()
}

/// The JSON of a field. Dates, times and decimals, which no layout uses, are written as text.
fn json(field: Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => value.into(),
        Field::Byte(value) => value.into(),
        Field::Short(value) => value.into(),
        Field::Int(value) => value.into(),
        Field::Long(value) => value.into(),
        Field::UByte(value) => value.into(),
        Field::UShort(value) => value.into(),
        Field::UInt(value) => value.into(),
        Field::ULong(value) => value.into(),
        Field::Float(value) => Number::from_f64(value.into()).map_or(Value::Null, Value::Number),
        Field::Double(value) => Number::from_f64(value).map_or(Value::Null, Value::Number),
        Field::Str(text) => text.into(),
        // Some writers leave out that a column is text.
        Field::Bytes(bytes) => bytes.as_utf8().map_or(Value::Null, Value::from),
        // A columnar file gives every object all keys of any; those that are null here were never written.
        Field::Group(record) => object(record).into_iter().filter(|(_, value)| !value.is_null()).collect(),
        Field::ListInternal(list) => list.elements().iter().cloned().map(json).collect(),
        Field::MapInternal(map) => {
            let key = |field: &Field| match field {
                Field::Str(text) => text.clone(),
                other => other.to_string(),
            };
            Value::Object(map.entries().iter().map(|(name, value)| (key(name), json(value.clone()))).collect())
        }
        other => other.to_string().into(),
    }
}
