//! Files and directories that appear under their names only when complete: written beside, synced, renamed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::FileError;

/// Suffixes of what is being filled, what stepped aside, and what is being removed.
const PARTIAL: &str = "partial";
const OLD: &str = "old";
const REMOVED: &str = "removed";

/// Fills a new directory through `fill` and puts it in the place of `target` (which may exist).
///
/// # Errors
/// From `fill` or the file system; then `target` is as it was.
pub fn replace_dir<E: From<FileError>>(target: &Path, fill: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
    let partial = sibling(target, PARTIAL);
    remove(&partial)?;
    fs::create_dir_all(&partial).map_err(|e| FileError::write(&partial, e))?;
    let filled = fill(&partial).and_then(|()| Ok(sync_dir(&partial)?));
    if let Err(error) = filled {
        // The error of filling is the one to report.
        let _ = fs::remove_dir_all(&partial);
        return Err(error);
    }
    // A directory cannot be renamed onto another: the old one steps aside first. After a crash in between, `recover`
    // puts the complete new one in its place.
    let old = sibling(target, OLD);
    remove(&old)?;
    if target.exists() {
        fs::rename(target, &old).map_err(|e| FileError::write(target, e))?;
    }
    fs::rename(&partial, target).map_err(|e| FileError::write(target, e))?;
    sync_parent(target)?;
    Ok(remove(&old)?)
}

/// Removes a directory as a whole: it first loses its name, so that no half of it is ever taken for all of it.
///
/// # Errors
/// From the file system.
pub fn remove_dir(target: &Path) -> Result<(), FileError> {
    let removed = sibling(target, REMOVED);
    remove(&removed)?;
    fs::rename(target, &removed).map_err(|e| FileError::write(target, e))?;
    remove(&removed)
}

/// Finishes or clears away what a killed process left of [`replace_dir`], [`remove_dir`] and [`write_file`] in
/// `parent`, which may be missing. No other process may be writing there.
///
/// # Errors
/// From the file system.
pub fn recover(parent: &Path) -> Result<(), FileError> {
    let entries = match fs::read_dir(parent) {
        Ok(entries) => entries.collect::<Result<Vec<_>, _>>().map_err(|e| FileError::read(parent, e))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(FileError::read(parent, error)),
    };
    for entry in &entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((target, OLD)) = name.strip_prefix('.').and_then(|name| name.rsplit_once('.')) else { continue };
        let (target, old) = (parent.join(target), entry.path());
        let partial = sibling(&target, PARTIAL);
        // The old one only steps aside for a complete new one.
        if !target.exists() {
            let complete = if partial.exists() { &partial } else { &old };
            fs::rename(complete, &target).map_err(|e| FileError::write(&target, e))?;
            sync_parent(&target)?;
        }
        remove(&old)?;
    }
    for entry in &entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some((_, PARTIAL | REMOVED)) = name.strip_prefix('.').and_then(|name| name.rsplit_once('.')) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Writes a file in one piece.
///
/// # Errors
/// From the file system; then `target` is as it was.
pub fn write_file(target: &Path, content: &[u8]) -> Result<(), FileError> {
    let partial = sibling(target, PARTIAL);
    fs::write(&partial, content)
        .and_then(|()| File::open(&partial)?.sync_all())
        .and_then(|()| fs::rename(&partial, target))
        .map_err(|error| FileError::write(target, error))
}

/// Writes indented JSON, with a newline at the end, in one piece.
///
/// # Errors
/// As [`write_file`].
///
/// # Panics
/// When `value` is not plain data: a map with keys that are not strings.
pub fn write_json<T: Serialize>(target: &Path, value: &T) -> Result<(), FileError> {
    let mut text = serde_json::to_string_pretty(value).expect("plain data");
    text.push('\n');
    write_file(target, text.as_bytes())
}

/// `.NAME.SUFFIX` beside `target`.
fn sibling(target: &Path, suffix: &str) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{suffix}"))
}

/// Removes a file or directory where there is one.
fn remove(path: &Path) -> Result<(), FileError> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(FileError::write(path, error)),
        _ => Ok(()),
    }
}

/// Makes a rename last.
fn sync_parent(target: &Path) -> Result<(), FileError> {
    // The parent of a single name is the empty path, which cannot be opened.
    let parent = target.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
    parent.map_or(Ok(()), sync)
}

/// Syncs the files of a directory and the directory itself.
fn sync_dir(dir: &Path) -> Result<(), FileError> {
    for entry in fs::read_dir(dir).map_err(|e| FileError::read(dir, e))? {
        sync(&entry.map_err(|e| FileError::read(dir, e))?.path())?;
    }
    sync(dir)
}

fn sync(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|e| FileError::write(path, e))
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
    fn a_file_is_written_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("results.json");
        for content in ["one", "two"] {
            write_file(&target, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&target).unwrap(), content);
        }
        write_json(&target, &[1]).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "[\n  1\n]\n");
        assert_eq!(names(dir.path()), ["results.json"]);
        // The error names the file, not what it is written as first.
        let error = write_file(&target.join("f"), b"").unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot write `{}/f`: ", target.display())), "{error}");
    }

    #[test]
    fn a_directory_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("model");
        for content in ["one", "two"] {
            replace_dir(&target, |partial| {
                fs::write(partial.join(content), content).unwrap();
                Ok::<_, FileError>(())
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
            Err(FileError::invalid(partial, "no"))
        });
        assert!(result.is_err());
        assert_eq!(names(&target), ["kept"]);
        assert_eq!(names(dir.path()), ["model"]);
    }

    /// Every state that a kill can leave of a replacement: what `.model.partial`, `.model.old` and `model` hold.
    #[test]
    fn a_killed_replacement_is_recovered() {
        for (partial, old, target, expected) in [
            (Some("half"), None, None, None),
            (Some("half"), None, Some("one"), Some("one")),
            (Some("two"), Some("one"), None, Some("two")),
            (None, Some("one"), Some("two"), Some("two")),
            (None, Some("one"), None, Some("one")),
        ] {
            let dir = tempfile::tempdir().unwrap();
            for (name, content) in [(".model.partial", partial), (".model.old", old), ("model", target)] {
                if let Some(content) = content {
                    fs::create_dir(dir.path().join(name)).unwrap();
                    fs::write(dir.path().join(name).join(content), "").unwrap();
                }
            }
            recover(dir.path()).unwrap();
            match expected {
                Some(content) => {
                    assert_eq!(names(dir.path()), ["model"]);
                    assert_eq!(names(&dir.path().join("model")), [content]);
                }
                None => assert!(names(dir.path()).is_empty()),
            }
        }
    }

    #[test]
    fn a_killed_removal_and_a_killed_write_are_cleared_away() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(".step-000003.removed")).unwrap();
        fs::write(dir.path().join(".metrics.jsonl.partial"), "").unwrap();
        fs::write(dir.path().join(".lock"), "").unwrap();
        fs::write(dir.path().join("metrics.jsonl"), "").unwrap();
        recover(dir.path()).unwrap();
        assert_eq!(names(dir.path()), [".lock", "metrics.jsonl"]);
        recover(&dir.path().join("missing")).unwrap();
    }
}
