//! Products with a weight matrix, in one order of summation.
//!
//! `y[r][o]` is a chain over ascending inputs `k`, `sum = fma(x[r][k], w[o][k], sum)` from 0, and then the bias is added, and
//! then what was in `y`, if it is to be kept. A weight that is stored narrow is widened to f32 first. Registers hold 16 outputs
//! side by side, so the chain of one output is the same with every instruction set, however many rows there are, however they
//! are cut into tiles, and with any number of threads: a row's product depends on that row alone, to the bit.

mod matrix;
mod storage;
mod tile;
mod weights;

pub use matrix::Matrix;
pub use storage::Storage;

use std::ops::Range;

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

/// A product of some rows, and where it is to be.
#[derive(Debug)]
pub struct Product<'a> {
    /// The weights `(outputs, inputs)`.
    pub w: &'a Matrix,
    /// Added to each row, `(outputs)`.
    pub bias: Option<&'a [f32]>,
    /// `(rows, outputs)`.
    pub y: &'a mut [f32],
    /// Adds to `y` instead of replacing it.
    pub accumulate: bool,
}

/// `x W^T + bias` of rows `x` `(rows, inputs)`, written to `y` `(rows, outputs)` or, with `accumulate`, added to it.
///
/// # Panics
/// If the lengths do not fit the matrix.
pub fn product(x: &[f32], w: &Matrix, bias: Option<&[f32]>, y: &mut [f32], accumulate: bool) {
    products(x, [Product { w, bias, y, accumulate }]);
}

/// Several products of the same rows. The threads meet once for all of them.
///
/// # Panics
/// As [`product`].
pub fn products<const N: usize>(x: &[f32], parts: [Product<'_>; N]) {
    products_with(Isa::best(), x, parts);
}

pub(crate) fn products_with<const N: usize>(isa: Isa, x: &[f32], parts: [Product<'_>; N]) {
    let Some(Product { w, y, .. }) = parts.first() else { return };
    let (inputs, rows) = (w.inputs(), y.len().checked_div(w.outputs()).unwrap_or(0));
    if rows == 0 {
        return;
    }
    let many = rows > few_rows(isa);
    let packed = if many { tile::pack(isa, x, inputs) } else { Vec::new() };
    let jobs = parts.map(|Product { w, bias, y, accumulate }| {
        let lengths = (rows * inputs, rows * w.outputs(), inputs);
        assert_eq!((x.len(), y.len(), w.inputs()), lengths, "lengths of {rows} rows");
        assert!(bias.is_none_or(|bias| bias.len() == w.outputs()), "a bias of another length");
        let y = tile::Columns::of(y, w.outputs());
        tile::Job { x: if many { &packed } else { x }, w, rows, bias, accumulate, y }
    });
    let task = |(job, panels): (&tile::Job<'_>, Range<usize>)| match many {
        true => tile::many(isa, job, panels),
        false => tile::few(isa, job, panels),
    };
    let outputs: usize = jobs.iter().map(|job| job.w.outputs()).sum();
    if rows * inputs * outputs < SERIAL || rayon::current_num_threads() == 1 {
        return jobs.iter().for_each(|job| task((job, 0..job.w.panels())));
    }
    // Runs of neighbouring panels, some for each thread.
    let panels: usize = jobs.iter().map(|job| job.w.panels()).sum();
    let runs = panels.div_ceil(4).min(rayon::current_num_threads() * if many { 8 } else { 2 });
    let run = panels.div_ceil(runs).next_multiple_of(4);
    let runs = |job| {
        let panels = tile::Job::panels(job);
        (0..panels).step_by(run).map(move |first| (job, first..panels.min(first + run)))
    };
    jobs.iter().flat_map(runs).collect::<Vec<_>>().into_par_iter().for_each(task);
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
