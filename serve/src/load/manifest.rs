//! `orpo_manifest.json`: the trainer's list of the files that it wrote, with their SHA-256. Where there is one, what is
//! served is what was trained. Only what is needed of it is read, so that a model of any version of the trainer is served.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use orpo_files::{MANIFEST, sha256, sha256_stream};
use serde_json::{Map, Value, json};

use super::progress::Progress;

/// Why a directory is not what its manifest says.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The manifest is not one.
    #[error("`{}` is no manifest: {reason}; export the model again, or pass --no-verify", path.display())]
    Invalid {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file that it names cannot be read.
    #[error("cannot check `{}` against {MANIFEST}: {source}; copy it again, or pass --no-verify", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file holds something else.
    #[error(
        "`{}` is not the file that was written: its SHA-256 is {found}, {MANIFEST} says {expected}; copy or export it \
         again, or pass --no-verify",
        path.display()
    )]
    Differs {
        /// The file.
        path: PathBuf,
        /// The hash of what is there.
        found: String,
        /// The hash in the manifest.
        expected: String,
    },
}

/// Checks every file that the manifest of `dir` names and returns how many these are; nothing without a manifest.
///
/// # Errors
/// [`ManifestError`] with the first file that differs, in the manifest's order.
pub fn verify(dir: &Path) -> Result<Option<usize>, ManifestError> {
    let path = dir.join(MANIFEST);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ManifestError::Read { path, source }),
    };
    let invalid = |reason: String| ManifestError::Invalid { path: path.clone(), reason };
    let manifest: Value = serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
    let files = manifest["files"].as_object().ok_or_else(|| invalid("it has no `files`".into()))?;
    for (name, hash) in files {
        let expected = hash.as_str().ok_or_else(|| invalid(format!("`files.{name}` is no hash")))?;
        if Path::new(name).file_name() != Some(name.as_ref()) {
            return Err(invalid(format!("`{name}` is not a file of the directory")));
        }
        let file = dir.join(name);
        let found = sha256_of(&file).map_err(|source| ManifestError::Read { path: file.clone(), source })?;
        if !found.eq_ignore_ascii_case(expected) {
            return Err(ManifestError::Differs { path: file, found, expected: expected.into() });
        }
    }
    Ok(Some(files.len()))
}

/// Returns what the manifest of `dir` says of where its weights come from, for clients: `{"manifest_sha256", "manifest",
/// "base", "step", "weights", "verified"}`, where `manifest` is its name in the directory's, which says nothing of where
/// that is on this machine, and `weights` are the hashes of the weight files; nothing without a manifest.
///
/// # Errors
/// When the manifest cannot be read or is none.
pub fn lineage(dir: &Path, verified: bool) -> Result<Option<Value>, ManifestError> {
    let path = dir.join(MANIFEST);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ManifestError::Read { path, source }),
    };
    let manifest: Value = serde_json::from_slice(&bytes)
        .map_err(|error| ManifestError::Invalid { path: path.clone(), reason: error.to_string() })?;
    let files = manifest["files"].as_object().into_iter().flatten();
    let weights: Map<String, Value> = files
        .filter(|(name, _)| name.ends_with(".safetensors"))
        .map(|(name, hash)| (name.clone(), hash.clone()))
        .collect();
    Ok(Some(json!({
        "manifest_sha256": sha256(&bytes),
        "manifest": public_name(&path),
        "base": manifest["base"],
        "step": manifest["step"],
        "weights": weights,
        "verified": verified,
    })))
}

/// The last two parts of a path: directory and file.
fn public_name(path: &Path) -> PathBuf {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let dir = path.parent().and_then(Path::file_name).map(PathBuf::from).unwrap_or_default();
    dir.join(path.file_name().unwrap_or_default())
}

/// The SHA-256 of a file, with a bar while it is read.
fn sha256_of(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let progress = Progress::new(&format!("checking {name}"), file.metadata()?.len());
    sha256_stream(file, |count| progress.advance(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// FIPS 180-2, appendix B.1.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn directory(files: &Value) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "abc").unwrap();
        std::fs::write(dir.path().join(MANIFEST), json!({ "step": 3, "files": files }).to_string()).unwrap();
        dir
    }

    #[test]
    fn only_what_was_written_passes() {
        assert_eq!(verify(directory(&json!({ "a": ABC })).path()).unwrap(), Some(1));
        assert_eq!(verify(tempfile::tempdir().unwrap().path()).unwrap(), None);

        let changed = directory(&json!({ "a": ABC }));
        std::fs::write(changed.path().join("a"), "abd").unwrap();
        let refused = verify(changed.path()).unwrap_err().to_string();
        let found = "a52d159f262b2c6ddb724a61840befc36eb30c88877a4030b65cbe86298449c9";
        assert!(refused.contains(ABC) && refused.contains(found) && refused.contains("/a`"), "{refused}");
    }

    #[test]
    fn lineage_is_that_of_the_manifest() {
        let dir = directory(&json!({ "a": ABC, "model.safetensors": "w" }));
        let lineage = lineage(dir.path(), true).unwrap().unwrap();
        let expected = sha256(std::fs::read(dir.path().join(MANIFEST)).unwrap());
        assert_eq!((&lineage["manifest_sha256"], &lineage["step"]), (&json!(expected), &json!(3)));
        assert_eq!(lineage["weights"], json!({ "model.safetensors": "w" }));
        let name = Path::new(dir.path().file_name().unwrap()).join(MANIFEST);
        assert_eq!(lineage["manifest"], json!(name));
        assert_eq!(super::lineage(tempfile::tempdir().unwrap().path(), true).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_checked_is_refused() {
        for (files, words) in [
            (json!({ "b": ABC }), "/b`"),
            (json!({ "../a": ABC }), "not a file of the directory"),
            (json!({ "a": 3 }), "`files.a` is no hash"),
            (json!(null), "no `files`"),
        ] {
            let refused = verify(directory(&files).path()).unwrap_err().to_string();
            assert!(refused.contains(words) && refused.contains("--no-verify"), "{refused}");
        }
    }
}
