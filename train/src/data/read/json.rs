//! JSON Lines, and one JSON array of objects.

use std::io::BufRead;
use std::ops::ControlFlow;
use std::path::Path;

use serde::Deserializer as _;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde_json::Value;

use super::Row;
use super::container::Sink;
use crate::error::TrainError;

/// One object a line; blank lines are allowed.
pub(super) fn line_rows(path: &Path, mut reader: impl BufRead, sink: &mut Sink<'_>) -> Result<(), TrainError> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(|e| TrainError::read(path, e))? == 0 {
            break;
        }
        let wrong = |reason: String| TrainError::row(path, "line", number, reason);
        let text = std::str::from_utf8(&line).map_err(|e| wrong(format!("not UTF-8: {e}")))?;
        if text.trim().is_empty() {
            continue;
        }
        let value = serde_json::from_str(text).map_err(|e| wrong(format!("not JSON: {e}")))?;
        if sink(number, object(value).map_err(wrong)?).map_err(wrong)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// The objects of one array, read one at a time.
pub(super) fn array_rows(path: &Path, reader: impl BufRead, sink: &mut Sink<'_>) -> Result<(), TrainError> {
    let mut array = ArrayRows { sink, number: 1, state: State::Reading };
    let mut json = serde_json::Deserializer::from_reader(reader);
    let read = json.deserialize_seq(&mut array);
    let (number, state) = (array.number, array.state);
    match (state, read) {
        (State::Enough, _) => Ok(()),
        (State::Refused(reason), _) => Err(TrainError::row(path, "row", number, reason)),
        (State::Reading, Err(error)) if error.is_io() => Err(TrainError::read(path, error.into())),
        (State::Reading, Err(error)) => Err(TrainError::row(path, "row", number, format!("not JSON: {error}"))),
        (State::Reading, Ok(())) => json.end().map_err(|e| {
            TrainError::invalid(path, format!("something stands after the array, which must be all: {e}"))
        }),
    }
}

/// Why the array is read no further.
enum State {
    Reading,
    Enough,
    Refused(String),
}

struct ArrayRows<'a, 'b> {
    sink: &'a mut Sink<'b>,
    number: usize,
    state: State,
}

impl<'de> Visitor<'de> for &mut ArrayRows<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(value) = items.next_element::<Value>()? {
            self.state = match object(value).and_then(|row| (self.sink)(self.number, row)) {
                Ok(ControlFlow::Continue(())) => State::Reading,
                Ok(ControlFlow::Break(())) => State::Enough,
                Err(reason) => State::Refused(reason),
            };
            if !matches!(self.state, State::Reading) {
                // Nothing but an error ends the reading of an array before its end.
                return Err(A::Error::custom("no more is wanted"));
            }
            self.number += 1;
        }
        Ok(())
    }
}

fn object(value: Value) -> Result<Row, String> {
    match value {
        Value::Object(row) => Ok(row),
        _ => Err("not a JSON object".into()),
    }
}
