//! The first lines of a file.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::jsonl::{self, InputError};

/// The first rows of a JSONL file: not more than `rows` of them, nor many more than `bytes`; and how many lines there are.
///
/// # Errors
/// When the file cannot be read, or one of these lines is not a row.
pub fn head<T: DeserializeOwned>(path: &Path, rows: usize, bytes: usize) -> Result<(Vec<T>, usize), InputError> {
    let failed = |error: io::Error| InputError::File { path: path.to_owned(), problem: error.to_string() };
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let (mut first, mut line, mut taken, mut total) = (Vec::new(), Vec::new(), 0, 0);
    loop {
        line.clear();
        if file.read_until(b'\n', &mut line).map_err(failed)? == 0 {
            break;
        }
        let is_row = usize::from(!line.trim_ascii().is_empty());
        total += is_row;
        // Blank lines are taken, too: they count in what an error says.
        if taken < rows && first.len() < bytes {
            first.extend_from_slice(&line);
            taken += is_row;
        }
    }
    let rows = jsonl::rows(path, &first)?;
    Ok((rows.into_iter().map(|(_, row)| row).collect(), total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("samples.jsonl");
        std::fs::write(&path, "1\n2\n\n3\n4").unwrap();
        assert_eq!(head::<u8>(&path, 2, 100).unwrap(), (vec![1, 2], 4));
        assert_eq!(head::<u8>(&path, 9, 3).unwrap(), (vec![1, 2], 4));
        std::fs::write(&path, "1\n\n{").unwrap();
        assert_eq!(head::<u8>(&path, 1, 100).unwrap(), (vec![1], 2));
        let message = head::<u8>(&path, 2, 100).unwrap_err().to_string();
        assert!(message.contains("samples.jsonl:3: "), "{message}");
    }
}
