//! Products with a weight matrix of f32 by rows, for the trainer, whose weights change with every step: the sums of the
//! module's definition, from weights that are laid out as the kernels read them while they are multiplied.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::matrix::{Line, PANEL};
use super::tile::{Columns, corner, is_wide, on_isa, shape, tile_rows};
#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};
use crate::lanes::{Isa, Lanes, Portable};

/// Inputs that are multiplied at a time, at most.
const PIECE: usize = 256;

/// Lines of a panel and some more, so that panels side by side do not share the places of a cache.
const SPACED: usize = PIECE + 8;

thread_local! {
    /// Rows as [`pack`] lays them down.
    static PACKED: RefCell<Vec<f32>> = RefCell::default();
}

/// Rows of a task: fewer would lay out the weights too often, and more would not stay in a core's cache.
const ROWS: Range<usize> = 192..1024;

/// What becomes of a sum and its bias.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Onto {
    /// It replaces what is there.
    Nothing,
    /// It is added to what is there.
    Values,
    /// It is multiplied and added to what is there, rounded once.
    Scaled(f32),
}

/// A product in the making.
pub(super) struct Job<'a> {
    /// `(rows, inputs)`.
    x: &'a [f32],
    /// `(outputs, inputs)`.
    w: &'a [f32],
    inputs: usize,
    outputs: usize,
    bias: Option<&'a [f32]>,
    onto: Onto,
    y: Columns<'a>,
}

/// `x W^T + bias` of rows `x` `(rows, inputs)` and `w` `(outputs, inputs)`, put on `y` `(rows, outputs)`.
///
/// # Panics
/// If the lengths do not fit.
pub(crate) fn product_by_rows(x: &[f32], w: &[f32], inputs: usize, bias: Option<&[f32]>, y: &mut [f32], onto: Onto) {
    product_by_rows_with(Isa::best(), x, w, inputs, bias, y, onto);
}

pub(super) fn product_by_rows_with(
    isa: Isa,
    x: &[f32],
    w: &[f32],
    inputs: usize,
    bias: Option<&[f32]>,
    y: &mut [f32],
    onto: Onto,
) {
    let (rows, outputs) = (x.len() / inputs.max(1), w.len() / inputs.max(1));
    let lengths = (rows * inputs, outputs * inputs, rows * outputs);
    assert_eq!((x.len(), w.len(), y.len()), lengths, "lengths of {rows} rows, {inputs} inputs, {outputs} outputs");
    assert!(bias.is_none_or(|bias| bias.len() == outputs), "a bias of another length");
    if y.is_empty() {
        return;
    }
    let job = Job { x, w, inputs, outputs, bias, onto, y: Columns::of(y, outputs) };
    let panels = outputs.div_ceil(PANEL);
    let threads = rayon::current_num_threads();
    if threads == 1 || rows * inputs * outputs < super::SERIAL {
        (0..rows).step_by(ROWS.end).for_each(|row| task(isa, &job, row..rows.min(row + ROWS.end), 0..panels));
        return;
    }
    // Equally many rows for every thread, or where there are too few, fewer panels.
    let (full, _) = shape(is_wide(isa));
    let (cuts, runs) = match rows >= threads * ROWS.start {
        true => (rows.div_ceil(ROWS.end).next_multiple_of(threads), 1),
        false => (rows.div_ceil(ROWS.start), (2 * threads).div_ceil(rows.div_ceil(ROWS.start))),
    };
    let (rows_each, panels_each) =
        (rows.div_ceil(cuts).next_multiple_of(full), panels.div_ceil(runs).next_multiple_of(2));
    let runs = panels.div_ceil(panels_each);
    (0..rows.div_ceil(rows_each) * runs).into_par_iter().for_each(|i| {
        let (row, panel) = (i / runs * rows_each, i % runs * panels_each);
        task(isa, &job, row..rows.min(row + rows_each), panel..panels.min(panel + panels_each));
    });
}

