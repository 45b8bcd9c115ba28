//! A log on disk that takes one row at a time, so that what has been paid for is never lost.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::jsonl::{self, InputError};

/// How long a run that has just been stopped may take to let go of its log.
const LETTING_GO: Duration = Duration::from_secs(2);

/// A JSONL file that rows are appended to. A row is written at once; a kill in the middle of it leaves half a line, which
/// the next opening cuts off. Only one process at a time has it open.
#[derive(Debug)]
pub struct AppendLog {
    path: PathBuf,
    file: File,
}

impl AppendLog {
    /// Opens a log for more rows, and reads those that it has. An absent file is an empty log.
    ///
    /// # Errors
    /// When the file cannot be used or another process is using it, or a whole line of it is no row.
    pub fn open<T: DeserializeOwned>(path: &Path) -> Result<(Self, Vec<T>), InputError> {
        let failed = |error: io::Error| InputError::File { path: path.to_owned(), problem: error.to_string() };
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
        let deadline = Instant::now() + LETTING_GO;
        // Where the file system knows no locks, there is none.
        while matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            if Instant::now() > deadline {
                let problem = "another run is writing to it; wait for its end or choose another place".into();
                return Err(InputError::File { path: path.to_owned(), problem });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut bytes = std::fs::read(path).map_err(failed)?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        if whole < bytes.len() {
            bytes.truncate(whole);
            file.set_len(whole as u64).map_err(failed)?;
        }
        let rows = jsonl::rows(path, &bytes)?.into_iter().map(|(_, row)| row).collect();
        Ok((Self { path: path.to_owned(), file }, rows))
    }

    /// Appends a row.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn append<T: Serialize>(&mut self, row: &T) -> Result<(), InputError> {
        let failed = |problem: String| InputError::File { path: self.path.clone(), problem };
        let mut line = serde_json::to_vec(row).map_err(|error| failed(error.to_string()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(|error| failed(error.to_string()))
    }

    /// Deletes the log, once its rows are somewhere else.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn remove(self) -> Result<(), InputError> {
        drop(self.file);
        let failed = |error: io::Error| InputError::File { path: self.path.clone(), problem: error.to_string() };
        std::fs::remove_file(&self.path).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_is_cut_off_and_the_rest_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log.jsonl");
        let (mut log, rows) = AppendLog::open::<u32>(&path).unwrap();
        assert!(rows.is_empty());
        log.append(&1).unwrap();
        log.append(&2).unwrap();
        let message = AppendLog::open::<u32>(&path).unwrap_err().to_string();
        assert!(message.contains("another run is writing to it"), "{message}");
        drop(log);
        std::fs::write(&path, "1\n2\n[3").unwrap();
        let (mut log, rows) = AppendLog::open::<u32>(&path).unwrap();
        assert_eq!(rows, [1, 2]);
        log.append(&4).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n2\n4\n");
        log.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_damaged_line_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log.jsonl");
        std::fs::write(&path, "1\n{\n3\n").unwrap();
        let message = AppendLog::open::<u32>(&path).unwrap_err().to_string();
        assert!(message.contains("log.jsonl:2: "), "{message}");
    }
}
