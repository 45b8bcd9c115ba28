//! The decoder's forward pass for serving: rows of many sequences at once, with keys and values in pages.
//!
//! Every element is summed in an order that depends on nothing but its own row, so that a row's logits are bit-identical
//! whatever else is in the batch, in whatever pieces the tokens before it came, wherever its pages lie, with any number
//! of threads and with any instruction set.

mod adapter;
pub(crate) mod attention;
mod batch;
mod block;
mod linear;
mod load;
mod rows;
mod workspace;

pub use adapter::{Adapter, AdapterId, LowRank};
pub use batch::{Batch, BatchError, Part};
pub(crate) use load::{Tensors, widened};
pub use workspace::Workspace;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::formulas::soft_cap;
use crate::kv::Pages;
use crate::lanes::Isa;
use crate::product::{Matrix, Storage, product};
use block::{Block, Context};
use linear::{Adapted, Linear};
use rows::Norm;
use workspace::sized;

/// A decoder ready to compute.
#[derive(Debug)]
pub struct Inference {
    config: ModelConfig,
    embedding: Matrix,
    /// Learnt positions, `(max_position_embeddings, hidden_size)`.
    positions: Option<Vec<f32>>,
    project_in: Option<Linear>,
    blocks: Vec<Block>,
    final_norm: Option<Norm>,
    project_out: Option<Linear>,
    /// None where it is the embedding.
    head: Option<Matrix>,
    head_bias: Option<Vec<f32>>,
    /// Radians per position; empty where positions are learnt.
    frequencies: Vec<f32>,
    adapters: BTreeMap<AdapterId, Adapter>,
    next_adapter: u32,
}

impl Inference {
    /// Loads the weights. Matrices are kept in the types of the checkpoint, or quantised: every linear layer and the head, and
    /// with it the embedding where that is the head too (it is kept once, as llama.cpp does); an embedding of its own is only
    /// looked up and stays as it is. Where a type's blocks do not divide a row, another is taken ([`Storage::fitting`]).
    /// Vectors and learnt positions are kept in f32.
    ///
    /// # Errors
    /// When a tensor is missing, has another shape or type, has no use in the model, or cannot be read.
    pub fn load(checkpoint: &Checkpoint, quantize: Option<Storage>) -> Result<Self, ModelError> {
        checkpoint.check_weights()?;
        Self::of(&checkpoint.config, checkpoint, quantize)
    }

    /// As [`Inference::load`], from any source of tensors, which are all there.
    pub(crate) fn of(
        config: &ModelConfig,
        tensors: &dyn Tensors,
        quantize: Option<Storage>,
    ) -> Result<Self, ModelError> {
        load::load(config, tensors, quantize)
    }

    /// Divides the frequencies of the rotation by factors of their own.
    pub(crate) fn divide_frequencies(&mut self, factors: &[f32]) {
        self.frequencies.iter_mut().zip(factors).for_each(|(frequency, factor)| *frequency /= factor);
    }

    /// Its architecture.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Bytes of the weights, without adapters.
    pub fn bytes(&self) -> usize {
        let vector = |vector: &Option<Vec<f32>>| vector.as_ref().map_or(0, |vector| size_of_val(&vector[..]));
        let linears = self.blocks.iter().flat_map(Block::linears).chain(&self.project_in).chain(&self.project_out);
        let norms = self.blocks.iter().flat_map(Block::norms).chain(&self.final_norm);
        self.embedding.bytes()
            + self.head.as_ref().map_or(0, Matrix::bytes)
            + vector(&self.positions)
            + vector(&self.head_bias)
            + linears.map(Linear::bytes).sum::<usize>()
            + norms.map(Norm::bytes).sum::<usize>()
    }

    /// Takes an adapter for batches to ask for; it leaves the weights as they are.
    ///
    /// # Panics
    /// If the adapter was made for another model.
    pub fn add_adapter(&mut self, adapter: Adapter) -> AdapterId {
        assert!(adapter.fits(&self.config), "an adapter for another model");
        let id = AdapterId(self.next_adapter);
        self.next_adapter += 1;
        self.adapters.insert(id, adapter);
        id
    }

    /// Reads an adapter in PEFT's format and adds it.
    ///
    /// # Errors
    /// As [`Adapter::open`].
    pub fn load_adapter(&mut self, dir: &Path) -> Result<AdapterId, ModelError> {
        Ok(self.add_adapter(Adapter::open(&self.config, dir)?))
    }

    /// Forgets an adapter; false if there is none of this id.
    pub fn unload(&mut self, adapter: AdapterId) -> bool {
        self.adapters.remove(&adapter).is_some()
    }

