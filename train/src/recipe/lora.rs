//! `[lora]`: train an adapter instead of all weights.

use std::path::PathBuf;

use orpo_model::WeightFiles;
use orpo_model::adapter::{ADAPTER_FILE, ALL_LINEAR, BaseStorage, LoraConfig, LoraSetup};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::TrainError;

/// `[lora]`. Names are PEFT's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraSection {
    /// Rank. Default 16.
    #[schemars(extend("minimum" = 1, "trl" = "lora_r"))]
    pub r: usize,
    /// The adapter is scaled by `lora_alpha / r`. Default 32.
    #[schemars(extend("exclusiveMinimum" = 0, "trl" = "lora_alpha"))]
    pub lora_alpha: f64,
    /// Share of each layer's input that is dropped while training. Default 0.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1, "trl" = "lora_dropout"))]
    pub lora_dropout: f64,
    /// Last parts of the names of the layers that get an adapter, such as `["q_proj", "v_proj"]`; `["all-linear"]` for
    /// every linear layer but the head.
    #[schemars(extend("trl" = "lora_target_modules"))]
    pub target_modules: Vec<String>,
    /// Scale by `lora_alpha / sqrt(r)` instead. Default false.
    #[schemars(extend("trl" = "use_rslora"))]
    pub use_rslora: bool,
    /// How the frozen weights of the linear layers are kept.
    pub base: BaseStorage,
    /// A PEFT directory to continue from; it then decides rank, alpha, dropout, targets and scaling.
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
