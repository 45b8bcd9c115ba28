//! Weights of a panel widened to f32 in registers, eight inputs at a time.

use super::matrix::{Counts, Line, Matrix, PANEL};
use crate::lanes::Lanes;

/// Weights of one storage.
///
/// # Safety
/// All methods: as those of [`Lanes`].
pub(super) trait Weights: Copy {
    /// For how many inputs a state holds; a multiple of 8.
    fn period(self) -> usize;

    /// What the weights of the inputs from `input` on share.
    type State<L: Lanes>: Copy;
    unsafe fn state<L: Lanes>(self, panel: usize, input: usize) -> Self::State<L>;

    /// Eight inputs.
    type Loaded<L: Lanes>: Copy;
    unsafe fn load<L: Lanes>(self, panel: usize, input: usize, state: Self::State<L>) -> Self::Loaded<L>;

    /// The weights of the `i`-th of the eight.
    unsafe fn weight<L: Lanes>(loaded: Self::Loaded<L>, i: usize) -> L;

    /// Has the weights brought near that follow some way behind the eight.
    unsafe fn prefetch<L: Lanes>(self, panel: usize, input: usize);
}

/// Lines between those that are used and those that are brought near: enough for the memory's answer to come in time.
const AHEAD: usize = 32;

/// Has so many lines from a place on brought near.
///
/// # Safety
/// As of [`Lanes`].
#[inline(always)]
unsafe fn prefetch<L: Lanes>(lines: &[Line], from: usize, count: usize) {
    let start = lines.as_ptr().wrapping_add(from + AHEAD);
    // SAFETY: as the caller's.
    (0..count).for_each(|line| unsafe { L::prefetch(start.wrapping_add(line)) });
}

/// f32.
#[derive(Clone, Copy)]
pub(super) struct Floats<'a> {
    lines: &'a [Line],
    lines_of_panel: usize,
}

impl<'a> Floats<'a> {
    pub(super) fn of(matrix: &'a Matrix) -> Self {
        Self { lines: &matrix.lines, lines_of_panel: matrix.counts().lines }
    }
}

impl<'a> Weights for Floats<'a> {
    type State<L: Lanes> = ();
    type Loaded<L: Lanes> = &'a [Line; 8];

    #[inline(always)]
    fn period(self) -> usize {
        usize::MAX
    }

    #[inline(always)]
    unsafe fn state<L: Lanes>(self, _: usize, _: usize) {}

    #[inline(always)]
    unsafe fn load<L: Lanes>(self, panel: usize, input: usize, (): ()) -> &'a [Line; 8] {
        let at = panel * self.lines_of_panel + input;
        self.lines[at..at + 8].try_into().expect("eight lines")
    }

    #[inline(always)]
    unsafe fn weight<L: Lanes>(loaded: &'a [Line; 8], i: usize) -> L {
        // SAFETY: as the caller's.
        unsafe { L::reinterpret(L::bits(&loaded[i].0)) }
    }

    #[inline(always)]
    unsafe fn prefetch<L: Lanes>(self, panel: usize, input: usize) {
        // SAFETY: as the caller's.
        unsafe { prefetch::<L>(self.lines, panel * self.lines_of_panel + input, 8) };
    }
}

/// bf16 or, if `IEEE`, f16.
#[derive(Clone, Copy)]
pub(super) struct Halves<'a, const IEEE: bool> {
    lines: &'a [Line],
    lines_of_panel: usize,
}

impl<'a, const IEEE: bool> Halves<'a, IEEE> {
    pub(super) fn of(matrix: &'a Matrix) -> Self {
        Self { lines: &matrix.lines, lines_of_panel: matrix.counts().lines }
    }
}

impl<'a, const IEEE: bool> Weights for Halves<'a, IEEE> {
    type State<L: Lanes> = ();
    type Loaded<L: Lanes> = &'a [Line; 4];

    #[inline(always)]
    fn period(self) -> usize {
        usize::MAX
    }

    #[inline(always)]
    unsafe fn state<L: Lanes>(self, _: usize, _: usize) {}

