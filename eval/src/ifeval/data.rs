//! Examples from files.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::example::{Example, Scorer};
use crate::jsonl::{self, InputError};
use crate::official::{Hub, Kind, OfficialError, OfficialFile};

/// The 541 prompts of the paper, as the authors published them.
pub const OFFICIAL: OfficialFile = OfficialFile {
    kind: Kind::Dataset,
    repository: "google/IFEval",
    revision: "966cd89545d6b6acfd7638bc708b98261ca58e84",
    file: "ifeval_input_data.jsonl",
    sha256: "6a85310ca8ce15eff755aa08a3a4ff931c7e273e7515ebb3c492ea85fd8288f2",
    option: "--data",
};

/// Prompts of our own over all supported instructions, so that a server can be measured without any file.
const EMBEDDED: &str = include_str!("../../data/ifeval_prompts.jsonl");

/// Examples that can all be scored, each with its checks.
#[derive(Debug)]
pub struct Dataset {
    /// The examples, in the order of the file.
    pub examples: Vec<(Example, Scorer)>,
    /// The file, or `embedded`.
    pub source: String,
    /// The SHA-256 of the file's content, in hexadecimal.
    pub sha256: String,
}

/// Why there is no data set.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file cannot be used.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The official file cannot be had.
    #[error(transparent)]
    Official(#[from] OfficialError),
}

impl Dataset {
    /// The embedded prompt set.
    ///
    /// # Panics
    /// Never: the embedded set is tested.
    pub fn embedded() -> Self {
        Self::parse(Path::new("embedded"), EMBEDDED.as_bytes()).expect("the embedded prompt set is valid")
    }

    /// A file in the official format: one example a line, or all of them in one list.
    ///
    /// # Errors
    /// At the first row that cannot be scored, with its line: a malformed row, an unknown instruction, wrong arguments, or
    /// a key or prompt that occurred before.
    pub fn read(path: &Path) -> Result<Self, InputError> {
        Self::parse(path, &jsonl::read(path)?)
    }

    /// The official prompts from the hub or its cache.
    ///
    /// # Errors
    /// When they are in neither, or have other content than the pinned one.
    pub fn official(hub: &Hub) -> Result<Self, DataError> {
        let bytes = OFFICIAL.read(hub)?;
        Ok(Self::parse(Path::new(&OFFICIAL.name()), &bytes)?)
    }

    /// Examples that a file of something else holds, each with its line. The hash is that of the examples alone.
    ///
    /// # Errors
    /// As [`Dataset::read`].
    pub fn from_rows(path: &Path, rows: Vec<(usize, Example)>) -> Result<Self, InputError> {
        let lines = rows.iter().map(|(_, example)| serde_json::to_string(example).expect("keys are strings") + "\n");
        let sha256 = orpo_files::sha256(lines.collect::<String>().as_bytes());
        Self::check(path, rows, sha256)
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, InputError> {
        Self::check(path, jsonl::rows(path, bytes)?, orpo_files::sha256(bytes))
    }

    fn check(path: &Path, rows: Vec<(usize, Example)>, sha256: String) -> Result<Self, InputError> {
        let mut examples = Vec::new();
        let mut keys = HashMap::new();
        let mut prompts = HashMap::new();
        for (line, example) in rows {
            let failed = |problem| InputError::Line { path: path.to_owned(), line, problem };
            check_key(&example.key).map_err(failed)?;
            let scorer = example.scorer().map_err(|error| failed(error.to_string()))?;
            if let Some(first) = keys.insert(example.key.to_string(), line) {
                return Err(failed(format!("the key {} is already on line {first}; keys must be unique", example.key)));
            }
            if let Some(first) = prompts.insert(example.prompt.clone(), line) {
                return Err(failed(format!(
                    "the same prompt is already on line {first}; responses could not be told apart"
                )));
            }
            examples.push((example, scorer));
        }
        if examples.is_empty() {
            return Err(InputError::File { path: path.to_owned(), problem: "it holds no examples".into() });
        }
        Ok(Self { examples, source: path.display().to_string(), sha256 })
    }
}

fn check_key(key: &Value) -> Result<(), String> {
    let usable = key.is_string() || key.is_i64() || key.is_u64();
    if usable { Ok(()) } else { Err(format!("`key` must be a whole number or a string, not `{key}`")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ifeval::ids;

    #[test]
    fn the_embedded_set_covers_every_instruction() {
        let dataset = Dataset::embedded();
        for id in ids() {
            let uses = |(example, _): &&(Example, Scorer)| example.instruction_id_list.iter().any(|used| used == id);
            assert!(dataset.examples.iter().any(|example| uses(&example)), "{id} is in no prompt");
        }
    }

    fn dataset(rows: &str) -> Result<Dataset, String> {
        Dataset::parse(Path::new("d.jsonl"), rows.as_bytes()).map_err(|error| error.to_string())
    }

    const ROW: &str = r#"{"key": 1, "prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}"#;

    #[test]
    fn bad_rows_are_named_with_file_and_line() {
        let two = |row: &str| dataset(&format!("{ROW}\n{row}")).unwrap_err();
        assert_eq!(two(ROW), "d.jsonl:2: the key 1 is already on line 1; keys must be unique");
        let message = two(&ROW.replace("1,", "2,"));
        assert!(message.starts_with("d.jsonl:2: the same prompt is already on line 1"), "{message}");
        let message = two(&ROW.replace("no_comma", "no_dot"));
        assert!(message.starts_with("d.jsonl:2: unknown instruction `punctuation:no_dot`"), "{message}");

        let message = two(&ROW.replace("{}", "{}, {}"));
        assert!(
            message.contains("`kwargs` needs one entry per instruction: 2 for the 1 in `instruction_id_list`"),
            "{message}"
        );
        let message = two(&ROW.replace("{}", "3"));
        assert!(message.starts_with("d.jsonl:2: not a usable row: invalid type"), "{message}");
        let message = two(&ROW.replace("\"key\": 1, ", ""));
        assert!(message.contains("missing field `key`"), "{message}");
        let message = two(&ROW.replace("\"key\": 1", "\"key\": [1]"));
        assert!(message.contains("`key` must be a whole number or a string"), "{message}");
        assert!(dataset("\n").unwrap_err().contains("holds no examples"));
    }

    #[test]
    fn a_list_and_arguments_with_every_name_are_accepted() {
        let all = r#"{"keyword": null, "num_highlights": null, "relation": null, "language": null}"#;
        let lines = dataset(&ROW.replace("{}", all)).unwrap();
        let list =
            dataset(&format!("[{},\n {}]", ROW.replace("{}", all), ROW.replace('1', "2").replace("\"p\"", "\"q\"")));
        assert_eq!((lines.examples.len(), list.unwrap().examples.len()), (1, 2));
    }
}
