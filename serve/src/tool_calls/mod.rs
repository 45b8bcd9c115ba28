//! How replies write calls of functions: the schema that forces a call, and the reader that finds calls in a text.
//!
//! A forced reply is a JSON list of `{"name": ..., "arguments": {...}}`. A free one writes calls as its chat template
//! teaches it, in a [`Style`]. One reader serves whole and streamed answers, so that both say the same.

mod reader;
mod schema;
mod style;
mod syntax;

pub use reader::{CallReader, Part};
pub use schema::schema;
pub use style::Style;
