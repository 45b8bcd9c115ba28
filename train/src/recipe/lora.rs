//! `[lora]`: an adapter in the place of all weights.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::TrainError;
use crate::model::WeightFiles;
use crate::model::lora::{ADAPTER_FILE, ALL_LINEAR, BaseStorage, LoraConfig, LoraSetup};

/// `[lora]`. Names are PEFT's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraSection {
    /// Rank. Default 16.
    pub r: usize,
    /// The adapter is scaled by `lora_alpha / r`. Default 32.
    pub lora_alpha: f64,
    /// Share of each layer's input that is dropped while training. Default 0.
    pub lora_dropout: f64,
    /// Last parts of layer names, such as `["q_proj", "v_proj"]`. Default `["all-linear"]`: every linear layer but the
    /// head.
    pub target_modules: Vec<String>,
    /// Scale by `lora_alpha / sqrt(r)` instead. Default false.
    pub use_rslora: bool,
    /// How the frozen weights of the linear layers are kept: `"source"` (default: in the checkpoint's type), `"q8_0"`,
    /// `"q4_k"`.
    pub base: BaseStorage,
    /// A PEFT directory to go on from; rank, alpha, dropout, targets and scaling are then its.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
}

impl Default for LoraSection {
    fn default() -> Self {
        Self {
            r: 16,
            lora_alpha: 32.0,
            lora_dropout: 0.0,
            target_modules: vec![ALL_LINEAR.into()],
            use_rslora: false,
            base: BaseStorage::Source,
            adapter: None,
        }
    }
}

impl LoraSection {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.r == 0 {
            return Err("`lora.r` must be at least 1".into());
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return Err(format!("`lora.lora_dropout` = {} is outside 0 .. 1", self.lora_dropout));
        }
        if !self.lora_alpha.is_finite() || self.lora_alpha <= 0.0 {
            return Err(format!("`lora.lora_alpha` = {} must be positive", self.lora_alpha));
        }
        if self.target_modules.is_empty() {
            return Err("`lora.target_modules` names no layer".into());
        }
        if self.adapter.is_some() {
            let new = Self::default();
            let given = [
                ("r", self.r != new.r),
                ("lora_alpha", self.lora_alpha != new.lora_alpha),
                ("lora_dropout", self.lora_dropout != new.lora_dropout),
                ("target_modules", self.target_modules != new.target_modules),
                ("use_rslora", self.use_rslora != new.use_rslora),
            ];
            if let Some((key, _)) = given.iter().find(|(_, given)| *given) {
                return Err(format!("`lora.{key}` is that of `lora.adapter`; leave one of them out"));
            }
        }
        Ok(())
    }

    /// What the model is loaded with.
    ///
    /// # Errors
    /// When the initial adapter cannot be read.
    pub fn setup(&self, seed: u64) -> Result<LoraSetup, TrainError> {
        let Self { r, lora_alpha, lora_dropout, use_rslora, base, .. } = *self;
        let (config, initial) = match &self.adapter {
            Some(dir) => (LoraConfig::from_dir(dir)?, Some(WeightFiles::open_file(&dir.join(ADAPTER_FILE))?)),
            None => {
                let target_modules = self.target_modules.clone();
                (LoraConfig { r, lora_alpha, lora_dropout, target_modules, use_rslora }, None)
            }
        };
        Ok(LoraSetup { config, base, seed, initial })
    }
}
