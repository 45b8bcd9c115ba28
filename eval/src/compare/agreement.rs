//! How far two judges, or a judge and people, decide alike.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::pair::{Pair, Winner};
use crate::jsonl::{self, InputError};
use crate::stats;

/// A row of another judge's decisions, such as `samples.jsonl` of another comparison.
#[derive(Debug, Deserialize)]
struct Row {
    #[serde(alias = "instruction")]
    prompt: String,
    winner: Option<Winner>,
}

/// The agreement on the pairs that both have decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// The other judge's decisions.
    pub with: String,
    /// The number of pairs that both have decided.
    pub n: usize,
    /// The share of them with the same winner.
    pub agreement: f64,
    /// Cohen's kappa; null where it is not defined.
    pub cohens_kappa: Option<f64>,
}

/// Compares with the decisions in a file: rows with `prompt` and `winner` (`a`, `b`, `tie`, or null).
///
/// # Errors
/// When it cannot be read, or has no decision on any of the pairs.
pub fn agreement(pairs: &[Pair], path: &Path) -> Result<Agreement, InputError> {
    let rows = jsonl::rows::<Row>(path, &jsonl::read(path)?)?;
    let others: HashMap<String, Winner> =
        rows.into_iter().filter_map(|(_, row)| Some((row.prompt, row.winner?))).collect();
    let ratings: Vec<(Winner, Winner)> =
        pairs.iter().filter_map(|pair| Some((pair.winner()?, *others.get(&pair.prompt)?))).collect();
    if ratings.is_empty() {
        let problem = "it decides none of these pairs; rows with `prompt` and `winner` are needed".into();
        return Err(InputError::File { path: path.to_owned(), problem });
    }
    let agreed = ratings.iter().filter(|(ours, theirs)| ours == theirs).count();
    Ok(Agreement {
        with: path.display().to_string(),
        n: ratings.len(),
        agreement: agreed as f64 / ratings.len() as f64,
        cohens_kappa: stats::cohens_kappa(&ratings),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_are_matched_by_prompt() {
        let pair = |prompt: &str, preference: f64| Pair {
            prompt: prompt.into(),
            preferences: vec![[Some(preference); 2]],
            ..Pair::default()
        };
        let pairs = [pair("p", 1.0), pair("q", 1.0), pair("r", 0.0), pair("s", 0.0), pair("t", 0.5)];
        let file = tempfile::NamedTempFile::new().unwrap();
        let rows = "{\"prompt\": \"r\", \"winner\": \"b\"}\n{\"prompt\": \"p\", \"winner\": \"a\"}\n\
                    {\"prompt\": \"q\", \"winner\": \"b\"}\n{\"prompt\": \"s\", \"winner\": \"b\"}\n\
                    {\"prompt\": \"t\", \"winner\": null}";
        std::fs::write(file.path(), rows).unwrap();
        let found = agreement(&pairs, file.path()).unwrap();
        // Ours: a a b b; theirs: a b b b. Observed 3/4, by chance 1/2 * 1/4 + 1/2 * 3/4 = 1/2.
        assert_eq!((found.n, found.agreement), (4, 0.75));
        assert!((found.cohens_kappa.unwrap() - 0.5).abs() < 1e-12);
        let message = agreement(&pairs[4..], file.path()).unwrap_err().to_string();
        assert!(message.contains("it decides none of these pairs"), "{message}");
    }
}
