//! Low-rank adapters (Hu et al. 2021) in PEFT's file format: read, trained, written and merged, the same for trainer and
//! server.

mod config;
mod files;
mod merge;
mod names;
mod setup;

pub use config::{BaseName, LoraConfig};
pub use files::{Adapter, Layer, Matrices};
pub use merge::add_product;
pub use names::{ALL_LINEAR, Pattern, Targets, target_names};
pub use setup::{BaseStorage, LoraSetup};

/// The file of an adapter's hyper-parameters.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// The file of its weights.
pub const ADAPTER_FILE: &str = "adapter_model.safetensors";

/// What to do with an adapter that is more than `W + scale B A`.
const MERGE_WITH_PEFT: &str = "merge the adapter with PEFT and use the result as the model";
