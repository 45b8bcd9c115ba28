//! The kernels: a few rows against weights in registers, and many rows against widened panels.

use std::marker::PhantomData;
use std::ops::Range;

use super::matrix::{Line, Matrix, PANEL, STEP};
use super::storage::Storage;
use super::weights::{Floats, Halves, Integers, Weights, widen, with_weights};
#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};
use crate::lanes::{Isa, Lanes, Portable};

/// Inputs of a panel that are widened at a time: two panels of them stay in the second-level cache beside the rows.
const WIDENED: usize = 256;

/// A product in the making.
pub(super) struct Job<'a> {
    /// Rows as they are for [`few`], packed for [`many`].
    pub x: &'a [f32],
    pub w: &'a Matrix,
    pub rows: usize,
    pub bias: Option<&'a [f32]>,
    pub accumulate: bool,
    pub y: Columns<'a>,
}

/// An array of rows whose columns are written by several threads, each its own.
pub(super) struct Columns<'a> {
    start: *mut f32,
    rows: usize,
    width: usize,
    array: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for an exclusive slice of f32, which may be used by any thread; who writes where is for the callers of
// `at` to keep apart.
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    pub(super) fn of(y: &'a mut [f32], width: usize) -> Self {
        Self { start: y.as_mut_ptr(), rows: y.len() / width, width, array: PhantomData }
    }

    /// The columns of a panel in a row.
    ///
    /// # Safety
    /// Nobody else uses the same panel meanwhile.
    #[expect(clippy::mut_from_ref, reason = "panels are disjoint")]
    unsafe fn at(&self, row: usize, panel: usize) -> &mut [f32] {
        let first = panel * PANEL;
        assert!(row < self.rows && first < self.width);
        // SAFETY: the row and the columns are inside the array, and the caller says that nobody else uses them.
        unsafe {
            std::slice::from_raw_parts_mut(self.start.add(row * self.width + first), PANEL.min(self.width - first))
        }
    }
}

impl Job<'_> {
    /// Panels of its weights.
    pub(super) fn panels(&self) -> usize {
        self.w.panels()
    }

    /// Puts the sums of a panel's row in their place.
    ///
    /// # Safety
    /// As of [`Columns::at`].
    #[inline(always)]
    unsafe fn finish(&self, row: usize, panel: usize, sums: &[f32; PANEL]) {
        // SAFETY: as the caller's.
        let y = unsafe { self.y.at(row, panel) };
        let bias = self.bias.map(|bias| &bias[panel * PANEL..]);
        for (i, (y, sum)) in y.iter_mut().zip(sums).enumerate() {
            let sum = bias.map_or(*sum, |bias| sum + bias[i]);
            *y = if self.accumulate { *y + sum } else { sum };
        }
    }
}

