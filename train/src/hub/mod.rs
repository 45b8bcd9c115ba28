//! Files of the Hugging Face hub, through its cache: what was fetched once needs no network any more.
//!
//! A commit is pinned by the first listing of a repository; later files come from the same commit. To see a newer one,
//! name it (`@revision`) or remove the repository from the cache.

mod choose;
mod id;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use orpo_chat::TOKENIZER_FILES;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::choose::choose_data;
use self::id::{HubId, is_plain};
use crate::checkpoint::SLOW_TOKENIZER_FILES;
use crate::error::TrainError;

/// The part after `hub:` of a source that names the hub.
pub fn id(source: &str) -> Option<&str> {
    source.strip_prefix("hub:")
}

/// Whether a path is none, but an id of the hub.
pub fn is_id(path: &Path) -> bool {
    path.to_str().and_then(id).is_some()
}

/// The directory of a model: `path` itself, or that of `hub:owner/name[@revision]` in the cache.
///
/// # Errors
/// As [`Hub::model`]. A local path is not looked at.
pub fn model_dir(path: &Path) -> Result<PathBuf, TrainError> {
    match path.to_str().and_then(id) {
        Some(id) => Hub::from_env().model(id),
        None => Ok(path.to_path_buf()),
    }
}

/// A hub and the cache of its files.
#[derive(Debug, Clone)]
pub struct Hub {
    endpoint: String,
    cache: Cache,
    token: Option<String>,
}

/// What a commit of a repository holds.
#[derive(Debug, Serialize, Deserialize)]
struct Listing {
    commit: String,
    files: Vec<ListedFile>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ListedFile {
    name: String,
    /// Bytes; not known where the listing was made from the cache.
    size: Option<u64>,
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

    /// The local files of a dataset `owner/name[@revision][:path-or-glob]`, sorted by name. Without a path the
    /// repository must hold one data file, or the parts of one.
    ///
    /// # Errors
    /// When the repository or file is not there, access is refused, a download breaks off, or the choice is not clear.
    pub fn dataset(&self, id: &str) -> Result<Vec<PathBuf>, TrainError> {
        let id = HubId::parse(id)?;
        let repository = Repository::open(self, &id, RepoType::Dataset)?;
        let mut names = choose_data(&repository.listing.names(), id.path).map_err(|reason| failure(id.text, reason))?;
        names.sort_unstable();
        names.into_iter().map(|name| repository.file(name)).collect()
    }

    /// The local directory of a model `owner/name[@revision]`, with its configuration, tokenizer and safetensors.
    ///
    /// # Errors
    /// As [`Hub::dataset`]; also when it has no safetensors.
    pub fn model(&self, id: &str) -> Result<PathBuf, TrainError> {
        let id = HubId::parse(id)?;
        if id.path.is_some() {
            return Err(failure(id.text, "a model is a whole repository; leave out the path after `:`"));
        }
        let repository = Repository::open(self, &id, RepoType::Model)?;
        let names = repository.listing.names();
        let config = repository.file("config.json")?;
        let wanted = TOKENIZER_FILES.iter().chain(&SLOW_TOKENIZER_FILES).chain(&["generation_config.json"]);
        for name in wanted.filter(|name| names.contains(*name)) {
            repository.file(name)?;
        }
        const SINGLE: &str = "model.safetensors";
        const INDEX: &str = "model.safetensors.index.json";
        if names.contains(&SINGLE) {
            repository.file(SINGLE)?;
        } else if names.contains(&INDEX) {
            let index = repository.file(INDEX)?;
            for shard in shards(&index)? {
                repository.file(&shard)?;
            }
        } else {
            let reason = "it has no safetensors; name a repository or revision with `model.safetensors`, or convert it";
            return Err(failure(id.text, reason));
        }
        Ok(config.parent().expect("a file of a directory").to_path_buf())
    }
}

/// The files that a sharded model's index names.
fn shards(index: &Path) -> Result<BTreeSet<String>, TrainError> {
    let text = fs::read_to_string(index).map_err(|e| TrainError::read(index, e))?;
    let json: Value = serde_json::from_str(&text).map_err(|e| TrainError::invalid(index, e))?;
    let map = json["weight_map"].as_object().ok_or_else(|| TrainError::invalid(index, "no `weight_map` in it"))?;
    Ok(map.values().filter_map(|name| name.as_str().map(str::to_string)).collect())
}

/// One commit of one repository.
struct Repository<'a> {
    hub: &'a Hub,
    id: &'a HubId<'a>,
    /// Pinned to the commit.
    repo: Repo,
    listing: Listing,
}

