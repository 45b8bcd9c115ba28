//! Files by their SHA-256, each hashed once.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use orpo_files::sha256_file;
use serde::{Deserialize, Serialize};

/// A file as it was when it was hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Where it is.
    pub path: PathBuf,
    /// What it holds.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
    /// When it was last written, in nanoseconds since 1970.
    pub modified_ns: u64,
}

/// Hashes files, each once: a file with the size and the time that it had when it was hashed is taken to be the same.
#[derive(Debug, Default)]
pub struct Hashes {
    known: HashMap<PathBuf, Stamp>,
}

impl Hashes {
    /// Takes over what was hashed before; the paths must be absolute.
    pub fn learn(&mut self, stamps: impl IntoIterator<Item = Stamp>) {
        self.known.extend(stamps.into_iter().map(|stamp| (stamp.path.clone(), stamp)));
    }

    /// The file at `path`, hashed unless it is known.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn stamp(&mut self, path: &Path) -> Result<Stamp> {
        let failed = || format!("cannot read `{}`", path.display());
        let metadata = fs::metadata(path).with_context(failed)?;
        let modified = metadata.modified().with_context(failed)?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (bytes, modified_ns) = (metadata.len(), modified.as_nanos() as u64);
        if let Some(known) = self.known.get(path)
            && (known.bytes, known.modified_ns) == (bytes, modified_ns)
        {
            return Ok(known.clone());
        }
        let stamp = Stamp { path: path.to_path_buf(), sha256: sha256_file(path)?, bytes, modified_ns };
        self.known.insert(path.to_path_buf(), stamp.clone());
        Ok(stamp)
    }
}

/// The files below `path`, or `path` itself where it is one, in the order of their names; hidden ones are left out.
///
/// # Errors
/// When a directory cannot be read.
pub fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).with_context(|| format!("cannot read `{}`", path.display()))? {
        let entry = entry.with_context(|| format!("cannot read `{}`", path.display()))?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            files.extend(files_of(&entry.path())?);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_hashed_again_only_when_it_was_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "abc").unwrap();
        let mut hashes = Hashes::default();
        let stamp = hashes.stamp(&path).unwrap();
        // What is known is believed: a wrong hash shows that the file was not read.
        let known = Stamp { sha256: "known".into(), ..stamp.clone() };
        hashes.learn([known.clone()]);
        assert_eq!(hashes.stamp(&path).unwrap(), known);
        fs::write(&path, "abcd").unwrap();
        let again = hashes.stamp(&path).unwrap();
        assert!(again.sha256 != known.sha256 && again.sha256 != stamp.sha256);
        assert!(hashes.stamp(&dir.path().join("none")).unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn the_files_of_a_directory_are_all_but_hidden_ones() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("b")).unwrap();
        for name in ["b/c", "a", ".lock"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(files_of(dir.path()).unwrap(), [dir.path().join("a"), dir.path().join("b/c")]);
        assert_eq!(files_of(&dir.path().join("a")).unwrap(), [dir.path().join("a")]);
    }
}
