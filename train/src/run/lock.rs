//! One trainer at a time in a run directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

use crate::error::TrainError;

/// Holds `RUN/.lock` until it is dropped; the system lets go of it however the process ends. The file stays, with the
/// process id of its last holder in it.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Locks the existing directory `run_dir`.
    ///
    /// # Errors
    /// When another process holds the lock, or the file cannot be written.
    pub fn acquire(run_dir: &Path) -> Result<Self, TrainError> {
        let path = run_dir.join(".lock");
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(|e| TrainError::write(&path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Without its process id the message is still right.
                let _ = file.read_to_string(&mut holder);
                let holder = holder.trim();
                let reason = format!(
                    "another trainer (process {}) is running in it; wait for it to end, or use another `output_dir`",
                    if holder.is_empty() { "unknown" } else { holder }
                );
                return Err(TrainError::invalid(run_dir, reason));
            }
            Err(TryLockError::Error(error)) => return Err(TrainError::write(&path, error)),
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|e| TrainError::write(&path, e))?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_until_the_first_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunLock::acquire(dir.path()).unwrap();
        let error = RunLock::acquire(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        RunLock::acquire(dir.path()).unwrap();
    }
}
