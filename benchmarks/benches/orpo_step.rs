//! One ORPO step (forward, backward, AdamW) of a 15.2M-parameter Llama (the shape of llama2.c's stories15M) on two pairs
//! of 512 tokens. `cargo bench -p orpo-benchmarks`; threads by `RAYON_NUM_THREADS`.

// criterion_group! makes a function without documentation.
#![allow(missing_docs)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use orpo_train::data::{Example, Sequence, collate};
use orpo_train::loss::NllTarget;
use orpo_train::model::{Decoder, ModelConfig};
use orpo_train::optim::{AdamW, AdamWConfig};
use orpo_train::step::{Objective, forward_backward};

const VOCAB: usize = 32_000;

fn config() -> ModelConfig {
    ModelConfig {
        hidden_size: 288,
        intermediate_size: 768,
        num_hidden_layers: 6,
        num_attention_heads: 6,
        num_key_value_heads: 6,
        head_dim: 48,
        vocab_size: VOCAB,
        max_position_embeddings: 512,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        tie_word_embeddings: true,
        initializer_range: 0.02,
    }
}

/// A pair of 512 tokens a side, of which `prompt_len` are a prompt; `shared` says whether both sides have the same.
fn pair(line: usize, prompt_len: usize, shared: bool) -> Example {
    let token = |i: usize| ((i * 7919 + i / 7 * 31) % VOCAB) as u32;
    let side = |prompt_seed: usize, seed: usize| Sequence {
        ids: (0..512).map(|i| token(i + if i < prompt_len { prompt_seed } else { seed })).collect(),
        prompt_len,
    };
    let chosen = side(1000 * line, 5000 * line);
    let rejected = side(if shared { 1000 * line } else { 2000 * line + 7 }, 9000 * line);
    Example::pair(line, chosen, rejected)
}

fn orpo_step(c: &mut Criterion) {
    let mut group = c.benchmark_group("orpo_step_15m_2x512");
    group.sample_size(10);
    for (name, shared) in [("separate prompts", false), ("shared prompt 256", true)] {
        let examples = [pair(1, 256, shared), pair(2, 256, shared)];
        let batch = collate(&examples.iter().collect::<Vec<_>>());
        let decoder = Decoder::random(&config(), 1).expect("the configuration is valid");
        let adamw =
            AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0, max_grad_norm: Some(1.0) };
        let mut optimizer = AdamW::new(decoder.params(), adamw, 0);
        let objective = Objective::Orpo { beta: 0.1, nll: NllTarget::Full };
        group.throughput(Throughput::Elements(batch.tokens as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                forward_backward(&decoder, &batch, &objective).expect("the step succeeds");
                optimizer.step(1e-5, 1.0).expect("the gradient is finite")
            });
        });
    }
    group.finish();
}

criterion_group!(benches, orpo_step);
criterion_main!(benches);
