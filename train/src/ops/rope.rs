//! Rotary position embedding (Su et al. 2021), in the half-split layout of Hugging Face checkpoints.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::slice;

/// Cosines and sines of a batch's rows, `(rows, rotary_dim / 2)` each; every layer uses the same.
#[derive(Debug)]
pub struct RopeTables {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl RopeTables {
    /// Row r is rotated by `positions[r] * frequencies[i]` in its i-th pair of columns.
    pub fn new(positions: &[u32], frequencies: &[f32]) -> Self {
        // f32 angles, as transformers computes them: an angle of a late position is rounded in the same way.
        let angles = || positions.iter().flat_map(|p| frequencies.iter().map(move |f| f64::from(*p as f32 * f)));
        Self {
            cos: angles().map(|a| a.cos() as f32).collect(),
            sin: angles().map(|a| a.sin() as f32).collect(),
            half: frequencies.len(),
        }
    }
}

/// Rotates the first `rotary_dim` columns of every head of `(rows, heads, head_dim)`.
///
/// # Errors
/// When the shapes do not match.
pub fn rope(x: &Tensor, tables: &Arc<RopeTables>) -> Result<Tensor> {
    let (rows, _heads, head_dim) = x.dims3()?;
    if tables.cos.len() != rows * tables.half || head_dim < 2 * tables.half {
        candle_core::bail!(
            "rope: {rows} rows of width {head_dim}, tables of {} angles of {} pairs",
            tables.cos.len(),
            tables.half
        );
    }
    x.contiguous()?.apply_op1(Rope { tables: tables.clone(), direction: 1.0 })
}

struct Rope {
    tables: Arc<RopeTables>,
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
        let RopeTables { cos, sin, half } = &*self.tables;
        let (half, width) = (*half, heads * head_dim);
        let mut y = vec![0f32; x.len()];
        let angles = cos.par_chunks_exact(half).zip(sin.par_chunks_exact(half));
        let rows = y.par_chunks_exact_mut(width).zip(x.par_chunks_exact(width)).zip(angles);
        rows.with_min_len(64).for_each(|((y, x), (cos, sin))| {
            for (y, x) in y.chunks_exact_mut(head_dim).zip(x.chunks_exact(head_dim)) {
                let ((x, x_rest), (y, y_rest)) = (x.split_at(2 * half), y.split_at_mut(2 * half));
                y_rest.copy_from_slice(x_rest);
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
        let back = Rope { tables: self.tables.clone(), direction: -self.direction };
        Ok(Some(dy.contiguous()?.apply_op1_no_bwd(&back)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn gradients() {
        for rotated in [4, 2] {
            let frequencies: Vec<f32> = (0..rotated / 2).map(|i| 0.1f32.powi(i)).collect();
            let tables = Arc::new(RopeTables::new(&[0, 49, 3, 3, 7], &frequencies));
            check_gradients(&[random_var(&[5, 2, 4], 1)], &[], |x, _| rope(&x[0], &tables).unwrap());
        }
    }

    #[test]
    fn columns_beyond_the_rotated_ones_stay() {
        let tables = Arc::new(RopeTables::new(&[5], &[1.0]));
        let x = random_var(&[1, 1, 4], 1).as_tensor().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let input = Tensor::from_slice(&x, (1, 1, 4), &candle_core::Device::Cpu).unwrap();
        let y = rope(&input, &tables).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (sin, cos) = 5f32.sin_cos();
        assert!((y[0] - (x[0] * cos - x[1] * sin)).abs() < 1e-6 && (y[1] - (x[1] * cos + x[0] * sin)).abs() < 1e-6);
        assert_eq!(y[2..], x[2..]);
    }

    #[test]
    fn tables_of_other_rows_are_refused() {
        let tables = Arc::new(RopeTables::new(&[0, 1], &[1.0]));
        assert!(rope(random_var(&[1, 1, 4], 1).as_tensor(), &tables).is_err());
    }
}
