//! Published data sets, fetched from the Hugging Face hub when somebody asks for them, and checked every time.
//!
//! A file is pinned by commit and by content. It comes through the hub's own cache, which other programs share; what
//! the cache holds needs no network.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

use crate::jsonl;

/// What kind of repository holds a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A data set.
    Dataset,
    /// A space, which is where some benchmarks keep their data.
    Space,
}

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
    /// It could not be fetched.
    #[error("cannot fetch {name}: {problem}; {option} FILE reads a local copy")]
    Fetch {
        /// The file, with its repository and revision.
        name: String,
        /// What went wrong.
        problem: String,
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
    /// The cache cannot be read.
    #[error("cannot use `{}`: {error}", path.display())]
    Cache {
        /// The local file.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
}

impl OfficialFile {
    /// The file, its repository and its commit, for messages and results: `hub:owner/name@commit:path`.
    pub fn name(&self) -> String {
        format!("hub:{}@{}:{}", self.repository, self.revision, self.file)
    }
}

/// A hub and the cache of its files.
#[derive(Debug, Clone)]
pub struct Hub {
    endpoint: String,
    cache: Cache,
    token: Option<String>,
}

impl Hub {
    /// The hub that `HF_ENDPOINT` names, its cache under `HF_HOME`, and the token of `HF_TOKEN` or of the cache.
    pub fn from_env() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let cache = Cache::from_env();
        let token = variable("HF_TOKEN").or_else(|| cache.token());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        Self::new(&endpoint, cache.path(), token)
    }

    /// The hub at `endpoint` with its cache in `cache`.
    pub fn new(endpoint: &str, cache: &Path, token: Option<String>) -> Self {
        Self { endpoint: endpoint.trim_end_matches('/').into(), cache: Cache::new(cache.to_path_buf()), token }
    }

    /// The bytes of a file, from the cache or else from the hub.
    ///
    /// # Errors
    /// When it is in neither, or its content is not the pinned one. A download with wrong content does not stay in the
    /// cache.
    pub fn read(&self, official: &OfficialFile) -> Result<Vec<u8>, OfficialError> {
        let kind = match official.kind {
            Kind::Dataset => RepoType::Dataset,
            Kind::Space => RepoType::Space,
        };
        let repo = Repo::with_revision(official.repository.into(), kind, official.revision.into());
        let snapshots = self.cache.path().join(repo.folder_name()).join("snapshots");
        let cached = snapshots.join(official.revision).join(official.file);
        if cached.exists() {
            return verified(&cached, official, "remove it to fetch it anew");
        }
        let fetched = self.fetch(repo, official).map_err(|error| OfficialError::Fetch {
            name: official.name(),
            problem: explained(error, &self.endpoint),
            option: official.option,
        })?;
        let read = verified(&fetched, official, "run again to fetch it anew, and check HF_ENDPOINT");
        if matches!(read, Err(OfficialError::Checksum { .. })) {
            // What the name points to goes as well, or the hub's client would take it for complete.
            for path in [fs::canonicalize(&fetched).unwrap_or_else(|_| fetched.clone()), fetched] {
                fs::remove_file(&path).map_err(|error| OfficialError::Cache { path, error })?;
            }
        }
        read
    }

    fn fetch(&self, repo: Repo, official: &OfficialFile) -> Result<PathBuf, ApiError> {
        let builder = ApiBuilder::from_cache(self.cache.clone())
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_progress(false)
            .with_user_agent("orpo-eval", env!("CARGO_PKG_VERSION"));
        builder.build()?.repo(repo).download(official.file)
    }
}

fn verified(path: &Path, official: &OfficialFile, advice: &'static str) -> Result<Vec<u8>, OfficialError> {
    let bytes = fs::read(path).map_err(|error| OfficialError::Cache { path: path.to_owned(), error })?;
    let found = jsonl::sha256(&bytes);
    if found == official.sha256 {
        return Ok(bytes);
    }
    let (path, expected) = (path.to_owned(), official.sha256);
    Err(OfficialError::Checksum { path, name: official.name(), found, expected, advice, option: official.option })
}

/// What an error of the hub means for the user.
fn explained(error: ApiError, endpoint: &str) -> String {
    let message = error.to_string();
    let status = match error {
        ApiError::RequestError(error) => error.into_response().map(|response| response.status()),
        _ => None,
    };
    match status {
        Some(status @ (401 | 403)) => format!("{endpoint} refuses access ({status}); HF_TOKEN may hold a token"),
        Some(404) => format!("{endpoint} has no such file (404); check HF_ENDPOINT"),
        Some(status) => format!("{endpoint} answers {status}; try again later"),
        None => format!("{message}; run again to go on, and check the network and HF_ENDPOINT ({endpoint})"),
    }
}
