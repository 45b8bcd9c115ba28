//! What is known of a stage's last run, and what follows from it for the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use orpo_files::{Difference, canonical_json, differences, sha256, write_json};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::hash::Stamp;

/// How a run of a stage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It has not ended, or was killed.
    Begun,
    /// It failed.
    Failed,
    /// It ended, but not everything could be scored.
    Incomplete,
    /// It ended.
    Done,
}

/// All that decides on what a stage makes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    /// Version of this program.
    pub version: String,
    /// What the pipeline file says, section by section.
    pub settings: Value,
    /// The hash of `settings` as canonical JSON.
    pub settings_sha256: String,
    /// The files, by the key of the pipeline file that names them.
    pub files: BTreeMap<String, Vec<Stamp>>,
    /// The outputs of earlier stages that it uses; null where such a stage is going to run first.
    pub stages: BTreeMap<String, Option<String>>,
}

impl Inputs {
    /// Inputs with these settings, nothing else yet.
    pub fn new(settings: Value) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            settings_sha256: sha256(canonical_json(&settings)),
            settings,
            files: BTreeMap::new(),
            stages: BTreeMap::new(),
        }
    }
}

/// `OUT/stages/NAME.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The stage.
    pub stage: String,
    /// How its last run ended.
    pub status: Status,
    /// What it was made of.
    pub inputs: Inputs,
    /// What it made; paths are relative to the pipeline's directory.
    pub outputs: Vec<Stamp>,
    /// What repeats it alone, in a shell.
    pub command: String,
    /// What it said, relative to the pipeline's directory.
    pub log: PathBuf,
    /// When it began, in UTC (RFC 3339).
    pub started_at: String,
    /// How long it took.
    pub seconds: f64,
}

impl Record {
    /// Where the record of a stage lies.
    pub fn path(out: &Path, stage: &str) -> PathBuf {
        out.join("stages").join(format!("{}.json", file_name(stage)))
    }

    /// Reads the record of a stage, if there is one.
    ///
    /// # Errors
    /// When it cannot be read or is none.
    pub fn read(out: &Path, stage: &str) -> Result<Option<Self>> {
        let path = Self::path(out, stage);
        match fs::read_to_string(&path) {
            Ok(text) => {
                let record = serde_json::from_str(&text)
                    .with_context(|| format!("`{}` is no record of a stage; remove it", path.display()))?;
                Ok(Some(record))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read `{}`", path.display())),
        }
    }

    /// Writes the record; it is replaced as a whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, out: &Path) -> Result<()> {
        let path = Self::path(out, &self.stage);
        fs::create_dir_all(out.join("stages")).with_context(|| format!("cannot write to `{}`", out.display()))?;
        Ok(write_json(&path, self)?)
    }

    /// One hash over the outputs below `under`, names and contents.
    pub fn outputs_sha256(&self, under: &Path) -> String {
        let outputs = self.outputs.iter().filter(|stamp| stamp.path.starts_with(under));
        sha256(outputs.map(|stamp| format!("{}\0{}\n", stamp.path.display(), stamp.sha256)).collect::<String>())
    }
}

/// A stage's name as a file's.
pub fn file_name(stage: &str) -> String {
    stage.replace(':', "-")
}

/// What is not with an output as it was when it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// It is not there.
    Gone(PathBuf),
    /// It holds something else.
    Changed(PathBuf),
}

/// What to do about a stage, and why, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    UpToDate,
    /// Go on with what is there.
    GoOn(String),
    /// Put aside what is there and make it anew.
    Redo(Vec<String>),
}

/// Decides from the inputs as they are now, the last record, and what has become of its outputs.
pub fn decide(now: &Inputs, record: Option<&Record>, damage: &[Damage]) -> Decision {
    let Some(record) = record else { return Decision::Redo(vec!["not run yet".into()]) };
    let mut reasons = changes(&record.inputs, now);
    if !reasons.is_empty() {
        return Decision::Redo(reasons);
    }
    match record.status {
        Status::Begun => return Decision::GoOn("it was begun and not finished".into()),
        Status::Failed => return Decision::GoOn("it failed".into()),
        Status::Incomplete | Status::Done => {}
    }
    reasons.extend(damage.iter().filter_map(|damage| match damage {
        Damage::Changed(path) => Some(format!("output {} was changed", path.display())),
        Damage::Gone(_) => None,
    }));
    if !reasons.is_empty() {
        return Decision::Redo(reasons);
    }
    match (damage.first(), record.status) {
        (Some(Damage::Gone(path) | Damage::Changed(path)), _) => {
            Decision::GoOn(format!("output {} is gone", path.display()))
        }
        (None, Status::Incomplete) => Decision::GoOn("not everything could be scored".into()),
        (None, _) => Decision::UpToDate,
    }
}

