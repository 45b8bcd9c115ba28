//! A forward pass that can be taken back block by block, each block's graph freed before the next one's turn.

use candle_core::{Result, Tensor, Var};

use crate::block::Context;
use crate::decoder::{Decoder, PackedRows};
use crate::kernels::{self, Input, backward_from};

/// What a forward pass keeps for its backward pass.
#[derive(Debug)]
pub struct Tape<'a> {
    decoder: &'a Decoder,
    context: Context<'a>,
    blocks: Vec<Saved>,
}

/// What is kept of one block.
#[derive(Debug)]
enum Saved {
    /// Everything: the input and the output at the end of its graph.
    Graph(Var, Tensor),
    /// The input alone; the graph is made again.
    Input(Tensor),
}

impl Decoder {
    /// The last block's output `(rows, hidden)`, outside any graph, and what takes its gradient back.
    ///
    /// # Errors
    /// When a token or a position is not the model's.
    pub fn forward<'a>(&'a self, rows: &'a PackedRows) -> Result<(Tensor, Tape<'a>)> {
        let context = self.context(rows);
        let mut x = self.embed(rows)?;
        let mut blocks = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            if self.activation_checkpointing {
                let y = block.forward(&x, &context)?;
                blocks.push(Saved::Input(x));
                x = y;
            } else {
                let input = Var::from_tensor(&x)?;
                let output = block.forward(input.as_tensor(), &context)?;
                x = output.detach();
                blocks.push(Saved::Graph(input, output));
            }
        }
        Ok((x, Tape { decoder: self, context, blocks }))
    }
}

impl Tape<'_> {
    /// Adds the gradients of all parameters, given that of the last block's output `(rows, hidden)`.
    ///
    /// # Errors
    /// From an operation's backward pass.
    pub fn backward(self, dhidden: Tensor) -> Result<()> {
        let Self { decoder, context, blocks } = self;
        let mut grad = dhidden;
        for (block, saved) in decoder.blocks.iter().zip(blocks).rev() {
            let (input, output) = match saved {
                Saved::Graph(input, output) => (input, output),
                Saved::Input(x) => {
                    let input = Var::from_tensor(&x)?;
                    let output = block.forward(input.as_tensor(), &context)?;
                    (input, output)
                }
            };
            grad = gradient_of(&input, &output, &grad)?;
        }
        decoder.embedding_backward(context.rows, grad)
    }
}

impl Decoder {
    /// Takes the gradient of the first block's input `(rows, hidden)` to the embedding tables and their projection.
    fn embedding_backward(&self, rows: &PackedRows, grad: Tensor) -> Result<()> {
        let is_trained = self.embed_tokens.is_trainable();
        let is_adapted = self.project_in.as_ref().is_some_and(|project_in| project_in.lora.is_some());
        if !is_trained && !is_adapted {
            return Ok(());
        }
        if let Some(table) = self.embed_positions.as_ref().filter(|_| is_trained) {
            kernels::accumulate_embedding_grad(&self.position_ids(rows), &grad, 1.0, None, table)?;
        }
        let scale = self.config.embedding_scale;
        let grad = match &self.project_in {
            None => grad,
            Some(project_in) => {
                let tokens = (kernels::embedding(&rows.ids, &self.embed_tokens)? * scale)?;
                let tokens = Var::from_tensor(&tokens)?;
                let projected = kernels::linear(Input::Plain(&tokens), None, project_in, rows.dropout_seed)?;
                gradient_of(&tokens, &projected, &grad)?
            }
        };
        if !is_trained {
            return Ok(());
        }
        let untrained = self.config.pad_token_id;
        kernels::accumulate_embedding_grad(&rows.ids, &grad, scale as f32, untrained, &self.embed_tokens)
    }
}

/// The gradient of `input`, given that of `output`, which was computed from it.
pub fn gradient_of(input: &Var, output: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let mut grads = backward_from(output, grad)?;
    match grads.remove(input) {
        Some(grad) => Ok(grad),
        None => candle_core::bail!("an operation lost the gradient of its input"),
    }
}
