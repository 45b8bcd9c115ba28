//! Matrices as the kernels read them: panels of 16 outputs, whose weights of one input lie side by side.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::storage::{Block, Integers, Storage};

/// Outputs of a panel.
pub(super) const PANEL: usize = 16;

/// Inputs that the kernels take at a time; a panel has so many or a multiple.
pub(super) const STEP: usize = 8;

/// A cache line: 16 words, one for each output of a panel.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub [u32; PANEL]);

/// A weight matrix `(outputs, inputs)`, stored as narrow as in its file.
#[derive(Debug)]
pub struct Matrix {
    outputs: usize,
    inputs: usize,
    storage: Storage,
    /// Panels one after the other. f32: a line an input. bf16, f16: a line two inputs, 16 halves of the first, then of the
    /// second. Integers: for 32 inputs the lines of the first plane, then those of the second; a word has an output's bits
    /// of consecutive inputs, the first lowest.
    pub(super) lines: Vec<Line>,
    /// `(panels, blocks, 1 or 2)`: scales, then least values, as halves like those above.
    pub(super) scales: Vec<[u32; PANEL / 2]>,
    /// `(panels, sub-blocks, 1 or 2)`: factors of the scales, then of the least values.
    pub(super) factors: Vec<[i8; PANEL]>,
}

impl Matrix {
    /// A matrix of f32, bf16 or f16 from rows of `inputs` little-endian numbers one after the other.
    ///
    /// # Panics
    /// If `storage` is quantised or the number of bytes is not that of the shape.
    pub fn from_floats(outputs: usize, inputs: usize, storage: Storage, bytes: &[u8]) -> Self {
        assert!(storage.integers().is_none(), "{storage:?} is no floating-point type");
        assert_eq!(bytes.len(), storage.bytes(outputs * inputs), "bytes of {outputs} x {inputs} in {storage:?}");
        let width = bytes.len().checked_div(outputs * inputs).unwrap_or(4);
        let inputs_of_line = 4 / width;
        let lines_of_panel = inputs.next_multiple_of(STEP) / inputs_of_line;
        let mut lines = vec![Line([0; PANEL]); outputs.div_ceil(PANEL) * lines_of_panel];
        lines.par_chunks_exact_mut(lines_of_panel.max(1)).enumerate().for_each(|(panel, lines)| {
            let rows = || bytes.chunks_exact(inputs * width).skip(panel * PANEL).take(PANEL);
            if width == 2 { put_halves(rows, lines) } else { put_words(rows, lines) }
        });
        Self { outputs, inputs, storage, lines, scales: Vec::new(), factors: Vec::new() }
    }

    /// A quantised matrix from its blocks as a GGUF file has them.
    ///
    /// # Panics
    /// If `storage` is not quantised, `inputs` is not a multiple of its block, or the number of bytes is not that of the
    /// shape.
    pub fn from_blocks(outputs: usize, inputs: usize, storage: Storage, bytes: &[u8]) -> Self {
        assert_eq!(bytes.len(), storage.bytes(outputs * inputs), "bytes of {outputs} x {inputs} in {storage:?}");
        let row = storage.bytes(inputs);
        Self::packed(outputs, inputs, storage, |panel| bytes.chunks(row * PANEL).nth(panel).unwrap_or(&[]).to_vec())
    }

    /// A matrix of f32 from its rows.
    ///
    /// # Panics
    /// If the number of weights is not that of the shape.
    pub fn from_f32(outputs: usize, inputs: usize, rows: &[f32]) -> Self {
        let bytes: Vec<u8> = rows.iter().flat_map(|weight| weight.to_le_bytes()).collect();
        Self::from_floats(outputs, inputs, Storage::F32, &bytes)
    }

