//! A model's weights, from a checkpoint or another source of tensors.

use std::collections::BTreeMap;

use safetensors::Dtype;

use super::Inference;
use super::adapter::modules;
use super::block::Block;
use super::linear::Linear;
use super::rows::Norm;
use crate::checkpoint::Checkpoint;
use crate::config::{ModelConfig, NormKind, Positions};
use crate::error::ModelError;
use crate::kv::Group;
use crate::names::{BlockNames, LM_HEAD, Names};
use crate::product::{Matrix, Storage};

/// Where tensors come from, by the names that `transformers` gives them.
pub(crate) trait Tensors {
    /// The numbers of a tensor of this shape, in f32.
    fn vector(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError>;

    /// A matrix `(outputs, inputs)`, quantised if it is not already.
    fn matrix(
        &self,
        name: &str,
        outputs: usize,
        inputs: usize,
        quantize: Option<Storage>,
    ) -> Result<Matrix, ModelError>;
}

struct Loader<'a> {
    tensors: &'a dyn Tensors,
    config: &'a ModelConfig,
    names: Names,
    quantize: Option<Storage>,
    /// The linear layers in the order of their numbers.
    modules: Vec<(String, usize, usize)>,
}

/// Loads `config`'s model, whose tensors are all there.
pub(super) fn load(
    config: &ModelConfig,
    tensors: &dyn Tensors,
    quantize: Option<Storage>,
) -> Result<Inference, ModelError> {
    let names = Names::of(config.family);
    Loader { tensors, config, names, quantize, modules: modules(config) }.inference()
}

