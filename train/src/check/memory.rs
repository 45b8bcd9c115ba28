//! Peak memory of a run, from the shapes alone.
//!
//! The sums follow the code: which arrays a block's forward pass saves for its backward pass, what that backward pass needs
//! besides, the head's tile, and what widening or saving a weight copies. Everything is counted in
//! numbers of f32 and multiplied at the end. `tests/check.rs` compares with the memory of real runs.

use orpo_model::{Decoder, ModelConfig, NormPlacement, Positions};
use serde::Serialize;

use crate::data::Batch;

/// What the allocator holds beyond what is asked for, of the memory that comes and goes with every step. Measured on
/// seven families, with and without checkpointing and adapters.
const ALLOCATOR: f64 = 1.04;
/// Bytes that a run needs besides: heaps of the threads, packing buffers of matrix products. Measured there.
const RUNTIME: u64 = 16 << 20;
/// Logits of one tile of the head, for each row (`kernels::linear_logp`).
const TILE: usize = 1024;
/// Rows that a thread lays out for a product, at most (`product::rows`).
const PACKED: usize = 1024;
/// Queries of one block of attention scores (`kernels::attention`).
const QUERIES: usize = 64;

/// Bytes of a run at its peak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct MemoryEstimate {
    /// The model, trained or frozen, as it is stored.
    pub weights: u64,
    /// Of what is trained.
    pub gradients: u64,
    /// Adam's two.
    pub moments: u64,
    /// What the largest micro-batch keeps for its backward pass, and the backward pass of a block.
    pub activations: u64,
    /// The head's tile. The backward pass of the blocks uses the same memory after it.
    pub logits: u64,
    /// Program, tokenizer and data; a frozen weight while it is widened, and rows laid out for products; a weight while it is
    /// saved.
    pub other: u64,
}

impl MemoryEstimate {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.gradients + self.moments + self.activations + self.logits + self.other
    }
}

/// The size of a micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Packed rows.
    pub rows: usize,
    /// Scored tokens.
    pub labels: usize,
    /// Most keys that a row sees.
    pub longest: usize,
}

impl Load {
    /// The size of `batch`.
    pub fn of(batch: &Batch) -> Self {
        let seen = batch.rows.groups.iter().flatten().map(|segment| segment.prefix.len() + segment.rows.len());
        Self { rows: batch.rows.ids.len(), labels: batch.labels.len(), longest: seen.max().unwrap_or(0) }
    }
}

impl std::iter::Sum for Load {
    fn sum<I: Iterator<Item = Self>>(loads: I) -> Self {
        loads.fold(Self { rows: 0, labels: 0, longest: 0 }, |a, b| Self {
            rows: a.rows + b.rows,
            labels: a.labels + b.labels,
            longest: a.longest.max(b.longest),
        })
    }
}

/// The peak of a run of `model` (an outline is enough) whose largest micro-batches are `trained` in training and
/// `evaluated` without a backward pass, with `resident` bytes of program, tokenizer and data.
pub fn estimate(model: &Decoder, trained: &[Load], evaluated: &[Load], resident: u64) -> MemoryEstimate {
    let bytes = |numbers: usize| 4 * numbers as u64;
    let trainable: usize = model.trainable().iter().map(|param| param.elem_count()).sum();
    let stored: usize = model.params().iter().chain(&model.adapter_params()).map(|param| param.stored_bytes()).sum();
    let shape = Shape::of(model);
    let training = trained.iter().map(|load| shape.training(load));
    let evaluating = evaluated.iter().map(|load| shape.evaluation(load));
    let step = training.chain(evaluating).max_by_key(|transient| transient.total()).unwrap_or_default();
    // A weight goes to its file as a copy and as the bytes of the copy, when the memory of a step is free again.
    let saved = 2 * model.trainable().iter().map(|param| param.elem_count()).max().unwrap_or(0);
    let beyond = saved.saturating_sub(step.total());
    let scaled = |numbers: usize| (ALLOCATOR * bytes(numbers) as f64) as u64;
    MemoryEstimate {
        weights: stored as u64,
        gradients: bytes(trainable),
        moments: bytes(2 * trainable),
        activations: scaled(step.activations),
        logits: scaled(step.logits),
        other: resident + RUNTIME + scaled(step.for_products) + bytes(beyond),
    }
}

/// What comes and goes with a micro-batch, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Transient {
    activations: usize,
    logits: usize,
    /// A frozen weight while it is widened, and rows laid out anew.
    for_products: usize,
}

impl Transient {
    fn total(&self) -> usize {
        self.activations + self.logits + self.for_products
    }
}

/// The widths that decide.
struct Shape<'a> {
    config: &'a ModelConfig,
    checkpointing: bool,
    /// Numbers of the largest frozen weight of a block that is not stored in f32.
    widened: usize,
    threads: usize,
}

