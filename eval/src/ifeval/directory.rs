//! The output directory: what a run leaves there, and what the next one finds.
//!
//! `settings.json` says what the responses belong to. While a server is being asked, every response goes to
//! `samples.partial.jsonl` as it arrives; at the end `samples.jsonl` and `results.json` appear as whole files and the
//! partial one goes.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use orpo_files::write_file;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::sample::{Answer, Sample};
use crate::jsonl::{self, InputError};
use crate::reply;
use crate::results::{self, Results};
use crate::settings;
use crate::store::AppendLog;
use crate::table::count;

const SAMPLES: &str = "samples.jsonl";
const PARTIAL: &str = "samples.partial.jsonl";

/// What decides whether responses on disk answer the same questions. The endpoint is not among it: the same model may
/// be served somewhere else after a restart. Neither is the scoring, which is done anew, nor the reasoning that is
/// taken out before it: the log and the samples keep what the model said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub task: String,
    /// The hash of the prompts.
    pub data_sha256: String,
    /// The model; null where a file of responses is scored.
    pub model: Option<String>,
    pub sampling: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
}

/// A response in the log.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    key: Value,
    response: String,
    finish_reason: Option<String>,
}

/// An output directory in use by one run.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    log: AppendLog,
    answers: HashMap<String, Answer>,
}

impl Directory {
    /// Opens a directory, creating it if it is absent, with the responses that earlier runs with the same settings
    /// left.
    pub(super) fn open(path: &Path, settings: &Settings) -> Result<Self, InputError> {
        let file_failed = |error: io::Error| InputError::File { path: path.to_owned(), problem: error.to_string() };
        std::fs::create_dir_all(path).map_err(file_failed)?;
        settings::check(path, settings, &[SAMPLES, results::FILE_NAME, PARTIAL])?;
        let (log, rows) = AppendLog::open::<Row>(&path.join(PARTIAL))?;
        let mut answers = HashMap::new();
        // A file of responses is read afresh; only what a server said is kept.
        if settings.model.is_some() {
            let samples = path.join(SAMPLES);
            if samples.exists() {
                for (_, sample) in jsonl::rows::<Sample>(&samples, &jsonl::read(&samples)?)? {
                    if let Some(response) = sample.raw() {
                        let answer =
                            Answer { response: response.to_owned(), finish_reason: sample.finish_reason.clone() };
                        answers.insert(sample.key.to_string(), answer);
                    }
                }
            }
            for Row { key, response, finish_reason } in rows {
                answers.insert(key.to_string(), Answer { response, finish_reason });
            }
            // Such a reply is asked for again.
            answers.retain(|_, answer| !reply::is_failure(answer.finish_reason.as_deref()));
        }
        Ok(Self { path: path.to_owned(), log, answers })
    }

    /// Takes the response to an example, if an earlier run left one.
    pub(super) fn take(&mut self, key: &Value) -> Option<Answer> {
        self.answers.remove(&key.to_string())
    }

    /// Refuses to go on if there are responses that nobody has taken: the samples of this run would lose them.
    pub(super) fn check_all_taken(&self) -> Result<(), InputError> {
        if self.answers.is_empty() {
            return Ok(());
        }
        let problem = format!(
            "it holds {} beyond those that --limit selects, which would be lost; raise --limit or choose another --out",
            count(self.answers.len(), "response")
        );
        Err(InputError::File { path: self.path.clone(), problem })
    }

    /// Keeps a response that has just arrived.
    pub(super) fn keep(&mut self, key: &Value, answer: &Answer) -> Result<(), InputError> {
        let Answer { response, finish_reason } = answer.clone();
        self.log.append(&Row { key: key.clone(), response, finish_reason })
    }

    /// Writes the final files: the samples, those in other formats, and at last the results.
    pub(super) fn finish(
        self,
        samples: &[Sample],
        exports: Vec<(String, Vec<u8>)>,
        results: &Results,
    ) -> Result<(), InputError> {
        let mut lines = Vec::new();
        for sample in samples {
            serde_json::to_writer(&mut lines, sample).expect("samples have string keys");
            lines.push(b'\n');
        }
        for (name, content) in [(SAMPLES.to_owned(), lines)].into_iter().chain(exports) {
            write_file(&self.path.join(name), &content)?;
        }
        results.write(&self.path)?;
        self.log.remove()
    }
}
