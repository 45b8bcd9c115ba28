//! One process at a time in a directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::FileError;

/// Holds `DIR/.lock` until it is dropped; the system lets go of it however the process ends. The file stays, with the
/// process id of its last holder in it.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

/// Why a directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds the lock.
    #[error("`{}`: process {holder} is using it; wait for it to end", dir.display())]
    Held {
        /// The directory.
        dir: PathBuf,
        /// The process id of the holder, or `unknown`.
        holder: String,
    },
    /// The lock's file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl DirLock {
    /// Locks the existing directory `dir`.
    ///
    /// # Errors
    /// When another process holds the lock, or the file cannot be written.
    pub fn acquire(dir: &Path) -> Result<Self, LockError> {
        let path = dir.join(".lock");
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(|e| FileError::write(&path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Without its process id the message is still right.
                let _ = file.read_to_string(&mut holder);
                let holder = if holder.trim().is_empty() { "unknown" } else { holder.trim() };
                return Err(LockError::Held { dir: dir.to_path_buf(), holder: holder.into() });
            }
            Err(TryLockError::Error(error)) => return Err(FileError::write(&path, error).into()),
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|e| FileError::write(&path, e))?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_until_the_first_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::acquire(dir.path()).unwrap();
        let error = DirLock::acquire(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        DirLock::acquire(dir.path()).unwrap();
    }
}
