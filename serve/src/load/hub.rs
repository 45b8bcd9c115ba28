//! A model of the Hugging Face hub, through the hub's cache: what was fetched once needs no network any more.
//!
//! The trainer keeps the same cache in the same way: a revision stands for the commit that it named when it was first
//! fetched, and a listing of that commit's files is kept beside its snapshots. To see a newer commit, name it
//! (`@revision`) or remove the repository from the cache.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::{fs, io};

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use orpo_chat::TOKENIZER_FILES;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::progress::Progress;
use crate::checkpoint::read_object;

const ENDPOINT: &str = "https://huggingface.co";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Why a model of the hub cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("hub model `{id}`: {reason}")]
pub struct HubError {
    /// As it was asked for.
    pub id: String,
    /// What went wrong, and what to do.
    pub reason: String,
}

/// Whether `model`, which is no path that exists, can be an id: `owner/name[@revision]`, or anything after `hub:`.
pub fn is_id(model: &Path) -> bool {
    let Some(text) = model.to_str() else { return false };
    text.starts_with("hub:") || Id::parse(text).is_some_and(|id| id.name.contains('/'))
}

struct Id<'a> {
    name: &'a str,
    revision: &'a str,
}

impl<'a> Id<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        let parts: Vec<&str> = name.split('/').collect();
        let good = parts.len() <= 2 && parts.into_iter().all(is_plain) && revision.split('/').all(is_plain);
        good.then_some(Self { name, revision })
    }
}

/// Whether a part of an id can stand in a path and in an address.
fn is_plain(part: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !part.starts_with('.') && !part.is_empty() && !part.contains("..") && part.chars().all(plain)
}

/// A hub and the cache of its files.
#[derive(Debug, Clone)]
pub struct Hub {
    endpoint: String,
    cache: Cache,
    token: Option<String>,
    offline: bool,
}

/// What a commit of a repository holds, in the trainer's layout.
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
    /// The hub that `HF_ENDPOINT` names, its cache under `HF_HOME`, the token of `HF_TOKEN` or of the cache;
    /// `HF_HUB_OFFLINE=1` keeps to the cache.
    pub fn from_env() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let cache = Cache::from_env();
        let token = variable("HF_TOKEN").or_else(|| cache.token());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        let is_on = |value: String| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str());
        let offline = variable("HF_HUB_OFFLINE").is_some_and(is_on);
        Self { offline, ..Self::new(&endpoint, cache.path(), token) }
    }

    /// The hub at `endpoint` with its cache in `cache`.
    pub fn new(endpoint: &str, cache: &Path, token: Option<String>) -> Self {
        let endpoint = endpoint.trim_end_matches('/').into();
        Self { endpoint, cache: Cache::new(cache.to_path_buf()), token, offline: false }
    }

    /// The local directory of the model `[hub:]owner/name[@revision]`, with all that serving needs of it. Blocks while
    /// it is fetched.
    ///
    /// # Errors
    /// [`HubError`]: no such model, access refused, no network, a download that broke off, no safetensors.
    pub fn model(&self, id: &str) -> Result<PathBuf, HubError> {
        let fail = |reason: String| HubError { id: id.into(), reason };
        let parsed = Id::parse(id.strip_prefix("hub:").unwrap_or(id))
            .ok_or_else(|| fail("it must be written owner/name[@revision]".into()))?;
        let named = Repo::with_revision(parsed.name.into(), RepoType::Model, parsed.revision.into());
        let listing = self.listing(&named).map_err(fail)?;
        let pinned = Repo::with_revision(parsed.name.into(), RepoType::Model, listing.commit.clone());
        let snapshot = Snapshot { hub: self, repo: pinned, listing };
        snapshot.fetch().map_err(fail)
    }

    fn listing(&self, repo: &Repo) -> Result<Listing, String> {
        let cached = self.cached_commit(repo);
        if let Some(commit) = &cached
            && let Ok(text) = fs::read_to_string(self.listing_path(repo, commit))
            && let Ok(listing) = serde_json::from_str(&text)
        {
            return Ok(listing);
        }
        let answer = if self.offline {
            Err(Failed { status: None, message: "HF_HUB_OFFLINE is set".into() })
        } else {
            self.ask(repo).map_err(Failed::from)
        };
        match (answer, cached) {
            (Ok(json), _) => self.read_listing(repo, &json),
            // Another program filled the cache: what it holds is all there is.
            (Err(Failed { status: None, message }), Some(commit)) => {
                tracing::warn!(repository = repo.url(), "{message}; going on with the files that the cache holds");
                let dir = self.repo_dir(repo).join("snapshots").join(&commit);
                let names = fs::read_dir(&dir).map_err(|error| format!("cannot read `{}`: {error}", dir.display()))?;
                let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
                Ok(Listing { commit, files: names.map(|name| ListedFile { name, size: None }).collect() })
            }
            (Err(failed), _) => Err(failed.explained(&self.endpoint)),
        }
    }

    fn ask(&self, repo: &Repo) -> Result<Value, ApiError> {
        let response = self.api(repo)?.info_request().query("blobs", "true").call().map_err(Box::new)?;
        Ok(response.into_json()?)
    }

    fn api(&self, repo: &Repo) -> Result<ApiRepo, ApiError> {
        let builder = ApiBuilder::from_cache(self.cache.clone())
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_user_agent("orpo-serve", env!("CARGO_PKG_VERSION"));
        Ok(builder.build()?.repo(repo.clone()))
    }

    /// The hub's listing, kept for the next time.
    fn read_listing(&self, repo: &Repo, json: &Value) -> Result<Listing, String> {
        let commit = json["sha"].as_str().unwrap_or_default();
        let (Some(files), true) = (json["siblings"].as_array(), is_plain(commit)) else {
            return Err("the answer is no listing of a repository; look at HF_ENDPOINT".into());
        };
        let listing = Listing { commit: commit.into(), files: files.iter().filter_map(listed).collect() };
        self.keep(repo, &listing)
            .map_err(|error| format!("cannot write to the cache `{}`: {error}", self.cache.path().display()))?;
        Ok(listing)
    }

    fn keep(&self, repo: &Repo, listing: &Listing) -> io::Result<()> {
        let path = self.listing_path(repo, &listing.commit);
        fs::create_dir_all(path.parent().expect("a file of a directory"))?;
        fs::write(&path, serde_json::to_vec(listing)?)?;
        self.cache.repo(repo.clone()).create_ref(&listing.commit)
    }

    fn repo_dir(&self, repo: &Repo) -> PathBuf {
        self.cache.path().join(repo.folder_name())
    }

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
}

