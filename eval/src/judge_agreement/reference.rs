//! The reference: official annotations, or people's votes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{Item, Vote};
use crate::alpaca::annotations;
use crate::compare::pair::Pair;
use crate::jsonl::{self, InputError};
use crate::results::DataSource;
use crate::table::count;

/// Pairs with votes, and where they are from.
#[derive(Debug, Clone, Default)]
pub struct Reference {
    /// The pairs, in the order of the files.
    pub items: Vec<Item>,
    /// The files.
    pub sources: Vec<DataSource>,
    /// Whose decisions they are, as far as the files say so: annotators of annotations.
    pub annotators: Vec<String>,
    /// Rows without a preference, which are left out.
    pub undecided: usize,
}

/// A vote. AlpacaFarm's names are known, too: its cross-annotations have `annotator_index`.
#[derive(Debug, Deserialize)]
struct Row {
    #[serde(alias = "prompt")]
    instruction: String,
    output_1: String,
    output_2: String,
    generator_1: Option<String>,
    generator_2: Option<String>,
    annotator: Option<Value>,
    annotator_index: Option<Value>,
    #[serde(deserialize_with = "present")]
    preference: Option<f64>,
}

/// Null is a value here, absence an error.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    Option::deserialize(deserializer)
}

/// What a preference as in annotations is for the first answer: 1 is all for it, 2 all against; 0 is a tie, null or -1 none.
///
/// # Errors
/// When it is none of these.
pub(super) fn for_first(preference: Option<f64>) -> Result<Option<f64>, String> {
    match preference {
        None | Some(-1.0) => Ok(None),
        Some(0.0) => Ok(Some(0.5)),
        Some(preference @ 1.0..=2.0) => Ok(Some(2.0 - preference)),
        Some(other) => Err(format!("the preference {other} is not between 1 (output_1) and 2 (output_2)")),
    }
}

/// A pair of texts, as what is known by it.
type Key = (String, [String; 2], [Option<String>; 2]);

impl Reference {
    /// Reads official annotations (`annotations.json`), one file a model. Every row is a pair with one vote.
    ///
    /// # Errors
    /// When a file cannot be used, or none has a preference.
    pub fn of_annotations(paths: &[PathBuf]) -> Result<Self, InputError> {
        let mut found = Self::default();
        for path in paths {
            let (comparisons, names, source) = annotations::read(path)?;
            let model = names.model.unwrap_or_else(|| path.display().to_string());
            if let Some(annotator) = names.annotator.filter(|annotator| !found.annotators.contains(annotator)) {
                found.annotators.push(annotator);
            }
            found.sources.push(source);
            for comparison in comparisons {
                let Some(preference) = comparison.preference else {
                    found.undecided += 1;
                    continue;
                };
                let answers = [comparison.reference, comparison.response.unwrap_or_default()];
                found.items.push(Item {
                    pair: Pair { prompt: comparison.instruction, answers, ..Pair::default() },
                    models: [names.baseline.clone(), Some(model.clone())],
                    votes: vec![Vote { annotator: None, preference: 2.0 - preference }],
                    unplaced: None,
                });
            }
        }
        found.checked(paths)
    }

