//! The samples that can be browsed in the page, of every task in one form, with the answers of several models to the same
//! prompt side by side.

mod head;
mod rows;

use std::collections::{BTreeSet, HashMap};
use std::fs;

use serde::Serialize;

use super::collect::{Collected, Subject};
use crate::jsonl::InputError;

/// The bytes of all files together, about.
const BYTES: u64 = 24 << 20;

/// Everything that the page knows of samples.
#[derive(Debug, Default, Serialize)]
pub struct Samples {
    /// The samples.
    pub rows: Vec<Row>,
    /// What was left out, and where it is.
    #[serde(skip)]
    pub left_out: Vec<String>,
    /// Files that should be here and cannot be used.
    #[serde(skip)]
    pub broken: Vec<InputError>,
}

/// One prompt with the answers to it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Row {
    /// The task.
    pub task: &'static str,
    /// Which one it is.
    pub id: String,
    /// What was asked.
    pub prompt: String,
    /// The types of its instructions, or its category.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// The answers.
    pub answers: Vec<Answer>,
}

/// One model's answer, and what was found about it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Answer {
    /// The model.
    pub model: String,
    /// What it said; none where it said nothing.
    pub text: Option<String>,
    /// The verdict as a word that can be filtered by.
    pub verdict: &'static str,
    /// The verdict in detail.
    pub label: String,
    /// Verdicts on parts, and reasons.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

impl Samples {
    /// Reads the samples beside the results. A file that cannot be read, or has a line that is not what its task writes,
    /// does not stop the others.
    pub fn read(collected: &Collected) -> Self {
        let mut samples = Self::default();
        let mut joined = HashMap::new();
        let path = |subject: &Subject| subject.evaluation.path.with_file_name("samples.jsonl");
        let size = |subject| fs::metadata(path(subject)).ok().map(|file| file.len());
        let share = share(collected.evaluations.iter().filter_map(size).collect(), BYTES);
        for subject in &collected.evaluations {
            let path = path(subject);
            if !path.is_file() {
                samples.left_out.push(format!("{}: there is no such file", path.display()));
                continue;
            }
            let (rows, total) = match rows::read(subject, &path, share) {
                Ok(read) => read,
                Err(error) => {
                    samples.broken.push(error);
                    continue;
                }
            };
            if rows.len() < total {
                let shown = rows.len();
                samples
                    .left_out
                    .push(format!("{}: {shown} of {total} samples are here, the file has all", path.display()));
            }
            for row in rows {
                let key = (row.task, row.id.clone(), row.prompt.clone());
                match joined.get(&key) {
                    Some(&index) => samples.join(index, row),
                    None => {
                        joined.insert(key, samples.rows.len());
                        samples.rows.push(row);
                    }
                }
            }
        }
        // Everywhere the models stand in the same order, a baseline first.
        let place = |answer: &Answer| collected.names.iter().position(|name| *name == answer.model);
        samples.rows.iter_mut().for_each(|row| row.answers.sort_by_key(place));
        samples
    }

    /// What is not in the page, and why.
    pub fn not_here(&self) -> Vec<String> {
        self.left_out.iter().cloned().chain(self.broken.iter().map(ToString::to_string)).collect()
    }

    /// Adds the answers of a row to one that asks the same, but for those that are there already.
    fn join(&mut self, index: usize, row: Row) {
        let answers = &mut self.rows[index].answers;
        for answer in row.answers {
            if !answers.contains(&answer) {
                answers.push(answer);
            }
        }
    }

    /// All words that can be filtered by: those of a list for each row.
    pub fn words<'a>(&'a self, of: impl Fn(&'a Row) -> Vec<&'a str>) -> Vec<&'a str> {
        self.rows.iter().flat_map(of).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// JSON that may stand inside of a `script` element: nothing in it ends the element or begins a comment.
    pub fn to_json(&self) -> String {
        let json = serde_json::to_string(self).expect("samples have string keys");
        let mut safe = String::with_capacity(json.len());
        for character in json.chars() {
            match character {
                '<' => safe.push_str("\\u003c"),
                '>' => safe.push_str("\\u003e"),
                '&' => safe.push_str("\\u0026"),
                '\u{2028}' => safe.push_str("\\u2028"),
                '\u{2029}' => safe.push_str("\\u2029"),
                other => safe.push(other),
            }
        }
        safe
    }
}

/// What files of these sizes get of `total` bytes each: all the same, and what small ones do not need goes to the others.
fn share(mut sizes: Vec<u64>, total: u64) -> usize {
    sizes.sort_unstable();
    let (mut left, mut files) = (total, sizes.len() as u64);
    for size in sizes {
        if size > left / files {
            return usize::try_from(left / files).unwrap_or(usize::MAX);
        }
        (left, files) = (left - size, files - 1);
    }
    usize::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_can_leave_its_script_element() {
        let hostile = "</script><script>alert(1)</script><!-- & \u{2028}\u{2029} \" \\";
        let row = Row { prompt: hostile.into(), ..Row::default() };
        let samples = Samples { rows: vec![row], ..Samples::default() };
        let json = samples.to_json();
        assert!(!json.contains(['<', '>', '&', '\u{2028}', '\u{2029}']), "{json}");
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read["rows"][0]["prompt"], hostile);
    }

    #[test]
    fn small_files_leave_their_part_to_large_ones() {
        assert_eq!(share(vec![90, 10, 200], 150), 70);
        assert_eq!(share(vec![200, 200], 150), 75);
        assert_eq!(share(vec![50, 100], 150), usize::MAX);
        assert_eq!(share(vec![], 150), usize::MAX);
    }

    #[test]
    fn answers_to_the_same_prompt_meet_once() {
        let answer = |model: &str| Answer { model: model.into(), text: Some("x".into()), ..Answer::default() };
        let row = |answers| Row { answers, ..Row::default() };
        let mut samples = Samples { rows: vec![row(vec![answer("baseline"), answer("a")])], ..Samples::default() };
        samples.join(0, row(vec![answer("baseline"), answer("b")]));
        let models: Vec<&str> = samples.rows[0].answers.iter().map(|answer| answer.model.as_str()).collect();
        assert_eq!(models, ["baseline", "a", "b"]);
    }
}
