//! Published data sets, fetched from the Hugging Face hub when somebody asks for them, and checked every time.
//!
//! A file is pinned by commit and by content. It comes through the hub's own cache, which other programs share; what
//! the cache holds needs no network.

use std::fs;
use std::path::{Path, PathBuf};

pub use orpo_hub::{Hub, Kind};
use orpo_hub::{HubError, RepoId, discard};

/// A file of a repository on the hub, pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfficialFile {
    /// The kind of repository.
    pub kind: Kind,
    /// The repository, `owner/name`.
    pub repository: &'static str,
    /// The commit.
    pub revision: &'static str,
    /// The path inside the repository.
    pub file: &'static str,
    /// The SHA-256 of its bytes, in hexadecimal.
    pub sha256: &'static str,
    /// The option that reads a local copy instead.
    pub option: &'static str,
}

/// Why there is no official file.
#[derive(Debug, thiserror::Error)]
pub enum OfficialError {
    /// Neither hub nor cache gives it.
    #[error("cannot fetch {name}: {problem}; {option} FILE reads a local copy")]
    Fetch {
        /// The file, with its repository and revision.
        name: String,
        /// What went wrong.
        problem: HubError,
        /// The option that reads a local copy.
        option: &'static str,
    },
    /// Its content is not the pinned one.
    #[error(
        "`{}` is not {name}: its SHA-256 is {found}, not {expected}; {advice}, or name a local copy with {option} FILE",
        path.display()
    )]
    Checksum {
        /// The local file.
        path: PathBuf,
        /// What it should be.
        name: String,
        /// The hash of its content.
        found: String,
        /// The pinned hash.
        expected: &'static str,
        /// What to do about it.
        advice: &'static str,
        /// The option that reads a local copy.
        option: &'static str,
    },
}

impl OfficialFile {
    /// The file, its repository and its commit, for messages and results: `hub:owner/name@commit:path`.
    pub fn name(&self) -> String {
        format!("hub:{}@{}:{}", self.repository, self.revision, self.file)
    }

    /// Its bytes, from the cache or else from the hub.
    ///
    /// # Errors
    /// When it is in neither, or its content is not the pinned one. A download with wrong content does not stay in the
    /// cache.
    pub fn read(&self, hub: &Hub) -> Result<Vec<u8>, OfficialError> {
        let id = RepoId { kind: self.kind, name: self.repository, revision: self.revision };
        if let Some(cached) = hub.cached(&id, self.file) {
            return self.verified(&cached, "remove it to fetch it anew");
        }
        let fetched = hub.fetch(&id, self.file).map_err(|problem| self.failed(problem))?;
        let read = self.verified(&fetched, "run again to fetch it anew, and check HF_ENDPOINT");
        if matches!(read, Err(OfficialError::Checksum { .. })) {
            discard(&fetched).map_err(|problem| self.failed(problem))?;
        }
        read
    }

    fn failed(&self, problem: HubError) -> OfficialError {
        OfficialError::Fetch { name: self.name(), problem, option: self.option }
    }

    fn verified(&self, path: &Path, advice: &'static str) -> Result<Vec<u8>, OfficialError> {
        let path = path.to_path_buf();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => return Err(self.failed(HubError::Cache { path, error })),
        };
        let found = orpo_files::sha256(&bytes);
        if found == self.sha256 {
            return Ok(bytes);
        }
        let (name, expected, option) = (self.name(), self.sha256, self.option);
        Err(OfficialError::Checksum { path, name, found, expected, advice, option })
    }
}
