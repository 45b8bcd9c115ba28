//! How a repository of the hub, and a file in it, is named in a recipe.

use orpo_hub::{Hub, Kind, RepoId, Repository};

use crate::error::TrainError;
use crate::terminal::say;

/// `owner/name[@revision][:path-or-glob]`.
#[derive(Debug, PartialEq)]
pub(super) struct HubId<'a> {
    /// As it was written, for messages.
    pub(super) text: &'a str,
    pub(super) repository: RepoId<'a>,
    pub(super) path: Option<&'a str>,
}

impl<'a> HubId<'a> {
    pub(super) fn parse(kind: Kind, text: &'a str) -> Result<Self, TrainError> {
        let (id, path) = text.split_once(':').map_or((text, None), |(id, path)| (id, Some(path)));
        let parsed = RepoId::parse(kind, id).filter(|_| path != Some(""));
        let repository = parsed.ok_or_else(|| TrainError::Hub {
            id: text.into(),
            reason: "it must be written hub:owner/name[@revision][:path-or-glob]".into(),
        })?;
        Ok(Self { text, repository, path })
    }

    /// Its listing. That the hub cannot be reached, and the cache is all there is, is said on stderr.
    pub(super) fn open<'h>(&self, hub: &'h Hub) -> Result<Repository<'h>, TrainError> {
        let repository = Repository::open(hub, &self.repository).map_err(|error| self.failed(error))?;
        if let Some(notice) = repository.notice() {
            say(&format!("`hub:{}`: {notice}", self.text));
        }
        Ok(repository)
    }

    /// The error that names it.
    pub(super) fn failed(&self, reason: impl ToString) -> TrainError {
        TrainError::Hub { id: self.text.into(), reason: reason.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_taken_apart() {
        let parsed = |text: &'static str| {
            HubId::parse(Kind::Dataset, text).map(|id| (id.repository.name, id.repository.revision, id.path)).ok()
        };
        assert_eq!(parsed("gpt2"), Some(("gpt2", "main", None)));
        assert_eq!(parsed("a/b@refs/pr/1:d/*.parquet"), Some(("a/b", "refs/pr/1", Some("d/*.parquet"))));
        for wrong in ["", "a/b/c", "a/", "../b", "a/b@", "a/b:", "a b", "a/b@../x"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
