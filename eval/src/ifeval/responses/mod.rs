//! Responses that a model gave earlier, from files that several programs write.
//!
//! One file here is one format: the fields by which its rows are known, and a function to a [`Recorded`].

mod lm_eval;
mod official;
mod samples;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::data::Dataset;
use super::example::Example;
use super::sample::Outcome;
use crate::jsonl::{self, InputError};
use crate::results::DataSource;

/// A row of a file.
type Row = Map<String, Value>;

/// A format of rows.
struct Format {
    /// What it is called in messages, with its fields.
    name: &'static str,
    /// Whether a row is in this format.
    is: fn(&Row) -> bool,
    /// Reads such a row.
    read: fn(Row) -> Result<Recorded, String>,
}

/// The formats; the first one that knows a row reads it.
const FORMATS: [Format; 3] = [lm_eval::FORMAT, samples::FORMAT, official::FORMAT];

/// What a row says about one example.
#[derive(Debug, Clone, PartialEq)]
struct Recorded {
    key: Option<Value>,
    prompt: Option<String>,
    outcome: Outcome,
    /// The example itself, where the format repeats it.
    example: Option<Example>,
    /// Whether reasoning had been taken out when the row was written.
    was_stripped: bool,
}

/// A file of responses.
#[derive(Debug)]
pub struct Responses {
    path: PathBuf,
    rows: Vec<(usize, Recorded)>,
    sha256: String,
}

impl Responses {
    /// Reads a file, or the only such file in a directory.
    ///
    /// # Errors
    /// When there is no file or no single one, or at the first row that is malformed or in no known format.
    pub fn read(path: &Path) -> Result<Self, InputError> {
        let path = if path.is_dir() { only_file(path)? } else { path.to_owned() };
        let bytes = jsonl::read(&path)?;
        let mut rows = Vec::new();
        for (line, row) in jsonl::rows::<Row>(&path, &bytes)? {
            let recorded = recorded(row).map_err(|problem| InputError::Line { path: path.clone(), line, problem })?;
            rows.push((line, recorded));
        }
        Ok(Self { path, rows, sha256: orpo_files::sha256(&bytes) })
    }

    /// The file and its hash.
    pub fn source(&self) -> DataSource {
        DataSource { source: self.path.display().to_string(), sha256: self.sha256.clone() }
    }

    /// The examples that the rows carry, if all of them do.
    ///
    /// # Errors
    /// When there are examples, but they cannot be scored.
    pub fn dataset(&self) -> Result<Option<Dataset>, InputError> {
        let example = |(line, row): &(usize, Recorded)| row.example.clone().map(|example| (*line, example));
        match self.rows.iter().map(example).collect::<Option<Vec<_>>>() {
            Some(rows) if !rows.is_empty() => Dataset::from_rows(&self.path, rows).map(Some),
            _ => Ok(None),
        }
    }

    /// How many rows had reasoning taken out when they were written. What is scored is the text before that.
    pub fn were_stripped(&self) -> usize {
        self.rows.iter().filter(|(_, row)| row.was_stripped).count()
    }

    /// What became of each example of a data set, in its order.
    ///
    /// # Errors
    /// At the first row that belongs to no example, or answers an example a second time.
    pub fn outcomes(&self, dataset: &Dataset) -> Result<Vec<Outcome>, InputError> {
        let examples = || dataset.examples.iter().map(|(example, _)| example).enumerate();
        let by_key: HashMap<String, usize> =
            examples().map(|(index, example)| (example.key.to_string(), index)).collect();
        let by_prompt: HashMap<&str, usize> =
            examples().map(|(index, example)| (example.prompt.as_str(), index)).collect();
        let mut outcomes = vec![Outcome::Missing; dataset.examples.len()];
        let mut lines: Vec<Option<usize>> = vec![None; dataset.examples.len()];
        for (line, row) in &self.rows {
            let failed = |problem| InputError::Line { path: self.path.clone(), line: *line, problem };
            let source = &dataset.source;
            let index = match (&row.key, &row.prompt) {
                (Some(key), _) => by_key
                    .get(&key.to_string())
                    .ok_or_else(|| format!("no example in `{source}` has the key {key}; name its data with --data")),
                (None, Some(prompt)) => by_prompt
                    .get(prompt.as_str())
                    .ok_or_else(|| format!("no example in `{source}` has this prompt; name its data with --data")),
                (None, None) => Err("not a usable row: `key` or `prompt` must say what is answered".into()),
            };
            let index = *index.map_err(failed)?;
            let example = &dataset.examples[index].0;
            if row.prompt.as_ref().is_some_and(|prompt| *prompt != example.prompt) {
                return Err(failed(format!("the key {} has another prompt in `{source}`", example.key)));
            }
            if let Some(first) = lines[index].replace(*line) {
                return Err(failed(format!("the same example is already answered on line {first}")));
            }
            outcomes[index] = row.outcome.clone();
        }
        Ok(outcomes)
    }
}

