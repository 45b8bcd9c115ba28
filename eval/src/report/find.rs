//! The files that a report is made of, wherever they lie below some directories.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use orpo_files::MANIFEST;

use crate::jsonl::InputError;
use crate::results;

/// How deep directories are searched, and how many of them.
const DEPTH: usize = 8;
const DIRECTORIES: usize = 20_000;

/// What was found, in the order of the directories and, inside of them, of the names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Evaluations.
    pub results: Vec<PathBuf>,
    /// Training runs.
    pub metrics: Vec<PathBuf>,
    /// How models and pipelines came to be.
    pub manifests: Vec<PathBuf>,
    /// Summaries of pipelines.
    pub summaries: Vec<PathBuf>,
    /// Stages of pipelines.
    pub stages: Vec<PathBuf>,
    /// Directories that were too deep to be searched.
    pub too_deep: Vec<PathBuf>,
}

/// Searches directories. Links are not followed, but for the given directories themselves, and no directory is searched
/// twice. What a run replaces or keeps for itself (`*.previous`, `checkpoints`, hidden directories) is left out.
///
/// # Errors
/// When a directory cannot be read, or there are too many.
pub fn find(roots: &[PathBuf]) -> Result<Found, InputError> {
    let mut search = Search::default();
    for root in roots {
        search.directory(root, 0)?;
    }
    Ok(search.found)
}

#[derive(Default)]
struct Search {
    seen: BTreeSet<PathBuf>,
    found: Found,
}

impl Search {
    fn directory(&mut self, path: &Path, depth: usize) -> Result<(), InputError> {
        let failed = |problem: String| InputError::File { path: path.to_owned(), problem };
        let real = path.canonicalize().map_err(|error| failed(error.to_string()))?;
        if !self.seen.insert(real) {
            return Ok(());
        }
        if self.seen.len() > DIRECTORIES {
            return Err(failed(format!("more than {DIRECTORIES} directories; name those with results")));
        }
        let mut entries: Vec<_> = fs::read_dir(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| failed(error.to_string()))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let kind = entry.file_type().map_err(|error| failed(error.to_string()))?;
            let (name, path) = (entry.file_name(), entry.path());
            let name = name.to_string_lossy();
            if kind.is_file() {
                self.file(&name, path);
            } else if kind.is_dir() && !is_left_out(&name) {
                if depth < DEPTH {
                    self.directory(&path, depth + 1)?;
                } else {
                    self.found.too_deep.push(path);
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, name: &str, path: PathBuf) {
        let of_a_stage = || path.parent().and_then(Path::file_name).is_some_and(|parent| parent == "stages");
        let list = match name {
            results::FILE_NAME => &mut self.found.results,
            "metrics.jsonl" => &mut self.found.metrics,
            MANIFEST => &mut self.found.manifests,
            "summary.json" => &mut self.found.summaries,
            _ if name.ends_with(".json") && of_a_stage() => &mut self.found.stages,
            _ => return,
        };
        list.push(path);
    }
}

fn is_left_out(name: &str) -> bool {
    name == "checkpoints" || name.ends_with(".previous") || name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, name: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "{}").unwrap();
    }

    #[test]
    fn a_pipelines_files_are_found_in_order_and_the_rest_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let wanted = ["eval/orpo/ifeval/results.json", "eval/base/ifeval/results.json", "orpo/metrics.jsonl"];
        let others = ["orpo/model/orpo_manifest.json", "orpo_manifest.json", "summary.json", "stages/train.json"];
        let unwanted = [
            "orpo/checkpoints/3/orpo_manifest.json",
            "eval.previous/base/results.json",
            ".git/results.json",
            "other.json",
            "eval/orpo/ifeval/.results.json.partial",
        ];
        wanted.iter().chain(&others).chain(&unwanted).for_each(|name| write(root, name));
        let found = find(&[root.to_owned(), root.join("eval")]).unwrap();
        assert_eq!(found.results, [root.join(wanted[1]), root.join(wanted[0])]);
        assert_eq!(found.metrics, [root.join(wanted[2])]);
        assert_eq!(found.manifests, [root.join(others[0]), root.join(others[1])]);
        assert_eq!((found.summaries, found.stages), (vec![root.join(others[2])], vec![root.join(others[3])]));
    }

    #[cfg(unix)]
    #[test]
    fn links_are_not_followed_but_the_given_ones() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write(root, "a/results.json");
        std::os::unix::fs::symlink(root, root.join("a/loop")).unwrap();
        std::os::unix::fs::symlink(root.join("a"), root.join("link")).unwrap();
        assert_eq!(find(&[root.to_owned()]).unwrap().results, [root.join("a/results.json")]);
        assert_eq!(find(&[root.join("link")]).unwrap().results, [root.join("link/results.json")]);
    }

    #[test]
    fn depth_is_bounded_and_said() {
        let directory = tempfile::tempdir().unwrap();
        let deep = "d/".repeat(DEPTH + 1);
        write(directory.path(), &format!("{deep}results.json"));
        let found = find(&[directory.path().to_owned()]).unwrap();
        assert!(found.results.is_empty());
        assert_eq!(found.too_deep, [directory.path().join(deep)]);
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let message = find(&["/no/such/directory".into()]).unwrap_err().to_string();
        assert!(message.starts_with("cannot use `/no/such/directory`: "), "{message}");
    }
}