/// What has changed between two runs' inputs, in words.
fn changes(then: &Inputs, now: &Inputs) -> Vec<String> {
    let mut changes = Vec::new();
    if then.version != now.version {
        changes.push(format!("it was made by version {}, this is {}", then.version, now.version));
    }
    if then.settings_sha256 != now.settings_sha256 {
        let shown = |value: &Value| if value.is_null() { "not set".to_owned() } else { value.to_string() };
        let describe =
            |found: &Difference<'_>| format!("{} {} → {}", found.key(), shown(found.before), shown(found.after));
        let mut settings: Vec<String> = differences(&then.settings, &now.settings).iter().map(describe).collect();
        settings.sort();
        changes.extend(settings);
    }
    let none = Vec::new();
    let keys: BTreeSet<&String> = then.files.keys().chain(now.files.keys()).collect();
    for key in keys {
        let (then, now) = (then.files.get(key).unwrap_or(&none), now.files.get(key).unwrap_or(&none));
        changes.extend(file_changes(key, then, now));
    }
    let keys: BTreeSet<&String> = then.stages.keys().chain(now.stages.keys()).collect();
    for key in keys {
        match (then.stages.get(key), now.stages.get(key)) {
            (then, Some(Some(now))) if then.and_then(Option::as_ref) != Some(now) => {
                changes.push(format!("{key} ran again"));
            }
            (_, Some(None)) => changes.push(format!("{key} runs first")),
            (_, None) => changes.push(format!("{key} is used no more")),
            _ => {}
        }
    }
    changes
}