fn recorded(row: Row) -> Result<Recorded, String> {
    match FORMATS.iter().find(|format| (format.is)(&row)) {
        Some(format) => (format.read)(row),
        None => {
            let fields: Vec<String> = row.keys().map(|name| format!("`{name}`")).collect();
            let fields = if fields.is_empty() { "none".to_owned() } else { fields.join(", ") };
            let known = FORMATS.map(|format| format.name).join("; ");
            Err(format!("not a row of responses: its fields are {fields}; known are {known}"))
        }
    }
}

/// A row as a format's own type.
fn typed<T: DeserializeOwned>(row: Row) -> Result<T, String> {
    serde_json::from_value(Value::Object(row)).map_err(|error| format!("not a usable row: {error}"))
}

/// Null is a value here, absence an error.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    serde::Deserialize::deserialize(deserializer)
}

/// The one file of responses in a directory: `samples.jsonl` of a run, else a log of lm-evaluation-harness, which lies
/// in the directory or one level below.
fn only_file(directory: &Path) -> Result<PathBuf, InputError> {
    let own = directory.join(samples::FILE_NAME);
    if own.is_file() {
        return Ok(own);
    }
    let refused = |problem: String| InputError::File { path: directory.to_owned(), problem };
    let logs = lm_eval::logs_in(directory).map_err(|error| refused(error.to_string()))?;
    match &logs[..] {
        [only] => Ok(only.clone()),
        [] => Err(refused(format!("it holds neither {} nor {}; name a file", samples::FILE_NAME, lm_eval::FILE_NAMES))),
        several => {
            let names: Vec<String> = several.iter().map(|path| format!("`{}`", path.display())).collect();
            Err(refused(format!("it holds several files of responses; name one of {}", names.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ifeval::sample::Answer;
    use serde_json::json;

    fn example(key: Value, prompt: &str) -> Example {
        let row =
            json!({"key": key, "prompt": prompt, "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]});
        serde_json::from_value(row).unwrap()
    }

    fn dataset() -> Dataset {
        let examples = [example(1.into(), "p"), example("b".into(), "q"), example(3.into(), "r")];
        Dataset::from_rows(Path::new("d.jsonl"), (1..).zip(examples).collect()).unwrap()
    }

    /// The outcomes that some rows stand for; errors without the directory.
    fn outcomes(rows: &str) -> Result<Vec<Outcome>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("r.jsonl");
        std::fs::write(&path, rows).unwrap();
        let found = Responses::read(&path).and_then(|responses| responses.outcomes(&dataset()));
        found.map_err(|error| error.to_string().replace(&format!("{}/", directory.path().display()), ""))
    }

    fn answered(response: &str) -> Outcome {
        Outcome::Answered(Answer { response: response.into(), finish_reason: None })
    }

    #[test]
    fn rows_are_matched_by_key_or_prompt() {
        let rows = "{\"prompt\": \"q\", \"response\": \"\"}\n{\"key\": 1, \"prompt\": \"p\", \"response\": \"a\"}\n\
                    {\"key\": 3, \"response\": null}";
        assert_eq!(outcomes(rows).unwrap(), [answered("a"), answered(""), Outcome::Missing]);
        for (rows, problem) in [
            ("{\"key\": 9, \"response\": \"\"}", "no example in `d.jsonl` has the key 9; name its data with --data"),
            (
                "{\"prompt\": \"x\", \"response\": \"\"}",
                "no example in `d.jsonl` has this prompt; name its data with --data",
            ),
            ("{\"key\": 1, \"prompt\": \"q\", \"response\": \"\"}", "the key 1 has another prompt in `d.jsonl`"),
            ("{\"key\": 1, \"response\": 3}", "not a usable row: invalid type: integer `3`, expected a string"),
        ] {
            assert_eq!(outcomes(rows).unwrap_err(), format!("r.jsonl:1: {problem}"));
        }
        let twice = "{\"key\": 1, \"response\": \"\"}\n{\"prompt\": \"p\", \"response\": \"\"}";
        assert_eq!(outcomes(twice).unwrap_err(), "r.jsonl:2: the same example is already answered on line 1");
    }

    #[test]
    fn an_unknown_format_is_named_with_its_fields_and_the_known_ones() {
        let message = outcomes("{\"key\": 1, \"output\": \"a\"}").unwrap_err();
        assert!(
            message.starts_with("r.jsonl:1: not a row of responses: its fields are `key`, `output`; known are lm-eval")
        );
        assert!(message.contains("`prompt` or `key`, and `response`"), "{message}");
    }

    #[test]
    fn rows_of_a_run_keep_what_is_known_about_them() {
        let row = |rest: Value| {
            let mut row = json!({"key": 1, "prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "strict": [],
                "loose": [], "reasons": []});
            row.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            outcomes(&row.to_string()).unwrap().remove(0)
        };
        let cut = Outcome::Answered(Answer { response: "a".into(), finish_reason: Some("length".into()) });
        assert_eq!(row(json!({"response": "a", "finish_reason": "length", "error": null})), cut);
        assert_eq!(row(json!({"response": "a", "raw_response": "<think>b</think>a"})), answered("<think>b</think>a"));
        assert_eq!(row(json!({"response": null, "error": "no"})), Outcome::Failed("no".into()));
        let failed = Outcome::Failed("the reply ended with `error`".into());
        assert_eq!(row(json!({"response": "", "finish_reason": "error"})), failed);
        assert_eq!(row(json!({"response": null, "error": null})), Outcome::Missing);
    }

    fn log(filtered_resps: Value, resps: Value) -> Value {
        json!({"doc_id": 0, "doc": example(1.into(), "p"), "target": "0", "arguments": {"gen_args_0": {"arg_0": "p"}},
            "resps": resps, "filtered_resps": filtered_resps, "filter": "none"})
    }

    #[test]
    fn logs_of_the_harness_are_read_in_their_variants() {
        for (filtered_resps, resps) in [
            (json!(["a"]), json!([["raw"]])),
            (json!([["a", "c"]]), json!([["raw", "c"]])),
            (json!([]), json!([["a"]])),
            (Value::Null, json!([["a"], ["c"]])),
        ] {
            let row = log(filtered_resps, resps).to_string();
            assert_eq!(outcomes(&row).unwrap()[0], answered("a"), "{row}");
            // As one list, which is how early versions wrote their files.
            assert_eq!(outcomes(&format!("[\n{row}\n]")).unwrap()[0], answered("a"));
        }
        let none = log(json!([]), json!([[]])).to_string();
        assert_eq!(outcomes(&none).unwrap_err(), "r.jsonl:1: not a usable row: no text in `filtered_resps` or `resps`");
        let mut no_key = log(json!(["a"]), json!([["a"]]));
        no_key["doc"].as_object_mut().unwrap().remove("key");
        assert!(outcomes(&no_key.to_string()).unwrap_err().contains("missing field `key`"));
    }

    #[test]
    fn a_log_of_the_harness_carries_its_examples() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("samples_ifeval_1.jsonl");
        std::fs::write(&path, log(json!(["a"]), json!([["a"]])).to_string()).unwrap();
        let found = Responses::read(directory.path()).unwrap();
        let dataset = found.dataset().unwrap().unwrap();
        assert_eq!(dataset.examples[0].0, example(1.into(), "p"));
        assert_eq!(found.outcomes(&dataset).unwrap(), [answered("a")]);
        std::fs::write(&path, "{\"key\": 1, \"response\": \"a\"}").unwrap();
        assert!(Responses::read(&path).unwrap().dataset().unwrap().is_none());
    }

    #[test]
    fn a_directory_must_hold_one_file_of_responses() {
        let directory = tempfile::tempdir().unwrap();
        let read = || Responses::read(directory.path()).map(|responses| responses.source().source);
        let message = read().unwrap_err().to_string();
        assert!(
            message.ends_with("it holds neither samples.jsonl nor samples_ifeval_*.jsonl; name a file"),
            "{message}"
        );
        let below = directory.path().join("model");
        std::fs::create_dir(&below).unwrap();
        for (name, parent) in [("samples_ifeval_2.jsonl", directory.path()), ("samples_ifeval_1.jsonl", &below)] {
            std::fs::write(parent.join(name), "").unwrap();
        }
        let message = read().unwrap_err().to_string();
        assert!(message.contains("several files of responses; name one of `"), "{message}");
        assert!(message.find("samples_ifeval_1").unwrap() > message.find("name one of").unwrap(), "{message}");
        std::fs::remove_file(below.join("samples_ifeval_1.jsonl")).unwrap();
        assert!(read().unwrap().ends_with("samples_ifeval_2.jsonl"));
        std::fs::write(directory.path().join("samples.jsonl"), "").unwrap();
        assert!(read().unwrap().ends_with("samples.jsonl"));
    }
}
