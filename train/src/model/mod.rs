//! The differentiable decoder: [`ModelConfig`] from `config.json`, [`Decoder`] on the operations of [`crate::ops`],
//! weights by their Hugging Face names.

mod config;
mod decoder;
mod weights;

pub use config::ModelConfig;
pub use decoder::{Decoder, PackedRows};
pub use weights::{WeightFiles, WeightSource};