impl<'a> Repository<'a> {
    fn open(hub: &'a Hub, id: &'a HubId<'a>, kind: RepoType) -> Result<Self, TrainError> {
        let named = Repo::with_revision(id.name.into(), kind, id.revision.into());
        let listing = match hub.cached_listing(&named, id) {
            Some(listing) => listing,
            None => hub.fetch_listing(&named, id)?,
        };
        let repo = Repo::with_revision(id.name.into(), kind, listing.commit.clone());
        Ok(Self { hub, id, repo, listing })
    }

    /// The local path of a file, fetched unless it is there.
    fn file(&self, name: &str) -> Result<PathBuf, TrainError> {
        let cached = self.hub.repo_dir(&self.repo).join("snapshots").join(&self.listing.commit).join(name);
        if cached.exists() {
            return Ok(cached);
        }
        let wrong = |reason: String| failure(self.id.text, format!("`{name}`: {reason}"));
        let Some(listed) = self.listing.files.iter().find(|file| file.name == name) else {
            return Err(wrong("the repository has no such file".into()));
        };
        let fetched = self.hub.api(&self.repo).and_then(|api| api.download(name));
        let path = fetched.map_err(|error| wrong(Failed::from(error).explained(&self.hub.endpoint)))?;
        let length = fs::metadata(&path).map_err(|e| TrainError::read(&path, e))?.len();
        if let Some(size) = listed.size.filter(|size| *size != length) {
            // What the name points to goes as well, or the next run would take it for complete.
            for file in [fs::canonicalize(&path).unwrap_or_else(|_| path.clone()), path] {
                fs::remove_file(&file).map_err(|e| TrainError::write(&file, e))?;
            }
            return Err(wrong(format!("{length} of {size} bytes came; run again to fetch it anew")));
        }
        Ok(path)
    }
}

impl Listing {
    fn names(&self) -> Vec<&str> {
        self.files.iter().map(|file| file.name.as_str()).collect()
    }
}

impl Hub {
    fn api(&self, repo: &Repo) -> Result<ApiRepo, ApiError> {
        let builder = ApiBuilder::from_cache(self.cache.clone())
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_user_agent("orpo-train", env!("CARGO_PKG_VERSION"));
        Ok(builder.build()?.repo(repo.clone()))
    }

    fn repo_dir(&self, repo: &Repo) -> PathBuf {
        self.cache.path().join(repo.folder_name())
    }

    /// Where the listing of a commit is kept; other programs that use the cache leave such a directory alone.
    fn listing_path(&self, repo: &Repo, commit: &str) -> PathBuf {
        self.repo_dir(repo).join("orpo-listings").join(format!("{commit}.json"))
    }

    /// The commit that the cache knows under the revision.
    fn cached_commit(&self, repo: &Repo) -> Option<String> {
        let dir = self.repo_dir(repo);
        let commit = fs::read_to_string(dir.join("refs").join(repo.revision()));
        let commit = commit.map_or_else(|_| repo.revision().to_string(), |commit| commit.trim().to_string());
        dir.join("snapshots").join(&commit).is_dir().then_some(commit)
    }