    #[inline(always)]
    unsafe fn load<L: Lanes>(self, panel: usize, input: usize, (): ()) -> &'a [Line; 4] {
        let at = panel * self.lines_of_panel + input / 2;
        self.lines[at..at + 4].try_into().expect("four lines")
    }

    #[inline(always)]
    unsafe fn weight<L: Lanes>(loaded: &'a [Line; 4], i: usize) -> L {
        let halves: &[u32; 8] = loaded[i / 2].0[i % 2 * 8..][..8].try_into().expect("eight words");
        // SAFETY: as the caller's.
        unsafe { if IEEE { L::from_f16(halves) } else { L::from_bf16(halves) } }
    }

    #[inline(always)]
    unsafe fn prefetch<L: Lanes>(self, panel: usize, input: usize) {
        // SAFETY: as the caller's.
        unsafe { prefetch::<L>(self.lines, panel * self.lines_of_panel + input / 2, 4) };
    }
}

/// Integers in planes of `LOW` and `HIGH` bits.
#[derive(Clone, Copy)]
pub(super) struct Integers<'a, const LOW: u32, const HIGH: u32> {
    lines: &'a [Line],
    scales: &'a [[u32; PANEL / 2]],
    factors: &'a [[i8; PANEL]],
    counts: Counts,
    block: usize,
    sub_block: usize,
    has_least: bool,
    offset: f32,
}

impl<'a, const LOW: u32, const HIGH: u32> Integers<'a, LOW, HIGH> {
    pub(super) fn of(matrix: &'a Matrix) -> Self {
        let kind = matrix.storage().integers().expect("a quantised matrix");
        assert_eq!(kind.planes, [LOW, HIGH]);
        Self {
            lines: &matrix.lines,
            scales: &matrix.scales,
            factors: &matrix.factors,
            counts: matrix.counts(),
            block: kind.block,
            sub_block: kind.sub_block,
            has_least: kind.has_least,
            offset: kind.offset,
        }
    }
}

/// The integers of eight inputs, `LOW` and `HIGH` bits each, and what they are multiplied by and added to.
#[derive(Clone, Copy)]
pub(super) struct Eight<L: Lanes> {
    low: [L::Bits; 2],
    high: L::Bits,
    state: (L, L),
}