    /// Quantises rows, to the type that fits them ([`Storage::fitting`]): `read(output, row)` writes a row of `inputs` f32. A
    /// panel's rows are read at a time.
    pub fn quantized(outputs: usize, inputs: usize, storage: Storage, read: impl Fn(usize, &mut [f32]) + Sync) -> Self {
        let storage = storage.fitting(inputs);
        let rows = |outputs: std::ops::Range<usize>| {
            let mut rows = vec![0f32; outputs.len() * inputs];
            rows.chunks_exact_mut(inputs).zip(outputs).for_each(|(row, output)| read(output, row));
            rows
        };
        if storage.integers().is_none() {
            return Self::from_f32(outputs, inputs, &rows(0..outputs));
        }
        Self::packed(outputs, inputs, storage, |panel| {
            let first = panel * PANEL;
            let count = PANEL.min(outputs - first);
            let quantised = Tensor::from_vec(rows(first..first + count), (count, inputs), &Device::Cpu)
                .and_then(|rows| QTensor::quantize(&rows, ggml_type(storage)));
            let quantised = quantised.expect("rows of whole blocks on the CPU");
            quantised.data().expect("it is on the CPU").into_owned()
        })
    }

    /// `blocks(panel)` gives the bytes of a panel's rows.
    fn packed(outputs: usize, inputs: usize, storage: Storage, blocks: impl Fn(usize) -> Vec<u8> + Sync) -> Self {
        let kind = storage.integers().unwrap_or_else(|| panic!("{storage:?} is not quantised"));
        assert!(inputs.is_multiple_of(kind.block), "rows of {inputs} in blocks of {}", kind.block);
        let panels = outputs.div_ceil(PANEL);
        let counts = Counts::of(kind, inputs);
        let mut lines = vec![Line([0; PANEL]); panels * counts.lines];
        let mut scales = vec![[0; PANEL / 2]; panels * counts.scales];
        let mut factors = vec![[0; PANEL]; panels * counts.factors];
        let arrays = (
            lines.par_chunks_exact_mut(counts.lines.max(1)),
            scales.par_chunks_exact_mut(counts.scales.max(1)),
            factors.par_chunks_mut(counts.factors.max(1)),
        );
        let pack = |panel: usize, lines: &mut [Line], scales: &mut [[u32; 8]], factors: &mut [[i8; 16]]| {
            for (lane, row) in blocks(panel).chunks_exact(storage.bytes(inputs)).enumerate() {
                for (i, bytes) in row.chunks_exact(kind.bytes).enumerate() {
                    put(kind, &Block::unpack(storage, bytes), i, lane, (lines, scales, factors));
                }
            }
        };
        if counts.factors == 0 {
            arrays.0.zip(arrays.1).enumerate().for_each(|(panel, (lines, scales))| pack(panel, lines, scales, &mut []));
        } else {
            let all = arrays.0.zip(arrays.1).zip(arrays.2).enumerate();
            all.for_each(|(panel, ((lines, scales), factors))| pack(panel, lines, scales, factors));
        }
        Self { outputs, inputs, storage, lines, scales, factors }
    }

    /// Rows: the length of a product.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns: the length of what is multiplied.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The type of the weights.
    pub fn storage(&self) -> Storage {
        self.storage
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.lines[..]) + size_of_val(&self.scales[..]) + size_of_val(&self.factors[..])
    }

    /// Panels.
    pub(super) fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// Numbers of lines, scales and factors of a panel.
    pub(super) fn counts(&self) -> Counts {
        let padded = self.inputs.next_multiple_of(STEP);
        match (self.storage, self.storage.integers()) {
            (_, Some(kind)) => Counts::of(kind, self.inputs),
            (Storage::F32, None) => Counts { lines: padded, scales: 0, factors: 0 },
            (_, None) => Counts { lines: padded / 2, scales: 0, factors: 0 },
        }
    }
}

/// What a panel has of each array.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub lines: usize,
    pub scales: usize,
    pub factors: usize,
}

impl Counts {
    fn of(kind: Integers, inputs: usize) -> Self {
        let each = 1 + usize::from(kind.has_least);
        Self {
            lines: inputs / 32 * (kind.planes[0] + kind.planes[1]) as usize,
            scales: inputs / kind.block * each,
            factors: inputs.checked_div(kind.sub_block).map_or(0, |subs| subs * each),
        }
    }
}

