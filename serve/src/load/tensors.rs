//! Reading safetensors as f32, and writing f32 in the type that was there.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use half::{bf16, f16};
use serde_json::{Map, Value};

use crate::checkpoint::{CheckpointError, read_header};

/// A matrix in memory, by rows.
#[derive(Debug)]
pub(super) struct Matrix {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) values: Vec<f32>,
}

/// Where a tensor lies in a file that was checked.
pub(super) struct Place {
    pub(super) name: String,
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: usize,
}

/// The tensors of a checked header, in the order of their bytes, which follow each other without gaps.
pub(super) fn places(header: &Map<String, Value>) -> Vec<Place> {
    let whole = |value: &Value| value.as_u64().unwrap_or_default() as usize;
    let span = |tensor: &Value| (whole(&tensor["data_offsets"][0]), whole(&tensor["data_offsets"][1]));
    let mut tensors: Vec<_> = header.iter().filter(|(name, _)| *name != "__metadata__").collect();
    tensors.sort_by_key(|(_, tensor)| span(tensor));
    let place = |(name, tensor): (&String, &Value)| {
        let (start, end) = span(tensor);
        Place {
            name: name.clone(),
            dtype: tensor["dtype"].as_str().unwrap_or_default().into(),
            shape: tensor["shape"].as_array().into_iter().flatten().map(whole).collect(),
            bytes: end - start,
        }
    };
    tensors.into_iter().map(place).collect()
}

/// All tensors of a safetensors file by name; none in the place of what is no matrix.
pub(super) fn read_all(path: &Path) -> Result<Vec<(String, Option<Matrix>)>, CheckpointError> {
    let places = places(&read_header(path)?);
    let failed = |source: io::Error| CheckpointError::Read { path: path.to_path_buf(), source };
    let mut file = File::open(path).map_err(failed)?;
    read_raw_header(&mut file).map_err(failed)?;
    let mut tensors = Vec::with_capacity(places.len());
    for place in places {
        let mut bytes = vec![0; place.bytes];
        file.read_exact(&mut bytes).map_err(failed)?;
        let matrix = match place.shape[..] {
            [rows, columns] => Some(Matrix { rows, columns, values: to_f32(&place.dtype, &bytes) }),
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

/// Values of one of the types that [`read_header`] lets pass.
pub(super) fn to_f32(dtype: &str, bytes: &[u8]) -> Vec<f32> {
    let halves = bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
    match dtype {
        "F16" => halves.map(|pair| f16::from_le_bytes(pair).to_f32()).collect(),
        "BF16" => halves.map(|pair| bf16::from_le_bytes(pair).to_f32()).collect(),
        _ => bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("4 bytes"))).collect(),
    }
}

/// The same the other way, rounded to the nearest.
pub(super) fn from_f32(dtype: &str, values: &[f32]) -> Vec<u8> {
    match dtype {
        "F16" => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
        "BF16" => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}
