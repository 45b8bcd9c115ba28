//! All sources of a data set as token ids, with an account of every row.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use orpo_chat::ChatError;
use rayon::prelude::*;
use serde_json::json;

use super::read::{FileRows, Selection, read_documents, read_preferences};
use super::{Dropped, Example, Mixture, Sources, Tokeniser};
use crate::checkpoint::sha256_file;
use crate::error::TrainError;

/// The examples of one or several sources.
#[derive(Debug)]
pub struct Dataset {
    /// What can be used, file by file.
    pub examples: Vec<Example>,
    /// Where it came from.
    pub files: Vec<DataFile>,
}

/// One file of a [`Dataset`] and what became of its rows.
#[derive(Debug, Clone, PartialEq)]
pub struct DataFile {
    /// Where it is.
    pub path: PathBuf,
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// How its rows were understood.
    pub layout: &'static str,
    /// What a row's number counts: `line` or `row`.
    pub unit: &'static str,
    /// How often each row is used per epoch.
    pub weight: f64,
    /// Its rows among the examples.
    pub examples: Range<usize>,
    /// The numbers of the rows that cannot be used, by reason.
    pub dropped: BTreeMap<Dropped, Vec<usize>>,
    /// Rows that declare tools, which the template is not given.
    pub with_tools: usize,
    /// What the template said to the first row that it refused.
    pub refusal: Option<String>,
}

impl Dataset {
    /// Reads and tokenises `sources`: documents for `objective = "sft"`, pairs otherwise. `defaults` holds where a source
    /// says nothing of its own.
    ///
    /// # Errors
    /// When a file cannot be read, a row is not what it should be, or of a file no row can be used.
    pub fn load(
        sources: &Sources,
        defaults: &Selection,
        tokeniser: &Tokeniser<'_>,
        documents: bool,
    ) -> Result<Self, TrainError> {
        let mut dataset = Self { examples: Vec::new(), files: Vec::new() };
        for source in &sources.0 {
            let columns = if source.columns.is_empty() { &defaults.columns } else { &source.columns };
            let selection = Selection { format: source.format.or(defaults.format), columns: columns.clone() };
            for path in source.files()? {
                if documents {
                    let rows = read_documents(&path, &selection)?;
                    dataset.add(path, source.weight, rows, |row, text| tokeniser.document(row, text))?;
                } else {
                    let rows = read_preferences(&path, &selection)?;
                    dataset.add(path, source.weight, rows, |row, pair| tokeniser.pair(row, pair))?;
                }
            }
        }
        Ok(dataset)
    }

    fn add<T: Sync>(
        &mut self,
        path: PathBuf,
        weight: f64,
        rows: FileRows<T>,
        tokenise: impl Fn(usize, &T) -> Result<Result<Example, Dropped>, TrainError> + Sync,
    ) -> Result<(), TrainError> {
        let mut dropped = rows.dropped();
        let mut refusal = None;
        let used: Vec<(usize, &T)> = rows.used().collect();
        let tokenised: Vec<_> = used.into_par_iter().map(|(row, content)| (row, tokenise(row, content))).collect();
        let first = self.examples.len();
        for (row, result) in tokenised {
            let reason = match result {
                Ok(Ok(example)) => {
                    self.examples.push(example);
                    continue;
                }
                Ok(Err(reason)) => reason,
                Err(TrainError::Chat(ChatError::Template(message))) => {
                    refusal.get_or_insert(message);
                    Dropped::TemplateRefused
                }
                Err(error @ TrainError::Refused(_)) => return Err(TrainError::row(&path, rows.unit, row, error)),
                Err(error) => return Err(error),
            };
            dropped.entry(reason).or_default().push(row);
        }
        let file = DataFile {
            sha256: sha256_file(&path)?,
            layout: rows.layout,
            unit: rows.unit,
            weight,
            examples: first..self.examples.len(),
            dropped,
            with_tools: rows.with_tools,
            refusal,
            path,
        };
        if file.examples.is_empty() {
            return Err(TrainError::invalid(&file.path, format!("no row can be used: {}", file.reasons())));
        }
        self.files.push(file);
        Ok(())
    }

    /// Which examples make an epoch.
    pub fn mixture(&self) -> Mixture {
        Mixture::new(self.files.iter().map(|file| (file.examples.clone(), file.weight)).collect())
    }

    /// The examples with their weights applied once, in the order of the files: what an evaluation looks at.
    pub fn weighted_examples(self, seed: u64) -> Vec<Example> {
        if self.files.iter().all(|file| file.weight == 1.0) {
            return self.examples;
        }
        let mut order = self.mixture().epoch(seed, 0);
        order.sort_unstable();
        order.into_iter().map(|index| self.examples[index].clone()).collect()
    }

    /// Where an example came from: `train.jsonl line 7`.
    pub fn place(&self, example: usize) -> String {
        let file = self.files.iter().find(|file| file.examples.contains(&example)).expect("every example has a file");
        format!("`{}` {} {}", file.path.display(), file.unit, self.examples[example].line)
    }

    /// What was read, file by file, and what was left out.
    pub fn describe(&self) -> String {
        let lines: Vec<String> = self.files.iter().flat_map(DataFile::describe).collect();
        lines.join("\n")
    }

    /// Every row that is not used as a line of JSON: `{"source", "row", "reason"}`.
    pub fn dropped_lines(&self) -> String {
        let mut lines = String::new();
        for file in &self.files {
            let mut rows: Vec<(usize, Dropped)> = Vec::new();
            for (reason, numbers) in &file.dropped {
                rows.extend(numbers.iter().map(|number| (*number, *reason)));
            }
            rows.sort_unstable();
            for (row, reason) in rows {
                let line = json!({"source": file.path, "row": row, "reason": reason.to_string()});
                lines.push_str(&format!("{line}\n"));
            }
        }
        lines
    }
}

/// Places that are named on the terminal for each reason; all of them are in `dropped.jsonl`.
const LISTED: usize = 20;

impl DataFile {
    fn describe(&self) -> Vec<String> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let dropped: usize = self.dropped.values().map(Vec::len).sum();
        let rows = self.examples.len() + dropped;
        let weight = if self.weight == 1.0 { String::new() } else { format!(", weight {}", self.weight) };
        let mut lines = vec![format!("{name}: {rows} rows, layout {}{weight}", self.layout)];
        for (reason, numbers) in &self.dropped {
            let mut places: Vec<String> = numbers.iter().take(LISTED).map(usize::to_string).collect();
            if numbers.len() > LISTED {
                places.push(format!("and {} more", numbers.len() - LISTED));
            }
            let said = match (&self.refusal, reason) {
                (Some(message), Dropped::TemplateRefused) => format!(" (`{message}`)"),
                _ => String::new(),
            };
            let (count, unit) = (numbers.len(), self.unit);
            lines.push(format!("{name}: {count} dropped, {reason}{said}: {unit} {}", places.join(", ")));
        }
        if self.with_tools > 0 {
            let count = self.with_tools;
            lines.push(format!("{name}: {count} rows declare tools; chat templates are rendered without them"));
        }
        lines
    }

    fn reasons(&self) -> String {
        let counts: Vec<String> =
            self.dropped.iter().map(|(reason, numbers)| format!("{} x {reason}", numbers.len())).collect();
        match &self.refusal {
            Some(message) => format!("{} (`{message}`)", counts.join(", ")),
            None => counts.join(", "),
        }
    }
}
