//! What can be wrong with a checkpoint, an adapter, or a computation on them.

use std::path::{Path, PathBuf};

/// Why a model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file is missing, or its content cannot be used.
    #[error("`{}`: {reason}", path.display())]
    Invalid {
        /// The file, or the directory without it.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A request that cannot be met, said in full.
    #[error("{0}")]
    Refused(String),
    /// A tensor operation.
    #[error("{}", without_backtrace(.0))]
    Tensor(#[from] candle_core::Error),
}

/// candle's message alone: where backtraces are on, its errors print theirs within it.
fn without_backtrace(error: &candle_core::Error) -> &candle_core::Error {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => without_backtrace(inner),
        error => error,
    }
}

impl ModelError {
    pub(crate) fn read(path: &Path, source: std::io::Error) -> Self {
        Self::Read { path: path.to_path_buf(), source }
    }

    pub(crate) fn invalid(path: &Path, reason: impl ToString) -> Self {
        Self::Invalid { path: path.to_path_buf(), reason: reason.to_string() }
    }
}
