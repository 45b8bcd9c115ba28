//! Preference data: from files in any layout to canonical [`Preference`]s, to token ids, to packed batches.

mod collate;
mod dataset;
mod layout;
mod mixture;
mod order;
mod overlap;
mod preference;
mod read;
mod source;
mod terminator;
mod tokenise;
mod truncate;

pub use collate::{Batch, collate, packed_rows};
pub use dataset::{DataFile, Dataset};
pub use layout::Layout;
pub use mixture::Mixture;
pub use order::{BatchSize, Batching};
pub use overlap::{Overlap, duplicates, overlap};
pub use preference::{Document, Preference, Text};
pub use read::{FileRows, Noticed, Row, Selection, read_documents, read_preferences};
pub(crate) use source::is_glob;
pub use source::{Source, Sources};
pub use terminator::untrained_terminator;
pub use tokenise::{Boundary, Dropped, Example, Sequence, TokeniseOptions, Tokeniser};
pub use truncate::{Kept, Limits, Truncation};