on_isa! {
    /// Some rows against some panels.
    task, task_on, (job: &Job<'_>, rows: Range<usize>, panels: Range<usize>)
}

#[inline(always)]
unsafe fn task_on<L: Lanes>(job: &Job<'_>, rows: Range<usize>, panels: Range<usize>) {
    // SAFETY: as the caller's; rows and panels of different calls are different.
    unsafe {
        match (L::WIDE, panels.len()) {
            (true, 1) => blocks::<L, 12, 8, 4, 1>(job, rows, panels),
            (true, _) => blocks::<L, 12, 8, 4, 2>(job, rows, panels),
            (false, _) => blocks::<L, 6, 4, 2, 1>(job, rows, panels),
        }
    }
}

/// Panels `P` at a time: all rows against a piece of the inputs, then the next piece. `R` is the rows of a full tile, `S`
/// and `T` two thirds and one third.
#[inline(always)]
unsafe fn blocks<L: Lanes, const R: usize, const S: usize, const T: usize, const P: usize>(
    job: &Job<'_>,
    rows: Range<usize>,
    panels: Range<usize>,
) {
    let inputs = job.inputs;
    // Kept from one product to the next: fresh memory is given and cleared by the system, which takes a tenth of the time.
    let mut packed = PACKED.take();
    pack(&job.x[rows.start * inputs..rows.end * inputs], inputs, R, &mut packed);
    let piece = inputs.div_ceil(inputs.div_ceil(PIECE));
    let mut sums = vec![[[0f32; PANEL]; P]; rows.len().next_multiple_of(R)];
    let mut lines = vec![[Line([0; PANEL]); SPACED]; P];
    for first in panels.clone().step_by(P) {
        let count = P.min(panels.end - first);
        sums.fill([[0f32; PANEL]; P]);
        for input in (0..inputs).step_by(piece) {
            let len = piece.min(inputs - input);
            for (p, lines) in lines.iter_mut().take(count).enumerate() {
                job.lay_out(first + p, input, &mut lines[..len]);
            }
            let lines: [&[Line]; P] = std::array::from_fn(|p| &lines[p][..len]);
            for (tile, sums) in sums.chunks_exact_mut(R).enumerate() {
                let row = tile * R;
                let width = tile_rows(rows.len() - row, R);
                let x = &packed[row * inputs..][input * width..][..len * width];
                // SAFETY: as the caller's.
                unsafe {
                    if width == R {
                        corner::<L, R, P>(x, lines, sums);
                    } else if width == S {
                        corner::<L, S, P>(x, lines, sums);
                    } else {
                        corner::<L, T, P>(x, lines, sums);
                    }
                    if input + len == inputs {
                        let rows = rows.start + row..rows.end.min(rows.start + row + R);
                        job.finish::<L, P>(rows, first..first + count, sums);
                    }
                }
            }
        }
    }
    PACKED.set(packed);
}

impl Job<'_> {
    /// Writes the weights of a panel's outputs for some inputs, a line an input.
    #[inline(always)]
    fn lay_out(&self, panel: usize, input: usize, lines: &mut [Line]) {
        let outputs = PANEL.min(self.outputs - panel * PANEL);
        let row = |lane: usize| &self.w[(panel * PANEL + lane) * self.inputs + input..][..lines.len()];
        let rows: [&[f32]; PANEL] = std::array::from_fn(|lane| row(lane.min(outputs - 1)));
        for (quad, rows) in rows.as_chunks::<4>().0.iter().enumerate() {
            for_quads(*rows, |k, four| {
                lines[k].0[quad * 4..quad * 4 + 4].copy_from_slice(&four.map(f32::to_bits));
            });
        }
        // Lanes without an output repeat the last one; nobody reads their sums.
    }

    /// Puts the sums of a tile in their places.
    ///
    /// # Safety
    /// As of [`Lanes`], and nobody else uses these rows of these panels.
    #[inline(always)]
    unsafe fn finish<L: Lanes, const P: usize>(
        &self,
        rows: Range<usize>,
        panels: Range<usize>,
        sums: &[[[f32; PANEL]; P]],
    ) {
        let columns = panels.start * PANEL..self.outputs.min(panels.end * PANEL);
        let bias = self.bias.map(|bias| &bias[columns.clone()]);
        for (row, sums) in rows.zip(sums) {
            // SAFETY: as the caller's.
            let y = unsafe { self.y.some(row, columns.clone()) };
            let (whole, rest) = y.as_chunks_mut::<PANEL>();
            for (p, y) in whole.iter_mut().enumerate() {
                // SAFETY: as the caller's.
                unsafe { self.finish_panel::<L>(&sums[p], bias.map(|bias| &bias.as_chunks().0[p]), y) };
            }
            let at = whole.len() * PANEL;
            for (i, y) in rest.iter_mut().enumerate() {
                let sum = sums[at / PANEL][i];
                let sum = bias.map_or(sum, |bias| sum + bias[at + i]);
                *y = match self.onto {
                    Onto::Nothing => sum,
                    Onto::Values => *y + sum,
                    Onto::Scaled(factor) => factor.mul_add(sum, *y),
                };
            }
        }
    }

    /// The same for a whole panel's row.
    ///
    /// # Safety
    /// As of [`Lanes`].
    #[inline(always)]
    unsafe fn finish_panel<L: Lanes>(&self, sums: &[f32; PANEL], bias: Option<&[f32; PANEL]>, y: &mut [f32; PANEL]) {
        // SAFETY: as the caller's.
        unsafe {
            // A factor of 1 makes a sum of the product and sum.
            let one = L::splat(1.0);
            let mut sum = L::load(sums);
            if let Some(bias) = bias {
                sum = sum.mul_add(one, L::load(bias));
            }
            match self.onto {
                Onto::Nothing => sum,
                Onto::Values => sum.mul_add(one, L::load(y)),
                Onto::Scaled(factor) => sum.mul_add(L::splat(factor), L::load(y)),
            }
            .store(y);
        }
    }
}

