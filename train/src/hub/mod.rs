//! Models and data sets of the Hugging Face hub: which files of a repository they are.

mod choose;
mod id;

use std::path::{Path, PathBuf};

use orpo_chat::is_tokenizer_file;
use orpo_hub::{Hub, HubError, Kind};
use orpo_model::adapter::BaseName;

use self::choose::choose_data;
use self::id::HubId;
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

/// What an adapter's configuration calls its base model at `path`: a directory, wherever a later program runs, or
/// `hub:owner/name[@revision]`.
pub fn base_name(path: &Path) -> BaseName {
    match path.to_str().and_then(id) {
        None => {
            let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
            BaseName { name: absolute.display().to_string(), revision: None }
        }
        Some(id) => match id.split_once('@') {
            None => BaseName { name: id.into(), revision: None },
            Some((name, revision)) => BaseName { name: name.into(), revision: Some(revision.into()) },
        },
    }
}

/// The directory of a model: `path` itself, or that of `hub:owner/name[@revision]` in the cache.
///
/// # Errors
/// As [`model`]. A local path is not looked at.
pub fn model_dir(path: &Path) -> Result<PathBuf, TrainError> {
    match path.to_str().and_then(id) {
        Some(id) => model(&Hub::from_env(), id),
        None => Ok(path.to_path_buf()),
    }
}

/// The local files of a dataset `owner/name[@revision][:path-or-glob]`, sorted by name. Without a path the repository
/// must hold one data file, or the parts of one.
///
/// # Errors
/// When the repository or file is not there, access is refused, a download breaks off, or the choice is not clear.
pub fn dataset(hub: &Hub, id: &str) -> Result<Vec<PathBuf>, TrainError> {
    let id = HubId::parse(Kind::Dataset, id)?;
    // A lone file that is there needs no listing.
    if let Some(file) = id.path.and_then(|path| hub.cached(&id.repository, path)) {
        return Ok(vec![file]);
    }
    let repository = id.open(hub)?;
    let mut names = choose_data(&repository.names(), id.path).map_err(|reason| id.failed(reason))?;
    names.sort_unstable();
    names.into_iter().map(|name| repository.file(name)).collect::<Result<_, _>>().map_err(|error| id.failed(error))
}

/// The local directory of a model `owner/name[@revision]`, with its configuration, tokenizer and safetensors.
///
/// # Errors
/// As [`dataset`]; also when it has no safetensors.
pub fn model(hub: &Hub, id: &str) -> Result<PathBuf, TrainError> {
    let id = HubId::parse(Kind::Model, id)?;
    if id.path.is_some() {
        return Err(id.failed("a model is a whole repository; leave out the path after `:`"));
    }
    let repository = id.open(hub)?;
    let fetch = || -> Result<PathBuf, HubError> {
        let names = repository.names();
        let config = repository.file("config.json")?;
        let is_wanted = |name: &&str| {
            is_tokenizer_file(name) || SLOW_TOKENIZER_FILES.contains(name) || *name == "generation_config.json"
        };
        for name in names.into_iter().filter(is_wanted) {
            repository.file(name)?;
        }
        for name in repository.weights()? {
            repository.file(&name)?;
        }
        Ok(config.parent().expect("a file of a directory").to_path_buf())
    };
    fetch().map_err(|error| id.failed(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_bases() {
        let name = |path: &str| base_name(Path::new(path));
        assert_eq!(name("/models/a@b"), BaseName { name: "/models/a@b".into(), revision: None });
        assert!(Path::new(&name("models/a").name).is_absolute());
        assert_eq!(name("hub:o/n"), BaseName { name: "o/n".into(), revision: None });
        assert_eq!(name("hub:o/n@v2"), BaseName { name: "o/n".into(), revision: Some("v2".into()) });
    }
}
