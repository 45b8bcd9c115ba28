//! Files as all programs of this project read, write, hash and lock them:
//!
//! - [`write_file`] and [`replace_dir`] let a file or directory appear under its name only when complete, [`remove_dir`]
//!   takes a directory away as a whole, and [`recover`] clears up what a killed process left of any of them;
//! - [`sha256`] and [`sha256_file`] are what content is known by, JSON by its [`canonical_json`];
//! - [`open_text`] and [`read_text`] read text, whatever wrote it, and say what is not text;
//!   [`replace_outside_strings`] makes JSON of what is not quite JSON;
//! - [`Manifest`] is `orpo_manifest.json`, which says how a model directory came to be;
//! - [`DirLock`] keeps a directory to one process;
//! - [`differences`] are those between two settings, key by key;
//! - [`quoted`] is a path or another word as a shell reads it.
//!
//! ```
//! let dir = tempfile::tempdir()?;
//! let path = dir.path().join("results.json");
//! orpo_files::write_file(&path, b"abc")?;
//! assert_eq!(orpo_files::sha256_file(&path)?, orpo_files::sha256(b"abc"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod atomic;
mod differences;
mod error;
mod hash;
mod json;
mod lock;
mod manifest;
mod shell;
mod text;

pub use atomic::{recover, remove_dir, replace_dir, write_file, write_json};
pub use differences::{Difference, differences};
pub use error::FileError;
pub use hash::{canonical_json, sha256, sha256_file, sha256_stream};
pub use json::{non_finite, replace_outside_strings};
pub use lock::{DirLock, LockError};
pub use manifest::{DataLineage, MANIFEST, Manifest};
pub use shell::quoted;
pub use text::{TextReader, is_lfs_pointer, open_text, read_text};
