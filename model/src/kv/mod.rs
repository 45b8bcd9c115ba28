//! The key-value cache: pages of [`PAGE`] tokens with counted references ([`Pages`]), and what one sequence holds of
//! them ([`Table`]), after vLLM's paged attention (Kwon et al. 2023).
//!
//! ```
//! use orpo_model::{ModelConfig, kv::{PAGE, Pages, Table}};
//! let json = serde_json::json!({
//!     "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2,
//!     "num_attention_heads": 2, "vocab_size": 10, "max_position_embeddings": 32
//! });
//! let mut pages = Pages::new(&ModelConfig::from_json(&json)?, 1 << 20);
//! let mut table = Table::new(&pages);
//! assert!(table.grow(PAGE + 1, &mut pages));
//! assert_eq!(pages.free(0), pages.total(0) - 2);
//! table.clear(&mut pages);
//! assert_eq!(pages.free(0), pages.total(0));
//! # Ok::<(), String>(())
//! ```

mod index;
mod pages;
mod table;

pub use index::{Index, PageKey};
pub(crate) use pages::HeadPage;
pub use pages::{Group, PAGE, PageId, Pages};
pub use table::Table;