/// One commit of one repository.
struct Snapshot<'a> {
    hub: &'a Hub,
    /// Pinned to the commit.
    repo: Repo,
    listing: Listing,
}

impl Snapshot<'_> {
    /// Everything that serving needs; the directory.
    fn fetch(&self) -> Result<PathBuf, String> {
        let has = |name: &str| self.listing.files.iter().any(|file| file.name == name);
        let config = self.file("config.json")?;
        self.file("tokenizer.json")?;
        for name in TOKENIZER_FILES.iter().chain(&["generation_config.json"]).filter(|name| has(name)) {
            self.file(name)?;
        }
        if has(SINGLE) {
            self.file(SINGLE)?;
        } else if has(INDEX) {
            let index = read_object(&self.file(INDEX)?).map_err(|error| error.to_string())?;
            let shards = index.get("weight_map").and_then(Value::as_object).into_iter().flatten();
            let shards: BTreeSet<&str> = shards.filter_map(|(_, file)| file.as_str()).collect();
            for shard in shards {
                self.file(shard)?;
            }
        } else {
            return Err("it has no safetensors; name a repository or revision with `model.safetensors`".into());
        }
        Ok(config.parent().expect("a file of a directory").to_path_buf())
    }

    /// The local path of a file, fetched unless it is there.
    fn file(&self, name: &str) -> Result<PathBuf, String> {
        let cached = self.hub.repo_dir(&self.repo).join("snapshots").join(&self.listing.commit).join(name);
        if cached.exists() {
            return Ok(cached);
        }
        let wrong = |reason: String| format!("`{name}`: {reason}");
        let listed = self.listing.files.iter().find(|file| file.name == name);
        let listed = listed.ok_or_else(|| wrong("the repository has no such file".into()))?;
        if self.hub.offline {
            return Err(wrong("it is not in the cache, and HF_HUB_OFFLINE is set".into()));
        }
        tracing::info!(file = name, bytes = listed.size, "fetching");
        let progress = Progress::new(name, listed.size.unwrap_or(0));
        let fetched = self.hub.api(&self.repo).and_then(|api| api.download_with_progress(name, progress));
        let path = fetched.map_err(|error| wrong(Failed::from(error).explained(&self.hub.endpoint)))?;
        let length = fs::metadata(&path).map_err(|error| wrong(error.to_string()))?.len();
        if let Some(size) = listed.size.filter(|size| *size != length) {
            // What the name points to goes as well, or the next run would take it for complete.
            for file in [fs::canonicalize(&path).unwrap_or_else(|_| path.clone()), path] {
                fs::remove_file(&file).map_err(|error| wrong(error.to_string()))?;
            }
            return Err(wrong(format!("{length} of {size} bytes came; run again to fetch it anew")));
        }
        Ok(path)
    }
}

/// A file of the hub's listing; names that would leave the directory are no names.
fn listed(file: &Value) -> Option<ListedFile> {
    let name = file["rfilename"].as_str()?;
    let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    let size = file["size"].as_u64().or_else(|| file["lfs"]["size"].as_u64());
    inside.then(|| ListedFile { name: name.into(), size })
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
            Some(404) => format!("no such model, revision or file at {endpoint} (404); check the name"),
            Some(status) => format!("{endpoint} answers {status}; try again later"),
            None => format!("{}; check the network and HF_ENDPOINT ({endpoint}), and run again", self.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_paths() {
        for id in ["acme/tiny", "acme/tiny@v1.0", "acme/tiny@refs/pr/1", "hub:gpt2"] {
            assert!(is_id(Path::new(id)), "{id}");
        }
        for path in ["tiny", "/acme/tiny", "./acme/tiny", "../acme", "a/b/c", "acme/", "acme/tiny.d/", "a b/c"] {
            assert!(!is_id(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn a_listed_name_stays_inside() {
        let name = |name: &str| listed(&serde_json::json!({"rfilename": name, "size": 3})).map(|file| file.name);
        assert_eq!(name("a/b.json").as_deref(), Some("a/b.json"));
        assert!(name("../b").is_none() && name("/b").is_none() && name("a/../../b").is_none());
    }
}
