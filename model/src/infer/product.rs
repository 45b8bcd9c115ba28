//! Products with a matrix.
//!
//! Every element of `x W^T` is a sum over ascending inputs by sequential fused multiply-adds in f32 that starts at 0; then
//! the bias is added, and then what is there already, if that is asked for. Registers hold 16 outputs side by side, so the
//! order is the same for any number of rows, threads and registers. Narrow weights are widened in registers.

use std::cell::Cell;

use rayon::prelude::*;
use safetensors::Dtype;

#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512};
use super::lanes::{Isa, Lanes, Portable};

/// Outputs that lie side by side in memory.
const PANEL: usize = 16;
/// Panels of a task.
const TASK_PANELS: usize = 4;
/// Multiplications below which the threads are not asked.
const SERIAL: usize = 1 << 17;

/// How a matrix is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// f32.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE 754's half.
    F16,
}

/// A matrix of `outputs` rows, in panels of 16 rows: for each input the weights of the panel's outputs.
#[derive(Debug)]
pub(super) struct Matrix {
    outputs: usize,
    inputs: usize,
    values: Values,
}

#[derive(Debug)]
enum Values {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
    F16(Vec<u16>),
}

impl Matrix {
    /// From rows in f32, which are rounded where `storage` is narrower.
    pub(super) fn from_f32(outputs: usize, inputs: usize, storage: Storage, rows: &[f32]) -> Self {
        let values = match storage {
            Storage::F32 => Values::F32(panels(outputs, inputs, |i| rows[i])),
            Storage::Bf16 => Values::Bf16(panels(outputs, inputs, |i| half::bf16::from_f32(rows[i]).to_bits())),
            Storage::F16 => Values::F16(panels(outputs, inputs, |i| half::f16::from_f32(rows[i]).to_bits())),
        };
        Self { outputs, inputs, values }
    }

    /// From the bytes of rows of a type that checkpoints have.
    pub(super) fn from_bytes(outputs: usize, inputs: usize, dtype: Dtype, rows: &[u8]) -> Self {
        let half = |rows: &[[u8; 2]]| panels(outputs, inputs, |i| u16::from_le_bytes(rows[i]));
        let values = match dtype {
            Dtype::BF16 => Values::Bf16(half(rows.as_chunks().0)),
            Dtype::F16 => Values::F16(half(rows.as_chunks().0)),
            _ => {
                let rows = rows.as_chunks().0;
                Values::F32(panels(outputs, inputs, |i| f32::from_le_bytes(rows[i])))
            }
        };
        Self { outputs, inputs, values }
    }