/// What has changed in the files of one key. Files may have been moved: they are told by their names and content.
fn file_changes(key: &str, then: &[Stamp], now: &[Stamp]) -> Vec<String> {
    let content = |stamps: &[Stamp]| stamps.iter().map(|stamp| stamp.sha256.clone()).collect::<Vec<_>>();
    if content(then) == content(now) {
        return Vec::new();
    }
    let named = |stamps: &[Stamp]| -> BTreeMap<String, String> {
        let name = |stamp: &Stamp| stamp.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        stamps.iter().map(|stamp| (name(stamp), stamp.sha256.clone())).collect()
    };
    let (then, now) = (named(then), named(now));
    if now.is_empty() {
        return vec![format!("{key} names nothing any more")];
    }
    let mut changes = Vec::new();
    for (name, hash) in &now {
        match then.get(name) {
            Some(before) if before == hash => {}
            Some(_) => changes.push(format!("{key} changed: {name}")),
            None => changes.push(format!("{key} is new: {name}")),
        }
    }
    changes.extend(then.keys().filter(|name| !now.contains_key(*name)).map(|name| format!("{key} has lost {name}")));
    if changes.is_empty() {
        changes.push(format!("{key} changed: the order of its files"));
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stamp(path: &str, sha256: &str) -> Stamp {
        Stamp { path: path.into(), sha256: sha256.into(), bytes: 1, modified_ns: 1 }
    }

    fn inputs() -> Inputs {
        let mut inputs = Inputs::new(json!({"training": {"beta": 0.1, "epochs": 1}}));
        inputs.files.insert("data.train".into(), vec![stamp("/a/pairs.jsonl", "p"), stamp("/a/more.jsonl", "m")]);
        inputs.stages.insert("train:orpo".into(), Some("w".into()));
        inputs
    }

    fn record(status: Status) -> Record {
        Record {
            stage: "ifeval:orpo".into(),
            status,
            inputs: inputs(),
            outputs: vec![stamp("eval/orpo/ifeval/results.json", "r")],
            command: String::new(),
            log: "logs/ifeval-orpo.log".into(),
            started_at: String::new(),
            seconds: 1.0,
        }
    }

    fn reasons(now: &Inputs) -> Vec<String> {
        match decide(now, Some(&record(Status::Done)), &[]) {
            Decision::Redo(reasons) => reasons,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_as_it_was_is_not_made_again() {
        assert_eq!(decide(&inputs(), Some(&record(Status::Done)), &[]), Decision::UpToDate);
        assert_eq!(decide(&inputs(), None, &[]), Decision::Redo(vec!["not run yet".into()]));
        let mut moved = inputs();
        moved.files.insert("data.train".into(), vec![stamp("/b/renamed.jsonl", "p"), stamp("/b/more.jsonl", "m")]);
        assert_eq!(decide(&moved, Some(&record(Status::Done)), &[]), Decision::UpToDate);
    }

    #[test]
    fn changes_are_said_in_plain_words() {
        let mut now = Inputs { settings: Value::Null, ..inputs() };
        now = Inputs { files: now.files, stages: now.stages, ..Inputs::new(json!({"training": {"beta": 0.5}})) };
        assert_eq!(reasons(&now), ["training.beta 0.1 → 0.5", "training.epochs 1 → not set"]);

        let mut now = inputs();
        now.files.insert("data.train".into(), vec![stamp("/a/pairs.jsonl", "q"), stamp("/a/new.jsonl", "n")]);
        let expected =
            ["data.train is new: new.jsonl", "data.train changed: pairs.jsonl", "data.train has lost more.jsonl"];
        assert_eq!(reasons(&now), expected);
        now.files.insert("data.train".into(), vec![stamp("/a/more.jsonl", "m"), stamp("/a/pairs.jsonl", "p")]);
        assert_eq!(reasons(&now), ["data.train changed: the order of its files"]);
        now.files.clear();
        assert_eq!(reasons(&now), ["data.train names nothing any more"]);

        let mut now = inputs();
        now.stages.insert("train:orpo".into(), Some("other".into()));
        assert_eq!(reasons(&now), ["train:orpo ran again"]);
        now.stages.insert("train:orpo".into(), None);
        assert_eq!(reasons(&now), ["train:orpo runs first"]);
        now.stages.clear();
        assert_eq!(reasons(&now), ["train:orpo is used no more"]);

        let now = Inputs { version: "9".into(), ..inputs() };
        assert_eq!(reasons(&now), [format!("it was made by version {}, this is 9", env!("CARGO_PKG_VERSION"))]);
    }

    #[test]
    fn what_was_begun_goes_on_unless_its_inputs_have_changed() {
        for (status, reason) in [
            (Status::Begun, "it was begun and not finished"),
            (Status::Failed, "it failed"),
            (Status::Incomplete, "not everything could be scored"),
        ] {
            assert_eq!(decide(&inputs(), Some(&record(status)), &[]), Decision::GoOn(reason.into()));
            let mut now = inputs();
            now.stages.insert("train:orpo".into(), Some("other".into()));
            assert!(matches!(decide(&now, Some(&record(status)), &[]), Decision::Redo(_)));
        }
    }

    #[test]
    fn a_lost_output_is_made_up_for_and_a_changed_one_is_not_trusted() {
        let path = || PathBuf::from("results.json");
        let decide = |damage: &[Damage]| decide(&inputs(), Some(&record(Status::Done)), damage);
        assert_eq!(decide(&[Damage::Gone(path())]), Decision::GoOn("output results.json is gone".into()));
        let redo = Decision::Redo(vec!["output results.json was changed".into()]);
        assert_eq!(decide(&[Damage::Gone("samples.jsonl".into()), Damage::Changed(path())]), redo);
    }

    #[test]
    fn a_record_reads_back_as_itself() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(dir.path(), "ifeval:orpo").unwrap(), None);
        let record = record(Status::Incomplete);
        record.write(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path(), "ifeval:orpo").unwrap().unwrap(), record);
        fs::write(Record::path(dir.path(), "ifeval:orpo"), "{}").unwrap();
        let error = format!("{:#}", Record::read(dir.path(), "ifeval:orpo").unwrap_err());
        assert!(error.contains("ifeval-orpo.json") && error.contains("remove it"), "{error}");
    }

    #[test]
    fn only_the_outputs_that_are_used_count() {
        let mut record = record(Status::Done);
        let samples = Path::new("eval/orpo/ifeval/samples.jsonl");
        record.outputs.push(stamp("eval/orpo/ifeval/samples.jsonl", "s"));
        let before = (record.outputs_sha256(samples), record.outputs_sha256(Path::new("")));
        record.outputs[0].sha256 = "other".into();
        let after = (record.outputs_sha256(samples), record.outputs_sha256(Path::new("")));
        assert!(before.0 == after.0 && before.1 != after.1);
    }
}