impl Loader<'_> {
    fn inference(&self) -> Result<Inference, ModelError> {
        let config = self.config;
        let prefix = self.names.prefix;
        let (hidden, narrow, vocab) = (config.hidden_size, config.embedding_size, config.vocab_size);
        let (frequencies, positions) = match &config.positions {
            Positions::Rope(rope) => (rope.frequencies(), None),
            Positions::Learned { offset } => {
                let shape = [config.max_position_embeddings + offset, hidden];
                let table = self.tensors.vector(&format!("{prefix}embed_positions.weight"), &shape)?;
                (Vec::new(), Some(table[offset * hidden..].to_vec()))
            }
        };
        let projected = narrow != hidden;
        let groups = Group::of(config);
        let block = |layer: usize| {
            let group = groups.iter().position(|group| group.layers.contains(&layer)).expect("every layer is in one");
            let index = groups[group].layers.iter().position(|other| *other == layer).expect("found above");
            self.block(layer, group, index)
        };
        Ok(Inference {
            config: config.clone(),
            embedding: self.tensors.matrix(
                &self.names.embed_tokens(),
                vocab,
                narrow,
                self.quantize.filter(|_| config.tie_word_embeddings),
            )?,
            positions,
            project_in: projected
                .then(|| self.linear(format!("{prefix}project_in"), hidden, narrow, false))
                .transpose()?,
            blocks: (0..config.num_hidden_layers).map(block).collect::<Result<_, _>>()?,
            final_norm: config
                .final_norm
                .then(|| self.norm(&format!("{prefix}{}", self.names.final_norm), hidden))
                .transpose()?,
            project_out: projected
                .then(|| self.linear(format!("{prefix}project_out"), narrow, hidden, false))
                .transpose()?,
            head: match config.tie_word_embeddings {
                true => None,
                false => Some(self.tensors.matrix(&format!("{LM_HEAD}.weight"), vocab, narrow, self.quantize)?),
            },
            head_bias: config
                .head_bias
                .then(|| self.tensors.vector(&format!("{LM_HEAD}.bias"), &[vocab]))
                .transpose()?,
            frequencies,
            adapters: BTreeMap::new(),
            next_adapter: 0,
        })
    }

    fn block(&self, layer: usize, group: usize, index: usize) -> Result<Block, ModelError> {
        let config = self.config;
        let prefix = format!("{}layers.{layer}.", self.names.prefix);
        let BlockNames { attention_norm, attention_post_norm, mlp_norm, mlp_post_norm, .. } = self.names.block;
        let BlockNames { attention_output, gate, up, down, .. } = self.names.block;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let queries = config.num_attention_heads * config.head_dim;
        let keys = config.num_key_value_heads * config.head_dim;
        let norm = |name: &str, width: usize| self.norm(&format!("{prefix}{name}"), width);
        let optional = |name: Option<&str>| name.map(|name| norm(name, hidden)).transpose();
        let qk_norm = |name: &str| config.qk_norm.then(|| norm(name, config.head_dim)).transpose();
        let linear = |name: &str, outputs: usize, inputs: usize, bias: bool| {
            self.linear(format!("{prefix}{name}"), outputs, inputs, bias)
        };
        Ok(Block {
            attention_norm: norm(attention_norm, hidden)?,
            attention_post_norm: optional(attention_post_norm)?,
            mlp_norm: optional(mlp_norm)?,
            mlp_post_norm: optional(mlp_post_norm)?,
            q: linear("self_attn.q_proj", queries, hidden, config.qkv_bias)?,
            k: linear("self_attn.k_proj", keys, hidden, config.qkv_bias)?,
            v: linear("self_attn.v_proj", keys, hidden, config.qkv_bias)?,
            output: linear(attention_output, hidden, queries, config.attention_output_bias)?,
            q_norm: qk_norm("self_attn.q_norm")?,
            k_norm: qk_norm("self_attn.k_norm")?,
            gate: gate.map(|name| linear(name, inner, hidden, config.mlp_bias)).transpose()?,
            up: linear(up, inner, hidden, config.mlp_bias)?,
            down: linear(down, hidden, inner, config.mlp_bias)?,
            group,
            index,
        })
    }

    fn norm(&self, name: &str, width: usize) -> Result<Norm, ModelError> {
        let weight = self.tensors.vector(&format!("{name}.weight"), &[width])?;
        let eps = self.config.norm_eps as f32;
        Ok(match self.config.norm {
            NormKind::Rms => Norm::Rms { weight, offset: 0.0, eps },
            NormKind::RmsPlusOne => Norm::Rms { weight, offset: 1.0, eps },
            NormKind::Layer => {
                Norm::Layer { weight, bias: self.tensors.vector(&format!("{name}.bias"), &[width])?, eps }
            }
        })
    }

    fn linear(&self, name: String, outputs: usize, inputs: usize, bias: bool) -> Result<Linear, ModelError> {
        let weight = self.tensors.matrix(&format!("{name}.weight"), outputs, inputs, self.quantize)?;
        let bias = bias.then(|| self.tensors.vector(&format!("{name}.bias"), &[outputs])).transpose()?;
        let number = self.modules.iter().position(|(module, ..)| *module == name).expect("the lists are of one model");
        Ok(Linear { number, weight, bias })
    }
}

fn read(checkpoint: &Checkpoint, name: &str, shape: &[usize]) -> Result<(Dtype, Vec<u8>), ModelError> {
    let weights = &checkpoint.weights;
    weights.read(&checkpoint.config.stored_name(name, |name| weights.contains(name)), shape)
}

impl Tensors for Checkpoint {
    fn vector(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let (dtype, bytes) = read(self, name, shape)?;
        Ok(widened(dtype, &bytes))
    }

    fn matrix(
        &self,
        name: &str,
        outputs: usize,
        inputs: usize,
        quantize: Option<Storage>,
    ) -> Result<Matrix, ModelError> {
        let (dtype, bytes) = read(self, name, &[outputs, inputs])?;
        let stored = match dtype {
            Dtype::BF16 => Storage::Bf16,
            Dtype::F16 => Storage::F16,
            _ => Storage::F32,
        };
        let Some(storage) = quantize else { return Ok(Matrix::from_floats(outputs, inputs, stored, &bytes)) };
        let row_bytes = stored.bytes(inputs);
        Ok(Matrix::quantized(outputs, inputs, storage, |output, row| {
            row.copy_from_slice(&widened(dtype, &bytes[output * row_bytes..(output + 1) * row_bytes]));
        }))
    }
}

/// The numbers of a tensor, in f32.
pub(crate) fn widened(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|bytes| half::bf16::from_le_bytes(*bytes).to_f32()).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|bytes| half::f16::from_le_bytes(*bytes).to_f32()).collect(),
        _ => bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
    }
}
