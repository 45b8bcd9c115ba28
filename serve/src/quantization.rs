//! Types to which weights are quantised while they are loaded.

use orpo_model::product::Storage;

/// The block types of llama.cpp, by bits per weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs, reason = "the names are those of the format")]
pub enum Quantization {
    #[value(name = "q2k")]
    Q2K,
    #[value(name = "q3k")]
    Q3K,
    #[value(name = "q4_0")]
    Q4_0,
    #[value(name = "q4k")]
    Q4K,
    #[value(name = "q5_0")]
    Q5_0,
    #[value(name = "q5k")]
    Q5K,
    #[value(name = "q6k")]
    Q6K,
    #[value(name = "q8_0")]
    Q8_0,
}

impl Quantization {
    /// How `native` stores the weights.
    pub fn storage(self) -> Storage {
        match self {
            Self::Q2K => Storage::Q2K,
            Self::Q3K => Storage::Q3K,
            Self::Q4_0 => Storage::Q4_0,
            Self::Q4K => Storage::Q4K,
            Self::Q5_0 => Storage::Q5_0,
            Self::Q5K => Storage::Q5K,
            Self::Q6K => Storage::Q6K,
            Self::Q8_0 => Storage::Q8_0,
        }
    }
}
