//! What can go wrong in the trainer.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use orpo_files::FileError;

/// An error that names the file, what is wrong in it and, where that is not plain, what to do.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A file or directory cannot be read or written, or its content is wrong.
    #[error(transparent)]
    File(#[from] FileError),
    /// A row of a data file is wrong.
    #[error("`{}` {unit} {number}: {reason}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// What the number counts: `line` or `row`.
        unit: &'static str,
        /// The line or row, counted from 1.
        number: usize,
        /// What is wrong in it.
        reason: String,
    },
    /// A repository of the hub cannot be had.
    #[error("`hub:{id}`: {reason}")]
    Hub {
        /// The repository, with revision and file where they were given.
        id: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A checkpoint, an adapter, or a computation with them.
    #[error(transparent)]
    Model(#[from] orpo_model::ModelError),
    /// Tokenizer or template.
    #[error(transparent)]
    Chat(#[from] orpo_chat::ChatError),
    /// Turns are to be trained, and there is no chat template.
    #[error(
        "no chat template in `{}` (neither `chat_template` in tokenizer_config.json nor chat_template.jinja); name a file with \
         one as `data.chat_template` in the recipe, or train on plain text, as strings instead of turns",
        dir.display()
    )]
    NoTemplate {
        /// The tokenizer directory.
        dir: PathBuf,
    },
    /// The loss or the gradient is no number any more; the weights are those of the step before.
    #[error("step {step}: {reason}; the last checkpoint is kept as it was")]
    NotFinite {
        /// The optimiser step, counted from 1.
        step: usize,
        /// What is not finite, the rows it comes from, and what to do.
        reason: String,
    },
    /// A request that cannot be met, said in full.
    #[error("{0}")]
    Refused(String),
}

impl TrainError {
    /// A failed read of `path`.
    pub fn read(path: &Path, source: std::io::Error) -> Self {
        FileError::read(path, source).into()
    }

    /// A failed write of `path`.
    pub fn write(path: &Path, source: std::io::Error) -> Self {
        FileError::write(path, source).into()
    }

    /// Wrong content of `path`.
    pub fn invalid(path: &Path, reason: impl Display) -> Self {
        FileError::invalid(path, reason).into()
    }

    /// Wrong content of one line or row (`unit`; counted from 1) of `path`.
    pub fn row(path: &Path, unit: &'static str, number: usize, reason: impl Display) -> Self {
        Self::Row { path: path.to_path_buf(), unit, number, reason: reason.to_string() }
    }
}
