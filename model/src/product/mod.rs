//! Products with a weight matrix, in one order of summation.
//!
//! `y[r][o]` is a chain over ascending inputs `k`, `sum = fma(x[r][k], w[o][k], sum)` from 0, and then the bias is added, and
//! then what was in `y`, if it is to be kept. A weight that is stored narrow is widened to f32 first. Registers hold 16 outputs
//! side by side, so the chain of one output is the same with every instruction set, however many rows there are, however they
//! are cut into tiles, and with any number of threads: a row's product depends on that row alone, to the bit.

mod matrix;
mod rows;
mod storage;
mod tile;
mod weights;

pub use matrix::Matrix;
pub(crate) use rows::{Onto, product_by_rows};
pub use storage::Storage;

use rayon::prelude::*;

use crate::lanes::Isa;
use matrix::PANEL;

/// Multiplications below which one thread does it all: waking another takes as long.
const SERIAL: usize = 1 << 16;

/// Rows above which weights are widened once for all of them, and not again for every few: the fewer registers there are,
/// the fewer rows they serve.
fn few_rows(isa: Isa) -> usize {
    if tile::is_wide(isa) { 8 } else { 2 }
}

/// `x W^T + bias` of rows `x` `(rows, inputs)`, written to `y` `(rows, outputs)` or, with `accumulate`, added to it.
///
/// # Panics
/// If the lengths do not fit the matrix.
pub fn product(x: &[f32], w: &Matrix, bias: Option<&[f32]>, y: &mut [f32], accumulate: bool) {
    product_with(Isa::best(), x, w, bias, y, accumulate);
}

pub(crate) fn product_with(isa: Isa, x: &[f32], w: &Matrix, bias: Option<&[f32]>, y: &mut [f32], accumulate: bool) {
    let rows = y.len().checked_div(w.outputs()).unwrap_or(0);
    assert_eq!((x.len(), y.len()), (rows * w.inputs(), rows * w.outputs()), "lengths of {rows} rows");
    assert!(bias.is_none_or(|bias| bias.len() == w.outputs()), "a bias of another length");
    if y.is_empty() {
        return;
    }
    let many = rows > few_rows(isa);
    let packed = if many { tile::pack(isa, x, w.inputs()) } else { Vec::new() };
    let job = tile::Job {
        x: if many { &packed } else { x },
        w,
        rows,
        bias,
        accumulate,
        y: tile::Columns::of(y, w.outputs()),
    };
    let task = |panels| match many {
        true => tile::many(isa, &job, panels),
        false => tile::few(isa, &job, panels),
    };
    let panels = w.panels();
    if rows * w.inputs() * w.outputs() < SERIAL || rayon::current_num_threads() == 1 {
        return task(0..panels);
    }
    // Runs of neighbouring panels, some for each thread.
    let runs = panels.div_ceil(4).min(rayon::current_num_threads() * if many { 8 } else { 2 });
    let run = panels.div_ceil(runs).next_multiple_of(4);
    (0..panels.div_ceil(run)).into_par_iter().for_each(|i| task(i * run..panels.min((i + 1) * run)));
}

impl Matrix {
    /// Writes the weights of an output to `to`, as f32: a row of an embedding.
    ///
    /// # Panics
    /// If there is no such output or `to` has another length than a row.
    pub fn read_row(&self, output: usize, to: &mut [f32]) {
        assert!(output < self.outputs() && to.len() == self.inputs(), "row {output} in {} numbers", to.len());
        tile::read_row(Isa::best(), self, output / PANEL, output % PANEL, to);
    }
}

#[cfg(test)]
mod tests;
