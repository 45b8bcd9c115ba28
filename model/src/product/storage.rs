//! How weights are stored, and what a block of quantised ones says.

/// The type of a matrix's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are llama.cpp's")]
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

/// The integers of a quantised type: a weight is `scale * (q - offset)`, or `scale * q - least`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Integers {
    /// Weights in a block of the file, along a row.
    pub block: usize,
    /// Bytes of a block.
    pub bytes: usize,
    /// Bits of `q` in the first plane, and above them in the second; 0 for no second plane.
    pub planes: [u32; 2],
    /// What is subtracted from `q`.
    pub offset: f32,
    /// Weights that share an 8-bit factor of the scale; 0 where a block has one scale.
    pub sub_block: usize,
    /// Whether there is a least value.
    pub has_least: bool,
}

impl Storage {
    /// The integers; none for floating-point types.
    pub(super) fn integers(self) -> Option<Integers> {
        let of = |block, bytes, planes, offset, sub_block, has_least| {
            Some(Integers { block, bytes, planes, offset, sub_block, has_least })
        };
        match self {
            Self::F32 | Self::Bf16 | Self::F16 => None,
            Self::Q4_0 => of(32, 18, [4, 0], 8.0, 0, false),
            Self::Q4_1 => of(32, 20, [4, 0], 0.0, 0, true),
            Self::Q5_0 => of(32, 22, [4, 1], 16.0, 0, false),
            Self::Q5_1 => of(32, 24, [4, 1], 0.0, 0, true),
            Self::Q8_0 => of(32, 34, [8, 0], 128.0, 0, false),
            Self::Q2K => of(256, 84, [2, 0], 0.0, 16, true),
            Self::Q3K => of(256, 110, [2, 1], 4.0, 16, false),
            Self::Q4K => of(256, 144, [4, 0], 0.0, 32, true),
            Self::Q5K => of(256, 176, [4, 1], 0.0, 32, true),
            Self::Q6K => of(256, 210, [4, 2], 32.0, 16, false),
        }
    }

    /// Weights along a row that are stored together: a row's length must be a multiple.
    pub fn block(self) -> usize {
        self.integers().map_or(1, |integers| integers.block)
    }

    /// Bytes of `weights` weights in a file.
    pub fn bytes(self, weights: usize) -> usize {
        match (self, self.integers()) {
            (_, Some(integers)) => weights / integers.block * integers.bytes,
            (Self::F32, _) => weights * 4,
            _ => weights * 2,
        }
    }

    /// The type for rows of `inputs` weights: itself, or where its blocks do not divide a row the one that mistralrs takes
    /// instead, and at last f32.
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
}

/// A block of one output, its integers unpacked.
pub(super) struct Block {
    /// `q`.
    pub integers: [u8; 256],
    /// The scale, and the least value or the scale of the sub-blocks' least values, as bits of f16.
    pub scales: [u16; 2],
    /// For each sub-block its factor of the scale and of the least value.
    pub factors: [[i8; 2]; 16],
}

impl Block {
    /// Unpacks the bytes of a block as `ggml` lays them out.
    pub(super) fn unpack(storage: Storage, bytes: &[u8]) -> Self {
        let mut block = Self { integers: [0; 256], scales: [0; 2], factors: [[0; 2]; 16] };
        let Self { integers: q, scales, factors } = &mut block;
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        match storage {
            Storage::F32 | Storage::Bf16 | Storage::F16 => unreachable!("floating-point types have no blocks"),
            Storage::Q4_0 | Storage::Q4_1 | Storage::Q5_0 | Storage::Q5_1 => {
                let has_least = matches!(storage, Storage::Q4_1 | Storage::Q5_1);
                let has_fifth = matches!(storage, Storage::Q5_0 | Storage::Q5_1);
                *scales = [half(0), if has_least { half(2) } else { 0 }];
                let start = 2 + 2 * usize::from(has_least);
                let (fifth, quads) = bytes[start..].split_at(4 * usize::from(has_fifth));
                let fifth = fifth.try_into().map_or(0, u32::from_le_bytes);
                for j in 0..16 {
                    q[j] = (quads[j] & 15) | ((fifth >> j & 1) as u8) << 4;
                    q[j + 16] = quads[j] >> 4 | ((fifth >> (j + 16) & 1) as u8) << 4;
                }
            }
            Storage::Q8_0 => {
                scales[0] = half(0);
                q.iter_mut().zip(&bytes[2..34]).for_each(|(q, byte)| *q = byte ^ 0x80);
            }
            Storage::Q2K => {
                *scales = [half(80), half(82)];
                for (factors, byte) in factors.iter_mut().zip(&bytes[..16]) {
                    *factors = [(byte & 15) as i8, (byte >> 4) as i8];
                }
                let pairs = &bytes[16..80];
                for (i, q) in q.iter_mut().enumerate() {
                    let (half, j, l) = (i / 128, i / 32 % 4, i % 32);
                    *q = pairs[half * 32 + l] >> (2 * j) & 3;
                }
            }
            Storage::Q3K => {
                let (mask, rest) = bytes.split_at(32);
                let (pairs, rest) = rest.split_at(64);
                scales[0] = half(108);
                for (i, factors) in factors.iter_mut().enumerate() {
                    let low = rest[i % 8] >> (4 * (i / 8)) & 15;
                    let high = rest[8 + i % 4] >> (2 * (i / 4)) & 3;
                    factors[0] = (low | high << 4) as i8 - 32;
                }
                for (i, q) in q.iter_mut().enumerate() {
                    let (half, j, l) = (i / 128, i / 32 % 4, i % 32);
                    *q = pairs[half * 32 + l] >> (2 * j) & 3 | (mask[l] >> (half * 4 + j) & 1) << 2;
                }
            }
            Storage::Q4K | Storage::Q5K => {
                *scales = [half(0), half(2)];
                let packed = &bytes[4..16];
                for (j, factors) in factors.iter_mut().take(8).enumerate() {
                    *factors = match j {
                        0..4 => [packed[j] & 63, packed[j + 4] & 63],
                        _ => {
                            let (low, high) = (packed[j + 4], [packed[j - 4] >> 6, packed[j] >> 6]);
                            [low & 15 | high[0] << 4, low >> 4 | high[1] << 4]
                        }
                    }
                    .map(|factor| factor as i8);
                }
                let (fifth, quads) = bytes[16..].split_at(if storage == Storage::Q5K { 32 } else { 0 });
                for (i, q) in q.iter_mut().enumerate() {
                    let (j, l) = (i / 32, i % 32);
                    let high = fifth.get(l).map_or(0, |byte| byte >> j & 1);
                    *q = quads[j / 2 * 32 + l] >> (4 * (j % 2)) & 15 | high << 4;
                }
            }
            Storage::Q6K => {
                let (low, rest) = bytes.split_at(128);
                let (high, rest) = rest.split_at(64);
                scales[0] = half(208);
                for (factors, byte) in factors.iter_mut().zip(rest) {
                    factors[0] = *byte as i8;
                }
                for (i, q) in q.iter_mut().enumerate() {
                    let (half, j, l) = (i / 128, i / 32 % 4, i % 32);
                    let quad = low[half * 64 + 32 * (j % 2) + l] >> (4 * (j / 2)) & 15;
                    *q = quad | (high[half * 32 + l] >> (2 * j) & 3) << 4;
                }
            }
        }
        block
    }
}
