//! The decoder's description, shared by the trainer and the server: [`ModelConfig`] reads `config.json` in Hugging Face's
//! spelling, for every family that the one block computes.
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

mod config;

pub use config::{
    Activation, ConfigError, Family, LlamaShape, ModelConfig, NormKind, NormPlacement, Positions, RopeConfig,
    RopeScaling,
};