    /// The kept listing, or that of a lone file which the cache has already.
    fn cached_listing(&self, repo: &Repo, id: &HubId<'_>) -> Option<Listing> {
        let commit = self.cached_commit(repo)?;
        if let Ok(text) = fs::read_to_string(self.listing_path(repo, &commit)) {
            return serde_json::from_str(&text).ok();
        }
        let name = id.path?;
        let there = self.repo_dir(repo).join("snapshots").join(&commit).join(name).exists();
        there.then(|| Listing { commit, files: vec![ListedFile { name: name.into(), size: None }] })
    }

    /// Asks the hub. Where it cannot be reached, what the cache holds of the revision is all there is.
    fn fetch_listing(&self, repo: &Repo, id: &HubId<'_>) -> Result<Listing, TrainError> {
        let answer = self.api(repo).and_then(|api| {
            let response = api.info_request().query("blobs", "true").call().map_err(Box::new)?;
            Ok(response.into_json::<Value>()?)
        });
        let json = match (answer.map_err(Failed::from), self.cached_commit(repo)) {
            (Ok(json), _) => json,
            (Err(Failed { status: None, message }), Some(commit)) => {
                eprintln!("`hub:{}`: {message}; going on with the files that the cache holds", id.text);
                let dir = self.repo_dir(repo).join("snapshots").join(&commit);
                let mut files = Vec::new();
                list_files(&dir, "", &mut files).map_err(|e| TrainError::read(&dir, e))?;
                return Ok(Listing { commit, files });
            }
            (Err(failed), _) => return Err(failure(id.text, failed.explained(&self.endpoint))),
        };
        let commit = json["sha"].as_str().unwrap_or_default();
        let (Some(files), true) = (json["siblings"].as_array(), is_plain(commit)) else {
            return Err(failure(id.text, "the answer is no listing of a repository; look at HF_ENDPOINT"));
        };
        let listing = Listing { commit: commit.into(), files: files.iter().filter_map(listed).collect() };
        self.keep(repo, &listing).map_err(|e| TrainError::write(self.cache.path(), e))?;
        Ok(listing)
    }

    fn keep(&self, repo: &Repo, listing: &Listing) -> std::io::Result<()> {
        let path = self.listing_path(repo, &listing.commit);
        fs::create_dir_all(path.parent().expect("a file of a directory"))?;
        fs::write(&path, serde_json::to_vec(listing)?)?;
        self.cache.repo(repo.clone()).create_ref(&listing.commit)
    }
}

/// A file of the hub's listing; names that would leave the directory are no names.
fn listed(file: &Value) -> Option<ListedFile> {
    let name = file["rfilename"].as_str()?;
    let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    let size = file["size"].as_u64().or_else(|| file["lfs"]["size"].as_u64());
    inside.then(|| ListedFile { name: name.into(), size })
}

/// The files below a directory of the cache, with `/` between the parts of their names.
fn list_files(dir: &Path, prefix: &str, files: &mut Vec<ListedFile>) -> std::io::Result<()> {
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

/// Why the hub gave nothing.
struct Failed {
    /// Where it answered.
    status: Option<u16>,
    message: String,
}

impl From<ApiError> for Failed {
    fn from(error: ApiError) -> Self {
        let message = error.to_string();
        match error {
            ApiError::RequestError(error) => {
                Self { status: error.into_response().map(|response| response.status()), message }
            }
            _ => Self { status: None, message },
        }
    }
}

impl Failed {
    fn explained(&self, endpoint: &str) -> String {
        match self.status {
            Some(status @ (401 | 403)) => {
                format!("access refused ({status}); check the name, and set HF_TOKEN to a token that may read it")
            }
            Some(404) => format!("no such repository, revision or file at {endpoint} (404); check the name"),
            Some(status) => format!("{endpoint} answers {status}; try again later"),
            None => format!("{}; run again to go on, and check the network and HF_ENDPOINT ({endpoint})", self.message),
        }
    }
}

fn failure(id: &str, reason: impl Into<String>) -> TrainError {
    TrainError::Hub { id: id.into(), reason: reason.into() }
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
