//! Answers of a model, and reference answers, in the official `model_answer/<model>.jsonl` format.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Id, Question, Turn};
use crate::jsonl::{self, InputError};
use crate::results::DataSource;

/// Reference answers of our own to the embedded questions of the categories that need them.
const EMBEDDED_REFERENCES: &str = include_str!("../../data/mt_bench_reference_answers.jsonl");

/// What the official generator writes in place of an answer whose request has failed.
pub const OFFICIAL_FAILURE: &str = "$ERROR$";

/// A line of an answer file.
///
/// ```json
/// {"question_id": 81, "answer_id": "Nc27HeULQXrbYnuMZhSFUK", "model_id": "phi-3",
///  "choices": [{"index": 0, "turns": ["Title: ...", "Aloha ..."]}], "tstamp": 1714512345.6}
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerRow {
    /// The question.
    pub question_id: Id,
    /// What identifies the answer.
    #[serde(default)]
    pub answer_id: String,
    /// The model.
    #[serde(default)]
    pub model_id: Option<String>,
    /// The conversations; the first one counts, as officially.
    pub choices: Vec<Choice>,
    /// When it was answered, in seconds since 1970.
    #[serde(default)]
    pub tstamp: f64,
}

/// A conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// Its number.
    #[serde(default)]
    pub index: usize,
    /// The answers, in order.
    pub turns: Vec<String>,
}

impl AnswerRow {
    /// The row of one conversation. Its `answer_id` is a function of the rest, so that a repetition writes the same.
    pub fn new(question_id: &Id, model: &str, turns: Vec<String>, tstamp: f64) -> Self {
        let content = serde_json::to_vec(&(question_id, model, &turns)).expect("strings and numbers are JSON");
        let answer_id = orpo_files::sha256(&content)[..22].to_owned();
        let choices = vec![Choice { index: 0, turns }];
        Self { question_id: question_id.clone(), answer_id, model_id: Some(model.to_owned()), choices, tstamp }
    }
}

/// The answers of one model, by question.
#[derive(Debug, Clone, PartialEq)]
pub struct Answers {
    /// The model.
    pub model: String,
    /// The answers, in the order of the turns.
    pub by_question: HashMap<Id, Vec<String>>,
    /// The file, where they come from one.
    pub source: Option<DataSource>,
    /// Why answers are missing, where that is known.
    pub failures: HashMap<(Id, Turn), String>,
    /// Answers that were cut off at the token limit, where that is known.
    pub truncated: HashSet<(Id, Turn)>,
}

/// What is missing of an answer, as the end of a sentence about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Missing {
    /// Everything.
    #[error("is missing")]
    All,
    /// The last turns.
    #[error("has {found} turn{} of {of}", if *.found == 1 { "" } else { "s" })]
    Turns {
        /// The turns that are there.
        found: usize,
        /// The turns of the question.
        of: usize,
    },
    /// An answer that is the mark of a failed request.
    #[error("is `{OFFICIAL_FAILURE}`: its request had failed")]
    Failed,
}

impl Answers {
    /// The embedded reference answers.
    ///
    /// # Panics
    /// Never: the embedded answers are tested.
    pub fn embedded_references() -> Self {
        Self::parse(Path::new("embedded"), EMBEDDED_REFERENCES.as_bytes())
            .expect("the embedded reference answers are valid")
    }

    /// A file in the official format. The model is the `model_id` of its rows, or else the name of the file.
    ///
    /// # Errors
    /// At the first row that is malformed, answers a question a second time or is of another model.
    pub fn read(path: &Path) -> Result<Self, InputError> {
        Self::parse(path, &jsonl::read(path)?)
    }

    /// The content of such a file; `path` is its name in messages.
    ///
    /// # Errors
    /// As [`Answers::read`].
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, InputError> {
        let mut model: Option<String> = None;
        let mut lines = HashMap::new();
        let mut by_question = HashMap::new();
        for (line, row) in jsonl::rows::<AnswerRow>(path, bytes)? {
            let failed = |problem| Err(InputError::Line { path: path.to_owned(), line, problem });
            if let Some(first) = lines.insert(row.question_id.clone(), line) {
                return failed(format!("the question {} is already answered on line {first}", row.question_id));
            }
            match (&model, row.model_id) {
                (Some(known), Some(other)) if *known != other => {
                    return failed(format!("`model_id` is `{other}`, but `{known}` above; one file holds one model"));
                }
                (None, found) => model = found,
                _ => {}
            }
            let Some(first) = row.choices.into_iter().next() else { return failed("`choices` is empty".into()) };
            by_question.insert(row.question_id, first.turns);
        }
        if by_question.is_empty() {
            return Err(InputError::File { path: path.to_owned(), problem: "it holds no answers".into() });
        }
        let source = DataSource { source: path.display().to_string(), sha256: orpo_files::sha256(bytes) };
        let model = model.unwrap_or_else(|| stem(path));
        Ok(Self { by_question, source: Some(source), ..Self::none_of(&model) })
    }

