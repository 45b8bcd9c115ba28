//! What a commit of a repository holds.

use std::path::{Component, Path};
use std::{fs, io};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::is_plain;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Listing {
    pub(crate) commit: String,
    pub(crate) files: Vec<ListedFile>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListedFile {
    /// With `/` between its parts.
    pub(crate) name: String,
    /// Bytes; not known where the listing was made from the cache.
    pub(crate) size: Option<u64>,
}

impl Listing {
    /// The hub's answer; nothing if that is no listing.
    pub(crate) fn from_answer(answer: &Value) -> Option<Self> {
        let commit = answer["sha"].as_str().filter(|commit| is_plain(commit))?;
        let files = answer["siblings"].as_array()?.iter().filter_map(listed).collect();
        Some(Self { commit: commit.into(), files })
    }

    /// The files of `commit` that lie in its directory in the cache.
    pub(crate) fn from_dir(commit: String, dir: &Path) -> io::Result<Self> {
        let mut files = Vec::new();
        list_files(dir, "", &mut files)?;
        Ok(Self { commit, files })
    }
}

/// A file of the hub's answer; names that would leave the directory are no names.
fn listed(file: &Value) -> Option<ListedFile> {
    let name = file["rfilename"].as_str()?;
    let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    let size = file["size"].as_u64().or_else(|| file["lfs"]["size"].as_u64());
    inside.then(|| ListedFile { name: name.into(), size })
}

fn list_files(dir: &Path, prefix: &str, files: &mut Vec<ListedFile>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = format!("{prefix}{}", path.file_name().unwrap_or_default().to_string_lossy());
        if path.is_dir() {
            list_files(&path, &format!("{name}/"), files)?;
        } else if path.exists() {
            files.push(ListedFile { name, size: None });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_name_stays_inside() {
        let name = |name: &str| listed(&serde_json::json!({"rfilename": name, "size": 3})).map(|file| file.name);
        assert_eq!(name("a/b.json").as_deref(), Some("a/b.json"));
        assert!(name("../b").is_none() && name("/b").is_none() && name("a/../../b").is_none());
    }
}
