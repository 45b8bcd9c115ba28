//! What a decoder offers to the worker, and how one is loaded.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;

use super::config::{CandleConfig, CandleModel};
use super::opt::Opt;
use super::phi::Phi;
use crate::checkpoint::Checkpoint;

/// A causal language model with a key-value cache: what it is fed continues what it was fed before.
pub trait Decoder {
    /// Empties the cache: the next id is the first of a text.
    fn clear(&mut self);

    /// How many ids of a prompt one pass takes. Between passes a job can be cancelled.
    fn prompt_pass(&self) -> usize;

    /// How many ids one pass of [`Decoder::logits_of_each`] takes.
    fn scoring_pass(&self) -> usize;

    /// The logits after the last of `ids`, `(vocab,)`.
    ///
    /// # Errors
    /// candle's, for an id beyond the vocabulary or a text beyond the positions.
    fn logits(&mut self, ids: &[u32]) -> Result<Tensor>;

    /// The logits after each of `ids`, `(ids, vocab)`.
    ///
    /// # Errors
    /// As [`Decoder::logits`].
    fn logits_of_each(&mut self, ids: &[u32]) -> Result<Tensor>;
}

/// Reads the weights of a checkpoint, widened to f32.
///
/// # Errors
/// candle's: a tensor is missing or has another shape than the config says.
pub fn load(checkpoint: &Checkpoint, config: &CandleConfig) -> Result<Box<dyn Decoder>> {
    // SAFETY: the files must not change while they are mapped, which is until the tensors have been copied out of them
    // below; the checkpoint's check found them whole.
    let weights = unsafe { VarBuilder::from_mmaped_safetensors(&checkpoint.weights, DType::F32, &Device::Cpu)? };
    Ok(match &config.model {
        CandleModel::Phi(config) => Box::new(Phi::load(config, weights)?),
        CandleModel::Opt(config) => Box::new(Opt::load(config, &weights)?),
    })
}
