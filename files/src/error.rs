//! What can go wrong with a file.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

/// An error that names the file or directory, and the cause.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It cannot be written.
    #[error("cannot write `{}`: {source}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Its content is wrong.
    #[error("`{}`: {reason}", path.display())]
    Invalid {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
}

impl FileError {
    /// A failed read of `path`.
    pub fn read(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_path_buf(), source }
    }

    /// A failed write of `path`.
    pub fn write(path: &Path, source: io::Error) -> Self {
        Self::Write { path: path.to_path_buf(), source }
    }

    /// Wrong content of `path`.
    pub fn invalid(path: &Path, reason: impl Display) -> Self {
        Self::Invalid { path: path.to_path_buf(), reason: reason.to_string() }
    }
}
