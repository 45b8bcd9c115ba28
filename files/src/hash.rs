//! SHA-256, in lower-case hexadecimal.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::FileError;

/// Bytes that are read at once.
const BUFFER: usize = 1 << 20;

/// The SHA-256 of some bytes.
pub fn sha256(bytes: impl AsRef<[u8]>) -> String {
    hex(&Sha256::digest(bytes))
}

/// The SHA-256 of a file.
///
/// # Errors
/// When it cannot be read.
pub fn sha256_file(path: &Path) -> Result<String, FileError> {
    File::open(path).and_then(|file| sha256_stream(file, |_| {})).map_err(|error| FileError::read(path, error))
}

/// The SHA-256 of what a reader gives until its end. `advance` is told the number of bytes of every piece.
///
/// # Errors
/// From the reader.
pub fn sha256_stream(mut reader: impl Read, mut advance: impl FnMut(usize)) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..count]);
        advance(count);
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-2, appendix B.1.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn the_digest_of_the_standard_s_example() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        assert_eq!(sha256_file(file.path()).unwrap(), ABC);
        assert_eq!(sha256("abc"), ABC);
        let error = sha256_file(Path::new("none")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read `none`: "), "{error}");
    }

    #[test]
    fn a_stream_is_hashed_in_pieces_that_are_counted() {
        let bytes = vec![7; 2 * BUFFER + 5];
        let mut counted = 0;
        assert_eq!(sha256_stream(&bytes[..], |count| counted += count).unwrap(), sha256(&bytes));
        assert_eq!(counted, bytes.len());
    }
}
