//! Quantisation at load, by candle's block types (ggml's own algorithms).

use std::convert::Infallible;

use candle_core::quantized::GgmlType;
use candle_core::quantized::k_quants::{
    BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0,
};

use super::matrix::Matrix;
use super::storage::Storage;

impl Matrix {
    /// Quantises a matrix whose rows are given one at a time: `row` fills its buffer with the output's weights. Where the blocks
    /// of `storage` do not divide `inputs`, the type is [`Storage::fitting`]'s.
    ///
    /// # Panics
    /// If `inputs` is zero.
    pub fn quantized(outputs: usize, inputs: usize, storage: Storage, mut row: impl FnMut(usize, &mut [f32])) -> Self {
        let storage = storage.fitting(inputs);
        let mut values = vec![0.0; inputs];
        let row_bytes = inputs / storage.block() * storage.block_bytes();
        let read = |range: std::ops::Range<usize>, bytes: &mut [u8]| {
            for (output, bytes) in range.zip(bytes.chunks_exact_mut(row_bytes)) {
                row(output, &mut values);
                quantize(&values, storage, bytes);
            }
            Ok::<_, Infallible>(())
        };
        match Self::read(outputs, inputs, storage, read) {
            Ok(matrix) => matrix,
            Err(never) => match never {},
        }
    }
}

/// Writes the row in the format of the storage.
fn quantize(values: &[f32], storage: Storage, bytes: &mut [u8]) {
    match storage {
        Storage::F32 => {
            for (value, bytes) in values.iter().zip(bytes.as_chunks_mut().0) {
                *bytes = value.to_le_bytes();
            }
        }
        Storage::Bf16 => {
            for (value, bytes) in values.iter().zip(bytes.as_chunks_mut().0) {
                *bytes = half::bf16::from_f32(*value).to_le_bytes();
            }
        }
        Storage::F16 => {
            for (value, bytes) in values.iter().zip(bytes.as_chunks_mut().0) {
                *bytes = half::f16::from_f32(*value).to_le_bytes();
            }
        }
        Storage::Q4_0 => blocks::<BlockQ4_0>(values, bytes),
        Storage::Q4_1 => blocks::<BlockQ4_1>(values, bytes),
        Storage::Q5_0 => blocks::<BlockQ5_0>(values, bytes),
        Storage::Q5_1 => blocks::<BlockQ5_1>(values, bytes),
        Storage::Q8_0 => blocks::<BlockQ8_0>(values, bytes),
        Storage::Q2K => blocks::<BlockQ2K>(values, bytes),
        Storage::Q3K => blocks::<BlockQ3K>(values, bytes),
        Storage::Q4K => blocks::<BlockQ4K>(values, bytes),
        Storage::Q5K => blocks::<BlockQ5K>(values, bytes),
        Storage::Q6K => blocks::<BlockQ6K>(values, bytes),
    }
}

fn blocks<B: GgmlType>(values: &[f32], bytes: &mut [u8]) {
    let mut blocks = vec![B::zeros(); values.len() / B::BLCK_SIZE];
    B::from_float(values, &mut blocks);
    assert_eq!(bytes.len(), std::mem::size_of_val(&blocks[..]));
    // SAFETY: candle's blocks are `repr(C)` of f16 and bytes without padding (it asserts their sizes), the length is theirs.
    let raw = unsafe { std::slice::from_raw_parts(blocks.as_ptr().cast::<u8>(), bytes.len()) };
    bytes.copy_from_slice(raw);
}
