//! Preference data: from files in any layout to canonical [`Preference`]s, to token ids, to packed batches.

mod collate;
mod dataset;
mod layout;
mod mixture;
mod order;
mod preference;
mod read;
mod source;
mod tokenise;

pub use collate::{Batch, collate};
pub use dataset::{DataFile, Dataset};
pub use layout::Layout;
pub use mixture::Mixture;
pub use order::epoch_order;
pub use preference::{Preference, Text};
pub use read::{FileRows, Row, Selection, read_documents, read_preferences};
pub(crate) use source::is_glob;
pub use source::{Source, Sources};
pub use tokenise::{Boundary, Dropped, Example, Sequence, Tokeniser};
