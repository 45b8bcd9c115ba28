//! Looking at the disk: what stages are made of, what has become of what they made, and so what there is to do.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::file::Pipeline;
use super::record::{self, Damage, Decision, Inputs, Record, Status};
use super::stages::Stage;
use super::{Options, stages};
use crate::hash::{Hashes, Stamp, files_of};

/// Files of a model directory that decide on what the model says.
const MODEL_FILES: [&str; 5] = ["safetensors", "json", "jinja", "model", "txt"];

/// A stage, and what there is to do about it.
#[derive(Debug)]
pub struct Surveyed {
    /// The stage.
    pub stage: Stage,
    /// What it is made of now.
    pub inputs: Inputs,
    /// What is known of its last run.
    pub record: Option<Record>,
    /// What to do.
    pub decision: Decision,
}

impl Surveyed {
    /// Whether there is nothing to do.
    pub fn is_up_to_date(&self) -> bool {
        self.decision == Decision::UpToDate
    }
}

/// Looks at all stages that are wanted, as they are before anything runs.
///
/// # Errors
/// When a file cannot be read.
pub fn survey(pipeline: &Pipeline, options: &Options, hashes: &mut Hashes) -> Result<Vec<Surveyed>> {
    let mut surveyed: Vec<Surveyed> = Vec::new();
    for stage in stages::stages(pipeline)?.into_iter().filter(|stage| options.wants(stage.kind)) {
        let runs_first = |name: &str| surveyed.iter().any(|other| other.stage.name == name && !other.is_up_to_date());
        let looked_at = look_at(pipeline, stage, runs_first, hashes)?;
        surveyed.push(looked_at);
    }
    Ok(surveyed)
}

/// Looks at one stage; `runs_first` says of an earlier stage whether what it makes is not known yet.
///
/// # Errors
/// When a file cannot be read.
pub fn look_at(
    pipeline: &Pipeline,
    stage: Stage,
    runs_first: impl Fn(&str) -> bool,
    hashes: &mut Hashes,
) -> Result<Surveyed> {
    let out = &pipeline.out;
    let record = Record::read(out, &stage.name)?;
    if let Some(record) = &record {
        hashes.learn(record.inputs.files.values().flatten().cloned());
        hashes.learn(record.outputs.iter().map(|stamp| Stamp { path: out.join(&stamp.path), ..stamp.clone() }));
    }
    let mut inputs = Inputs::new(stage.settings.clone());
    for (key, paths) in &stage.files {
        let mut stamps = Vec::new();
        for path in paths {
            for file in selected(key, path)? {
                stamps.push(hashes.stamp(&file)?);
            }
        }
        inputs.files.insert(key.clone(), stamps);
    }
    for used in &stage.uses {
        let made = match Record::read(out, &used.stage)? {
            Some(record) if matches!(record.status, Status::Done | Status::Incomplete) && !runs_first(&used.stage) => {
                Some(record.outputs_sha256(&used.under))
            }
            _ => None,
        };
        inputs.stages.insert(used.stage.clone(), made);
    }
    let damage = record.as_ref().map_or(Ok(Vec::new()), |record| damage(out, record, hashes))?;
    let decision = record::decide(&inputs, record.as_ref(), &damage);
    Ok(Surveyed { stage, inputs, record, decision })
}

/// The files that count of what a key names.
fn selected(key: &str, path: &Path) -> Result<Vec<PathBuf>> {
    let mut files = files_of(path)?;
    if key == "base.model" {
        let counts = |file: &PathBuf| {
            let extension = file.extension().unwrap_or_default().to_string_lossy();
            file.parent() == Some(path) && MODEL_FILES.contains(&&*extension)
        };
        files.retain(counts);
    }
    Ok(files)
}

/// The files that a stage has made, as they are now; paths are relative to `out`.
///
/// # Errors
/// When one of them cannot be read.
pub fn outputs(out: &Path, stage: &Stage, hashes: &mut Hashes) -> Result<Vec<Stamp>> {
    let mut stamps = Vec::new();
    for output in &stage.outputs {
        for file in files_of(&out.join(output))? {
            let path = file.strip_prefix(out).map_or_else(|_| file.clone(), Path::to_path_buf);
            stamps.push(Stamp { path, ..hashes.stamp(&file)? });
        }
    }
    Ok(stamps)
}

fn damage(out: &Path, record: &Record, hashes: &mut Hashes) -> Result<Vec<Damage>> {
    let mut damage = Vec::new();
    for made in &record.outputs {
        let path = out.join(&made.path);
        if !path.exists() {
            damage.push(Damage::Gone(made.path.clone()));
        } else if hashes.stamp(&path)?.sha256 != made.sha256 {
            damage.push(Damage::Changed(made.path.clone()));
        }
    }
    Ok(damage)
}
