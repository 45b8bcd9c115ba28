//! Logs that lm-evaluation-harness writes with `--log_samples` (`lm_eval/loggers/evaluation_tracker.py`, 0.4).
//!
//! `doc` is the example; `resps` holds all replies to each of its requests, `filtered_resps` what a filter left of
//! them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::{Format, Recorded, Row, typed};
use crate::ifeval::example::Example;
use crate::ifeval::sample::{Answer, Outcome};

/// What the harness calls its files.
pub(super) const FILE_NAMES: &str = "samples_ifeval_*.jsonl";

pub(super) const FORMAT: Format = Format {
    name: "lm-evaluation-harness' samples_ifeval_*.jsonl (`doc`, `resps`, `filtered_resps`, ...)",
    is: |row| row.contains_key("doc") && (row.contains_key("resps") || row.contains_key("filtered_resps")),
    read,
};

#[derive(Deserialize)]
struct Fields {
    doc: Example,
    #[serde(default)]
    resps: Value,
    #[serde(default)]
    filtered_resps: Value,
}

fn read(row: Row) -> Result<Recorded, String> {
    let Fields { doc, resps, filtered_resps } = typed(row)?;
    let response = first_text(&filtered_resps).or_else(|| first_text(&resps));
    let response = response.ok_or("not a usable row: no text in `filtered_resps` or `resps`")?.to_owned();
    let outcome = Outcome::Answered(Answer { response, finish_reason: None });
    let (key, prompt) = (Some(doc.key.clone()), Some(doc.prompt.clone()));
    Ok(Recorded { key, prompt, outcome, example: Some(doc), was_stripped: false })
}

/// The first text in lists of any depth: a filter that picks one reply leaves a list less.
fn first_text(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        Value::Array(values) => first_text(values.first()?),
        _ => None,
    }
}

/// The logs in a directory and in those right below it, sorted.
pub(super) fn logs_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let is_log = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("samples_ifeval_") && name.ends_with(".jsonl")
    };
    let entries = |directory: &Path| -> io::Result<Vec<PathBuf>> {
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect()
    };
    let mut logs = Vec::new();
    for path in entries(directory)? {
        let below = if path.is_dir() { entries(&path)? } else { vec![path] };
        logs.extend(below.into_iter().filter(|path| path.is_file() && is_log(path)));
    }
    logs.sort();
    Ok(logs)
}
