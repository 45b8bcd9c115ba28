//! What the benchmarks measure: models of known shapes, pairs of known lengths, one ORPO step.
//!
//! - `cargo bench -p orpo-benchmarks` times the step with criterion.
//! - `cargo run --release -p orpo-benchmarks --bin orpo_step -- --help` measures one configuration in a process of its own:
//!   time, processor time and peak memory.
//! - `benchmarks/peers/orpo_step.py` does the same in PyTorch, TRL and peft, and `benchmarks/peers/compare.py` runs both
//!   side by side.

use orpo_model::{LlamaShape, ModelConfig};
use orpo_train::data::{Example, Sequence};
use orpo_train::loss::NllTarget;
use orpo_train::optim::AdamWConfig;
use orpo_train::step::Objective;

/// A model of 15.2 million parameters (the shape of llama2.c's stories15M) or of 134.5 million (that of SmolLM-135M).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// 15.2 million.
    Small,
    /// 134.5 million.
    Large,
}

impl Size {
    /// Its configuration for sequences of `positions` tokens.
    pub fn config(self, positions: usize) -> ModelConfig {
        let small = LlamaShape {
            hidden_size: 288,
            intermediate_size: 768,
            num_hidden_layers: 6,
            num_attention_heads: 6,
            num_key_value_heads: 6,
            vocab_size: 32_000,
            max_position_embeddings: positions,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            tie_word_embeddings: true,
            initializer_range: 0.02,
        };
        ModelConfig::llama(&match self {
            Self::Small => small,
            Self::Large => LlamaShape {
                hidden_size: 576,
                intermediate_size: 1536,
                num_hidden_layers: 30,
                num_attention_heads: 9,
                num_key_value_heads: 3,
                vocab_size: 49_152,
                ..small
            },
        })
    }
}

/// Pairs whose sides have `length` tokens each, of which `prompt` are a prompt. `shared` says whether both sides have
/// the same prompt, which is then computed once.
pub fn pairs(count: usize, prompt: usize, length: usize, shared: bool, vocab: usize) -> Vec<Example> {
    let token = |i: usize| ((i * 7919 + i / 7 * 31) % vocab) as u32;
    let side = |prompt_seed: usize, seed: usize| Sequence {
        ids: (0..length).map(|i| token(i + if i < prompt { prompt_seed } else { seed })).collect(),
        prompt_len: prompt,
    };
    (1..=count)
        .map(|line| {
            let rejected_prompt = if shared { 1000 * line } else { 2000 * line + 7 };
            Example::pair(line, side(1000 * line, 5000 * line), side(rejected_prompt, 9000 * line))
        })
        .collect()
}

/// TRL's loss with its default weight.
pub const OBJECTIVE: Objective = Objective::Orpo { beta: 0.1, nll: NllTarget::Full };

/// AdamW as TRL sets it.
pub const ADAMW: AdamWConfig =
    AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0, max_grad_norm: Some(1.0) };
