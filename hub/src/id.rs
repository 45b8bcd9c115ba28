//! How a repository of the hub is named.

use hf_hub::{Repo, RepoType};

/// What a repository is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
    /// A space: a program with its data.
    Space,
}

/// A repository at a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepoId<'a> {
    /// The kind of repository.
    pub kind: Kind,
    /// `owner/name`, or the name alone.
    pub name: &'a str,
    /// A branch, a tag or a commit.
    pub revision: &'a str,
}

impl<'a> RepoId<'a> {
    /// Reads `owner/name[@revision]`; the revision is `main` where none is named. Nothing where it is written otherwise.
    pub fn parse(kind: Kind, text: &'a str) -> Option<Self> {
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        let parts: Vec<&str> = name.split('/').collect();
        let good = parts.len() <= 2 && parts.into_iter().all(is_plain) && revision.split('/').all(is_plain);
        good.then_some(Self { kind, name, revision })
    }

    pub(crate) fn repo(&self) -> Repo {
        let kind = match self.kind {
            Kind::Model => RepoType::Model,
            Kind::Dataset => RepoType::Dataset,
            Kind::Space => RepoType::Space,
        };
        Repo::with_revision(self.name.into(), kind, self.revision.into())
    }
}

/// Whether a part of an id can stand in a path and in an address.
pub(crate) fn is_plain(part: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !part.is_empty() && !part.starts_with('.') && !part.contains("..") && part.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_taken_apart() {
        let parsed = |text: &'static str| RepoId::parse(Kind::Model, text).map(|id| (id.name, id.revision));
        assert_eq!(parsed("gpt2"), Some(("gpt2", "main")));
        assert_eq!(parsed("a/b@refs/pr/1"), Some(("a/b", "refs/pr/1")));
        for wrong in ["", "a/b/c", "a/", "/a", "./a", "../b", ".a/b", "a/b@", "a b", "a/b:c", "a/b@../x", "a/b@v@w"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
