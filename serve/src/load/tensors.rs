//! Reading safetensors as f32, and writing f32 in the type that was there.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use half::{bf16, f16};
use orpo_model::{Dtype, ModelError, WeightFile};

use crate::checkpoint::CheckpointError;

/// A matrix in memory, by rows.
#[derive(Debug)]
pub(super) struct Matrix {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) values: Vec<f32>,
}

/// A tensor of a file that was checked.
pub(super) struct Place {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: usize,
}

/// The tensors of a safetensors file, in the order of their bytes, which follow each other without gaps.
///
/// # Errors
/// For a file that is not whole, and for a type that is not computed with.
pub(super) fn places(path: &Path) -> Result<Vec<Place>, ModelError> {
    let file = WeightFile::open(path)?;
    file.tensors()
        .map(|(name, info)| {
            let dtype = file.float_type(&name, info)?;
            let (start, end) = info.data_offsets;
            Ok(Place { name, dtype, shape: info.shape.clone(), bytes: end - start })
        })
        .collect()
}

/// All tensors of a safetensors file by name; none in the place of what is no matrix.
pub(super) fn read_all(path: &Path) -> Result<Vec<(String, Option<Matrix>)>, CheckpointError> {
    let places = places(path)?;
    let failed = |source: io::Error| CheckpointError::Read { path: path.to_path_buf(), source };
    let mut file = File::open(path).map_err(failed)?;
    read_raw_header(&mut file).map_err(failed)?;
    let mut tensors = Vec::with_capacity(places.len());
    for place in places {
        let mut bytes = vec![0; place.bytes];
        file.read_exact(&mut bytes).map_err(failed)?;
        let matrix = match place.shape[..] {
            [rows, columns] => Some(Matrix { rows, columns, values: to_f32(place.dtype, &bytes) }),
            _ => None,
        };
        tensors.push((place.name, matrix));
    }
    Ok(tensors)
}

/// The header with the length before it, byte by byte; the file then stands at the first tensor.
pub(super) fn read_raw_header(file: &mut File) -> io::Result<Vec<u8>> {
    let mut raw = vec![0; 8];
    file.read_exact(&mut raw)?;
    let length = u64::from_le_bytes(raw[..8].try_into().expect("8 bytes"));
    file.by_ref().take(length).read_to_end(&mut raw)?;
    Ok(raw)
}

/// Values of one of the types that [`places`] lets pass.
pub(super) fn to_f32(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    let halves = bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
    match dtype {
        Dtype::F16 => halves.map(|pair| f16::from_le_bytes(pair).to_f32()).collect(),
        Dtype::BF16 => halves.map(|pair| bf16::from_le_bytes(pair).to_f32()).collect(),
        _ => bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("4 bytes"))).collect(),
    }
}

/// The same the other way, rounded to the nearest.
pub(super) fn from_f32(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    match dtype {
        Dtype::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}
