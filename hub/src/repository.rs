//! One commit of a repository, with the names of its files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

use hf_hub::Repo;
use serde_json::Value;

use crate::listing::{ListedFile, Listing};
use crate::{Hub, HubError, RepoId, discard};

/// The commit that a revision named when it was first listed.
pub struct Repository<'a> {
    hub: &'a Hub,
    /// Pinned to the commit.
    repo: Repo,
    files: Vec<ListedFile>,
    notice: Option<String>,
}

impl<'a> Repository<'a> {
    /// Lists a repository: from the cache, or else from the hub.
    ///
    /// # Errors
    /// When the repository or revision is not there, access is refused, or neither hub nor cache can be used.
    pub fn open(hub: &'a Hub, id: &RepoId<'_>) -> Result<Self, HubError> {
        let named = id.repo();
        let cached = hub.cached_commit(&named);
        let pinned = |listing: Listing, notice| {
            let repo = RepoId { revision: &listing.commit, ..*id }.repo();
            Self { hub, repo, files: listing.files, notice }
        };
        if let Some(listing) = cached.as_ref().and_then(|commit| hub.kept_listing(&named, commit)) {
            return Ok(pinned(listing, None));
        }
        // Where another program filled the cache, what it holds is all there is.
        let (reason, commit) = match (hub.ask(&named), cached) {
            (Ok(listing), _) => return Ok(pinned(listing, None)),
            (Err(HubError::Unreachable { problem, .. }), Some(commit)) => (problem, commit),
            (Err(HubError::Offline), Some(commit)) => ("HF_HUB_OFFLINE is set".into(), commit),
            (Err(error), _) => return Err(error),
        };
        let dir = hub.snapshot(&named, &commit);
        let listing = Listing::from_dir(commit, &dir).map_err(|error| HubError::Cache { path: dir, error })?;
        Ok(pinned(listing, Some(format!("{reason}; going on with the files that the cache holds"))))
    }

    /// What the user should know, if anything: that the hub could not be asked, and so the names are those of the cache.
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }

    /// The names of the files.
    pub fn names(&self) -> Vec<&str> {
        self.files.iter().map(|file| file.name.as_str()).collect()
    }

    /// The size of a file in bytes, where it is known.
    pub fn size(&self, name: &str) -> Option<u64> {
        self.files.iter().find(|file| file.name == name).and_then(|file| file.size)
    }

    /// The local path of a file, if it is there.
    pub fn cached(&self, name: &str) -> Option<PathBuf> {
        let path = self.hub.snapshot(&self.repo, self.repo.revision()).join(name);
        path.is_file().then_some(path)
    }

    /// The local path of a file, fetched unless it is there.
    ///
    /// # Errors
    /// When the repository has no such file, or its download is refused or breaks off.
    pub fn file(&self, name: &str) -> Result<PathBuf, HubError> {
        match self.cached(name) {
            Some(path) => Ok(path),
            None => self.fetch(name).map_err(|error| HubError::File { name: name.into(), error: error.into() }),
        }
    }

    fn fetch(&self, name: &str) -> Result<PathBuf, HubError> {
        if !self.names().contains(&name) {
            return Err(HubError::NotListed);
        }
        let path = self.hub.download(&self.repo, name)?;
        let found = fs::metadata(&path).map_err(|error| HubError::Cache { path: path.clone(), error })?.len();
        if let Some(expected) = self.size(name).filter(|size| *size != found) {
            discard(&path)?;
            return Err(HubError::Incomplete { found, expected });
        }
        Ok(path)
    }

    /// The names of a model's weights: `model.safetensors`, or an index, which is fetched for that, and its shards.
    ///
    /// # Errors
    /// When it has neither, or the index cannot be had or is wrong.
    pub fn weights(&self) -> Result<Vec<String>, HubError> {
        const SINGLE: &str = "model.safetensors";
        const INDEX: &str = "model.safetensors.index.json";
        let names = self.names();
        if names.contains(&SINGLE) {
            Ok(vec![SINGLE.into()])
        } else if names.contains(&INDEX) {
            let index = self.file(INDEX)?;
            let shards = shards(&index).map_err(|problem| HubError::Index { path: index, problem })?;
            Ok(std::iter::once(INDEX.into()).chain(shards).collect())
        } else {
            Err(HubError::NoSafetensors)
        }
    }
}

/// The files that the index of a sharded model names.
fn shards(index: &Path) -> Result<BTreeSet<String>, String> {
    let text = fs::read_to_string(index).map_err(|error| error.to_string())?;
    let json: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let map = json["weight_map"].as_object().ok_or("no `weight_map` in it")?;
    Ok(map.values().filter_map(|name| name.as_str().map(str::to_string)).collect())
}

impl Hub {
    /// Where the listing of a commit is kept; other programs that use the cache leave such a directory alone.
    fn listing_path(&self, repo: &Repo, commit: &str) -> PathBuf {
        self.repo_dir(repo).join("orpo-listings").join(format!("{commit}.json"))
    }

    /// One that is not whole is none: it is asked for anew.
    fn kept_listing(&self, repo: &Repo, commit: &str) -> Option<Listing> {
        let text = fs::read_to_string(self.listing_path(repo, commit)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// The hub's listing, kept for the next time.
    fn ask(&self, repo: &Repo) -> Result<Listing, HubError> {
        if self.offline {
            return Err(HubError::Offline);
        }
        let answer = self.api(repo).and_then(|api| {
            let response = api.info_request().query("blobs", "true").call().map_err(Box::new)?;
            Ok(response.into_json::<Value>()?)
        });
        let answer = answer.map_err(|error| HubError::from_api(error, &self.endpoint, HubError::NoRepository))?;
        let listing = Listing::from_answer(&answer).ok_or(HubError::NoListing)?;
        self.keep(repo, &listing).map_err(|error| HubError::Cache { path: self.cache.path().clone(), error })?;
        Ok(listing)
    }

    fn keep(&self, repo: &Repo, listing: &Listing) -> io::Result<()> {
        let path = self.listing_path(repo, &listing.commit);
        fs::create_dir_all(path.parent().expect("a file of a directory"))?;
        fs::write(&path, serde_json::to_vec(listing)?)?;
        self.cache.repo(repo.clone()).create_ref(&listing.commit)
    }
}
