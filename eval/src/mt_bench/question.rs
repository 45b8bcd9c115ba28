//! Questions of two turns, in the official `question.jsonl` format.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Id, Turn, category};
use crate::jsonl::{self, InputError};
use crate::official::{Hub, Kind, OfficialError, OfficialFile};
use crate::results::DataSource;

/// Questions of our own, five in each category, so that a model can be measured without any file.
const EMBEDDED: &str = include_str!("../../data/mt_bench_questions.jsonl");

/// The 80 questions of the paper. The commit is one of the published space; FastChat's repository has the same bytes.
pub const OFFICIAL: OfficialFile = OfficialFile {
    kind: Kind::Space,
    repository: "lmsys/mt-bench",
    revision: "6e465b26cb18b64e48b3858d54ac655736cf07b6",
    file: "data/mt_bench/question.jsonl",
    sha256: "119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7",
    option: "--questions",
};

/// Why there are no questions.
#[derive(Debug, thiserror::Error)]
pub enum QuestionsError {
    /// A file cannot be used.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The official file cannot be had.
    #[error(transparent)]
    Official(#[from] OfficialError),
}

/// A line of a question file.
///
/// ```json
/// {"question_id": 1019, "category": "math", "turns": ["The first n odd numbers, ...", "For the same n, ..."]}
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// What identifies it.
    pub question_id: Id,
    /// What it is about; decides the temperature, and whether a reference answer is needed.
    pub category: String,
    /// The user's messages, one or two.
    pub turns: Vec<String>,
    /// A temperature of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_temperature: Option<f64>,
}

impl Question {
    /// The temperature at which it is answered.
    pub fn temperature(&self) -> f64 {
        self.required_temperature.unwrap_or_else(|| category::temperature(&self.category))
    }

    /// Whether its answers are judged against a reference answer.
    pub fn needs_reference(&self) -> bool {
        category::needs_reference(&self.category)
    }

    /// The turns that are judged.
    pub fn turns(&self) -> impl Iterator<Item = Turn> + use<> {
        Turn::BOTH.into_iter().take(self.turns.len())
    }
}

/// Questions with what identifies their file.
#[derive(Debug, Clone, PartialEq)]
pub struct Questions {
    /// The questions, in the order of the file.
    pub list: Vec<Question>,
    /// The file.
    pub source: DataSource,
}

impl Questions {
    /// The embedded questions.
    ///
    /// # Panics
    /// Never: the embedded questions are tested.
    pub fn embedded() -> Self {
        Self::parse(Path::new("embedded"), EMBEDDED.as_bytes()).expect("the embedded questions are valid")
    }

    /// A file in the official format.
    ///
    /// # Errors
    /// At the first row that is malformed, repeats an id, or has no turns or more than two; and when there are no rows.
    pub fn read(path: &Path) -> Result<Self, InputError> {
        Self::parse(path, &jsonl::read(path)?)
    }

    /// The official 80 questions from the hub or its cache.
    ///
    /// # Errors
    /// When they are in neither, or have other content than the pinned one.
    pub fn official(hub: &Hub) -> Result<Self, QuestionsError> {
        let bytes = OFFICIAL.read(hub)?;
        Ok(Self::parse(Path::new(&OFFICIAL.name()), &bytes)?)
    }

    /// The first so many.
    pub fn first(&self, limit: Option<usize>) -> &[Question] {
        &self.list[..limit.unwrap_or(usize::MAX).min(self.list.len())]
    }

    /// The content of such a file; `path` is its name in messages.
    ///
    /// # Errors
    /// As [`Questions::read`].
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, InputError> {
        let mut list: Vec<Question> = Vec::new();
        let mut lines = HashMap::new();
        for (line, question) in jsonl::rows::<Question>(path, bytes)? {
            let failed = |problem| Err(InputError::Line { path: path.to_owned(), line, problem });
            if let Some(first) = lines.insert(question.question_id.clone(), line) {
                return failed(format!(
                    "the question_id {} is already on line {first}; it must be unique",
                    question.question_id
                ));
            }
            if !(1..=2).contains(&question.turns.len()) {
                return failed(format!("`turns` has {} entries; there can be 1 or 2", question.turns.len()));
            }
            if question.required_temperature.is_some_and(|temperature| temperature < 0.0) {
                return failed("`required_temperature` must be a number of at least 0".into());
            }
            list.push(question);
        }
        if list.is_empty() {
            return Err(InputError::File { path: path.to_owned(), problem: "it holds no questions".into() });
        }
        let source = DataSource { source: path.display().to_string(), sha256: orpo_files::sha256(bytes) };
        Ok(Self { list, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(rows: &str) -> String {
        Questions::parse(Path::new("q.jsonl"), rows.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn the_embedded_questions_fill_every_category() {
        let questions = Questions::embedded();
        for category in category::CATEGORIES {
            assert_eq!(questions.list.iter().filter(|question| question.category == category).count(), 5, "{category}");
        }
        assert!(questions.list.iter().all(|question| question.turns.len() == 2));
        assert_eq!(questions.list.len(), 40);
    }

    #[test]
    fn bad_rows_are_named_with_file_and_line() {
        let row = r#"{"question_id": 1, "category": "c", "turns": ["a"]}"#;
        let two = |other: &str| problem(&format!("{row}\n{other}"));
        assert_eq!(two(row), "q.jsonl:2: the question_id 1 is already on line 1; it must be unique");
        assert!(two(&row.replace("1", "2").replace("[\"a\"]", "[]")).contains("`turns` has 0 entries"));
        assert!(two(&row.replace("1", "2").replace("\"a\"", "\"a\", \"b\", \"c\"")).contains("has 3 entries"));
        assert!(two(r#"{"question_id": 2, "turns": ["a"]}"#).contains("missing field `category`"));
        let cold = row.replace("1", "2").replace("]}", "], \"required_temperature\": -1}");
        assert!(two(&cold).contains("at least 0"));
        assert!(problem("\n").contains("holds no questions"));
    }
}
