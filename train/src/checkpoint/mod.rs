//! What a run writes: model directories in Hugging Face layout, the trainer's state beside them, a manifest, all
//! appearing under their final names only when complete.

mod export;
mod state;

pub use export::{ModelFiles, SLOW_TOKENIZER_FILES, WeightDtype, WeightFormat, write_model, write_trained};
pub use state::{CheckpointDir, TrainerState};

/// How a model directory of the trainer came to be.
pub type Manifest = orpo_files::Manifest<crate::recipe::Recipe>;
