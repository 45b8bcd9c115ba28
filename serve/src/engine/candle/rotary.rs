//! Rotary positions (arXiv 2104.09864) of the first columns of each head.

use candle_core::{Device, Result, Tensor};
use candle_nn::rotary_emb::rope;

/// The angles of consecutive positions.
pub struct Rotary {
    /// `(positions, rotated columns / 2)`.
    cos: Tensor,
    sin: Tensor,
}

impl Rotary {
    /// The angles of the positions from 0 on, by radians per position of each pair of columns.
    ///
    /// # Errors
    /// candle's.
    pub fn new(frequencies: &[f32], positions: usize) -> Result<Self> {
        let angles: Vec<f32> =
            (0..positions).flat_map(|position| frequencies.iter().map(move |f| position as f32 * f)).collect();
        let angles = Tensor::from_vec(angles, (positions, frequencies.len()), &Device::Cpu)?;
        Ok(Self { cos: angles.cos()?, sin: angles.sin()? })
    }

    /// The angles of `count` positions from `first` on.
    ///
    /// # Errors
    /// candle's, for a position that is not there.
    pub fn narrow(&self, first: usize, count: usize) -> Result<Self> {
        Ok(Self { cos: self.cos.narrow(0, first, count)?, sin: self.sin.narrow(0, first, count)? })
    }

    /// Turns `rows`, `(heads, positions, head_dim)`, halves against each other as `transformers` does.
    ///
    /// # Errors
    /// candle's.
    pub fn rotate(&self, rows: &Tensor) -> Result<Tensor> {
        let columns = 2 * self.cos.dim(1)?;
        let kept = rows.dim(2)? - columns;
        let turned =
            rope(&rows.narrow(2, 0, columns)?.contiguous()?.unsqueeze(0)?, &self.cos, &self.sin)?.squeeze(0)?;
        if kept == 0 {
            return Ok(turned);
        }
        // The cache takes nothing else.
        Tensor::cat(&[&turned, &rows.narrow(2, columns, kept)?], 2)?.contiguous()
    }
}
