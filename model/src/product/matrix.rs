//! A weight matrix, laid out once for the kernels.

use std::ops::Range;

use super::isa::{Isa, Task};
use super::lanes::{Lanes, Line};
use super::storage::Storage;
use super::widen::{Block, widen_with};

/// The outputs of a panel: the lanes of the kernels.
pub(super) const PANEL: usize = 16;

/// A weight matrix (outputs, inputs), stored narrow, in panels of 16 outputs: a panel holds its outputs' weights side by side,
/// input by input (f32, bf16, f16) or block by block. Outputs that do not fill the last panel are padded with zeros.
#[derive(Debug, Clone)]
pub struct Matrix {
    outputs: usize,
    inputs: usize,
    storage: Storage,
    panels: Panels,
}

#[derive(Debug, Clone)]
enum Panels {
    /// One line per input.
    F32(Vec<Line>),
    /// Blocks of sixteen outputs.
    Narrow(Vec<u8>),
}

impl Matrix {
    /// Lays out a matrix whose rows are read 16 at a time, so that no second copy of it is needed: `read` fills its buffer with
    /// the given outputs' bytes, little endian, in `storage`'s own format, one output after another.
    ///
    /// # Errors
    /// What `read` returns.
    ///
    /// # Panics
    /// If `inputs` is zero or not a multiple of the storage's block.
    pub fn read<E>(
        outputs: usize,
        inputs: usize,
        storage: Storage,
        mut read: impl FnMut(Range<usize>, &mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut matrix = Self::zeros(outputs, inputs, storage);
        let row_bytes = inputs / storage.block() * storage.block_bytes();
        let mut rows = vec![0; PANEL * row_bytes];
        for panel in 0..outputs.div_ceil(PANEL) {
            let range = PANEL * panel..outputs.min(PANEL * (panel + 1));
            let rows = &mut rows[..range.len() * row_bytes];
            read(range, rows)?;
            matrix.pack(panel, rows);
        }
        Ok(matrix)
    }

    /// Lays out a matrix from its bytes, row-major, little endian: those of a safetensors tensor for F32, Bf16 and F16, those of
    /// a GGUF tensor for every type.
    ///
    /// # Panics
    /// If the number of bytes is not the shape's, or `inputs` is zero or not a multiple of the storage's block.
    pub fn from_rows(outputs: usize, inputs: usize, storage: Storage, bytes: &[u8]) -> Self {
        let mut matrix = Self::zeros(outputs, inputs, storage);
        let row_bytes = inputs / storage.block() * storage.block_bytes();
        assert_eq!(bytes.len(), outputs * row_bytes, "the bytes of ({outputs}, {inputs}) as {storage:?}");
        for (panel, rows) in bytes.chunks(PANEL * row_bytes).enumerate() {
            matrix.pack(panel, rows);
        }
        matrix
    }

    /// Lays out a matrix from ggml's blocks as they are in a GGUF file. The same as [`from_rows`](Self::from_rows).
    ///
    /// # Panics
    /// As `from_rows`.
    pub fn from_blocks(outputs: usize, inputs: usize, storage: Storage, bytes: &[u8]) -> Self {
        Self::from_rows(outputs, inputs, storage, bytes)
    }

    fn zeros(outputs: usize, inputs: usize, storage: Storage) -> Self {
        assert!(
            inputs > 0 && inputs.is_multiple_of(storage.block()),
            "{inputs} inputs do not fill blocks of {storage:?}"
        );
        let panels = outputs.div_ceil(PANEL);
        let panels = match storage {
            Storage::F32 => Panels::F32(vec![Line::default(); panels * inputs]),
            _ => Panels::Narrow(vec![0; panels * PANEL * inputs / storage.block() * storage.block_bytes()]),
        };
        Self { outputs, inputs, storage, panels }
    }

    /// Lays out up to 16 rows as panel `panel`.
    fn pack(&mut self, panel: usize, rows: &[u8]) {
        let blocks = self.inputs / self.storage.block();
        let block_bytes = self.storage.block_bytes();
        let rows = rows.chunks_exact(blocks * block_bytes).enumerate();
        match &mut self.panels {
            Panels::F32(lines) => {
                let lines = &mut lines[panel * self.inputs..][..self.inputs];
                for (lane, row) in rows {
                    for (value, line) in row.as_chunks::<4>().0.iter().zip(&mut *lines) {
                        line.0[lane] = f32::from_le_bytes(*value);
                    }
                }
            }
            Panels::Narrow(bytes) => {
                let bytes = &mut bytes[panel * blocks * PANEL * block_bytes..][..blocks * PANEL * block_bytes];
                let fields = self.storage.fields();
                for (lane, row) in rows {
                    let packed = bytes.chunks_exact_mut(PANEL * block_bytes);
                    for (block, packed) in row.chunks_exact(block_bytes).zip(packed) {
                        fields.pack(block, lane, packed);
                    }
                }
            }
        }
    }

    /// The rows of the matrix.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The columns of the matrix.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// How the weights are stored.
    pub fn storage(&self) -> Storage {
        self.storage
    }

    /// The memory that the weights take.
    pub fn bytes(&self) -> usize {
        match &self.panels {
            Panels::F32(lines) => std::mem::size_of_val(&lines[..]),
            Panels::Narrow(bytes) => bytes.len(),
        }
    }

    /// Writes one output's weights, widened, to `out` (inputs): a row of an embedding table.
    ///
    /// # Panics
    /// If there is no such output, or `out` has another length.
    pub fn read_row(&self, output: usize, out: &mut [f32]) {
        assert!(output < self.outputs && out.len() == self.inputs, "a row of ({}, {})", self.outputs, self.inputs);
        let (panel, lane) = (output / PANEL, output % PANEL);
        let isa = Isa::best();
        let mut scratch = vec![Line::default(); out.len().min(super::K_BLOCK)];
        for (index, out) in out.chunks_mut(super::K_BLOCK).enumerate() {
            let start = index * super::K_BLOCK;
            let lines = self.lines(isa, panel, start..start + out.len(), &mut scratch);
            for (line, out) in lines.iter().zip(out) {
                *out = line.0[lane];
            }
        }
    }

    /// The inputs of a panel as f32: its own lines, or `scratch` with them widened. The range starts at a multiple of the
    /// block.
    pub(super) fn lines<'a>(
        &'a self,
        isa: Isa,
        panel: usize,
        inputs: Range<usize>,
        scratch: &'a mut [Line],
    ) -> &'a [Line] {
        match &self.panels {
            Panels::F32(lines) => &lines[panel * self.inputs..][inputs],
            Panels::Narrow(_) => {
                let lines = &mut scratch[..inputs.len()];
                widen_with!(self.storage, B => isa.call(Widen::<B> { bytes: self.blocks::<B>(panel, inputs), lines, block: std::marker::PhantomData }));
                lines
            }
        }
    }

    /// The blocks of a panel that hold `inputs`; none for F32.
    pub(super) fn blocks<B: Block>(&self, panel: usize, inputs: Range<usize>) -> &[u8] {
        let Panels::Narrow(bytes) = &self.panels else { return &[] };
        let blocks = panel * (self.inputs / B::INPUTS) + inputs.start / B::INPUTS;
        &bytes[blocks * B::BYTES..][..inputs.len() / B::INPUTS * B::BYTES]
    }
}

/// Widens consecutive blocks of a panel.
struct Widen<'a, B> {
    bytes: &'a [u8],
    lines: &'a mut [Line],
    block: std::marker::PhantomData<B>,
}

impl<B: Block> Task for Widen<'_, B> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        for (bytes, lines) in self.bytes.chunks_exact(B::BYTES).zip(self.lines.chunks_exact_mut(B::INPUTS)) {
            let mut lines = lines.iter_mut();
            B::widen(l, bytes, |weights| {
                if let Some(line) = lines.next() {
                    l.store(weights, line);
                }
            });
        }
    }
}