/// Defines a function that runs `$generic::<L>` with the lanes of an instruction set.
macro_rules! on_isa {
    ($(#[$doc:meta])* $name:ident, $generic:ident, ($($arg:ident: $kind:ty),*) $(-> $out:ty)?) => {
        $(#[$doc])*
        pub(super) fn $name(isa: Isa, $($arg: $kind),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f")]
            unsafe fn avx512($($arg: $kind),*) $(-> $out)? {
                // SAFETY: the function has the feature.
                unsafe { $generic::<Avx512>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2($($arg: $kind),*) $(-> $out)? {
                // SAFETY: the function has the features.
                unsafe { $generic::<Avx2>($($arg),*) }
            }
            match isa {
                // SAFETY: it needs nothing.
                Isa::Portable => unsafe { $generic::<Portable>($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: an `Isa` is only ever one that the processor has.
                Isa::Avx2 => unsafe { avx2($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: likewise.
                Isa::Avx512 => unsafe { avx512($($arg),*) },
            }
        }
    };
}

on_isa! {
    /// A few rows against some panels.
    few, few_on, (job: &Job<'_>, panels: Range<usize>)
}
on_isa! {
    /// Many packed rows against some panels.
    many, many_on, (job: &Job<'_>, panels: Range<usize>)
}
on_isa! {
    /// One lane of a panel.
    read_row, read_row_on, (matrix: &Matrix, panel: usize, lane: usize, to: &mut [f32])
}

#[inline(always)]
unsafe fn few_on<L: Lanes>(job: &Job<'_>, panels: Range<usize>) {
    with_weights!(job.w, weights => {
        let inputs = job.w.inputs();
        let mut first = panels.start;
        while first < panels.end {
            let count = (panels.end - first).min(4);
            let mut row = 0;
            while row < job.rows {
                let left = job.rows - row;
                let x = &job.x[row * inputs..];
                // SAFETY: as the caller's; panels of different calls are different.
                unsafe {
                    // Sums in flight hide the time that one addition takes; more than the registers hold would be stored.
                    row += match (left, count, L::WIDE) {
                        (4.., _, true) => each::<L, _, 4, 1>(job, weights, x, row, first, count),
                        (2.., 4, _) => each::<L, _, 2, 2>(job, weights, x, row, first, 4),
                        (2.., _, _) => each::<L, _, 2, 1>(job, weights, x, row, first, count),
                        (_, 4, true) => each::<L, _, 1, 4>(job, weights, x, row, first, 4),
                        (_, 4, false) => each::<L, _, 1, 2>(job, weights, x, row, first, 4),
                        _ => each::<L, _, 1, 1>(job, weights, x, row, first, count),
                    };
                }
            }
            first += count;
        }
    });
}

/// `R` rows against `count` panels, `P` at a time; returns `R`.
#[inline(always)]
unsafe fn each<L: Lanes, W: Weights, const R: usize, const P: usize>(
    job: &Job<'_>,
    weights: W,
    x: &[f32],
    row: usize,
    first: usize,
    count: usize,
) -> usize {
    for panel in (first..first + count).step_by(P) {
        // SAFETY: as the caller's.
        let sums = unsafe { chains::<L, W, R, P>(weights, x, job.w.inputs(), panel) };
        for (p, sums) in sums.into_iter().enumerate() {
            for (r, sums) in sums.into_iter().enumerate() {
                let mut array = [0f32; PANEL];
                // SAFETY: as the caller's.
                unsafe {
                    sums.store(&mut array);
                    job.finish(row + r, panel + p, &array);
                }
            }
        }
    }
    R
}

/// The sums of `R` rows and `P` panels.
#[expect(clippy::needless_range_loop, reason = "the index is a panel's, too")]
#[inline(always)]
unsafe fn chains<L: Lanes, W: Weights, const R: usize, const P: usize>(
    weights: W,
    x: &[f32],
    inputs: usize,
    panel: usize,
) -> [[L; R]; P] {
    // SAFETY: as the caller's.
    unsafe {
        let mut sums = [[L::splat(0.0); R]; P];
        let first = weights.state::<L>(panel, 0);
        let mut states = [first; P];
        for p in 1..P {
            states[p] = weights.state::<L>(panel + p, 0);
        }
        let rows: [&[f32]; R] = std::array::from_fn(|r| &x[r * inputs..(r + 1) * inputs]);
        let whole = inputs - inputs % STEP;
        for input in (0..whole).step_by(STEP) {
            let x = std::array::from_fn(|r| rows[r][input..input + STEP].try_into().expect("eight numbers"));
            step::<L, W, R, P>(weights, panel, input, x, &mut states, &mut sums);
        }
        if whole < inputs {
            // The weights there are zeros, too.
            let mut rest = [[0f32; STEP]; R];
            rest.iter_mut().zip(rows).for_each(|(rest, row)| rest[..inputs - whole].copy_from_slice(&row[whole..]));
            step::<L, W, R, P>(weights, panel, whole, std::array::from_fn(|r| &rest[r]), &mut states, &mut sums);
        }
        sums
    }
}

/// Continues the chains over eight inputs.
#[expect(clippy::needless_range_loop, reason = "one index for several arrays")]
#[inline(always)]
unsafe fn step<L: Lanes, W: Weights, const R: usize, const P: usize>(
    weights: W,
    panel: usize,
    input: usize,
    x: [&[f32; STEP]; R],
    states: &mut [W::State<L>; P],
    sums: &mut [[L; R]; P],
) {
    // SAFETY: as the caller's.
    unsafe {
        if input.is_multiple_of(weights.period()) {
            for p in 0..P {
                states[p] = weights.state::<L>(panel + p, input);
            }
        }
        for p in 0..P {
            weights.prefetch::<L>(panel + p, input);
            let loaded = weights.load::<L>(panel + p, input, states[p]);
            for i in 0..STEP {
                let weight = W::weight::<L>(loaded, i);
                for r in 0..R {
                    sums[p][r] = L::splat(x[r][i]).mul_add(weight, sums[p][r]);
                }
            }
        }
    }
}

/// Rows of a full tile and panels beside one another, as many as the registers hold.
const fn shape(wide: bool) -> (usize, usize) {
    if wide { (12, 2) } else { (6, 1) }
}

/// Rows of a tile for the last `left` rows: a third, two thirds or all of a full tile.
fn tile_rows(left: usize, full: usize) -> usize {
    full.min(left.next_multiple_of(full / 3))
}

/// True if a value of [`Lanes`] takes one register of 32.
pub(super) fn is_wide(isa: Isa) -> bool {
    match isa {
        Isa::Portable => Portable::WIDE,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Avx2::WIDE,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => Avx512::WIDE,
    }
}

/// Rows in tiles: of each tile its rows' first numbers, then their second ones; inputs and rows that are missing are zeros.
pub(super) fn pack(isa: Isa, x: &[f32], inputs: usize) -> Vec<f32> {
    let (full, _) = shape(is_wide(isa));
    let (rows, padded) = (x.len() / inputs, inputs.next_multiple_of(STEP));
    let mut packed = vec![0f32; (rows / full * full + tile_rows(rows % full, full)) * padded];
    for (rows, tile) in x.chunks(full * inputs).zip(packed.chunks_mut(full * padded)) {
        let width = tile.len() / padded;
        for (r, row) in rows.chunks_exact(inputs).enumerate() {
            tile[r..].iter_mut().step_by(width).zip(row).for_each(|(to, x)| *to = *x);
        }
    }
    packed
}

#[inline(always)]
unsafe fn many_on<L: Lanes>(job: &Job<'_>, panels: Range<usize>) {
    // SAFETY: as the caller's.
    with_weights!(job.w, weights => unsafe {
        if L::WIDE { blocks::<L, _, 12, 8, 4, 2>(job, weights, panels) } else { blocks::<L, _, 6, 4, 2, 1>(job, weights, panels) }
    });
}

/// Panels `P` at a time: all rows against a piece of the inputs, then the next piece. `R` is the rows of a full tile, `S`
/// and `T` two thirds and one third.
#[inline(always)]
unsafe fn blocks<L: Lanes, W: Weights, const R: usize, const S: usize, const T: usize, const P: usize>(
    job: &Job<'_>,
    weights: W,
    panels: Range<usize>,
) {
    let padded = job.w.inputs().next_multiple_of(STEP);
    let tiles = job.rows.div_ceil(R);
    let mut sums = vec![[[0f32; PANEL]; P]; tiles * R];
    let mut widened = vec![[Line([0; PANEL]); WIDENED]; P];
    for first in panels.clone().step_by(P) {
        let count = P.min(panels.end - first);
        sums.fill([[0f32; PANEL]; P]);
        for input in (0..padded).step_by(WIDENED) {
            let len = WIDENED.min(padded - input);
            for (p, lines) in widened.iter_mut().take(count).enumerate() {
                // SAFETY: as the caller's.
                unsafe { widen::<L, W>(weights, first + p, input, &mut lines[..len]) };
            }
            let lines: [&[Line]; P] = std::array::from_fn(|p| &widened[p][..len]);
            for (tile, sums) in sums.chunks_exact_mut(R).enumerate() {
                let width = tile_rows(job.rows - tile * R, R);
                let x = &job.x[tile * R * padded..][..width * padded][input * width..][..len * width];
                // SAFETY: as the caller's.
                unsafe {
                    if width == R {
                        corner::<L, R, P>(x, lines, sums);
                    } else if width == S {
                        corner::<L, S, P>(x, lines, sums);
                    } else {
                        corner::<L, T, P>(x, lines, sums);
                    }
                }
            }
        }
        for (row, sums) in sums.iter().take(job.rows).enumerate() {
            for (p, sums) in sums.iter().take(count).enumerate() {
                // SAFETY: as the caller's; panels of different calls are different.
                unsafe { job.finish(row, first + p, sums) };
            }
        }
    }
}

/// Continues the chains of `R` rows and `P` panels over `x` `(inputs, R)`.
#[inline(always)]
unsafe fn corner<L: Lanes, const R: usize, const P: usize>(
    x: &[f32],
    lines: [&[Line]; P],
    stored: &mut [[[f32; PANEL]; P]],
) {
    let x = x.as_chunks::<R>().0;
    let stored: &mut [[[f32; PANEL]; P]; R] = (&mut stored[..R]).try_into().expect("as many rows");
    assert!(lines.iter().all(|lines| lines.len() == x.len()));
    // SAFETY: as the caller's.
    unsafe {
        let mut sums: [[L; P]; R] = std::array::from_fn(|r| std::array::from_fn(|p| L::load(&stored[r][p])));
        for (k, x) in x.iter().enumerate() {
            let weights: [L; P] = std::array::from_fn(|p| L::reinterpret(L::bits(&lines[p].get_unchecked(k).0)));
            for r in 0..R {
                let x = L::splat(x[r]);
                for p in 0..P {
                    sums[r][p] = x.mul_add(weights[p], sums[r][p]);
                }
            }
        }
        for r in 0..R {
            for p in 0..P {
                sums[r][p].store(&mut stored[r][p]);
            }
        }
    }
}

#[inline(always)]
unsafe fn read_row_on<L: Lanes>(matrix: &Matrix, panel: usize, lane: usize, to: &mut [f32]) {
    let mut lines = [Line([0; PANEL]); STEP];
    with_weights!(matrix, weights => {
        for (step, to) in to.chunks_mut(STEP).enumerate() {
            // SAFETY: as the caller's.
            unsafe { widen::<L, _>(weights, panel, step * STEP, &mut lines) };
            to.iter_mut().zip(&lines).for_each(|(to, line)| *to = f32::from_bits(line.0[lane]));
        }
    });
}
