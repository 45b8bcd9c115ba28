//! The differentiable decoder: [`ModelConfig`] from `config.json`, [`Decoder`] on the operations of [`crate::ops`],
//! weights by their Hugging Face names, [`lora`] adapters in PEFT's format.

mod block;
mod decoder;
mod load;
pub mod lora;
mod tape;
mod weights;

pub use decoder::{Decoder, PackedRows};
pub use load::Trained;
pub use orpo_model::{
    Checkpoint, Family, LlamaShape, ModelConfig, NormKind, NormPlacement, Positions, RopeConfig, WeightFiles,
};
pub use tape::Tape;
pub(crate) use tape::gradient_of;
pub use weights::WeightSource;