    /// No answers of a model yet.
    pub fn none_of(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            by_question: HashMap::new(),
            source: None,
            failures: HashMap::new(),
            truncated: HashSet::new(),
        }
    }

    /// The answers to a question up to a turn, which can be judged only if they are all there.
    ///
    /// # Errors
    /// What is missing.
    pub fn up_to(&self, question: &Question, turn: Turn) -> Result<&[String], String> {
        self.find(question, turn).map_err(|missing| {
            let failure = self.failures.get(&(question.question_id.clone(), turn));
            failure.cloned().unwrap_or_else(|| match missing {
                Missing::All => format!("`{}` has no answer to it", self.model),
                missing => format!("the answer of `{}` {missing}", self.model),
            })
        })
    }

    /// The same, with the kind of what is missing.
    ///
    /// # Errors
    /// What is missing.
    pub(super) fn find(&self, question: &Question, turn: Turn) -> Result<&[String], Missing> {
        let all = self.by_question.get(&question.question_id).map_or(&[][..], Vec::as_slice);
        match all.get(..=turn.index()) {
            Some(turns) if turns.iter().any(|turn| turn == OFFICIAL_FAILURE) => Err(Missing::Failed),
            Some(turns) => Ok(turns),
            None if all.is_empty() => Err(Missing::All),
            None => Err(Missing::Turns { found: all.len(), of: question.turns.len() }),
        }
    }
}

/// The name of a file without directories and without what follows `.jsonl`.
fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split(".jsonl").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mt_bench::Questions;

    const ROW: &str = r#"{"question_id": 1, "model_id": "m", "choices": [{"turns": ["a", "b"]}]}"#;

    fn parse(rows: &str) -> Result<Answers, String> {
        Answers::parse(Path::new("d/phi-3.jsonl.gz"), rows.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_embedded_references_answer_every_question_that_needs_one() {
        let references = Answers::embedded_references();
        for question in Questions::embedded().list {
            let turns = references.by_question.get(&question.question_id);
            assert_eq!(turns.map(Vec::len), question.needs_reference().then_some(2), "{}", question.question_id);
        }
    }

    #[test]
    fn the_model_is_named_by_the_rows_or_the_file() {
        assert_eq!(parse(ROW).unwrap().model, "m");
        assert_eq!(parse(&ROW.replace("\"model_id\": \"m\", ", "")).unwrap().model, "phi-3");
    }

    #[test]
    fn bad_rows_are_named_with_file_and_line() {
        let two = |row: &str| parse(&format!("{ROW}\n{row}")).unwrap_err();
        assert!(two(ROW).ends_with("phi-3.jsonl.gz:2: the question 1 is already answered on line 1"));
        assert!(two(&ROW.replace('1', "2").replace("\"m\"", "\"n\"")).contains("`model_id` is `n`, but `m` above"));
        assert!(two(r#"{"question_id": 2, "choices": []}"#).contains("`choices` is empty"));
        assert!(two(r#"{"question_id": 2}"#).contains("missing field `choices`"));
        assert!(parse("").unwrap_err().contains("holds no answers"));
    }

    #[test]
    fn what_is_missing_or_failed_cannot_be_judged() {
        let questions = r#"{"question_id": 1, "category": "c", "turns": ["q", "r"]}"#;
        let questions = Questions::parse(Path::new("q"), questions.as_bytes()).unwrap();
        let question = &questions.list[0];
        assert_eq!(parse(ROW).unwrap().up_to(question, Turn::First).unwrap(), ["a"]);
        assert_eq!(parse(ROW).unwrap().up_to(question, Turn::Second).unwrap(), ["a", "b"]);
        let one = parse(&ROW.replace(", \"b\"", "")).unwrap();
        assert_eq!(one.up_to(question, Turn::Second).unwrap_err(), "the answer of `m` has 1 turn of 2");
        let other = parse(&ROW.replace('1', "2")).unwrap();
        assert_eq!(other.up_to(question, Turn::First).unwrap_err(), "`m` has no answer to it");
        let failed = parse(&ROW.replace("\"b\"", "\"$ERROR$\"")).unwrap();
        assert!(failed.up_to(question, Turn::First).is_ok());
        assert!(failed.up_to(question, Turn::Second).unwrap_err().contains("its request had failed"));
    }

    #[test]
    fn a_row_has_the_official_layout() {
        let row = AnswerRow::new(&Id::Number(81), "m", vec!["a".into(), "b".into()], 1.5);
        let json = serde_json::to_string(&row).unwrap();
        let id = &row.answer_id;
        assert_eq!(id.len(), 22);
        let expected = format!(
            r#"{{"question_id":81,"answer_id":"{id}","model_id":"m","choices":[{{"index":0,"turns":["a","b"]}}],"tstamp":1.5}}"#
        );
        assert_eq!(json, expected);
    }
}
