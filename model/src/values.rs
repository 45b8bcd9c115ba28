//! The values of a weight in the type that a checkpoint stores them in.

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;

/// Values of one of the types that are computed with.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// 32 bits.
    F32(Vec<f32>),
    /// 16 bits, the exponent of f32.
    Bf16(Vec<bf16>),
    /// 16 bits, IEEE half.
    F16(Vec<f16>),
}

/// Values that one task converts.
const CHUNK: usize = 1 << 14;

impl Values {
    /// From the bytes of a safetensors file, little-endian; every type but BF16 and F16 is taken for F32.
    pub fn from_bytes(dtype: Dtype, bytes: &[u8]) -> Self {
        match dtype {
            Dtype::BF16 => Self::Bf16(bytes.chunks_exact(2).map(|two| bf16::from_le_bytes([two[0], two[1]])).collect()),
            Dtype::F16 => Self::F16(bytes.chunks_exact(2).map(|two| f16::from_le_bytes([two[0], two[1]])).collect()),
            _ => Self::F32(
                bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect(),
            ),
        }
    }

    /// f32 values in the type `dtype`, rounded to the nearest, as the bytes that safetensors stores.
    pub fn to_bytes(dtype: Dtype, values: &[f32]) -> Vec<u8> {
        match dtype {
            Dtype::BF16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
            Dtype::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
            Self::F16(values) => values.len(),
        }
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values in f32, exactly.
    pub fn into_f32(self) -> Vec<f32> {
        match self {
            Self::F32(values) => values,
            Self::Bf16(values) => widen(&values),
            Self::F16(values) => widen(&values),
        }
    }
}

/// f32 of a narrower type, exactly.
pub(crate) fn widen<T: Copy + Into<f32> + Sync>(narrow: &[T]) -> Vec<f32> {
    let mut wide = vec![0f32; narrow.len()];
    wide.par_chunks_mut(CHUNK).zip(narrow.par_chunks(CHUNK)).for_each(|(wide, narrow)| {
        wide.iter_mut().zip(narrow).for_each(|(wide, narrow)| *wide = (*narrow).into());
    });
    wide
}
