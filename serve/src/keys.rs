//! Who may ask: named keys from a file.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Why a key file cannot be used. No message holds a key.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// It cannot be read.
    #[error("cannot read --api-key-file `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A line is not a key.
    #[error("--api-key-file `{}`, line {line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// There is no key in it, so nobody could ask.
    #[error("--api-key-file `{}` holds no key; write one a line, as NAME:KEY or KEY", .0.display())]
    Empty(PathBuf),
}

/// The keys, as digests: the keys themselves are forgotten after reading.
#[derive(Debug)]
pub struct ApiKeys {
    keys: Vec<(String, [u8; 32])>,
}

impl ApiKeys {
    /// Reads a file with a key a line: `NAME:KEY`, `NAME KEY`, or a bare `KEY`, which is named after its line
    /// (`line-3`). Empty lines and those that begin with `#` are skipped.
    ///
    /// # Errors
    /// [`KeysError`], with the line.
    pub fn from_file(path: &Path) -> Result<Self, KeysError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| KeysError::Read { path: path.to_path_buf(), source })?;
        let mut keys: Vec<(String, [u8; 32])> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let refused = |reason: String| KeysError::Line { path: path.to_path_buf(), line: index + 1, reason };
            let Some((name, key)) = name_and_key(line.trim(), index + 1).map_err(refused)? else { continue };
            let digest = digest(&key);
            if keys.iter().any(|(_, other)| *other == digest) {
                return Err(refused("the same key stands above".into()));
            }
            if keys.iter().any(|(other, _)| *other == name) {
                return Err(refused(format!("the name `{name}` stands above; give each key its own")));
            }
            keys.push((name, digest));
        }
        if keys.is_empty() {
            return Err(KeysError::Empty(path.to_path_buf()));
        }
        Ok(Self { keys })
    }

    /// The name of `key`. Takes the same time for every wrong key, however much of it is right.
    pub fn name_of(&self, key: &str) -> Option<&str> {
        let digest = digest(key);
        // No early exit: all are compared.
        self.keys.iter().fold(
            None,
            |found, (name, other)| {
                if bool::from(digest.ct_eq(other)) { Some(name.as_str()) } else { found }
            },
        )
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.keys.len()
    }
}

/// Whether others than the owner may read the file.
#[cfg(unix)]
pub fn is_open_to_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key).into()
}

fn name_and_key(line: &str, number: usize) -> Result<Option<(String, String)>, String> {
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (name, key) = match line.split_once(|c: char| c == ':' || c.is_whitespace()) {
        Some((name, key)) => (name.to_string(), key.trim()),
        None => (format!("line-{number}"), line),
    };
    if name.is_empty() {
        return Err("the name before `:` is empty".into());
    }
    // What an `Authorization: Bearer` header can carry as one word.
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("the key of `{name}` must be one word of ASCII characters"));
    }
    Ok(Some((name, key.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ApiKeys, KeysError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        ApiKeys::from_file(file.path())
    }

    #[test]
    fn names_bare_keys_and_comments_are_read() {
        let keys = read("# people\nanna:sk-1\n\n  ben   sk-2:with-colon \nsk-3\n").unwrap();
        assert_eq!(keys.count(), 3);
        assert_eq!(keys.name_of("sk-1"), Some("anna"));
        assert_eq!(keys.name_of("sk-2:with-colon"), Some("ben"));
        assert_eq!(keys.name_of("sk-3"), Some("line-5"));
        for wrong in ["", "sk-", "sk-11", "anna", "SK-1", "anna:sk-1"] {
            assert_eq!(keys.name_of(wrong), None, "{wrong}");
        }
        let shown = format!("{keys:?}");
        assert!(shown.contains("anna") && !shown.contains("sk-"), "{shown}");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_may_read_is_noticed() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, open) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true)] {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_open_to_others(file.path()), open, "{mode:o}");
        }
    }

    #[test]
    fn a_useless_file_is_refused_by_line_and_without_the_key() {
        for (text, words) in [
            ("", "holds no key"),
            ("# only this\n", "holds no key"),
            ("a:secret\na:other\n", "line 2: the name `a`"),
            ("a:secret\nb:secret\n", "line 2: the same key"),
            ("a:two secret\n", "line 1"),
            ("a:\n", "line 1"),
            (":secret\n", "line 1"),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
