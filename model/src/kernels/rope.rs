//! Rotary position embedding (Su et al. 2021), in the half-split layout of Hugging Face checkpoints.

use rayon::prelude::*;

use crate::formulas;

/// Cosines and sines of a batch's rows, `(rows, rotary_dim / 2)` each; every layer uses the same.
#[derive(Debug, Default)]
pub struct RopeTables {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl RopeTables {
    /// Row r is rotated by `positions[r] * frequencies[i]` in its i-th pair of columns.
    pub fn new(positions: &[u32], frequencies: &[f32]) -> Self {
        let mut tables = Self::default();
        tables.fill(positions.iter().copied(), frequencies);
        tables
    }

    /// Replaces the tables by those of other rows.
    pub(crate) fn fill(&mut self, positions: impl Iterator<Item = u32>, frequencies: &[f32]) {
        self.cos.clear();
        self.sin.clear();
        self.half = frequencies.len();
        for position in positions {
            for frequency in frequencies {
                let (cos, sin) = formulas::angle(position, *frequency);
                self.cos.push(cos);
                self.sin.push(sin);
            }
        }
    }

    /// How many rows they are for.
    pub(super) fn rows(&self) -> usize {
        self.cos.len() / self.half.max(1)
    }

    /// Cosines and sines of a row.
    pub(super) fn row(&self, row: usize) -> (&[f32], &[f32]) {
        let columns = row * self.half..(row + 1) * self.half;
        (&self.cos[columns.clone()], &self.sin[columns])
    }

    /// Rotates the first `rotary_dim` columns of every head of `(rows, heads, head_dim)`.
    pub(crate) fn rotate(&self, x: &mut [f32], heads: usize, head_dim: usize) {
        self.each_row(x, heads * head_dim, |row, cos, sin| {
            row.chunks_exact_mut(head_dim).for_each(|head| formulas::rotate(head, cos, sin));
        });
    }

    /// Undoes [`RopeTables::rotate`].
    pub(super) fn rotate_back(&self, x: &mut [f32], heads: usize, head_dim: usize) {
        self.each_row(x, heads * head_dim, |row, cos, sin| {
            let sin: Vec<f32> = sin.iter().map(|sin| -sin).collect();
            row.chunks_exact_mut(head_dim).for_each(|head| formulas::rotate(head, cos, &sin));
        });
    }

    fn each_row(&self, x: &mut [f32], width: usize, f: impl Fn(&mut [f32], &[f32], &[f32]) + Sync) {
        if self.half > 0 {
            let angles = self.cos.par_chunks_exact(self.half).zip(self.sin.par_chunks_exact(self.half));
            let rows = x.par_chunks_exact_mut(width).zip(angles).with_min_len(64);
            rows.for_each(|(row, (cos, sin))| f(row, cos, sin));
        }
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
        tables.rotate(&mut y, 1, 4);
        let (sin, cos) = 5f32.sin_cos();
        assert!((y[0] - (x[0] * cos - x[1] * sin)).abs() < 1e-6 && (y[1] - (x[1] * cos + x[0] * sin)).abs() < 1e-6);
        assert_eq!(y[2..], x[2..]);
    }

    #[test]
    fn back_undoes_forth() {
        let tables = RopeTables::new(&[0, 49, 3], &[1.0, 0.1]);
        let x = random(3 * 2 * 6, 1);
        let mut y = x.clone();
        tables.rotate(&mut y, 2, 6);
        assert!(y.iter().zip(&x).any(|(y, x)| (y - x).abs() > 0.1));
        tables.rotate_back(&mut y, 2, 6);
        assert!(y.iter().zip(&x).all(|(y, x)| (y - x).abs() < 1e-6));
    }
}
