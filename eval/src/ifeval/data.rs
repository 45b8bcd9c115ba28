//! Examples and responses from files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::example::{Example, Scorer};
use crate::jsonl::{self, InputError};

/// Prompts of our own over all supported instructions, so that a server can be measured without any file.
const EMBEDDED: &str = include_str!("../../data/ifeval_prompts.jsonl");

/// Examples that can all be scored, each with its checks.
#[derive(Debug)]
pub struct Dataset {
    /// The examples, in the order of the file.
    pub examples: Vec<(Example, Scorer)>,
    /// The file, or `embedded`.
    pub source: String,
    /// The SHA-256 of the file's bytes, in hexadecimal.
    pub sha256: String,
}

impl Dataset {
    /// The embedded prompt set.
    ///
    /// # Panics
    /// Never: the embedded set is tested.
    pub fn embedded() -> Self {
        Self::parse(Path::new("embedded"), EMBEDDED.as_bytes()).expect("the embedded prompt set is valid")
    }

    /// A file in the official format.
    ///
    /// # Errors
    /// At the first row that cannot be scored, with its line: a malformed row, an unknown instruction, wrong arguments, or
    /// a key or prompt that occurred before.
    pub fn read(path: &Path) -> Result<Self, InputError> {
        Self::parse(path, &jsonl::read(path)?)
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, InputError> {
        let mut examples = Vec::new();
        let mut keys = HashMap::new();
        let mut prompts = HashMap::new();
        for (line, example) in jsonl::parse::<Example>(path, bytes)? {
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
        let sha256 = hash(bytes);
        Ok(Self { examples, source: path.display().to_string(), sha256 })
    }
}

/// The SHA-256 of some bytes, in hexadecimal.
pub(super) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn check_key(key: &Value) -> Result<(), String> {
    let usable = key.is_string() || key.is_i64() || key.is_u64();
    if usable { Ok(()) } else { Err(format!("`key` must be a whole number or a string, not `{key}`")) }
}

/// A response as it stands in a file.
#[derive(Debug, Deserialize)]
struct ResponseRow {
    key: Option<Value>,
    prompt: Option<String>,
    #[serde(deserialize_with = "present")]
    response: Option<String>,
}

/// Null is a value here, absence an error.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::deserialize(deserializer)
}

/// Reads responses (JSONL with `response` and `key` or `prompt`), one for each example of a data set, in its order. An
/// example without a response has `None`; a null response is an empty one.
///
/// # Errors
/// At the first row that is malformed, belongs to no example, or answers an example a second time.
pub fn read_responses(path: &Path, dataset: &Dataset) -> Result<Vec<Option<String>>, InputError> {
    let bytes = jsonl::read(path)?;
    let examples = || dataset.examples.iter().map(|(example, _)| example).enumerate();
    let by_key: HashMap<String, usize> = examples().map(|(index, example)| (example.key.to_string(), index)).collect();
    let by_prompt: HashMap<&str, usize> = examples().map(|(index, example)| (example.prompt.as_str(), index)).collect();
    let mut answered: Vec<Option<(usize, String)>> = vec![None; dataset.examples.len()];
    for (line, row) in jsonl::parse::<ResponseRow>(path, &bytes)? {
        let failed = |problem| InputError::Line { path: PathBuf::from(path), line, problem };
        let index = match (&row.key, &row.prompt) {
            (Some(key), _) => by_key.get(&key.to_string()).ok_or_else(|| {
                failed(format!("no example in `{}` has the key {key}; name its data with --data", dataset.source))
            }),
            (None, Some(prompt)) => by_prompt.get(prompt.as_str()).ok_or_else(|| {
                failed(format!("no example in `{}` has this prompt; name its data with --data", dataset.source))
            }),
            (None, None) => Err(failed("not a usable row: `key` or `prompt` must say what is answered".into())),
        };
        let index = *index?;
        if row.prompt.is_some_and(|prompt| prompt != dataset.examples[index].0.prompt) {
            let key = &dataset.examples[index].0.key;
            return Err(failed(format!("the key {key} has another prompt in `{}`", dataset.source)));
        }
        if let Some((first, _)) = &answered[index] {
            return Err(failed(format!("the same example is already answered on line {first}")));
        }
        answered[index] = Some((line, row.response.unwrap_or_default()));
    }
    Ok(answered.into_iter().map(|answer| answer.map(|(_, response)| response)).collect())
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
        let message = two(&ROW.replace("punctuation:no_comma", "length_constraints:number_sentences"));
        assert!(message.contains("`length_constraints:number_sentences` is not supported yet"), "{message}");
        let message = two(&ROW.replace("{}", "{}, {}"));
        assert!(message.contains("has 1 entries but `kwargs` has 2"), "{message}");
        let message = two(&ROW.replace("{}", "3"));
        assert!(message.starts_with("d.jsonl:2: not a usable row: invalid type"), "{message}");
        let message = two(&ROW.replace("\"key\": 1, ", ""));
        assert!(message.contains("missing field `key`"), "{message}");
        let message = two(&ROW.replace("\"key\": 1", "\"key\": [1]"));
        assert!(message.contains("`key` must be a whole number or a string"), "{message}");
        assert!(dataset("\n").unwrap_err().contains("holds no examples"));
    }

    #[test]
    fn responses_are_matched_by_key_or_prompt() {
        let second = ROW.replace("\"key\": 1", "\"key\": \"b\"").replace("\"p\"", "\"q\"");
        let dataset =
            dataset(&format!("{ROW}\n{second}\n{}", second.replace("\"b\"", "3").replace("\"q\"", "\"r\""))).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("r.jsonl");
        let responses = |rows: &str| {
            std::fs::write(&path, rows).unwrap();
            read_responses(&path, &dataset).map_err(|error| error.to_string())
        };
        let rows = "{\"prompt\": \"q\", \"response\": null}\n{\"key\": 1, \"prompt\": \"p\", \"response\": \"a\"}";
        assert_eq!(responses(rows).unwrap(), [Some("a".to_owned()), Some(String::new()), None]);
        for (rows, problem) in [
            ("{\"key\": 9, \"response\": \"\"}", "no example in `d.jsonl` has the key 9"),
            ("{\"prompt\": \"x\", \"response\": \"\"}", "has this prompt"),
            ("{\"response\": \"\"}", "must say what is answered"),
            ("{\"key\": 1}", "missing field `response`"),
            ("{\"key\": 1, \"prompt\": \"q\", \"response\": \"\"}", "the key 1 has another prompt"),
        ] {
            let message = responses(rows).unwrap_err();
            assert!(message.contains("r.jsonl:1: ") && message.contains(problem), "{message}");
        }
        let message =
            responses("{\"key\": 1, \"response\": \"\"}\n{\"prompt\": \"p\", \"response\": \"\"}").unwrap_err();
        assert!(message.ends_with("r.jsonl:2: the same example is already answered on line 1"), "{message}");
    }
}
