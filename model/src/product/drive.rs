//! Cuts a product into register tiles and shares them out to threads.

use std::ops::Range;

use rayon::prelude::*;

use super::isa::Isa;
use super::lanes::Line;
use super::matrix::{Matrix, PANEL};
use super::scratch::{with_lines, with_numbers};
use super::tile::tile;

/// The inputs whose weights are widened or packed at once; a multiple of every storage's block. Two panels of it are 64 KiB.
pub(super) const K_BLOCK: usize = 512;

/// The rows that are computed at once, so that their part of `x` stays in the shared cache.
const ROW_BLOCK: usize = 512;

/// Multiply-adds below which one thread is faster than waking a second.
const ALONE: usize = 200_000;

/// Where the weights come from.
#[derive(Clone, Copy)]
pub(super) enum Weights<'a> {
    Packed(&'a Matrix),
    /// (outputs, inputs), row-major.
    Rows {
        values: &'a [f32],
        outputs: usize,
        inputs: usize,
    },
}

impl<'a> Weights<'a> {
    fn shape(self) -> (usize, usize) {
        match self {
            Self::Packed(matrix) => (matrix.outputs(), matrix.inputs()),
            Self::Rows { outputs, inputs, .. } => (outputs, inputs),
        }
    }

    /// The weights of a panel, input by input.
    fn lines<'s>(self, isa: Isa, panel: usize, inputs: Range<usize>, scratch: &'s mut [Line]) -> &'s [Line]
    where
        'a: 's,
    {
        match self {
            Self::Packed(matrix) => matrix.lines(isa, panel, inputs, scratch),
            Self::Rows { values, outputs, inputs: stride } => {
                let lines = &mut scratch[..inputs.len()];
                for lane in 0..PANEL {
                    let output = PANEL * panel + lane;
                    if output < outputs {
                        let row = &values[output * stride..][inputs.clone()];
                        lines.iter_mut().zip(row).for_each(|(line, value)| line.0[lane] = *value);
                    } else {
                        lines.iter_mut().for_each(|line| line.0[lane] = 0.0);
                    }
                }
                lines
            }
        }
    }
}

/// What is added to the chains, and where they go.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    pub bias: Option<&'a [f32]>,
    pub accumulate: bool,
}

/// `y` (rows, outputs), of which threads write columns of their own.
#[derive(Clone, Copy)]
struct Columns {
    y: *mut f32,
    outputs: usize,
}

// SAFETY: each thread asks for its own columns only, see `share`.
unsafe impl Send for Columns {}
// SAFETY: the same.
unsafe impl Sync for Columns {}

impl Columns {
    /// # Safety
    /// The row exists, and no other thread uses these columns of it.
    unsafe fn row<'a>(self, row: usize, columns: Range<usize>) -> &'a mut [f32] {
        debug_assert!(columns.start <= columns.end && columns.end <= self.outputs);
        // SAFETY: inside `y`, and used by nobody else, as the caller says.
        unsafe { std::slice::from_raw_parts_mut(self.y.add(row * self.outputs + columns.start), columns.len()) }
    }
}

/// The product, all checks done: `x` (rows, inputs), `y` (rows, outputs).
pub(super) fn drive(isa: Isa, x: &[f32], weights: Weights<'_>, finish: Finish<'_>, y: &mut [f32]) {
    let (outputs, inputs) = weights.shape();
    for (x, y) in x.chunks(ROW_BLOCK * inputs).zip(y.chunks_mut(ROW_BLOCK * outputs)) {
        let rows = x.len() / inputs;
        let tiles = tiles(rows, isa.tile_rows());
        let y = Columns { y: y.as_mut_ptr(), outputs };
        if rows == 1 {
            share(isa, x, &tiles, weights, finish, y);
        } else {
            with_numbers(x.len(), |transposed| {
                transpose(x, inputs, &tiles, transposed);
                share(isa, transposed, &tiles, weights, finish, y);
            });
        }
    }
}