    /// Reads votes. All rows on the same two answers to the same prompt, in either order, are votes on one pair.
    ///
    /// # Errors
    /// When a file cannot be used, a preference is out of range, or there is none.
    pub fn of_votes(paths: &[PathBuf]) -> Result<Self, InputError> {
        let mut found = Self::default();
        let mut known: HashMap<Key, usize> = HashMap::new();
        for path in paths {
            let bytes = jsonl::read(path)?;
            for (line, row) in jsonl::rows::<Row>(path, &bytes)? {
                let failed = |problem| InputError::Line { path: path.clone(), line, problem };
                let Some(preference) = for_first(row.preference).map_err(failed)? else {
                    found.undecided += 1;
                    continue;
                };
                let annotator = row.annotator.or(row.annotator_index);
                let models = [row.generator_1, row.generator_2];
                let answers = [row.output_1, row.output_2];
                let swapped = (row.instruction.clone(), reversed(&answers), reversed(&models));
                if let Some(&index) = known.get(&swapped).filter(|_| answers[0] != answers[1]) {
                    found.items[index].votes.push(Vote { annotator, preference: 1.0 - preference });
                    continue;
                }
                let key = (row.instruction, answers, models);
                let vote = Vote { annotator, preference };
                if let Some(&index) = known.get(&key) {
                    found.items[index].votes.push(vote);
                    continue;
                }
                let (prompt, answers, models) = key.clone();
                known.insert(key, found.items.len());
                let pair = Pair { prompt, answers, ..Pair::default() };
                found.items.push(Item { pair, models, votes: vec![vote], unplaced: None });
            }
            found.sources.push(DataSource { source: path.display().to_string(), sha256: orpo_files::sha256(&bytes) });
        }
        found.checked(paths)
    }

    fn checked(self, paths: &[PathBuf]) -> Result<Self, InputError> {
        if self.items.is_empty() {
            let path = paths.first().map_or(Path::new(""), PathBuf::as_path).to_owned();
            return Err(InputError::File { path, problem: "it decides no pair: no row has a preference".into() });
        }
        Ok(self)
    }

    /// What the reference is called.
    pub fn name(&self) -> String {
        if !self.annotators.is_empty() {
            return self.annotators.join(", ");
        }
        of_files(&self.sources)
    }
}

/// What decisions are called that are in files.
pub fn of_files(sources: &[DataSource]) -> String {
    match sources {
        [source] => source.source.clone(),
        sources => count(sources.len(), "file"),
    }
}

pub(super) fn reversed<T: Clone>([first, second]: &[T; 2]) -> [T; 2] {
    [second.clone(), first.clone()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::pair::Winner;

    fn votes(text: &str) -> Result<Reference, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Reference::of_votes(&[file.path().to_owned()]).map_err(|error| error.to_string())
    }

    #[test]
    fn votes_on_the_same_answers_are_on_one_pair_in_either_order() {
        let found = votes(
            r#"{"instruction": "i", "output_1": "a", "output_2": "b", "preference": 1, "annotator": "x"}
               {"instruction": "i", "output_1": "b", "output_2": "a", "preference": 2, "annotator_index": 7}
               {"instruction": "i", "output_1": "a", "output_2": "b", "preference": 1.5}
               {"instruction": "j", "output_1": "a", "output_2": "b", "preference": 0, "dataset": "d"}
               {"instruction": "i", "output_1": "a", "output_2": "c", "preference": 2}
               {"prompt": "i", "output_1": "a", "output_2": "d", "preference": null}"#,
        )
        .unwrap();
        assert_eq!((found.items.len(), found.undecided), (3, 1));
        let of_first: Vec<f64> = found.items[0].votes.iter().map(|vote| vote.preference).collect();
        assert_eq!((of_first, found.items[0].majority()), (vec![1.0, 1.0, 0.5], Some(Winner::A)));
        assert_eq!(found.items[0].votes[1].annotator, Some(7.into()));
        assert_eq!((found.items[1].reference(), found.items[2].reference()), (Some(0.5), Some(0.0)));
    }

    #[test]
    fn what_is_no_vote_is_refused() {
        let row = |preference: &str| format!(r#"{{"instruction": "i", "output_1": "a", "output_2": "b"{preference}}}"#);
        for (text, problem) in [
            (row(r#", "preference": 3"#), ":1: the preference 3 is not between 1 (output_1) and 2 (output_2)"),
            (row(""), ":1: not a usable row: missing field `preference`"),
            (row(r#", "preference": -1"#), "it decides no pair: no row has a preference"),
        ] {
            let message = votes(&text).unwrap_err();
            assert!(message.contains(problem), "{message}");
        }
    }
}
