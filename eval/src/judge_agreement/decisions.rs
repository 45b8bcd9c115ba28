//! Decisions that exist already, in the place of a judge.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::Item;
use super::reference::{for_first, reversed};
use crate::compare::pair::Winner;
use crate::jsonl::{self, InputError};
use crate::results::DataSource;

/// A decision: an annotation, a vote, or a line of `samples.jsonl` of this command or of a comparison.
#[derive(Debug, Deserialize)]
struct Row {
    #[serde(alias = "prompt")]
    instruction: String,
    #[serde(alias = "response_a")]
    output_1: String,
    #[serde(alias = "response_b")]
    output_2: String,
    preference: Option<f64>,
    /// With `output_1` shown first, and with `output_2` shown first.
    verdicts: Option<[Option<f64>; 2]>,
    winner: Option<Winner>,
}

/// What is known of a pair's decision, for its first answer.
#[derive(Debug, Clone, Copy)]
struct Decision {
    preference: Option<f64>,
    placed: Option<[Option<f64>; 2]>,
}

impl Row {
    fn decision(&self) -> Result<Decision, String> {
        let preference = match (for_first(self.preference)?, self.winner) {
            (None, Some(Winner::A)) => Some(1.0),
            (None, Some(Winner::B)) => Some(0.0),
            (None, Some(Winner::Tie)) => Some(0.5),
            (preference, _) => preference,
        };
        let placed = match self.verdicts {
            Some([first, second]) => Some([for_first(first)?, for_first(second)?]),
            None => None,
        };
        Ok(Decision { preference, placed })
    }
}

impl Decision {
    /// The same for the other answer.
    fn reversed(self) -> Self {
        let other = |preference: Option<f64>| preference.map(|preference| 1.0 - preference);
        let placed = self.placed.map(|[first, second]| [other(second), other(first)]);
        Self { preference: other(self.preference), placed }
    }
}

/// How decisions and pairs match.
#[derive(Debug, Clone, Default)]
pub struct Matched {
    /// The files.
    pub sources: Vec<DataSource>,
    /// Pairs of the reference without a decision, which were left out.
    pub without_decision: usize,
    /// Decisions on other pairs.
    pub without_reference: usize,
}

/// Gives every pair the decision of the files on it, in either order, and leaves out those that have none. Several decisions on
/// one pair are averaged.
///
/// # Errors
/// When a file cannot be used, or decides none of the pairs.
pub fn apply(items: &mut Vec<Item>, paths: &[PathBuf]) -> Result<Matched, InputError> {
    let mut matched = Matched::default();
    let mut decisions: HashMap<(String, [String; 2]), Vec<Decision>> = HashMap::new();
    for path in paths {
        let bytes = jsonl::read(path)?;
        for (line, row) in jsonl::rows::<Row>(path, &bytes)? {
            let failed = |problem| InputError::Line { path: path.clone(), line, problem };
            let decision = row.decision().map_err(failed)?;
            let answers = [row.output_1, row.output_2];
            decisions.entry((row.instruction, answers)).or_default().push(decision);
        }
        matched.sources.push(DataSource { source: path.display().to_string(), sha256: orpo_files::sha256(&bytes) });
    }
    let total = items.len();
    let mut used = std::collections::HashSet::new();
    items.retain_mut(|item| {
        let straight = (item.pair.prompt.clone(), item.pair.answers.clone());
        let swapped = (item.pair.prompt.clone(), reversed(&item.pair.answers));
        let mut found: Vec<Decision> = decisions.get(&straight).cloned().unwrap_or_default();
        if !item.is_identical() {
            let other = decisions.get(&swapped).into_iter().flatten();
            found.extend(other.map(|decision| decision.reversed()));
        }
        if found.is_empty() {
            return false;
        }
        item.decide(&found);
        used.extend([straight, swapped]);
        true
    });
    matched.without_decision = total - items.len();
    matched.without_reference =
        decisions.iter().filter(|(key, _)| !used.contains(key)).map(|(_, rows)| rows.len()).sum();
    if items.is_empty() {
        let path = paths.first().cloned().unwrap_or_default();
        let problem =
            "it decides none of the reference's pairs: rows with the same prompt and the same two answers are needed";
        return Err(InputError::File { path, problem: problem.into() });
    }
    Ok(matched)
}

impl Item {
    fn decide(&mut self, found: &[Decision]) {
        if let [Decision { placed: Some(placed), .. }] = found
            && placed.iter().any(Option::is_some)
        {
            self.pair.preferences = vec![*placed];
        }
        let known: Vec<f64> = found.iter().filter_map(|decision| decision.preference).collect();
        if known.is_empty() {
            self.pair.problem = Some("the file has no preference".into());
        } else if self.pair.preferences.is_empty() {
            self.unplaced = Some(known.iter().sum::<f64>() / known.len() as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::pair::Pair;

    fn item(prompt: &str, answers: [&str; 2]) -> Item {
        let pair = Pair { prompt: prompt.into(), answers: answers.map(str::to_owned), ..Pair::default() };
        Item { pair, ..Item::default() }
    }

    #[test]
    fn decisions_are_found_by_prompt_and_answers_in_either_order() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let rows = r#"{"instruction": "p", "output_1": "a", "output_2": "b", "preference": 1.25}
            {"prompt": "q", "response_a": "b", "response_b": "a", "winner": "a", "preferences": [[1.0, 1.0]]}
            {"prompt": "r", "output_1": "b", "output_2": "a", "preference": 1.4, "verdicts": [1.0, 1.8]}
            {"prompt": "s", "output_1": "a", "output_2": "b", "preference": null, "winner": null}
            {"prompt": "elsewhere", "output_1": "a", "output_2": "b", "preference": 1}"#;
        std::fs::write(file.path(), rows).unwrap();
        let paths = [file.path().to_owned()];
        let mut items: Vec<Item> = ["p", "q", "r", "s", "t"].map(|prompt| item(prompt, ["a", "b"])).into();
        let matched = apply(&mut items, &paths).unwrap();
        assert_eq!((matched.without_decision, matched.without_reference), (1, 1));
        let found: Vec<Option<f64>> = items.iter().map(Item::preference).collect();
        assert_eq!(found[..2], [Some(0.75), Some(0.0)]);
        // For a: 0.0 with b first, 0.8 with a first.
        assert!((found[2].unwrap() - 0.4).abs() < 1e-12);
        assert!((items[2].pair.preferences[0][0].unwrap() - 0.8).abs() < 1e-12);
        assert_eq!((found[3], items[3].pair.problem.as_deref()), (None, Some("the file has no preference")));
        let message = apply(&mut vec![item("x", ["a", "b"])], &paths).unwrap_err().to_string();
        assert!(message.contains("it decides none of the reference's pairs"), "{message}");
    }
}
