//! One ORPO step (forward, backward, AdamW) of a 15.2M-parameter Llama on two pairs of 512 tokens.
//! `cargo bench -p orpo-benchmarks`; threads by `RAYON_NUM_THREADS`.

// criterion_group! makes a function without documentation.
#![allow(missing_docs)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use orpo_benchmarks::{ADAMW, OBJECTIVE, Size, pairs};
use orpo_model::Decoder;
use orpo_train::data::collate;
use orpo_train::optim::AdamW;
use orpo_train::step::forward_backward;

fn orpo_step(c: &mut Criterion) {
    let mut group = c.benchmark_group("orpo_step_15m_2x512");
    group.sample_size(10);
    for (name, shared) in [("separate prompts", false), ("shared prompt 256", true)] {
        let config = Size::Small.config(512);
        let examples = pairs(2, 256, 512, shared, config.vocab_size);
        let batch = collate(&examples.iter().collect::<Vec<_>>());
        let decoder = Decoder::random(&config, 1).expect("the configuration is valid");
        let mut optimizer = AdamW::new(&decoder.trainable(), ADAMW, 0);
        group.throughput(Throughput::Elements(batch.tokens as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                forward_backward(&decoder, &batch, &OBJECTIVE).expect("the step succeeds");
                optimizer.step(1e-5, 1.0).expect("the gradient is finite")
            });
        });
    }
    group.finish();
}

criterion_group!(benches, orpo_step);
criterion_main!(benches);
