//! Files of JSON lines that a resumed run continues.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use orpo_files::write_file;
use serde_json::{Map, Value};

use crate::error::TrainError;

/// An append-only file of objects, each with its `step`.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
}

impl JsonLines {
    /// Opens `path`, dropping lines of steps after `step`, which are going to be made again, and a line that a kill cut
    /// short.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(path: &Path, step: usize) -> Result<Self, TrainError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(TrainError::read(path, error)),
        };
        let is_kept = |line: &&str| {
            let value: Option<Value> = serde_json::from_str(line).ok();
            value.and_then(|value| value["step"].as_u64()).is_some_and(|at| at <= step as u64)
        };
        let kept: String = text.lines().filter(is_kept).map(|line| format!("{line}\n")).collect();
        write_file(path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(path).map_err(|e| TrainError::write(path, e))?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// Appends an object.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(&mut self, line: &Map<String, Value>) -> Result<(), TrainError> {
        let mut text = serde_json::to_string(line).expect("plain data");
        text.push('\n');
        self.file.write_all(text.as_bytes()).map_err(|e| TrainError::write(&self.path, e))
    }

    /// Waits until everything is on the disk.
    ///
    /// # Errors
    /// From the file system.
    pub fn sync(&self) -> Result<(), TrainError> {
        self.file.sync_data().map_err(|e| TrainError::write(&self.path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_file_forgets_what_comes_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let line = |step: usize| Map::from_iter([("step".to_string(), Value::from(step))]);
        let mut lines = JsonLines::open(&path, 0).unwrap();
        for step in 1..=4 {
            lines.append(&line(step)).unwrap();
        }
        // A line that a kill cut short.
        lines.file.write_all(b"{\"st").unwrap();
        JsonLines::open(&path, 2).unwrap().append(&line(3)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n");
    }
}