/// Shares out the panels, in contiguous runs, to the threads of rayon's pool.
fn share(isa: Isa, x: &[f32], tiles: &[Range<usize>], weights: Weights<'_>, finish: Finish<'_>, y: Columns) {
    let (outputs, inputs) = weights.shape();
    let panels = outputs.div_ceil(PANEL);
    let rows = tiles.last().map_or(0, |tile| tile.end);
    let work = rows * inputs * outputs;
    let threads = rayon::current_num_threads();
    // Every run computes other panels, which are other columns.
    let run = |panels| compute(isa, x, tiles, weights, finish, panels, y);
    if threads == 1 || work < ALONE {
        return run(0..panels);
    }
    let runs = (work / ALONE).clamp(threads, 8 * threads);
    let wide = isa.tile_panels(tiles[0].len());
    let length = panels.div_ceil(runs).next_multiple_of(wide);
    (0..panels.div_ceil(length)).into_par_iter().for_each(|index| {
        run(index * length..panels.min((index + 1) * length));
    });
}

/// Computes some panels of all rows.
fn compute(
    isa: Isa,
    x: &[f32],
    tiles: &[Range<usize>],
    weights: Weights<'_>,
    finish: Finish<'_>,
    panels: Range<usize>,
    y: Columns,
) {
    let (outputs, inputs) = weights.shape();
    let rows = tiles.last().map_or(0, |tile| tile.end);
    let most = tiles.iter().map(ExactSizeIterator::len).max().unwrap_or(1);
    let wide = isa.tile_panels(most);
    // F32 panels are used where they are.
    let widened = if weights.is_f32() { 0 } else { wide * inputs.min(K_BLOCK) };
    with_lines(wide * rows + widened, |lines| {
        let (sums, scratch) = lines.split_at_mut(wide * rows);
        let mut panel = panels.start;
        while panel < panels.end {
            let mut count = wide;
            while count > panels.end - panel {
                count /= 2;
            }
            sums.fill(Line::default());
            for start in (0..inputs).step_by(K_BLOCK) {
                let range = start..inputs.min(start + K_BLOCK);
                let mut parts = scratch.chunks_mut(inputs.min(K_BLOCK));
                let mut lines: [&[Line]; 8] = [&[]; 8];
                for (index, lines) in lines[..count].iter_mut().enumerate() {
                    *lines = weights.lines(isa, panel + index, range.clone(), parts.next().unwrap_or_default());
                }
                for rows in tiles {
                    let count_rows = rows.len();
                    let x = &x[rows.start * inputs + count_rows * range.start..][..count_rows * range.len()];
                    tile(isa, count_rows, x, &lines[..count], &mut sums[rows.start * count..rows.end * count]);
                }
            }
            let columns = PANEL * panel..outputs.min(PANEL * (panel + count));
            let bias = finish.bias.map(|bias| &bias[columns.clone()]);
            for (row, sums) in sums[..rows * count].chunks(count).enumerate() {
                // SAFETY: `row` is a row of `y`, and `share` gives each thread other panels.
                let y = unsafe { y.row(row, columns.clone()) };
                write(sums, bias, finish.accumulate, y);
            }
            panel += count;
        }
    });
}

/// Adds the bias to finished chains, then writes them or adds them to `y`.
fn write(sums: &[Line], bias: Option<&[f32]>, accumulate: bool, y: &mut [f32]) {
    for (index, (line, y)) in sums.iter().zip(y.chunks_mut(PANEL)).enumerate() {
        let mut values = line.0;
        if let Some(bias) = bias {
            values.iter_mut().zip(&bias[PANEL * index..]).for_each(|(value, bias)| *value += bias);
        }
        if accumulate {
            values.iter_mut().zip(&*y).for_each(|(value, y)| *value += y);
        }
        y.copy_from_slice(&values[..y.len()]);
    }
}

impl Weights<'_> {
    /// True if the lines are used where they are.
    fn is_f32(self) -> bool {
        matches!(self, Self::Packed(matrix) if matrix.storage() == super::Storage::F32)
    }
}

/// Cuts rows into tiles of at most `most`, as equal as can be.
fn tiles(rows: usize, most: usize) -> Vec<Range<usize>> {
    let count = rows.div_ceil(most);
    (0..count).map(|index| index * rows / count..(index + 1) * rows / count).collect()
}

/// Lays out each tile's rows input by input.
fn transpose(x: &[f32], inputs: usize, tiles: &[Range<usize>], transposed: &mut [f32]) {
    for rows in tiles {
        let tile = &mut transposed[rows.start * inputs..rows.end * inputs];
        for (index, row) in x[rows.start * inputs..rows.end * inputs].chunks_exact(inputs).enumerate() {
            for (values, value) in tile.chunks_exact_mut(rows.len()).zip(row) {
                values[index] = *value;
            }
        }
    }
}
