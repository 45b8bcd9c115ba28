//! A forward pass that can be taken back, block by block.

use crate::array::Array;
use crate::block::{Context, Saved};
use crate::decoder::{Decoder, PackedRows};
use crate::error::ModelError;
use crate::kernels::{Input, accumulate_embedding_grad, embedding, linear_backward, scale};

/// What a forward pass keeps for its backward pass.
#[derive(Debug)]
pub struct Tape<'a> {
    decoder: &'a Decoder,
    context: Context<'a>,
    blocks: Vec<Kept>,
}

/// What is kept of one block.
#[derive(Debug)]
struct Kept {
    input: Array,
    /// None where it is computed again.
    saved: Option<Saved>,
}

impl Decoder {
    /// The last block's output `(rows, hidden)`, and what takes its gradient back.
    ///
    /// # Errors
    /// When a token or a position is not the model's.
    pub fn forward<'a>(&'a self, rows: &'a PackedRows) -> Result<(Array, Tape<'a>), ModelError> {
        let context = self.context(rows);
        let mut x = self.embed(rows)?;
        let mut blocks = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let (y, saved) = block.forward(&x, &context, !self.activation_checkpointing)?;
            blocks.push(Kept { input: x, saved });
            x = y;
        }
        Ok((x, Tape { decoder: self, context, blocks }))
    }
}

impl Tape<'_> {
    /// Adds the gradients of all parameters, given that of the last block's output `(rows, hidden)`.
    ///
    /// # Errors
    /// When the shape is not that of the output.
    pub fn backward(self, dhidden: Array) -> Result<(), ModelError> {
        let Self { decoder, context, blocks } = self;
        let mut grad = dhidden;
        for (block, Kept { input, saved }) in decoder.blocks.iter().zip(blocks).rev() {
            let saved = match saved {
                Some(saved) => saved,
                None => block.forward(&input, &context, true)?.1.expect("it was asked to keep"),
            };
            grad = block.backward(&input, saved, grad, &context)?;
        }
        decoder.embedding_backward(context.rows, grad)
    }
}

impl Decoder {
    /// Takes the gradient of the first block's input `(rows, hidden)` to the embedding tables and their projection.
    fn embedding_backward(&self, rows: &PackedRows, grad: Array) -> Result<(), ModelError> {
        let is_trained = self.embed_tokens.is_trainable();
        let is_adapted = self.project_in.as_ref().is_some_and(|project_in| project_in.lora.is_some());
        if !is_trained && !is_adapted {
            return Ok(());
        }
        if let Some(table) = self.embed_positions.as_ref().filter(|_| is_trained) {
            accumulate_embedding_grad(&self.position_ids(rows), &grad, 1.0, None, table)?;
        }
        let factor = self.config.embedding_scale as f32;
        let grad = match &self.project_in {
            None => grad,
            Some(project_in) => {
                let mut tokens = embedding(&rows.ids, &self.embed_tokens)?;
                scale(&mut tokens, factor);
                linear_backward(Input::Plain(&tokens), project_in, rows.dropout_seed, &grad)?
            }
        };
        if !is_trained {
            return Ok(());
        }
        let untrained = self.config.pad_token_id;
        accumulate_embedding_grad(&rows.ids, &grad, factor, untrained, &self.embed_tokens)
    }
}
