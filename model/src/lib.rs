//! What the trainer and the server must read alike of a checkpoint directory, as `transformers` 5 reads it:
//!
//! - [`ModelConfig`] is `config.json` in Hugging Face's spelling, for every family that the decoder computes;
//! - [`WeightFiles`] are the safetensors files, their headers checked;
//! - [`Checkpoint`] is both, and settles what they say of each other: names, shapes, and which matrix is the head;
//! - [`product`] multiplies with its matrices, bit-identically on every processor.
//!
//! ```
//! use orpo_model::{Family, ModelConfig};
//! let json = serde_json::json!({
//!     "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2,
//!     "num_attention_heads": 2, "vocab_size": 10, "max_position_embeddings": 32
//! });
//! let config = ModelConfig::from_json(&json)?;
//! assert_eq!((config.family, config.head_dim), (Family::Llama, 4));
//! # Ok::<(), String>(())
//! ```

mod checkpoint;
mod config;
mod error;
mod names;
pub mod product;
mod weights;

pub use checkpoint::Checkpoint;
pub use config::{
    Activation, Family, LlamaShape, ModelConfig, NormKind, NormPlacement, Positions, RopeConfig, RopeScaling,
};
pub use error::ModelError;
pub use names::{BlockNames, LM_HEAD, Names};
pub use safetensors::Dtype;
pub use weights::{WeightFile, WeightFiles};
