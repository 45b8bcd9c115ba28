//! From what the user names to models that an engine can load: [`hub`] fetches, [`manifest`] checks hashes, and
//! [`merge`](merge()) puts LoRA adapters into the base's weights, [`gguf`] looks into GGUF files, and [`start`](start()) loads
//! it all.

pub mod gguf;
pub mod hub;
pub mod manifest;
mod merge;
mod model;
mod progress;
mod request;
mod start;

pub use merge::{MergeError, merge};
pub use model::{AdapterLoader, Model, Weights};
pub use request::{NamedAdapter, Request};
pub use start::{Started, start};
