//! Benchmarks of the pipeline's hot parts. There is nothing to call here; `cargo bench -p orpo-benchmarks` runs them.
