//! How a repository of the hub, and a file in it, is named.

use super::failure;
use crate::error::TrainError;

/// `owner/name[@revision][:path-or-glob]`.
#[derive(Debug, PartialEq)]
pub(super) struct HubId<'a> {
    /// As it was written, for messages.
    pub(super) text: &'a str,
    pub(super) name: &'a str,
    pub(super) revision: &'a str,
    pub(super) path: Option<&'a str>,
}

impl<'a> HubId<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, TrainError> {
        let (repo, path) = text.split_once(':').map_or((text, None), |(repo, path)| (repo, Some(path)));
        let (name, revision) = repo.split_once('@').unwrap_or((repo, "main"));
        let parts: Vec<&str> = name.split('/').collect();
        let good = parts.len() <= 2 && parts.into_iter().all(is_plain) && revision.split('/').all(is_plain);
        if !good || path == Some("") {
            return Err(failure(text, "it must be written hub:owner/name[@revision][:path-or-glob]"));
        }
        Ok(Self { text, name, revision, path })
    }
}

/// Whether a part of an id can stand in a path and in an address.
pub(super) fn is_plain(part: &str) -> bool {
    !part.is_empty() && !part.contains("..") && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_taken_apart() {
        let parsed = |text: &'static str| HubId::parse(text).map(|id| (id.name, id.revision, id.path)).ok();
        assert_eq!(parsed("gpt2"), Some(("gpt2", "main", None)));
        assert_eq!(parsed("a/b@refs/pr/1:d/*.parquet"), Some(("a/b", "refs/pr/1", Some("d/*.parquet"))));
        for wrong in ["", "a/b/c", "a/", "../b", "a/b@", "a/b:", "a b", "a/b@../x"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
