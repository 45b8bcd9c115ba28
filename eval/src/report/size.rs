//! How large a model is, by the headers of its weight files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

/// A header that is larger is not read: models of a thousand layers have headers of a few megabytes.
const MOST: u64 = 64 << 20;

/// The number of parameters in the safetensors files among `names` in a directory; `None` where there are none, or one of
/// them cannot be read.
pub fn parameters<'a>(directory: &Path, names: impl Iterator<Item = &'a str>) -> Option<u64> {
    let files = names.filter(|name| name.ends_with(".safetensors"));
    let counts = files.map(|name| of_file(&directory.join(name))).collect::<Option<Vec<u64>>>()?;
    (!counts.is_empty()).then(|| counts.iter().sum())
}

fn of_file(path: &Path) -> Option<u64> {
    let mut file = File::open(path).ok()?;
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let length = u64::from_le_bytes(length);
    if length > MOST {
        return None;
    }
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header).ok()?;
    let tensors: Map<String, Value> = serde_json::from_slice(&header).ok()?;
    let elements = |tensor: &Value| tensor["shape"].as_array()?.iter().map(Value::as_u64).product::<Option<u64>>();
    tensors.iter().filter(|(name, _)| *name != "__metadata__").map(|(_, tensor)| elements(tensor)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_elements_of_all_tensors_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let header = r#"{"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]},
                         "b": {"dtype": "F32", "shape": [5], "data_offsets": [48, 68]}}"#;
        let content = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 68]].concat();
        std::fs::write(directory.path().join("a.safetensors"), content).unwrap();
        let of = |names: &[&str]| parameters(directory.path(), names.iter().copied());
        assert_eq!(of(&["a.safetensors", "a.safetensors", "config.json"]), Some(34));
        assert_eq!((of(&["config.json"]), of(&["a.safetensors", "gone.safetensors"])), (None, None));
        std::fs::write(directory.path().join("b.safetensors"), [255; 9]).unwrap();
        assert_eq!(of(&["b.safetensors"]), None);
    }
}
