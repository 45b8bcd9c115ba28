//! `[export]`: what the final model's directory holds.

use std::path::Path;

use orpo_model::Decoder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{ModelFiles, WeightDtype, WeightFormat, write_model, write_trained};
use crate::error::TrainError;

/// `[export]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExportSection {
    /// Type of the final weights.
    pub dtype: WeightDtype,
    /// Merge the adapter into its base model; otherwise the final directory is PEFT's. Default false.
    pub merge: bool,
}

impl ExportSection {
    /// Writes the final model to `dir`, which must exist.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn write(&self, dir: &Path, decoder: &Decoder, files: &ModelFiles) -> Result<(), TrainError> {
        let format = WeightFormat { dtype: self.dtype, ..WeightFormat::default() };
        if self.merge { write_model(dir, decoder, files, format) } else { write_trained(dir, decoder, files, format) }
    }
}