impl<'a> Shape<'a> {
    fn of(model: &'a Decoder) -> Self {
        let narrow = model.params().iter().filter(|param| param.stored_bytes() < 4 * param.elem_count());
        // Of the tables only the rows of the tokens, and of the head a tile, are widened at a time.
        let in_blocks = narrow.filter(|param| param.name().contains("layers."));
        Self {
            config: model.config(),
            checkpointing: model.has_activation_checkpointing(),
            widened: in_blocks.map(|param| param.elem_count()).max().unwrap_or(0),
            threads: rayon::current_num_threads(),
        }
    }

    /// Width of the queries of all heads, and of the keys.
    fn projected(&self) -> (usize, usize) {
        let c = self.config;
        (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim)
    }

    /// Numbers a row that a block's backward pass needs: the block's input and what its forward pass saves.
    fn saved(&self) -> usize {
        let c = self.config;
        let (queries, keys) = self.projected();
        let normed = usize::from(c.qk_norm);
        // The input; then the arrays of `Saved` that are as wide.
        let hidden = match c.norm_placement {
            NormPlacement::Pre | NormPlacement::Post => 4,
            NormPlacement::Sandwich => 6,
            NormPlacement::Parallel => 2,
        };
        // Queries, keys and values; attention's output and its log-sum-exp.
        hidden * c.hidden_size + (2 + normed) * queries + (2 + normed) * keys + c.num_attention_heads + self.inner()
    }

    /// Numbers a row that the feed-forward layer saves besides its input: the activation is computed again.
    fn inner(&self) -> usize {
        let c = self.config;
        if c.gated_mlp { 2 * c.intermediate_size } else { c.intermediate_size }
    }

    /// Numbers a row that the backward pass of a block needs besides what was saved, at its widest operation: the gradients
    /// of that operation and of the residual stream.
    fn block_backward(&self) -> usize {
        let c = self.config;
        let (queries, keys) = self.projected();
        let feed_forward = if c.gated_mlp { 3 } else { 2 } * c.intermediate_size;
        // The output's gradient; those of queries, keys and values by groups, and in the order of the rows.
        let attention = 3 * queries + 4 * keys;
        match c.norm_placement {
            NormPlacement::Parallel => 2 * c.hidden_size + feed_forward.max(attention),
            // By then what the feed-forward layer saved is gone.
            _ => c.hidden_size + feed_forward.max(attention.saturating_sub(self.inner())),
        }
    }

    /// Numbers a row of a block's forward pass that saves nothing, at its widest operation.
    fn block_forward(&self) -> usize {
        let c = self.config;
        let (queries, keys) = self.projected();
        let feed_forward = if c.gated_mlp { 3 } else { 2 } * c.intermediate_size;
        (4 * c.hidden_size + feed_forward).max(2 * c.hidden_size + 4 * queries + 3 * keys)
    }

    /// Attention's scores, which every thread has for itself, and the angles of the rotation.
    fn scratch(&self, load: &Load) -> usize {
        let angles = match &self.config.positions {
            Positions::Rope(rope) => rope.rotary_dim,
            Positions::Learned { .. } => 0,
        };
        self.threads * 2 * QUERIES * load.longest + angles * load.rows
    }

    /// Rows that every thread lays out anew for its products, of the widest input (`product::rows`).
    fn packed(&self, load: &Load) -> usize {
        let c = self.config;
        let widest = c.hidden_size.max(c.intermediate_size).max(self.projected().0);
        load.rows.min(self.threads * PACKED) * widest
    }

    fn tile(&self, load: &Load) -> usize {
        load.labels * TILE.min(self.config.vocab_size)
    }

    /// A micro-batch with its backward pass.
    fn training(&self, load: &Load) -> Transient {
        let c = self.config;
        let hidden = load.rows * c.hidden_size;
        let saved = load.rows * self.saved();
        let (kept, again) = match self.checkpointing {
            false => (c.num_hidden_layers * saved, 0),
            true => (c.num_hidden_layers * hidden, saved - hidden),
        };
        let tile = self.tile(load);
        // Of the head the chosen rows, normalised and projected, and the gradient of its input.
        let in_head = tile + load.labels * (c.hidden_size + 2 * c.embedding_size);
        let in_block = again + load.rows * self.block_backward() + self.scratch(load);
        let activations = kept + in_head.max(in_block) - tile;
        Transient { activations, logits: tile, for_products: self.widened + self.packed(load) }
    }

    /// A micro-batch without.
    fn evaluation(&self, load: &Load) -> Transient {
        let c = self.config;
        let block = load.rows * self.block_forward() + self.scratch(load);
        let logits = self.tile(load);
        let head = load.rows * c.hidden_size + load.labels * (c.hidden_size + c.embedding_size) + logits;
        let for_products = self.widened + self.packed(load);
        Transient { activations: head.max(block) - logits, logits, for_products }
    }
}
