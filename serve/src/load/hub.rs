//! A model of the Hugging Face hub: which names are ids of it, and which of its files serving needs.

use std::path::{Path, PathBuf};

use orpo_chat::is_tokenizer_file;
use orpo_hub::{Hub, HubError, Kind, RepoId, Repository};

/// Why a model of the hub cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("hub model `{id}`: {reason}")]
pub struct ModelError {
    /// As it was asked for.
    pub id: String,
    /// What went wrong, and what to do.
    pub reason: String,
}

/// Whether `model`, which is no path that exists, can be an id: `owner/name[@revision]`, or anything after `hub:`.
pub fn is_id(model: &Path) -> bool {
    let Some(text) = model.to_str() else { return false };
    text.starts_with("hub:") || RepoId::parse(Kind::Model, text).is_some_and(|id| id.name.contains('/'))
}

/// The local directory of the model `[hub:]owner/name[@revision]`, with all that serving needs of it. Blocks while it is
/// fetched.
///
/// # Errors
/// [`ModelError`]: no such model, access refused, no network, a download that broke off, no safetensors.
pub fn model(hub: &Hub, id: &str) -> Result<PathBuf, ModelError> {
    let fail = |reason: String| ModelError { id: id.into(), reason };
    let parsed = RepoId::parse(Kind::Model, id.strip_prefix("hub:").unwrap_or(id))
        .ok_or_else(|| fail("it must be written owner/name[@revision]".into()))?;
    let fetched = Repository::open(hub, &parsed).and_then(|repository| {
        if let Some(notice) = repository.notice() {
            tracing::warn!(repository = parsed.name, "{notice}");
        }
        fetch(&repository)
    });
    fetched.map_err(|error| fail(error.to_string()))
}

/// Everything that serving needs; the directory.
fn fetch(repository: &Repository<'_>) -> Result<PathBuf, HubError> {
    let file = |name: &str| {
        if repository.cached(name).is_none() {
            tracing::info!(file = name, bytes = repository.size(name), "fetching");
        }
        repository.file(name)
    };
    let names = repository.names();
    let config = file("config.json")?;
    file("tokenizer.json")?;
    for name in names.iter().filter(|name| is_tokenizer_file(name) || **name == "generation_config.json") {
        file(name)?;
    }
    for name in repository.weights()? {
        file(&name)?;
    }
    Ok(config.parent().expect("a file of a directory").to_path_buf())
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
}
