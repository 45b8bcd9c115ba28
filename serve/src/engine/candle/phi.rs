//! Phi and Phi-2 on candle-transformers.

use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::phi::{Config, Model};
use serde_json::{Map, Value};

use super::decoder::Decoder;

/// candle's model. It gives the logits of a pass's last position only, and its mask is right for a pass of several ids
/// only on an empty cache: so a prompt is one pass, and scoring takes one pass for each id.
pub struct Phi {
    model: Model,
}

impl Phi {
    /// Loads the model that `config`, complete as candle requires it, describes.
    ///
    /// # Errors
    /// candle's.
    pub fn load(config: &Map<String, Value>, weights: VarBuilder<'_>) -> Result<Self> {
        let config: Config = serde_json::from_value(Value::Object(config.clone())).map_err(candle_core::Error::wrap)?;
        Ok(Self { model: Model::new(&config, weights)? })
    }
}

impl Decoder for Phi {
    fn clear(&mut self) {
        self.model.clear_kv_cache();
    }

    fn prompt_pass(&self) -> usize {
        usize::MAX
    }

    fn scoring_pass(&self) -> usize {
        1
    }

    fn logits(&mut self, ids: &[u32]) -> Result<Tensor> {
        self.model.forward(&Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?)?.squeeze(0)
    }

    fn logits_of_each(&mut self, ids: &[u32]) -> Result<Tensor> {
        let rows: Vec<Tensor> = ids.iter().map(|&id| self.logits(&[id])).collect::<Result<_>>()?;
        Tensor::stack(&rows, 0)
    }
}
