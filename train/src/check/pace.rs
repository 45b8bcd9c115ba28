//! How long a run will take: its arithmetic, over the pace of a short training step of this machine.

use std::time::Instant;

use orpo_model::kernels::Segment;
use orpo_model::{Decoder, ModelConfig};

use crate::data::{Example, collate, packed_rows};
use crate::error::TrainError;
use crate::loss::NllTarget;
use crate::optim::{AdamW, AdamWConfig};
use crate::step::{Objective, weighted_forward_backward};

/// Matrix elements of the block that is timed, at most; wider models are timed at a narrower width.
const BLOCK_LIMIT: usize = 12 << 20;
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
    /// Matrix elements of the blocks that get a gradient.
    trained: f64,
    /// Those that do not.
    frozen: f64,
    layers: f64,
    /// Width of the queries of all heads.
    queries: f64,
    /// Matrix elements of the head.
    head: f64,
    head_trained: bool,
    checkpointing: bool,
}

impl Counter {
    /// A counter for `model`; an outline is enough.
    pub fn new(model: &Decoder) -> Self {
        let config = model.config();
        let (mut trained, mut frozen) = (0.0, 0.0);
        for param in model.params().iter().chain(&model.adapter_params()) {
            if param.name().contains("layers.") && param.shape().len() == 2 {
                let sum = if param.is_trainable() { &mut trained } else { &mut frozen };
                *sum += param.elem_count() as f64;
            }
        }
        Self {
            trained,
            frozen,
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
        let parameters: usize = decoder.trainable().iter().map(|param| param.elem_count()).sum();
        let examples = sample(examples, config.vocab_size as u32);
        let batch = collate(&examples.iter().collect::<Vec<_>>());
        let work: f64 = examples.iter().map(|example| counter.of(example).training).sum();
        // The simplest of all losses: what is timed is the model.
        let objective = Objective::Sft { nll: NllTarget::Full };
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
            Ok(Self { flops: work / computed, update: updated / parameters as f64 })
        };
        // The first time memory is new.
        timed()?;
        timed()
    }
}

/// The first of `examples` that make a micro-batch, with token ids below `vocabulary`.
fn sample(examples: &[Example], vocabulary: u32) -> Vec<Example> {
    let mut rows = 0;
    let first = examples.iter().take_while(|example| {
        let is_first = rows == 0;
        rows += packed_rows(example);
        is_first || rows <= ROWS
    });
    let mut sample: Vec<Example> = first.cloned().collect();
    for example in &mut sample {
        let sides = std::iter::once(&mut example.chosen).chain(&mut example.rejected);
        sides.flat_map(|side| &mut side.ids).for_each(|id| *id %= vocabulary);
    }
    sample
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Sequence;
    use orpo_model::{LlamaShape, Trained};

    fn llama(hidden_size: usize, heads: usize, kv_heads: usize) -> ModelConfig {
        ModelConfig::llama(&LlamaShape {
            hidden_size,
            intermediate_size: 2 * hidden_size,
            num_hidden_layers: 2,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            vocab_size: 10,
            max_position_embeddings: 32,
            rms_norm_eps: 1e-5,
            rope_theta: 1e4,
            tie_word_embeddings: true,
            initializer_range: 0.02,
        })
    }

    #[test]
    fn work_by_hand() {
        let config = llama(8, 2, 1);
        let work = |trained, checkpointing| {
            let model = Decoder::outline(&config, None, trained).unwrap().with_activation_checkpointing(checkpointing);
            let sequence = |ids: &[u32]| Sequence { ids: ids.to_vec(), prompt_len: 2 };
            Counter::new(&model).of(&Example::pair(1, sequence(&[1, 2, 3, 4]), sequence(&[1, 2, 5, 6])))
        };
        // Rows: two of the prompt, one of each response; labels: one in the prompt, two in each response.
        let products = 2.0 * 4.0 * f64::from(2 * (8 * 8 + 2 * 4 * 8 + 8 * 8 + 3 * 8 * 16));
        let attention = (2.0 * 1.0 + 2.0 * 2.5) * 8.0 * 2.0;
        let head = 2.0 * 5.0 * 80.0;
        let forward = products + 4.0 * attention;
        let Work { training, evaluation } = work(Trained::Everything, false);
        assert_eq!(evaluation, forward + head);
        assert_eq!(training, forward + 2.0 * products + 10.0 * attention + 4.0 * head);
        assert_eq!(work(Trained::Everything, true).training, training + forward);
        assert_eq!(work(Trained::Nothing, false).training, training - products - head);
    }

    #[test]
    fn a_wide_model_is_timed_at_a_narrow_width() {
        for (config, width) in [(llama(256, 4, 2), 256), (llama(4096, 32, 8), 1024), (llama(3840, 15, 5), 960)] {
            let block = one_block(&config);
            assert_eq!((block.hidden_size, block.num_hidden_layers, block.windows.len()), (width, 1, 1));
            assert_eq!(block.head_dim, config.head_dim);
            assert!(block.num_attention_heads.is_multiple_of(block.num_key_value_heads));
        }
    }
}