/// Puts rows of 16-bit numbers side by side, eight inputs at a time: two inputs a line.
fn put_halves<'a, I: Iterator<Item = &'a [u8]>>(rows: impl Fn() -> I, lines: &mut [Line]) {
    for (block, lines) in lines.chunks_exact_mut(STEP / 2).enumerate() {
        let mut halves = [[0u16; PANEL]; STEP];
        for (lane, row) in rows().enumerate() {
            let eight = row[block * STEP * 2..].as_chunks().0.iter().take(STEP);
            halves.iter_mut().zip(eight).for_each(|(halves, bytes)| halves[lane] = u16::from_le_bytes(*bytes));
        }
        for (line, pair) in lines.iter_mut().zip(halves.as_chunks::<2>().0) {
            for (word, halves) in line.0.iter_mut().zip(pair.as_flattened().as_chunks::<2>().0) {
                *word = u32::from(halves[0]) | u32::from(halves[1]) << 16;
            }
        }
    }
}

/// Puts rows of 32-bit numbers side by side, eight inputs at a time: one input a line.
fn put_words<'a, I: Iterator<Item = &'a [u8]>>(rows: impl Fn() -> I, lines: &mut [Line]) {
    for (block, lines) in lines.chunks_exact_mut(STEP).enumerate() {
        for (lane, row) in rows().enumerate() {
            let eight = row[block * STEP * 4..].as_chunks().0.iter();
            lines.iter_mut().zip(eight).for_each(|(line, bytes)| line.0[lane] = u32::from_le_bytes(*bytes));
        }
    }
}

/// Puts the `i`-th block of the row of a lane in its place.
fn put(
    kind: Integers,
    block: &Block,
    i: usize,
    lane: usize,
    (lines, scales, factors): (&mut [Line], &mut [[u32; 8]], &mut [[i8; 16]]),
) {
    let each = 1 + usize::from(kind.has_least);
    for (to, scale) in scales[i * each..].iter_mut().zip(&block.scales[..each]) {
        to[lane / 2] |= u32::from(*scale) << (16 * (lane % 2));
    }
    if let Some(subs) = kind.block.checked_div(kind.sub_block) {
        for (to, factor) in
            factors[i * subs * each..].iter_mut().zip(block.factors[..subs].iter().flat_map(|f| &f[..each]))
        {
            to[lane] = *factor;
        }
    }
    let [low, high] = kind.planes;
    let per_unit = (low + high) as usize;
    for (unit, integers) in block.integers[..kind.block].chunks_exact(32).enumerate() {
        let lines = &mut lines[(i * kind.block / 32 + unit) * per_unit..][..per_unit];
        for (k, q) in integers.iter().enumerate() {
            let (k, q) = (k as u32, u32::from(*q));
            lines[(k * low / 32) as usize].0[lane] |= (q & ((1 << low) - 1)) << (k * low % 32);
            if high > 0 {
                lines[(low + k * high / 32) as usize].0[lane] |= (q >> low) << (k * high % 32);
            }
        }
    }
}

fn ggml_type(storage: Storage) -> GgmlDType {
    match storage {
        Storage::F32 => GgmlDType::F32,
        Storage::Bf16 => GgmlDType::BF16,
        Storage::F16 => GgmlDType::F16,
        Storage::Q4_0 => GgmlDType::Q4_0,
        Storage::Q4_1 => GgmlDType::Q4_1,
        Storage::Q5_0 => GgmlDType::Q5_0,
        Storage::Q5_1 => GgmlDType::Q5_1,
        Storage::Q8_0 => GgmlDType::Q8_0,
        Storage::Q2K => GgmlDType::Q2K,
        Storage::Q3K => GgmlDType::Q3K,
        Storage::Q4K => GgmlDType::Q4K,
        Storage::Q5K => GgmlDType::Q5K,
        Storage::Q6K => GgmlDType::Q6K,
    }
}