/// Rows in tiles of `full`: of each tile its rows' first numbers, then their second ones; rows that are missing are zeros.
#[inline(always)]
fn pack(x: &[f32], inputs: usize, full: usize, packed: &mut Vec<f32>) {
    let rows = x.len() / inputs;
    packed.resize((rows / full * full + tile_rows(rows % full, full)) * inputs, 0.0);
    for (rows, tile) in x.chunks(full * inputs).zip(packed.chunks_mut(full * inputs)) {
        let width = tile.len() / inputs;
        let mut first = 0;
        for four in rows.chunks_exact(4 * inputs) {
            let four: [&[f32]; 4] = std::array::from_fn(|r| &four[r * inputs..(r + 1) * inputs]);
            for_quads(four, |k, four| tile[k * width + first..][..4].copy_from_slice(&four));
            first += 4;
        }
        for (r, row) in rows.chunks_exact(inputs).enumerate().skip(first) {
            tile[r..].iter_mut().step_by(width).zip(row).for_each(|(to, x)| *to = *x);
        }
        for r in rows.len() / inputs..width {
            tile[r..].iter_mut().step_by(width).for_each(|to| *to = 0.0);
        }
    }
}

/// Calls `put` with the `k`-th numbers of four rows, for every `k`; in blocks of four, which a processor turns around in
/// its registers.
#[inline(always)]
fn for_quads(rows: [&[f32]; 4], mut put: impl FnMut(usize, [f32; 4])) {
    let len = rows[0].len();
    let blocks = rows.map(|row| row[..len].as_chunks::<4>().0);
    for i in 0..len / 4 {
        for (k, four) in turned(blocks.map(|row| row[i])).into_iter().enumerate() {
            put(i * 4 + k, four);
        }
    }
    for k in len / 4 * 4..len {
        put(k, rows.map(|row| row[k]));
    }
}

/// The transpose.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn turned(rows: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    use std::arch::x86_64::{__m128, _mm_movehl_ps, _mm_movelh_ps, _mm_unpackhi_ps, _mm_unpacklo_ps};
    // SAFETY: both types are four f32, and every x86-64 has SSE. The compiler does not find the shuffles by itself.
    unsafe {
        let [a, b, c, d]: [__m128; 4] = std::mem::transmute(rows);
        let (ab, cd) = (_mm_unpacklo_ps(a, b), _mm_unpacklo_ps(c, d));
        let (ab_high, cd_high) = (_mm_unpackhi_ps(a, b), _mm_unpackhi_ps(c, d));
        let columns = [
            _mm_movelh_ps(ab, cd),
            _mm_movehl_ps(cd, ab),
            _mm_movelh_ps(ab_high, cd_high),
            _mm_movehl_ps(cd_high, ab_high),
        ];
        std::mem::transmute(columns)
    }
}

/// The transpose.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn turned(rows: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    std::array::from_fn(|k| rows.map(|row| row[k]))
}
