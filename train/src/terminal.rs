//! What is said to a person: output whose reader may have gone, and words for counts.

use std::io::{self, Write};
use std::path::Path;

use crate::error::TrainError;

/// Writes to stdout. A closed pipe is not an error: whoever reads has seen enough.
///
/// # Errors
/// When stdout cannot be written to for another reason.
pub fn print(text: &str) -> Result<(), TrainError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(TrainError::write(Path::new("stdout"), error)),
        _ => Ok(()),
    }
}

/// Writes a line to stderr. What happens to it must not end a training.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A count with its noun: `1 row`, `2 rows`.
pub fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_their_plural() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "row")), ["0 rows", "1 row", "2 rows"]);
    }
}