    /// Computes the rows of a batch: writes their keys and values into the pages of their tables, and replaces `logits` by
    /// those of the wanted rows, `(wanted, vocab_size)`.
    ///
    /// # Errors
    /// When the batch does not fit the model, its pages or itself; then neither pages nor logits were touched.
    pub fn forward(
        &self,
        batch: &Batch<'_>,
        pages: &mut Pages,
        workspace: &mut Workspace,
        logits: &mut Vec<f32>,
    ) -> Result<(), BatchError> {
        // Within the pool: from outside, each of the products would be handed over to it and waited for.
        rayon::scope(|_| self.forward_with(Isa::best(), batch, pages, workspace, logits))
    }

    fn forward_with(
        &self,
        isa: Isa,
        batch: &Batch<'_>,
        pages: &mut Pages,
        workspace: &mut Workspace,
        logits: &mut Vec<f32>,
    ) -> Result<(), BatchError> {
        batch.check(&self.config, pages, |adapter| self.adapters.contains_key(&adapter))?;
        if batch.ids.is_empty() {
            logits.clear();
            return Ok(());
        }
        let adapted = self.adapted(batch.parts.iter().map(|part| (part.rows.clone(), part.adapter)));
        let context = Context { config: &self.config, parts: &batch.parts, adapted: &adapted, isa };
        self.embed(batch, &adapted, workspace);
        for block in &self.blocks {
            block.forward(&context, pages, workspace);
        }
        let wanted = batch.wanted.iter().enumerate().map(|(i, row)| {
            let part = batch.parts.partition_point(|part| part.rows.end <= *row);
            (i..i + 1, batch.parts[part].adapter)
        });
        self.logits(&batch.wanted, &self.adapted(wanted), workspace, logits);
        Ok(())
    }

    /// Rows with adapters; neighbours with the same are taken together.
    fn adapted(&self, rows: impl Iterator<Item = (Range<usize>, Option<AdapterId>)>) -> Vec<Adapted<'_>> {
        let mut last = None;
        let mut adapted: Vec<Adapted<'_>> = Vec::new();
        for (rows, id) in rows.filter_map(|(rows, id)| Some((rows, id?))) {
            match adapted.last_mut() {
                Some((before, _)) if last == Some(id) && before.end == rows.start => before.end = rows.end,
                _ => adapted.push((rows, &self.adapters[&id])),
            }
            last = Some(id);
        }
        adapted
    }

    /// The input of the first block, and the rows' rotations.
    fn embed(&self, batch: &Batch<'_>, adapted: &[Adapted<'_>], workspace: &mut Workspace) {
        let (hidden, narrow) = (self.config.hidden_size, self.config.embedding_size);
        let Workspace { x, narrow: embedded, layer, .. } = workspace;
        let x = sized(x, batch.ids.len() * hidden);
        let scale = self.config.embedding_scale as f32;
        let look_up = |to: &mut [f32]| {
            for (id, row) in batch.ids.iter().zip(to.chunks_exact_mut(narrow)) {
                self.embedding.read_row(*id as usize, row);
                row.iter_mut().for_each(|x| *x *= scale);
            }
        };
        match &self.project_in {
            None => look_up(x),
            Some(project_in) => {
                let embedded = sized(embedded, batch.ids.len() * narrow);
                look_up(embedded);
                project_in.forward(embedded, x, false, adapted, &mut layer.lora);
            }
        }
        let positions = batch.parts.iter().flat_map(|part| part.start..part.start + part.rows.len());
        if let Some(table) = &self.positions {
            for (row, position) in x.chunks_exact_mut(hidden).zip(positions.clone()) {
                rows::add(row, &table[position * hidden..(position + 1) * hidden]);
            }
        }
        layer.rope.fill(positions.map(|position| position as u32), &self.frequencies);
    }

    /// The head of the wanted rows.
    fn logits(&self, wanted: &[usize], adapted: &[Adapted<'_>], workspace: &mut Workspace, logits: &mut Vec<f32>) {
        let hidden = self.config.hidden_size;
        let Workspace { x, h, narrow, layer, .. } = workspace;
        let h = sized(h, wanted.len() * hidden);
        for (to, row) in h.chunks_exact_mut(hidden).zip(wanted) {
            to.copy_from_slice(&x[row * hidden..(row + 1) * hidden]);
        }
        self.final_norm.iter().for_each(|norm| norm.apply_in_place(h));
        let input = match &self.project_out {
            None => h,
            Some(project_out) => {
                let narrow = sized(narrow, wanted.len() * self.config.embedding_size);
                project_out.forward(h, narrow, false, adapted, &mut layer.lora);
                narrow
            }
        };
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        let logits = sized(logits, wanted.len() * self.config.vocab_size);
        product(input, head, self.head_bias.as_deref(), logits, false);
        if let Some(cap) = self.config.final_softcap {
            soft_cap(logits, cap as f32);
        }
    }
}