impl<const LOW: u32, const HIGH: u32> Weights for Integers<'_, LOW, HIGH> {
    type State<L: Lanes> = (L, L);
    type Loaded<L: Lanes> = Eight<L>;

    #[inline(always)]
    fn period(self) -> usize {
        if self.sub_block == 0 { self.block } else { self.sub_block }
    }

    /// The scale `s` and the constant `c` of `w = s * q + c`: rounded once, which for types without a least value is the
    /// rounding of `s * (q - offset)`, because the offset is a power of two.
    #[inline(always)]
    unsafe fn state<L: Lanes>(self, panel: usize, input: usize) -> (L, L) {
        let each = 1 + usize::from(self.has_least);
        let at = panel * self.counts.scales + input / self.block * each;
        // SAFETY: as the caller's.
        unsafe {
            let scale = L::from_f16(&self.scales[at]);
            if self.sub_block == 0 {
                let constant = match self.has_least {
                    true => L::from_f16(&self.scales[at + 1]),
                    false => L::splat(-self.offset).mul(scale),
                };
                return (scale, constant);
            }
            let sub = panel * self.counts.factors + input / self.sub_block * each;
            let product = scale.mul(L::from_i8(&self.factors[sub]));
            let constant = match self.has_least {
                true => L::splat(-1.0).mul(L::from_f16(&self.scales[at + 1]).mul(L::from_i8(&self.factors[sub + 1]))),
                false => L::splat(-self.offset).mul(product),
            };
            (product, constant)
        }
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(self, panel: usize, input: usize, state: (L, L)) -> Eight<L> {
        let at = panel * self.counts.lines + input / 32 * (LOW + HIGH) as usize;
        let lines = &self.lines[at..at + (LOW + HIGH) as usize];
        let k = (input % 32) as u32;
        // SAFETY: as the caller's.
        unsafe {
            let line = |plane: u32, bits: u32| L::bits(&lines[(plane + k * bits / 32) as usize].0);
            let low = match LOW {
                8 => [line(0, 8), L::bits(&lines[(k / 4 + 1) as usize].0)],
                4 => [line(0, 4); 2],
                _ => [L::shift_right(line(0, LOW), k * LOW % 32); 2],
            };
            let high = if HIGH > 0 { L::shift_right(line(LOW, HIGH), k * HIGH % 32) } else { low[0] };
            Eight { low, high, state }
        }
    }

    #[inline(always)]
    unsafe fn weight<L: Lanes>(eight: Eight<L>, i: usize) -> L {
        let (scale, constant) = eight.state;
        let i = i as u32;
        let (line, shift) = if LOW == 8 { (i / 4, i % 4 * 8) } else { (0, i * LOW) };
        // SAFETY: as the caller's.
        unsafe {
            let mut q = L::shift_right(eight.low[line as usize], shift);
            if shift + LOW < 32 {
                q = L::and(q, (1 << LOW) - 1);
            }
            if HIGH > 0 {
                let high = L::and(L::shift_right(eight.high, i * HIGH), (1 << HIGH) - 1);
                q = L::or(q, L::shift_left(high, LOW));
            }
            L::numbers(q).mul_add(scale, constant)
        }
    }

    #[inline(always)]
    unsafe fn prefetch<L: Lanes>(self, panel: usize, input: usize) {
        if input.is_multiple_of(32) {
            let lines = (LOW + HIGH) as usize;
            // SAFETY: as the caller's.
            unsafe { prefetch::<L>(self.lines, panel * self.counts.lines + input / 32 * lines, lines) };
        }
    }
}

/// Runs `$body` with `$weights` as the matrix's weights.
macro_rules! with_weights {
    ($matrix:expr, $weights:ident => $body:expr) => {{
        let matrix: &Matrix = $matrix;
        match matrix.storage() {
            Storage::F32 => {
                let $weights = Floats::of(matrix);
                $body
            }
            Storage::Bf16 => {
                let $weights = Halves::<false>::of(matrix);
                $body
            }
            Storage::F16 => {
                let $weights = Halves::<true>::of(matrix);
                $body
            }
            Storage::Q4_0 | Storage::Q4_1 | Storage::Q4K => {
                let $weights = Integers::<4, 0>::of(matrix);
                $body
            }
            Storage::Q5_0 | Storage::Q5_1 | Storage::Q5K => {
                let $weights = Integers::<4, 1>::of(matrix);
                $body
            }
            Storage::Q8_0 => {
                let $weights = Integers::<8, 0>::of(matrix);
                $body
            }
            Storage::Q2K => {
                let $weights = Integers::<2, 0>::of(matrix);
                $body
            }
            Storage::Q3K => {
                let $weights = Integers::<2, 1>::of(matrix);
                $body
            }
            Storage::Q6K => {
                let $weights = Integers::<4, 2>::of(matrix);
                $body
            }
        }
    }};
}
pub(super) use with_weights;

/// Widens `lines.len()` inputs of a panel from `input` on, a line each.
///
/// # Safety
/// As of [`Lanes`].
#[inline(always)]
pub(super) unsafe fn widen<L: Lanes, W: Weights>(weights: W, panel: usize, input: usize, lines: &mut [Line]) {
    // SAFETY: as the caller's.
    unsafe {
        let mut state = weights.state::<L>(panel, input);
        for (step, lines) in lines.chunks_exact_mut(8).enumerate() {
            let at = input + step * 8;
            if at.is_multiple_of(weights.period()) {
                state = weights.state::<L>(panel, at);
            }
            let loaded = weights.load::<L>(panel, at, state);
            for (i, line) in lines.iter_mut().enumerate() {
                W::weight::<L>(loaded, i).store_bits(&mut line.0);
            }
        }
    }
}
