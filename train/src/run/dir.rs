//! The run directory: held by one process, recovered from whatever ended the one before.

use std::fs;
use std::path::{Path, PathBuf};

use orpo_files::{DirLock, LockError, recover};

use crate::checkpoint::{CheckpointDir, TrainerState};
use crate::error::TrainError;

/// Name of the final model's directory in the run directory.
pub const MODEL_DIR: &str = "model";

/// The directory of a run. It is made only when the run begins, so that one that cannot begin leaves nothing behind.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    lock: Option<DirLock>,
    /// Its checkpoints.
    pub checkpoints: CheckpointDir,
}

impl RunDir {
    /// Takes hold of `path` where it exists.
    ///
    /// # Errors
    /// When another process holds it, or it is a file.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        check_output_dir(path)?;
        let mut dir = Self { path: path.to_path_buf(), lock: None, checkpoints: CheckpointDir::of_run(path) };
        if path.is_dir() {
            dir.hold()?;
        }
        Ok(dir)
    }

    fn hold(&mut self) -> Result<(), TrainError> {
        let lock = DirLock::acquire(&self.path).map_err(|error| match error {
            LockError::Held { dir, holder } => TrainError::invalid(
                &dir,
                format!(
                    "another trainer (process {holder}) is running in it; wait for it to end, or use another `output_dir`"
                ),
            ),
            LockError::File(error) => error.into(),
        })?;
        self.lock = Some(lock);
        recover(&self.path)?;
        self.checkpoints.recover()
    }

    /// Where the final model goes.
    pub fn model(&self) -> PathBuf {
        self.path.join(MODEL_DIR)
    }

    /// The checkpoint to continue from.
    ///
    /// # Errors
    /// When there is one, or a final model, and it is not to be resumed.
    pub fn latest(&self, resume: bool) -> Result<Option<(PathBuf, TrainerState)>, TrainError> {
        let latest = self.checkpoints.latest()?;
        if !resume && (latest.is_some() || self.model().exists()) {
            let reason = "it holds a run already; continue it with --resume, or use another `output_dir`";
            return Err(TrainError::invalid(&self.path, reason));
        }
        if latest.is_none() && self.model().exists() {
            let reason = "it has a final model, but no checkpoint to continue from; use another `output_dir`, or remove \
                          its `model` to train it anew";
            return Err(TrainError::invalid(&self.path, reason));
        }
        Ok(latest)
    }

    /// Makes the directory where it does not exist yet, and takes hold of it.
    ///
    /// # Errors
    /// When it cannot be made, or another process has begun a run in it meanwhile.
    pub fn create(&mut self) -> Result<(), TrainError> {
        if self.lock.is_none() {
            fs::create_dir_all(&self.path).map_err(|e| TrainError::write(&self.path, e))?;
            self.hold()?;
            self.latest(false)?;
        }
        Ok(())
    }
}

/// Finds out whether a run can have the directory `path`.
///
/// # Errors
/// When it, or a directory that it would be in, is something else.
pub fn check_output_dir(path: &Path) -> Result<(), TrainError> {
    match path.ancestors().find(|part| part.exists()) {
        Some(part) if !part.is_dir() => {
            let reason = "`output_dir` needs a directory, and this is a file; name another one";
            Err(TrainError::invalid(part, reason))
        }
        _ => Ok(()),
    }
}
