//! Products with a matrix, by the plain definition.

use rayon::prelude::*;

/// How a matrix is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// f32.
    F32,
}

/// A matrix.
#[derive(Debug)]
pub(super) struct Matrix {
    outputs: usize,
    inputs: usize,
    rows: Vec<f32>,
}

impl Matrix {
    pub(super) fn from_f32(outputs: usize, inputs: usize, rows: Vec<f32>) -> Self {
        assert_eq!(rows.len(), outputs * inputs);
        Self { outputs, inputs, rows }
    }

    pub(super) fn read_row(&self, output: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.rows[output * self.inputs..(output + 1) * self.inputs]);
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.rows[..])
    }
}

pub(super) fn product(x: &[f32], w: &Matrix, bias: Option<&[f32]>, y: &mut [f32], accumulate: bool) {
    y.par_chunks_exact_mut(w.outputs).zip(x.par_chunks_exact(w.inputs)).for_each(|(y, x)| {
        for (o, y) in y.iter_mut().enumerate() {
            let row = &w.rows[o * w.inputs..(o + 1) * w.inputs];
            let mut sum = row.iter().zip(x).fold(0f32, |sum, (w, x)| x.mul_add(*w, sum));
            if let Some(bias) = bias {
                sum += bias[o];
            }
            *y = if accumulate { *y + sum } else { sum };
        }
    });
}
