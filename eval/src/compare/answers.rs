//! Answer files: AlpacaEval's `model_outputs.json` (`instruction`, `output`), IFEval's responses and `samples.jsonl` of a run
//! (`prompt`, `response`), as lines or as a list.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::pair::Pair;
use crate::alpaca::answers::Respondent;
use crate::jsonl::{self, InputError};
use crate::results::DataSource;

#[derive(Debug, Deserialize)]
struct Row {
    #[serde(alias = "instruction")]
    prompt: String,
    #[serde(alias = "output")]
    response: Option<String>,
    generator: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Prompt {
    #[serde(alias = "instruction")]
    prompt: String,
}

/// The answers of one model.
#[derive(Debug, Clone)]
pub struct Answers {
    /// What the model is called.
    pub name: String,
    /// Where they come from.
    pub source: DataSource,
    /// Where the model comes from, if its server says so.
    pub lineage: Option<Value>,
    rows: Vec<(String, Option<String>)>,
}

impl Answers {
    /// Reads a file. A row whose answer is null has none.
    ///
    /// # Errors
    /// When it cannot be read, a row is of neither form, or a prompt occurs twice.
    pub fn read(path: &Path) -> Result<Self, InputError> {
        let bytes = jsonl::read(path)?;
        let mut lines = HashMap::new();
        let mut generator = None;
        let mut rows = Vec::new();
        for (line, row) in jsonl::rows::<Row>(path, &bytes)? {
            if let Some(first) = lines.insert(row.prompt.clone(), line) {
                let problem = format!("the same prompt is already on line {first}; pairs could not be told apart");
                return Err(InputError::Line { path: path.to_owned(), line, problem });
            }
            generator = generator.or(row.generator);
            rows.push((row.prompt, row.response));
        }
        if rows.is_empty() {
            return Err(InputError::File { path: path.to_owned(), problem: "it holds no answers".into() });
        }
        let name = generator.unwrap_or_else(|| path.display().to_string());
        Ok(Self {
            name,
            source: DataSource { source: path.display().to_string(), sha256: orpo_files::sha256(&bytes) },
            lineage: None,
            rows,
        })
    }

    /// Answers that a server has given, in order.
    pub fn of_server(respondent: Respondent, rows: Vec<(String, Option<String>)>) -> Self {
        let Respondent { model: name, endpoint: source, lineage, .. } = respondent;
        let said = rows.iter().map(|(prompt, answer)| format!("{prompt}\0{}\0", answer.as_deref().unwrap_or_default()));
        let sha256 = orpo_files::sha256(said.collect::<String>().as_bytes());
        Self { name, source: DataSource { source, sha256 }, lineage, rows }
    }
}

/// Reads the prompts of a file of one of those forms, or of IFEval's data.
///
/// # Errors
/// When it cannot be read, or a row has neither `prompt` nor `instruction`.
pub fn read_prompts(path: &Path) -> Result<Vec<String>, InputError> {
    let rows = jsonl::rows::<Prompt>(path, &jsonl::read(path)?)?;
    if rows.is_empty() {
        return Err(InputError::File { path: path.to_owned(), problem: "it holds no prompts".into() });
    }
    Ok(rows.into_iter().map(|(_, row)| row.prompt).collect())
}

/// The prompts that both have answered, in A's order, and how many answers of A and of B have no counterpart.
pub fn join(a: &Answers, b: &Answers) -> (Vec<Pair>, [usize; 2]) {
    let of_b: HashMap<&str, &str> =
        b.rows.iter().filter_map(|(prompt, answer)| Some((prompt.as_str(), answer.as_deref()?))).collect();
    let pair = |(prompt, answer): &(String, Option<String>)| {
        let answers = [answer.clone()?, (*of_b.get(prompt.as_str())?).to_owned()];
        Some(Pair { prompt: prompt.clone(), answers, ..Pair::default() })
    };
    let pairs: Vec<Pair> = a.rows.iter().filter_map(pair).collect();
    let alone = [a, b].map(|side| side.rows.len() - pairs.len());
    (pairs, alone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Answers, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Answers::read(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn both_layouts_are_read_and_joined_by_prompt() {
        let a = r#"[{"instruction": "p", "output": "1", "generator": "m"}, {"instruction": "q", "output": "2"},
                    {"instruction": "r", "output": "3"}]"#;
        let b = "{\"prompt\": \"r\", \"response\": \"4\", \"key\": 1}\n{\"prompt\": \"p\", \"response\": \"5\"}\n\
                 {\"prompt\": \"q\", \"response\": null}";
        let (a, b) = (read(a).unwrap(), read(b).unwrap());
        assert_eq!(a.name, "m");
        let (pairs, alone) = join(&a, &b);
        let found: Vec<_> =
            pairs.iter().map(|pair| (pair.prompt.as_str(), pair.answers.each_ref().map(|a| a.as_str()))).collect();
        assert_eq!(found, [("p", ["1", "5"]), ("r", ["3", "4"])]);
        assert_eq!(alone, [1, 1]);
    }

    #[test]
    fn what_cannot_be_joined_is_refused() {
        let twice = "{\"prompt\": \"p\", \"response\": \"\"}\n{\"prompt\": \"p\", \"response\": \"\"}";
        assert!(read(twice).unwrap_err().contains(":2: the same prompt is already on line 1"));
        assert!(read("{\"response\": \"\"}").unwrap_err().contains(":1: not a usable row: missing field `prompt`"));
        assert!(read("").unwrap_err().ends_with("it holds no answers"));
    }
}
