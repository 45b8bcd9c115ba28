//! TensorBoard event files: a TFRecord file of `Event` protocol buffers, as much of both as scalars need.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use crate::error::TrainError;

/// Field numbers of `tensorflow.Event`, `SessionLog`, `Summary` and `Summary.Value`.
mod field {
    pub const EVENT_WALL_TIME: u64 = 1;
    pub const EVENT_STEP: u64 = 2;
    pub const EVENT_FILE_VERSION: u64 = 3;
    pub const EVENT_SUMMARY: u64 = 5;
    pub const EVENT_SESSION_LOG: u64 = 7;
    pub const SESSION_LOG_STATUS: u64 = 1;
    pub const SUMMARY_VALUE: u64 = 1;
    pub const VALUE_TAG: u64 = 1;
    pub const VALUE_SIMPLE_VALUE: u64 = 2;
}

/// `SessionLog.START`: readers forget the points from this event's step on.
const START: u64 = 1;

/// Writes one event file.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
}

impl EventWriter {
    /// Begins a new file in `dir` for a process whose first step is `first_step` (counted from 1). Readers put the
    /// directory's files together and forget points of earlier files from that step on.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn create(dir: &Path, first_step: usize) -> Result<Self, TrainError> {
        fs::create_dir_all(dir).map_err(|e| TrainError::write(dir, e))?;
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = if host.trim().is_empty() { "localhost" } else { host.trim() };
        // Readers take the files in the order of their names, and the time of the same second is not enough for that.
        let (seconds, process) = (wall_time(), std::process::id());
        let path = dir.join(format!("events.out.tfevents.{seconds:.6}.{host}.{process}"));
        let file = File::create(&path).map_err(|e| TrainError::write(&path, e))?;
        let mut writer = Self { path, file };
        writer.event(0, |event| bytes(event, field::EVENT_FILE_VERSION, b"brain.Event:2"))?;
        writer.event(first_step, |event| {
            let mut session_log = Vec::new();
            integer(&mut session_log, field::SESSION_LOG_STATUS, START);
            bytes(event, field::EVENT_SESSION_LOG, &session_log);
        })?;
        Ok(writer)
    }

    /// Writes the numbers among `fields` as scalars of `step`, each under [`tag`] of its name.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn scalars(&mut self, step: usize, fields: &Map<String, Value>) -> Result<(), TrainError> {
        let mut summary = Vec::new();
        for (name, number) in fields.iter().filter_map(|(name, value)| Some((name, value.as_f64()?))) {
            let mut value = Vec::new();
            bytes(&mut value, field::VALUE_TAG, tag(name).as_bytes());
            float(&mut value, field::VALUE_SIMPLE_VALUE, number as f32);
            bytes(&mut summary, field::SUMMARY_VALUE, &value);
        }
        self.event(step, |event| bytes(event, field::EVENT_SUMMARY, &summary))
    }

    fn event(&mut self, step: usize, content: impl FnOnce(&mut Vec<u8>)) -> Result<(), TrainError> {
        let mut event = Vec::new();
        double(&mut event, field::EVENT_WALL_TIME, wall_time());
        integer(&mut event, field::EVENT_STEP, step as u64);
        content(&mut event);
        // In one piece, so that a killed process leaves whole records.
        self.file.write_all(&record(&event)).map_err(|e| TrainError::write(&self.path, e))
    }
}

/// The tag under which transformers shows a metric: `eval/loss` for `eval_loss`, `train/loss` for `loss`.
pub fn tag(name: &str) -> String {
    match name.strip_prefix("eval_") {
        Some(rest) => format!("eval/{rest}"),
        None => format!("train/{name}"),
    }
}

/// Seconds since 1970.
fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// A TFRecord: length, its checksum, the data, its checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length), data, &masked_crc(data)].concat()
}

