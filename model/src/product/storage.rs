//! The types in which weights are stored.

/// How the weights of a matrix are stored. The block types are ggml's, bit for bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "ggml's names")]
pub enum Storage {
    F32,
    Bf16,
    F16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

impl Storage {
    /// Every type.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::Bf16,
        Self::F16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// The number of consecutive inputs that share a block.
    pub fn block(self) -> usize {
        match self {
            Self::F32 | Self::Bf16 | Self::F16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// The bytes of one block of one output.
    pub fn block_bytes(self) -> usize {
        self.fields().bytes()
    }

    /// This type if its blocks divide `inputs`; else the one that mistralrs's in-situ quantisation falls back to, and F32 if
    /// that does not fit either.
    pub fn fitting(self, inputs: usize) -> Self {
        let next = match self {
            _ if inputs.is_multiple_of(self.block()) => return self,
            Self::Q2K | Self::Q3K => Self::Q4_0,
            Self::Q4K => Self::Q4_1,
            Self::Q5K => Self::Q5_0,
            Self::Q6K => Self::Q5_1,
            _ => Self::F32,
        };
        next.fitting(inputs)
    }

    /// Where ggml's block has its fields.
    pub(super) fn fields(self) -> Fields {
        let (halves, unit, units): (&'static [usize], _, _) = match self {
            Self::F32 => (&[], (0, 4), 1),
            Self::Bf16 | Self::F16 => (&[], (0, 2), 1),
            Self::Q4_0 => (&[0], (2, 4), 4),
            Self::Q4_1 => (&[0, 2], (4, 4), 4),
            Self::Q5_0 => (&[0], (2, 4), 5),
            Self::Q5_1 => (&[0, 2], (4, 4), 5),
            Self::Q8_0 => (&[0], (2, 1), 32),
            Self::Q2K => (&[80, 82], (0, 4), 20),
            Self::Q3K => (&[108], (0, 4), 27),
            Self::Q4K => (&[0, 2], (4, 4), 35),
            Self::Q5K => (&[0, 2], (4, 4), 43),
            Self::Q6K => (&[208], (0, 4), 52),
        };
        Fields { halves, start: unit.0, unit: unit.1, units }
    }
}

/// A block is some f16 fields (scales) and a run of units of 1, 2 or 4 bytes (quants and packed scales). A panel keeps, block by
/// block, each field of its 16 outputs side by side: `[halves][16]` f16, then `[units][16]` units.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields {
    /// The offsets of the f16 fields.
    pub halves: &'static [usize],
    /// The offset of the first unit.
    pub start: usize,
    /// The bytes of a unit.
    pub unit: usize,
    /// The number of units.
    pub units: usize,
}

impl Fields {
    pub fn bytes(self) -> usize {
        2 * self.halves.len() + self.unit * self.units
    }

    /// Copies one output's block to `lane` of a panel's block.
    pub fn pack(self, block: &[u8], lane: usize, panel: &mut [u8]) {
        let (halves, units) = panel.split_at_mut(32 * self.halves.len());
        for (&from, to) in self.halves.iter().zip(halves.chunks_exact_mut(32)) {
            to[2 * lane..][..2].copy_from_slice(&block[from..][..2]);
        }
        let from = block[self.start..].chunks_exact(self.unit);
        for (from, to) in from.zip(units.chunks_exact_mut(16 * self.unit)) {
            to[self.unit * lane..][..self.unit].copy_from_slice(from);
        }
    }
}
