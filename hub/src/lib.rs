//! Files of the Hugging Face hub, through its own cache, which other programs share: what was fetched once needs no
//! network any more.
//!
//! - [`RepoId`] names a repository at a revision.
//! - [`Hub`] finds a file in the cache, or fetches one of a commit that the caller knows.
//! - [`Repository`] is what a revision holds. Its first listing pins the commit and is kept beside the snapshots; later
//!   files come from the same commit. To see a newer one, name it or remove the repository from the cache.
//! - [`HubError`] says why there is no file, and what to do.
//!
//! ```
//! use orpo_hub::{Hub, Kind, RepoId};
//!
//! let id = RepoId::parse(Kind::Model, "acme/tiny@v1.0").expect("an id");
//! assert_eq!((id.name, id.revision), ("acme/tiny", "v1.0"));
//! let hub = Hub::new("https://huggingface.co", "an/empty/cache".as_ref(), None);
//! assert_eq!(hub.cached(&id, "config.json"), None);
//! ```

mod error;
mod id;
mod listing;
mod repository;

use std::fs;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo};

pub use error::HubError;
pub use id::{Kind, RepoId};
pub use repository::Repository;

/// A hub and the cache of its files. It has no `Debug`, for it holds a token.
#[derive(Clone)]
pub struct Hub {
    endpoint: String,
    cache: Cache,
    token: Option<String>,
    offline: bool,
}

impl Hub {
    /// The hub that `HF_ENDPOINT` names, its cache under `HF_HOME`, the token of `HF_TOKEN` or of the cache;
    /// `HF_HUB_OFFLINE=1` keeps to the cache.
    pub fn from_env() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let cache = Cache::from_env();
        let token = variable("HF_TOKEN").or_else(|| cache.token());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let is_on = |value: String| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str());
        let hub = Self::new(&endpoint, cache.path(), token);
        if variable("HF_HUB_OFFLINE").is_some_and(is_on) { hub.offline() } else { hub }
    }

    /// The hub at `endpoint` with its cache in `cache`.
    pub fn new(endpoint: &str, cache: &Path, token: Option<String>) -> Self {
        let endpoint = endpoint.trim_end_matches('/').into();
        Self { endpoint, cache: Cache::new(cache.to_path_buf()), token, offline: false }
    }

    /// The same, but nothing is asked of the hub: the cache is all there is.
    pub fn offline(self) -> Self {
        Self { offline: true, ..self }
    }

    /// The local path of a file, if the cache holds it.
    pub fn cached(&self, id: &RepoId<'_>, file: &str) -> Option<PathBuf> {
        let repo = id.repo();
        let path = self.snapshot(&repo, &self.cached_commit(&repo)?).join(file);
        path.is_file().then_some(path)
    }

    /// The local path of a file that the cache does not hold. The revision should be a commit; its files need no listing.
    ///
    /// # Errors
    /// When the hub does not give it.
    pub fn fetch(&self, id: &RepoId<'_>, file: &str) -> Result<PathBuf, HubError> {
        self.download(&id.repo(), file)
    }

    fn download(&self, repo: &Repo, file: &str) -> Result<PathBuf, HubError> {
        if self.offline {
            return Err(HubError::Offline);
        }
        let fetched = self.api(repo).and_then(|api| api.download(file));
        fetched.map_err(|error| HubError::from_api(error, &self.endpoint, HubError::NoFile))
    }

    fn api(&self, repo: &Repo) -> Result<ApiRepo, ApiError> {
        let builder = ApiBuilder::from_cache(self.cache.clone())
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_user_agent("orpo", env!("CARGO_PKG_VERSION"));
        Ok(builder.build()?.repo(repo.clone()))
    }

    fn repo_dir(&self, repo: &Repo) -> PathBuf {
        self.cache.path().join(repo.folder_name())
    }

    fn snapshot(&self, repo: &Repo, commit: &str) -> PathBuf {
        self.repo_dir(repo).join("snapshots").join(commit)
    }

    /// The commit that the cache knows under the revision.
    fn cached_commit(&self, repo: &Repo) -> Option<String> {
        let commit = fs::read_to_string(self.repo_dir(repo).join("refs").join(repo.revision()));
        let commit = commit.map_or_else(|_| repo.revision().to_string(), |commit| commit.trim().to_string());
        self.snapshot(repo, &commit).is_dir().then_some(commit)
    }
}

/// Removes a fetched file whose content is wrong, with what it points to: the next run would take it for complete.
///
/// # Errors
/// When it cannot be removed.
pub fn discard(fetched: &Path) -> Result<(), HubError> {
    let content = fs::canonicalize(fetched).unwrap_or_else(|_| fetched.to_path_buf());
    for path in [&content, fetched] {
        fs::remove_file(path).map_err(|error| HubError::Cache { path: path.to_path_buf(), error })?;
    }
    Ok(())
}