/// The checksum as TFRecord masks it (`tensorflow/core/lib/hash/crc32c.h`).
fn masked_crc(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// Protocol buffers' wire types.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const FIXED32: u64 = 5;

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn integer(message: &mut Vec<u8>, field: u64, value: u64) {
    varint(message, field << 3 | VARINT);
    varint(message, value);
}

fn double(message: &mut Vec<u8>, field: u64, value: f64) {
    varint(message, field << 3 | FIXED64);
    message.extend(value.to_le_bytes());
}

fn float(message: &mut Vec<u8>, field: u64, value: f32) {
    varint(message, field << 3 | FIXED32);
    message.extend(value.to_le_bytes());
}

fn bytes(message: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(message, field << 3 | LENGTH_DELIMITED);
    varint(message, value.len() as u64);
    message.extend(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field of a message: its number and its content.
    #[derive(Debug, Clone, PartialEq)]
    enum Field {
        Integer(u64, u64),
        Double(u64, f64),
        Float(u64, f32),
        Bytes(u64, Vec<u8>),
    }

    /// A slow reader that knows nothing of the writer: bit-wise checksums, byte-wise protocol buffers.
    struct Reader<'a>(&'a [u8]);

    impl Reader<'_> {
        fn take(&mut self, count: usize) -> Vec<u8> {
            let (taken, rest) = self.0.split_at(count);
            self.0 = rest;
            taken.to_vec()
        }

        fn varint(&mut self) -> u64 {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let byte = self.take(1)[0];
                value += u64::from(byte % 128) << shift;
                if byte < 128 {
                    break;
                }
            }
            value
        }

        fn fields(mut self) -> Vec<Field> {
            let mut fields = Vec::new();
            while !self.0.is_empty() {
                let key = self.varint();
                fields.push(match key % 8 {
                    0 => Field::Integer(key / 8, self.varint()),
                    1 => Field::Double(key / 8, f64::from_le_bytes(self.take(8).try_into().unwrap())),
                    2 => {
                        let length = self.varint() as usize;
                        Field::Bytes(key / 8, self.take(length))
                    }
                    5 => Field::Float(key / 8, f32::from_le_bytes(self.take(4).try_into().unwrap())),
                    other => panic!("wire type {other}"),
                });
            }
            fields
        }
    }

    /// CRC-32C, one bit at a time (reflected polynomial 0x82f63b78).
    fn slow_crc(data: &[u8]) -> u32 {
        let mut crc = !0u32;
        for byte in data {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            }
        }
        !crc
    }

    fn events(bytes: &[u8]) -> Vec<Vec<Field>> {
        let mut reader = Reader(bytes);
        let mut events = Vec::new();
        let check = |data: &[u8], sum: Vec<u8>| {
            let unmasked = u32::from_le_bytes(sum.try_into().unwrap()).wrapping_sub(0xa282_ead8);
            assert_eq!(unmasked.rotate_left(15), slow_crc(data));
        };
        while !reader.0.is_empty() {
            let length = reader.take(8);
            check(&length, reader.take(4));
            let data = reader.take(u64::from_le_bytes(length.try_into().unwrap()) as usize);
            check(&data, reader.take(4));
            events.push(Reader(&data).fields());
        }
        events
    }

    #[test]
    fn a_file_holds_version_start_and_scalars() {
        assert_eq!(slow_crc(b"123456789"), 0xe306_9283, "the checksum's published example");
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path(), 301).unwrap();
        let fields = serde_json::json!({"loss": 1.5, "eval_rewards/chosen": -0.25, "note": "text"});
        writer.scalars(301, fields.as_object().unwrap()).unwrap();
        assert!(writer.path.file_name().unwrap().to_str().unwrap().starts_with("events.out.tfevents."));

        let events = events(&fs::read(&writer.path).unwrap());
        for event in &events {
            assert!(matches!(event[0], Field::Double(1, time) if time > 1.6e9), "{event:?}");
        }
        assert_eq!(events[0][1..], [Field::Integer(2, 0), Field::Bytes(3, b"brain.Event:2".to_vec())]);
        assert_eq!(events[1][1..], [Field::Integer(2, 301), Field::Bytes(7, vec![1 << 3, 1])]);
        assert_eq!(events[2][1], Field::Integer(2, 301));
        let Field::Bytes(5, summary) = &events[2][2] else { panic!("{:?}", events[2]) };
        let values: Vec<Vec<Field>> = Reader(summary)
            .fields()
            .into_iter()
            .map(|field| match field {
                Field::Bytes(1, value) => Reader(&value).fields(),
                other => panic!("{other:?}"),
            })
            .collect();
        let value = |tag: &str, number: f32| vec![Field::Bytes(1, tag.into()), Field::Float(2, number)];
        assert_eq!(values, [value("train/loss", 1.5), value("eval/rewards/chosen", -0.25)]);
        assert_eq!(events.len(), 3);
    }

    #[test]
    fn the_files_of_one_directory_sort_by_age() {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..5).map(|_| EventWriter::create(dir.path(), 1).unwrap().path).collect();
        assert!(paths.is_sorted_by(|a, b| a < b), "{paths:?}");
    }
}
