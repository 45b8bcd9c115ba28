//! Files and directories that appear under their names only when complete: written beside, synced, renamed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::TrainError;

/// Fills a new directory through `fill` and puts it in the place of `target` (which may exist).
///
/// # Errors
/// From `fill` or the file system; then `target` is as it was.
pub fn replace_dir(target: &Path, fill: impl FnOnce(&Path) -> Result<(), TrainError>) -> Result<(), TrainError> {
    let partial = sibling(target, "partial");
    remove(&partial)?;
    fs::create_dir_all(&partial).map_err(|e| TrainError::write(&partial, e))?;
    let filled = fill(&partial).and_then(|()| sync_dir(&partial));
    if let Err(error) = filled {
        // The error of filling is the one to report.
        let _ = fs::remove_dir_all(&partial);
        return Err(error);
    }
    // A directory cannot be renamed onto another: the old one steps aside first. A crash in between leaves the
    // complete new one under its partial name, which the next run removes, and no wrong one under the final name.
    let old = sibling(target, "old");
    remove(&old)?;
    let existed = target.exists();
    if existed {
        fs::rename(target, &old).map_err(|e| TrainError::write(target, e))?;
    }
    fs::rename(&partial, target).map_err(|e| TrainError::write(target, e))?;
    if let Some(parent) = target.parent() {
        sync(parent)?;
    }
    if existed { remove(&old) } else { Ok(()) }
}

/// Writes a file in one piece.
///
/// # Errors
/// From the file system; then `target` is as it was.
pub fn write_file(target: &Path, content: &[u8]) -> Result<(), TrainError> {
    let partial = sibling(target, "partial");
    fs::write(&partial, content).map_err(|e| TrainError::write(&partial, e))?;
    sync(&partial)?;
    fs::rename(&partial, target).map_err(|e| TrainError::write(target, e))
}

/// `.NAME.SUFFIX` beside `target`.
fn sibling(target: &Path, suffix: &str) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{suffix}"))
}

fn remove(dir: &Path) -> Result<(), TrainError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(TrainError::write(dir, error)),
        _ => Ok(()),
    }
}

/// Syncs the files of a directory and the directory itself.
fn sync_dir(dir: &Path) -> Result<(), TrainError> {
    for entry in fs::read_dir(dir).map_err(|e| TrainError::read(dir, e))? {
        sync(&entry.map_err(|e| TrainError::read(dir, e))?.path())?;
    }
    sync(dir)
}

fn sync(path: &Path) -> Result<(), TrainError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|e| TrainError::write(path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_directory_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("model");
        for content in ["one", "two"] {
            replace_dir(&target, |partial| {
                fs::write(partial.join(content), content).unwrap();
                Ok(())
            })
            .unwrap();
            assert_eq!(names(&target), [content]);
            assert_eq!(names(dir.path()), ["model"]);
        }
    }

    #[test]
    fn a_failure_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("model");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("kept"), "").unwrap();
        let result = replace_dir(&target, |partial| {
            fs::write(partial.join("new"), "").unwrap();
            Err(TrainError::Refused("no".into()))
        });
        assert!(result.is_err());
        assert_eq!(names(&target), ["kept"]);
        assert_eq!(names(dir.path()), ["model"]);
    }
}
