//! How long a run will take: its arithmetic, over the pace of a short training step of this machine.

use std::time::Instant;

use crate::data::{Example, collate};
use crate::error::TrainError;
use crate::model::{Decoder, ModelConfig};
use crate::ops::Segment;
use crate::optim::{AdamW, AdamWConfig};
use crate::step::{Objective, weighted_forward_backward};

/// Matrix elements of the block that is timed, at most; wider models are timed at a narrower width.
const BLOCK_LIMIT: usize = 8 << 20;
/// Packed rows that are timed, at most (but one example in any case).
const ROWS: usize = 1024;
/// Vocabulary that is timed, at most.
const VOCABULARY: usize = 4096;

/// The arithmetic of one example, in floating-point operations.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Work {
    /// Forward and backward pass.
    pub training: f64,
    /// Forward pass.
    pub evaluation: f64,
}

/// Counts the work of examples in a model.
#[derive(Debug, Clone, Copy)]
pub struct Counter {
    /// Matrix elements of the blocks that get a gradient, and those that do not.
    trained: f64,
    frozen: f64,
    layers: f64,
    queries: f64,
    head: f64,
    head_trained: bool,
    checkpointing: bool,
}

impl Counter {
    /// A counter for `model`; an outline is enough.
    pub fn new(model: &Decoder) -> Self {
        let config = model.config();
        let in_blocks = model.params().iter().chain(&model.adapter_params()).cloned().collect::<Vec<_>>();
        let matrices = in_blocks.iter().filter(|param| param.name().contains("layers.") && param.shape().len() == 2);
        let (trained, frozen): (Vec<_>, Vec<_>) = matrices.partition(|param| param.is_trainable());
        let count = |params: &[&std::sync::Arc<crate::ops::Param>]| -> f64 {
            params.iter().map(|param| param.elem_count() as f64).sum()
        };
        Self {
            trained: count(&trained),
            frozen: count(&frozen),
            layers: config.num_hidden_layers as f64,
            queries: (config.num_attention_heads * config.head_dim) as f64,
            head: model.head().weight.elem_count() as f64,
            head_trained: model.head().weight.is_trainable(),
            checkpointing: model.has_activation_checkpointing(),
        }
    }

    /// The work of `example` in a batch.
    pub fn of(&self, example: &Example) -> Work {
        let batch = collate(&[example]);
        let (rows, labels) = (batch.rows.ids.len() as f64, batch.labels.len() as f64);
        let seen = |segment: &Segment| {
            let own = segment.rows.len() as f64;
            own * (segment.prefix.len() as f64 + own / 2.0)
        };
        let seen: f64 = batch.rows.groups.iter().flatten().map(seen).sum();
        let attention = seen * self.queries * self.layers;
        let again = if self.checkpointing { 1.0 } else { 0.0 };
        // A product forward, one backward for the input and one for the weight; attention has two and five.
        let forward = 2.0 * rows * (self.trained + self.frozen) + 4.0 * attention;
        let backward = 2.0 * rows * (2.0 * self.trained + self.frozen) + 10.0 * attention;
        // The head's backward pass computes its logits again.
        let head = 2.0 * labels * self.head;
        let head_products = if self.head_trained { 4.0 } else { 3.0 };
        Work { training: forward * (1.0 + again) + backward + head_products * head, evaluation: forward + head }
    }
}

/// The speed of this machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Floating-point operations a second in a training step.
    pub flops: f64,
    /// Seconds of the optimiser for one parameter.
    pub update: f64,
}

impl Pace {
    /// Times one step of one block of the model of `config`, with random weights, on some of `examples`.
    ///
    /// # Errors
    /// From the model's operations.
    pub fn measure(config: &ModelConfig, examples: &[Example]) -> Result<Self, TrainError> {
        let config = one_block(config);
        let decoder = Decoder::random(&config, 0)?;
        let counter = Counter::new(&decoder);
        let mut rows = 0;
        let chosen = examples.iter().take_while(|example| {
            let first = rows == 0;
            rows += crate::data::packed_rows(example);
            first || rows <= ROWS
        });
        let vocabulary = config.vocab_size as u32;
        let within = |example: &Example| {
            let mut example = example.clone();
            let ids = std::iter::once(&mut example.chosen).chain(&mut example.rejected).flat_map(|s| &mut s.ids);
            ids.for_each(|id| *id %= vocabulary);
            example
        };
        let examples: Vec<Example> = chosen.map(within).collect();
        let batch = collate(&examples.iter().collect::<Vec<_>>());
        // The simplest of all losses: what is timed is the model.
        let objective = Objective::Sft { nll: crate::loss::NllTarget::Full };
        let mut optimizer = AdamW::new(
            &decoder.trainable(),
            AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0, max_grad_norm: None },
            0,
        );
        let mut timed = || -> Result<Self, TrainError> {
            let started = Instant::now();
            weighted_forward_backward(&decoder, &batch, &objective, 1.0)?;
            let computed = started.elapsed().as_secs_f64();
            optimizer.step(1e-6, 1.0)?;
            let updated = started.elapsed().as_secs_f64() - computed;
            let parameters: usize = decoder.trainable().iter().map(|param| param.elem_count()).sum();
            let work: f64 = examples.iter().map(|example| counter.of(example).training).sum();
            Ok(Self { flops: work / computed, update: updated / parameters as f64 })
        };
        // The first time memory is new.
        timed()?;
        timed()
    }
}

/// One block of a model, no wider than need be.
fn one_block(config: &ModelConfig) -> ModelConfig {
    let mut config = ModelConfig {
        num_hidden_layers: 1,
        windows: config.windows[..1].to_vec(),
        vocab_size: config.vocab_size.min(VOCABULARY),
        pad_token_id: None,
        ..config.clone()
    };
    let elements = |c: &ModelConfig| {
        let attention = 2 * (c.num_attention_heads + c.num_key_value_heads) * c.head_dim;
        c.hidden_size * (attention + if c.gated_mlp { 3 } else { 2 } * c.intermediate_size)
    };
    while elements(&config) > BLOCK_LIMIT && config.num_attention_heads > 1 {
        let halves = [
            &mut config.hidden_size,
            &mut config.embedding_size,
            &mut config.intermediate_size,
            &mut config.num_attention_heads,
            &mut config.num_key_value_heads,
        ];
        halves.into_iter().for_each(|width| *width = (*width / 2).max(1));
        if !config.num_attention_heads.is_multiple_of(config.num_key_value_heads) {
            config.num_key_value_heads = 1;
        }
    }
    config
}
