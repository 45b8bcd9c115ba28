//! What a run writes: model directories in Hugging Face layout, the trainer's state beside them, a manifest, all
//! appearing under their final names only when complete.

mod atomic;
mod export;
mod hash;
mod manifest;
mod state;

pub use atomic::{recover, remove_dir, replace_dir, write_file};
pub use export::{ModelFiles, SLOW_TOKENIZER_FILES, WeightDtype, WeightFormat, write_model, write_trained};
pub use hash::sha256_file;
pub use manifest::{DataLineage, Manifest};
pub use state::{CheckpointDir, TrainerState};
