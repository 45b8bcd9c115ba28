//! Preference data: from a file to canonical [`Preference`]s, to token ids, to packed batches.

mod collate;
mod order;
mod preference;
mod read;
mod terminator;
mod tokenise;
mod truncate;

pub use collate::{Batch, collate, packed_rows};
pub use order::{BatchSize, Batching};
pub use preference::{Preference, Text};
pub use read::{Rows, read_documents, read_preferences};
pub use terminator::untrained_terminator;
pub use tokenise::{Boundary, Dropped, Example, Sequence, TokeniseOptions, Tokeniser};
pub use truncate::{Kept, Limits, Truncation};
