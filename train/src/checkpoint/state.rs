//! The trainer's exact state: a checkpoint is a model directory with the optimiser's moments and the step beside it.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use orpo_files::{recover, remove_dir, replace_dir, write_json};
use orpo_model::adapter::ADAPTER_FILE;
use orpo_model::{Decoder, Param, Values, WeightFiles};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::export::{ModelFiles, WeightFormat, write_tensors, write_trained};
use crate::error::TrainError;
use crate::loss::PreferenceMetrics;
use crate::selection::SelectionState;

/// What, with weights and moments, determines everything that follows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Optimiser steps made.
    pub step: usize,
    /// Tokens of all examples so far.
    pub num_input_tokens_seen: u64,
    /// Metrics of the steps since the last line of the log.
    pub unlogged: Vec<PreferenceMetrics>,
    /// What was last logged or, later than that, evaluated.
    pub last_metrics: Map<String, Value>,
    /// Which evaluation is the best, and whether the run is over.
    pub selection: SelectionState,
    /// Steps that the run was to have; 0 in checkpoints of older versions.
    #[serde(default)]
    pub total_steps: usize,
    /// The loss of the first step.
    #[serde(default)]
    pub first_loss: Option<f64>,
    /// What must be the same on resuming: the recipe, and the SHA-256 of base and data.
    pub fingerprint: Value,
}

impl TrainerState {
    /// The state before the first step.
    pub fn new(fingerprint: Value) -> Self {
        Self {
            step: 0,
            num_input_tokens_seen: 0,
            unlogged: Vec::new(),
            last_metrics: Map::new(),
            selection: SelectionState::default(),
            total_steps: 0,
            first_loss: None,
            fingerprint,
        }
    }
}

/// The directory `RUN/checkpoints`.
#[derive(Debug)]
pub struct CheckpointDir {
    dir: PathBuf,
}

const STATE: &str = "trainer_state.json";
const OPTIMIZER: &str = "optimizer.safetensors";

impl CheckpointDir {
    /// The checkpoints of a run.
    pub fn of_run(run_dir: &Path) -> Self {
        Self { dir: run_dir.join("checkpoints") }
    }

    /// Writes a complete checkpoint, then [prunes](Self::prune) the older ones.
    ///
    /// # Errors
    /// When a file cannot be written; the older checkpoints are still there then.
    pub fn save(
        &self,
        decoder: &Decoder,
        files: &ModelFiles,
        state: &TrainerState,
        keep: usize,
    ) -> Result<(), TrainError> {
        fs::create_dir_all(&self.dir).map_err(|e| TrainError::write(&self.dir, e))?;
        replace_dir(&self.path(state.step), |dir| {
            write_trained(dir, decoder, files, WeightFormat::default())?;
            let moments = decoder.trainable().into_iter().flat_map(|param| {
                let moment = |kind: Kind| (kind.tensor_name(&param), Moment { param: param.clone(), kind });
                [moment(Kind::First), moment(Kind::Second)]
            });
            write_tensors(&dir.join(OPTIMIZER), moments)?;
            Ok::<_, TrainError>(write_json(&dir.join(STATE), state)?)
        })?;
        self.prune(state, keep)
    }

    /// Removes all checkpoints but the latest `keep` and the best one of `state`.
    ///
    /// # Errors
    /// From the file system.
    pub fn prune(&self, state: &TrainerState, keep: usize) -> Result<(), TrainError> {
        let best = state.selection.best.as_ref().map(|best| best.step);
        let steps: Vec<usize> = self.complete()?.into_iter().map(|(step, _)| step).collect();
        for step in superseded(steps, keep, best) {
            remove_dir(&self.path(step))?;
        }
        Ok(())
    }

    /// The directory of the checkpoint after `step`.
    pub fn path(&self, step: usize) -> PathBuf {
        self.dir.join(format!("step-{step:06}"))
    }

    /// Clears away what a killed process left.
    ///
    /// # Errors
    /// From the file system.
    pub fn recover(&self) -> Result<(), TrainError> {
        Ok(recover(&self.dir)?)
    }

    /// The last complete checkpoint's directory and state.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn latest(&self) -> Result<Option<(PathBuf, TrainerState)>, TrainError> {
        let Some((_, dir)) = self.complete()?.into_iter().max() else { return Ok(None) };
        let path = dir.join(STATE);
        let text = fs::read_to_string(&path).map_err(|e| TrainError::read(&path, e))?;
        let state = serde_json::from_str(&text).map_err(|e| TrainError::invalid(&path, e))?;
        Ok(Some((dir, state)))
    }

    /// Reads weights and moments of the checkpoint `dir` into what is trained of `decoder`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn restore(dir: &Path, decoder: &Decoder) -> Result<(), TrainError> {
        let weights = match decoder.lora_config() {
            Some(_) => WeightFiles::open_file(&dir.join(ADAPTER_FILE))?,
            None => WeightFiles::open(dir)?,
        };
        let moments = WeightFiles::open_file(&dir.join(OPTIMIZER))?;
        for param in decoder.trainable() {
            let shape = param.shape().to_vec();
            param.assign(&weights.read_f32(param.name(), &shape)?)?;
            let moment = |kind: Kind| moments.read_f32(&kind.tensor_name(&param), &shape);
            let (first, second) = (moment(Kind::First)?, moment(Kind::Second)?);
            let mut slot = param.slot();
            slot.first_moment = first;
            slot.second_moment = second;
        }
        Ok(())
    }

    /// Steps and directories of the checkpoints, in no order.
    fn complete(&self) -> Result<Vec<(usize, PathBuf)>, TrainError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(TrainError::read(&self.dir, error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(|e| TrainError::read(&self.dir, e))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(step) = name.strip_prefix("step-").and_then(|step| step.parse().ok()) {
                found.push((step, path));
            }
        }
        Ok(found)
    }
}

/// The steps whose checkpoints are not kept any more.
fn superseded(mut steps: Vec<usize>, keep: usize, best: Option<usize>) -> impl Iterator<Item = usize> {
    steps.sort_unstable_by(|a, b| b.cmp(a));
    steps.into_iter().skip(keep).filter(move |step| Some(*step) != best)
}

#[derive(Clone, Copy)]
enum Kind {
    First,
    Second,
}

impl Kind {
    /// Names as torch's optimizer state has them.
    fn tensor_name(self, param: &Param) -> String {
        match self {
            Self::First => format!("{}.exp_avg", param.name()),
            Self::Second => format!("{}.exp_avg_sq", param.name()),
        }
    }
}

struct Moment {
    param: Arc<Param>,
    kind: Kind,
}

impl safetensors::View for Moment {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.param.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let slot = self.param.slot();
        Cow::Owned(Values::to_bytes(
            Dtype::F32,
            match self.kind {
                Kind::First => &slot.first_moment,
                Kind::Second => &slot.second_moment,
            },
        ))
    }

    fn data_len(&self) -> usize {
        self.param.elem_count() * size_of::<f32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_and_the_best_are_kept() {
        let removed = |keep, best| superseded(vec![3, 12, 6, 9], keep, best).collect::<Vec<_>>();
        assert_eq!(removed(1, None), [9, 6, 3]);
        assert_eq!(removed(1, Some(6)), [9, 3]);
        assert_eq!(removed(2, Some(12)), [6, 3]);
        assert!(removed(9, None).is_empty());
    }
}
