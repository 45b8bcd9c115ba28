//! Answers in the official layout, `model_outputs.json`: a list (or lines) of objects with `instruction`, `output` and
//! usually `generator` and `dataset`.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::jsonl::{self, InputError};
use crate::results::DataSource;

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// The part of the evaluation set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// What was asked.
    pub instruction: String,
    /// What was answered.
    pub output: String,
    /// Who answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator: Option<String>,
}

/// The answers of one model, each to another instruction.
#[derive(Debug, Clone)]
pub struct Outputs {
    /// The answers, in the order of the file.
    pub rows: Vec<Output>,
    /// The file.
    pub source: DataSource,
    by_instruction: HashMap<String, usize>,
}

impl Outputs {
    /// Reads a file, compressed or not.
    ///
    /// # Errors
    /// When it cannot be read, a row is not of that form, an instruction occurs twice, or there are several generators.
    pub fn read(path: &Path) -> Result<Self, InputError> {
        let bytes = jsonl::read(path)?;
        let rows = jsonl::rows::<Output>(path, &bytes)?;
        let mut lines: HashMap<&str, usize> = HashMap::new();
        let mut generator: Option<(&str, usize)> = None;
        for (line, row) in &rows {
            let failed = |problem| InputError::Line { path: path.to_owned(), line: *line, problem };
            if let Some(first) = lines.insert(&row.instruction, *line) {
                return Err(failed(format!(
                    "the same instruction is already on line {first}; pairs could not be told apart"
                )));
            }
            if let Some(name) = &row.generator {
                let (known, first) = *generator.get_or_insert((name, *line));
                if known != name {
                    let problem = format!(
                        "the generator is `{name}`, but `{known}` on line {first}; a file holds answers of one model"
                    );
                    return Err(failed(problem));
                }
            }
        }
        if rows.is_empty() {
            return Err(InputError::File { path: path.to_owned(), problem: "it holds no answers".into() });
        }
        let source = DataSource { source: path.display().to_string(), sha256: orpo_files::sha256(&bytes) };
        let rows: Vec<Output> = rows.into_iter().map(|(_, row)| row).collect();
        let by_instruction = rows.iter().enumerate().map(|(index, row)| (row.instruction.clone(), index)).collect();
        Ok(Self { rows, source, by_instruction })
    }

    /// The generator that the file names, if it names one.
    pub fn generator(&self) -> Option<&str> {
        self.rows.iter().find_map(|row| row.generator.as_deref())
    }

    /// The answer to an instruction.
    pub fn get(&self, instruction: &str) -> Option<&Output> {
        self.by_instruction.get(instruction).map(|&index| &self.rows[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Outputs, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Outputs::read(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn lists_and_lines_are_read() {
        let row = r#"{"instruction": "a", "output": "b", "generator": "m", "more": 1}"#;
        for text in [format!("[{row}]"), format!("{row}\n")] {
            let outputs = read(&text).unwrap();
            assert_eq!((outputs.generator(), outputs.get("a").unwrap().output.as_str()), (Some("m"), "b"));
            assert!(outputs.get("b").is_none());
        }
    }

    #[test]
    fn what_cannot_be_paired_is_refused() {
        for (text, problem) in [
            ("[]", "it holds no answers"),
            ("{\"instruction\": \"a\"}", ":1: not a usable row: missing field `output`"),
            (
                "{\"instruction\": \"a\", \"output\": \"\"}\n{\"instruction\": \"a\", \"output\": \"\"}",
                ":2: the same instruction is already on line 1",
            ),
            (
                "{\"instruction\": \"a\", \"output\": \"\", \"generator\": \"m\"}\n\
                 {\"instruction\": \"b\", \"output\": \"\", \"generator\": \"n\"}",
                ":2: the generator is `n`, but `m` on line 1",
            ),
        ] {
            let message = read(text).unwrap_err();
            assert!(message.contains(problem), "{message}");
        }
    }
}
