//! Rotary position embedding (Su et al. 2021), in the half-split layout of Hugging Face checkpoints.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::slice;

/// Cosines and sines by position, `(positions, head_dim / 2)` each.
#[derive(Debug)]
pub struct RopeTables {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl RopeTables {
    /// Tables for `positions` positions: the angle of pair i at position p is `p * theta^(-2i / head_dim)`.
    pub fn new(positions: usize, head_dim: usize, theta: f64) -> Self {
        let half = head_dim / 2;
        // f32 throughout, as transformers computes them: an angle of a late position is rounded in the same way.
        let frequencies: Vec<f32> =
            (0..half).map(|i| (1.0 / theta.powf(2.0 * i as f64 / head_dim as f64)) as f32).collect();
        let angles: Vec<f32> = (0..positions).flat_map(|p| frequencies.iter().map(move |f| p as f32 * f)).collect();
        Self {
            cos: angles.iter().map(|a| (*a as f64).cos() as f32).collect(),
            sin: angles.iter().map(|a| (*a as f64).sin() as f32).collect(),
            half,
        }
    }

    /// How many positions the tables hold.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half
    }
}

/// Rotates `(rows, heads, head_dim)`, row r by the angles of `positions[r]`.
///
/// # Errors
/// When a position is beyond the tables or the shapes do not match.
pub fn rope(x: &Tensor, tables: &Arc<RopeTables>, positions: &Arc<Vec<u32>>) -> Result<Tensor> {
    let (rows, _heads, head_dim) = x.dims3()?;
    if positions.len() != rows || head_dim != 2 * tables.half {
        candle_core::bail!(
            "rope: {rows} rows of width {head_dim}, {} positions of width {}",
            positions.len(),
            2 * tables.half
        );
    }
    if let Some(position) = positions.iter().find(|p| **p as usize >= tables.positions()) {
        candle_core::bail!("rope: position {position} is beyond max_position_embeddings = {}", tables.positions());
    }
    x.contiguous()?.apply_op1(Rope { tables: tables.clone(), positions: positions.clone(), direction: 1.0 })
}

struct Rope {
    tables: Arc<RopeTables>,
    positions: Arc<Vec<u32>>,
    /// 1 rotates, -1 rotates back.
    direction: f32,
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(storage, layout)?;
        let (_rows, heads, head_dim) = layout.shape().dims3()?;
        let (half, width) = (head_dim / 2, heads * head_dim);
        let mut y = vec![0f32; x.len()];
        let rows = y.par_chunks_exact_mut(width).zip(x.par_chunks_exact(width)).zip(self.positions.par_iter());
        rows.with_min_len(64).for_each(|((y, x), position)| {
            let at = *position as usize * half..(*position as usize + 1) * half;
            let (cos, sin) = (&self.tables.cos[at.clone()], &self.tables.sin[at]);
            for (y, x) in y.chunks_exact_mut(head_dim).zip(x.chunks_exact(head_dim)) {
                let (x1, x2) = x.split_at(half);
                let (y1, y2) = y.split_at_mut(half);
                for i in 0..half {
                    let sin = sin[i] * self.direction;
                    y1[i] = x1[i] * cos[i] - x2[i] * sin;
                    y2[i] = x2[i] * cos[i] + x1[i] * sin;
                }
            }
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let back = Rope { tables: self.tables.clone(), positions: self.positions.clone(), direction: -self.direction };
        Ok(Some(dy.contiguous()?.apply_op1_no_bwd(&back)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn gradients() {
        let tables = Arc::new(RopeTables::new(50, 4, 100.0));
        let positions = Arc::new(vec![0, 49, 3, 3, 7]);
        check_gradients(&[random_var(&[5, 2, 4], 1)], &[], |x, _| rope(&x[0], &tables, &positions).unwrap());
    }

    #[test]
    fn a_position_beyond_the_tables_is_refused() {
        let tables = Arc::new(RopeTables::new(4, 4, 100.0));
        let error = rope(random_var(&[1, 1, 4], 1).as_tensor(), &tables, &Arc::new(vec![4])).unwrap_err();
        assert!(error.to_string().contains("max_position_embeddings = 4"), "{error}");
    }
}
