//! The decoder that the trainer trains and the server serves, and the checkpoints it comes from, read as `transformers` 5
//! reads them:
//!
//! - [`ModelConfig`] is `config.json` in Hugging Face's spelling, for every family that the decoder computes;
//! - [`WeightFiles`] are the safetensors files, their headers checked;
//! - [`Checkpoint`] is both, and settles what they say of each other: names, shapes, and which matrix is the head;
//! - [`adapter`] is LoRA in PEFT's format;
//! - [`Decoder`] computes on the operations of [`kernels`], and [`Tape`] takes gradients back through it, to the slots of
//!   its [`Param`]s;
//! - [`gguf`] are models in llama.cpp's files, for serving;
//! - [`kv`] keeps keys and values of many sequences in pages, and [`infer`] computes rows of them at once;
//! - [`LogSumExp`] makes log-probabilities of logits;
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

pub mod adapter;
mod array;
mod block;
mod checkpoint;
mod config;
mod decoder;
mod error;
mod formulas;
pub mod gguf;
pub mod infer;
pub mod kernels;
pub mod kv;
mod lanes;
mod load;
mod names;
mod param;
pub mod product;
mod source;
mod tape;
mod values;
mod weights;

pub use array::Array;
pub use checkpoint::Checkpoint;
pub use config::{
    Activation, Family, LlamaShape, ModelConfig, NormKind, NormPlacement, Positions, RopeConfig, RopeScaling,
};
pub use decoder::{Decoder, PackedRows, Scored};
pub use error::ModelError;
pub use formulas::LogSumExp;
pub use load::Trained;
pub use names::{BlockNames, LM_HEAD, Names};
pub use param::{AdamWStep, Param, Slot};
pub use safetensors::Dtype;
pub use source::WeightSource;
pub use tape::Tape;
pub use values::Values;
pub use weights::{WeightFile, WeightFiles};
