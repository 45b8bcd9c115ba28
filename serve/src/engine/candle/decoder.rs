//! What a decoder offers to the worker, and how one is loaded.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use orpo_model::{Family, ModelConfig};

use super::opt::Opt;
use super::phi::Phi;
use crate::checkpoint::Checkpoint;

/// Ids of one pass: enough to keep the matrix kernels busy, few enough to notice a cancelled job soon.
pub const PASS: usize = 128;

/// A causal language model with a key-value cache: what it is fed continues what it was fed before.
pub trait Decoder {
    /// Empties the cache: the next id is the first of a text.
    fn clear(&mut self);

    /// The last layer's output for each of `ids`, `(ids, hidden)`. A pass is not interrupted; longer texts are fed in
    /// passes of [`PASS`].
    ///
    /// # Errors
    /// candle's, for an id beyond the vocabulary or a text beyond the positions.
    fn hidden(&mut self, ids: &[u32]) -> Result<Tensor>;

    /// What follows from the last layer's output: the logits, `(ids, vocab)`.
    ///
    /// # Errors
    /// candle's.
    fn head(&self, hidden: &Tensor) -> Result<Tensor>;

    /// The logits after the last of `ids`, `(vocab,)`.
    ///
    /// # Errors
    /// As [`Decoder::hidden`].
    fn logits(&mut self, ids: &[u32]) -> Result<Tensor> {
        let last = self.hidden(ids)?.narrow(0, ids.len() - 1, 1)?.contiguous()?;
        self.head(&last)?.squeeze(0)
    }

    /// The logits after each of `ids`, `(ids, vocab)`.
    ///
    /// # Errors
    /// As [`Decoder::hidden`].
    fn logits_of_each(&mut self, ids: &[u32]) -> Result<Tensor> {
        let hidden = self.hidden(ids)?;
        self.head(&hidden)
    }
}

/// Reads the weights of a checkpoint, widened to f32.
///
/// # Errors
/// candle's: a tensor is missing or has another shape than the config says.
pub fn load(checkpoint: &Checkpoint, config: &ModelConfig) -> Result<Box<dyn Decoder>> {
    // SAFETY: the files must not change while they are mapped, which is until the tensors have been copied out of them
    // below; the checkpoint's check found them whole.
    let weights = unsafe { VarBuilder::from_mmaped_safetensors(&checkpoint.weights, DType::F32, &Device::Cpu)? };
    let stored: BTreeMap<String, String> =
        checkpoint.renamed.iter().map(|(stored, name)| (name.clone(), stored.clone())).collect();
    let weights = weights.rename_f(move |name| stored.get(name).map_or(name, String::as_str).to_string());
    Ok(match config.family {
        Family::Phi => Box::new(Phi::load(config, &weights)?),
        Family::Opt => Box::new(Opt::load(config, &weights)?),
        other => candle_core::bail!("candle does not compute {}", other.architecture()),
    })
}