    /// One row, in f32.
    pub(super) fn read_row(&self, output: usize, out: &mut [f32]) {
        let at = output / PANEL * self.inputs * PANEL + output % PANEL;
        let places = (at..).step_by(PANEL).take(self.inputs);
        match &self.values {
            Values::F32(values) => out.iter_mut().zip(places).for_each(|(out, i)| *out = values[i]),
            Values::Bf16(values) => {
                out.iter_mut().zip(places).for_each(|(out, i)| *out = half::bf16::from_bits(values[i]).to_f32());
            }
            Values::F16(values) => {
                out.iter_mut().zip(places).for_each(|(out, i)| *out = half::f16::from_bits(values[i]).to_f32());
            }
        }
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(super) fn bytes(&self) -> usize {
        match &self.values {
            Values::F32(values) => size_of_val(&values[..]),
            Values::Bf16(values) | Values::F16(values) => size_of_val(&values[..]),
        }
    }
}

/// Rows in panels; what is missing in the last one is zero.
fn panels<T: Copy + Default>(outputs: usize, inputs: usize, at: impl Fn(usize) -> T) -> Vec<T> {
    let mut values = vec![T::default(); outputs.next_multiple_of(PANEL) * inputs];
    for output in 0..outputs {
        let first = output / PANEL * inputs * PANEL + output % PANEL;
        for input in 0..inputs {
            values[first + input * PANEL] = at(output * inputs + input);
        }
    }
    values
}

thread_local! {
    static SUMS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// `x W^T + bias` for `x` of `(rows, inputs)`, written to `y` of `(rows, outputs)` or added to it.
pub(super) fn product(x: &[f32], w: &Matrix, bias: Option<&[f32]>, y: &mut [f32], accumulate: bool) {
    product_with(Isa::best(), x, w, bias, y, accumulate);
}

fn product_with(isa: Isa, x: &[f32], w: &Matrix, bias: Option<&[f32]>, y: &mut [f32], accumulate: bool) {
    let rows = x.len() / w.inputs;
    if rows == 0 {
        return;
    }
    let panels = w.outputs.div_ceil(PANEL);
    // Tasks write panels of their own, which are then put in their places.
    let mut sums = SUMS.take();
    sums.resize(panels * rows * PANEL, 0.0);
    let task = |(i, sums): (usize, &mut [f32])| match isa {
        // SAFETY: the portable type needs no feature.
        Isa::Portable => unsafe { multiply::<Portable>(x, w, i * TASK_PANELS, sums) },
        // SAFETY: `Isa::all` lists what the processor has.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { multiply_avx2(x, w, i * TASK_PANELS, sums) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { multiply_avx512(x, w, i * TASK_PANELS, sums) },
    };
    let len = TASK_PANELS * rows * PANEL;
    let serial = rows * w.inputs * w.outputs < SERIAL;
    match serial {
        true => sums.chunks_mut(len).enumerate().for_each(task),
        false => sums.par_chunks_mut(len).enumerate().for_each(task),
    }
    let place = |(r, y): (usize, &mut [f32])| {
        for (panel, y) in y.chunks_mut(PANEL).enumerate() {
            let sums = &sums[(panel * rows + r) * PANEL..];
            for (i, y) in y.iter_mut().enumerate() {
                let sum = bias.map_or(sums[i], |bias| sums[i] + bias[panel * PANEL + i]);
                *y = if accumulate { *y + sum } else { sum };
            }
        }
    };
    match serial || rows < 16 {
        true => y.chunks_exact_mut(w.outputs).enumerate().for_each(place),
        false => y.par_chunks_exact_mut(w.outputs).enumerate().for_each(place),
    }
    SUMS.set(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_avx2(x: &[f32], w: &Matrix, first: usize, sums: &mut [f32]) {
    // SAFETY: the features are those of the type.
    unsafe { multiply::<Avx2>(x, w, first, sums) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma,f16c")]
fn multiply_avx512(x: &[f32], w: &Matrix, first: usize, sums: &mut [f32]) {
    // SAFETY: the features are those of the type.
    unsafe { multiply::<Avx512>(x, w, first, sums) }
}

/// All rows with some panels from `first` on; `sums` is `(panels, rows, PANEL)`.
///
/// # Safety
/// The processor has the instructions of `L`.
#[inline(always)]
unsafe fn multiply<L: Lanes>(x: &[f32], w: &Matrix, first: usize, sums: &mut [f32]) {
    // SAFETY: the caller vouches for the processor.
    unsafe {
        match &w.values {
            Values::F32(values) => multiply_panels::<L, f32>(x, w.inputs, values, first, sums),
            Values::Bf16(values) => multiply_panels::<L, Bf16>(x, w.inputs, values, first, sums),
            Values::F16(values) => multiply_panels::<L, F16>(x, w.inputs, values, first, sums),
        }
    }
}

/// How 16 weights become f32.
trait Widen {
    type Stored;
    unsafe fn widen<L: Lanes>(from: &[Self::Stored; PANEL]) -> L;
}

impl Widen for f32 {
    type Stored = f32;

    #[inline(always)]
    unsafe fn widen<L: Lanes>(from: &[f32; PANEL]) -> L {
        // SAFETY: the caller vouches for the processor.
        unsafe { L::load(from) }
    }
}

struct Bf16;

impl Widen for Bf16 {
    type Stored = u16;

    #[inline(always)]
    unsafe fn widen<L: Lanes>(from: &[u16; PANEL]) -> L {
        // SAFETY: the caller vouches for the processor.
        unsafe { L::load_bf16(from) }
    }
}

struct F16;

impl Widen for F16 {
    type Stored = u16;

    #[inline(always)]
    unsafe fn widen<L: Lanes>(from: &[u16; PANEL]) -> L {
        // SAFETY: the caller vouches for the processor.
        unsafe { L::load_f16(from) }
    }
}

/// # Safety
/// The processor has the instructions of `L`.
#[inline(always)]
unsafe fn multiply_panels<L: Lanes, W: Widen>(
    x: &[f32],
    inputs: usize,
    values: &[W::Stored],
    first: usize,
    sums: &mut [f32],
) {
    let rows = x.len() / inputs;
    let count = sums.len() / (rows * PANEL);
    let panel = |i: usize| &values[(first + i) * inputs * PANEL..(first + i + 1) * inputs * PANEL];
    let mut i = 0;
    // SAFETY: the caller vouches for the processor.
    unsafe {
        while i < count {
            let sums = &mut sums[i * rows * PANEL..];
            if i + 4 <= count && rows < 4 {
                let panels = [panel(i), panel(i + 1), panel(i + 2), panel(i + 3)];
                all_rows::<L, W, 4>(x, inputs, panels, sums);
                i += 4;
            } else if i + 2 <= count && L::WIDE {
                all_rows::<L, W, 2>(x, inputs, [panel(i), panel(i + 1)], sums);
                i += 2;
            } else {
                all_rows::<L, W, 1>(x, inputs, [panel(i)], sums);
                i += 1;
            }
        }
    }
}

/// # Safety
/// The processor has the instructions of `L`.
#[inline(always)]
unsafe fn all_rows<L: Lanes, W: Widen, const P: usize>(
    x: &[f32],
    inputs: usize,
    panels: [&[W::Stored]; P],
    sums: &mut [f32],
) {
    let rows = x.len() / inputs;
    let mut r = 0;
    // SAFETY: the caller vouches for the processor.
    unsafe {
        while r < rows {
            let (x, left) = (&x[r * inputs..], rows - r);
            let sums = &mut sums[r * PANEL..];
            if left >= 8 && L::WIDE && P <= 2 {
                tile::<L, W, 8, P>(x, inputs, panels, sums, rows);
                r += 8;
            } else if left >= 4 && P <= 2 {
                tile::<L, W, 4, P>(x, inputs, panels, sums, rows);
                r += 4;
            } else {
                tile::<L, W, 1, P>(x, inputs, panels, sums, rows);
                r += 1;
            }
        }
    }
}

/// # Safety
/// The processor has the instructions of `L`.
#[inline(always)]
unsafe fn tile<L: Lanes, W: Widen, const R: usize, const P: usize>(
    x: &[f32],
    inputs: usize,
    panels: [&[W::Stored]; P],
    sums: &mut [f32],
    rows: usize,
) {
    let mut x_rows = [&x[..inputs]; R];
    for r in 1..R {
        x_rows[r] = &x[r * inputs..(r + 1) * inputs];
    }
    let panels = panels.map(|panel| &panel.as_chunks::<PANEL>().0[..inputs]);
    // SAFETY: the caller vouches for the processor.
    unsafe {
        let mut tile = [[L::splat(0.0); P]; R];
        for k in 0..inputs {
            let mut weights = [L::splat(0.0); P];
            for p in 0..P {
                weights[p] = W::widen(&panels[p][k]);
            }
            for r in 0..R {
                let x = L::splat(x_rows[r][k]);
                for p in 0..P {
                    tile[r][p] = x.mul_add(weights[p], tile[r][p]);
                }
            }
        }
        for p in 0..P {
            let sums = sums[p * rows * PANEL..].as_chunks_mut::<PANEL>().0;
            for r in 0..R {
                tile[r][p].store(&mut sums[r]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    #[test]
    fn every_element_is_the_chain_for_every_type_and_instruction_set() {
        for (outputs, inputs) in [(1, 1), (16, 7), (70, 33), (130, 64)] {
            let weights = random(outputs * inputs, 1);
            let bias = random(outputs, 2);
            for dtype in [Dtype::F32, Dtype::BF16, Dtype::F16] {
                let bytes: Vec<u8> = match dtype {
                    Dtype::BF16 => weights.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
                    Dtype::F16 => weights.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
                    _ => weights.iter().flat_map(|x| x.to_le_bytes()).collect(),
                };
                let matrix = Matrix::from_bytes(outputs, inputs, dtype, &bytes);
                let mut row = vec![0.0; inputs];
                for rows in [1, 2, 3, 4, 7, 8, 13, 40] {
                    let (x, before) = (random(rows * inputs, 3), random(rows * outputs, 4));
                    let mut expected = before.clone();
                    for (i, y) in expected.iter_mut().enumerate() {
                        matrix.read_row(i % outputs, &mut row);
                        let x = &x[i / outputs * inputs..][..inputs];
                        *y += x.iter().zip(&row).fold(0f32, |sum, (x, w)| x.mul_add(*w, sum)) + bias[i % outputs];
                    }
                    for isa in Isa::all() {
                        let mut y = before.clone();
                        product_with(*isa, &x, &matrix, Some(&bias), &mut y, true);
                        assert_eq!(y, expected, "{isa:?}, {dtype:?}, {rows} rows of {inputs} to {outputs}");
                    }
                }
            }
        }
    }
}
