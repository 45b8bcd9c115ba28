//! Rotary position embedding (Su et al. 2021), in the half-split layout of Hugging Face checkpoints.

use rayon::prelude::*;

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

/// Which way to rotate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Direction {
    Forth,
    Back,
}

impl RopeTables {
    /// How many rows they are for.
    pub(super) fn rows(&self) -> usize {
        self.cos.len() / self.half.max(1)
    }

    /// Rotates the first `rotary_dim` columns of every head of `(rows, heads, head_dim)`.
    pub(super) fn rotate(&self, x: &mut [f32], heads: usize, head_dim: usize, direction: Direction) {
        let half = self.half;
        let sign = if direction == Direction::Forth { 1.0 } else { -1.0 };
        let angles = self.cos.par_chunks_exact(half).zip(self.sin.par_chunks_exact(half));
        x.par_chunks_exact_mut(heads * head_dim).zip(angles).with_min_len(64).for_each(|(row, (cos, sin))| {
            for head in row.chunks_exact_mut(head_dim) {
                let (x1, x2) = head[..2 * half].split_at_mut(half);
                for i in 0..half {
                    let (a, b, sin) = (x1[i], x2[i], sin[i] * sign);
                    x1[i] = a * cos[i] - b * sin;
                    x2[i] = b * cos[i] + a * sin;
                }
            }
        });
    }

    /// Columns of a head that are rotated.
    pub(super) fn rotary_dim(&self) -> usize {
        2 * self.half
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::random;

    #[test]
    fn the_first_columns_are_rotated_by_the_position_s_angle() {
        let tables = RopeTables::new(&[5], &[1.0]);
        let x = random(4, 1);
        let mut y = x.clone();
        tables.rotate(&mut y, 1, 4, Direction::Forth);
        let (sin, cos) = 5f32.sin_cos();
        assert!((y[0] - (x[0] * cos - x[1] * sin)).abs() < 1e-6 && (y[1] - (x[1] * cos + x[0] * sin)).abs() < 1e-6);
        assert_eq!(y[2..], x[2..]);
    }

    #[test]
    fn back_undoes_forth() {
        let tables = RopeTables::new(&[0, 49, 3], &[1.0, 0.1]);
        let x = random(3 * 2 * 6, 1);
        let mut y = x.clone();
        tables.rotate(&mut y, 2, 6, Direction::Forth);
        assert!(y.iter().zip(&x).any(|(y, x)| (y - x).abs() > 0.1));
        tables.rotate(&mut y, 2, 6, Direction::Back);
        assert!(y.iter().zip(&x).all(|(y, x)| (y - x).abs() < 1e-6));
    }
}
