//! A decoder's weights from their source, by the names of its family.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use safetensors::Dtype;

use crate::adapter::LoraSetup;
use crate::block::{Attention, Block, Mlp};
use crate::config::{ModelConfig, NormKind, Positions};
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::kernels::{Head, Linear, LoraWeights, Norm};
use crate::names::{BlockNames, LM_HEAD, Names};
use crate::param::Param;
use crate::source::WeightSource;
use crate::values::Values;

/// What is trained.
#[derive(Debug, Clone, Copy)]
pub enum Trained<'a> {
    /// Nothing.
    Nothing,
    /// Every weight.
    Everything,
    /// An adapter on frozen weights.
    Adapter(&'a LoraSetup),
}

struct Loader<'a, S> {
    config: &'a ModelConfig,
    names: Names,
    source: &'a S,
    trained: Trained<'a>,
    /// Whether shapes and types are found and no values are read.
    outline: bool,
    params: Vec<Arc<Param>>,
    loras: BTreeMap<String, LoraWeights>,
    /// The linear layers that an adapter can belong to.
    linears: BTreeSet<String>,
}

/// Loads a decoder; of an `outline` nothing but the shapes.
pub fn load(
    config: &ModelConfig,
    source: &impl WeightSource,
    trained: Trained<'_>,
    outline: bool,
) -> Result<Decoder, ModelError> {
    let mut loader = Loader {
        config,
        names: Names::of(config.family),
        source,
        trained,
        outline,
        params: Vec::new(),
        loras: BTreeMap::new(),
        linears: BTreeSet::new(),
    };
    let decoder = loader.decoder()?;
    config.refuse_unused(source.names().into_iter()).map_err(ModelError::Refused)?;
    if let Trained::Adapter(setup) = trained {
        setup.check(&decoder.linears)?;
    }
    Ok(decoder)
}

impl<S: WeightSource> Loader<'_, S> {
    fn decoder(&mut self) -> Result<Decoder, ModelError> {
        let config = self.config;
        let prefix = self.names.prefix;
        let (hidden, narrow) = (config.hidden_size, config.embedding_size);
        let embed_tokens = self.param(self.names.embed_tokens(), &[config.vocab_size, narrow])?;
        let embed_positions = match config.positions {
            Positions::Rope(_) => None,
            Positions::Learned { offset } => {
                let shape = [config.max_position_embeddings + offset, hidden];
                Some(self.param(format!("{prefix}embed_positions.weight"), &shape)?)
            }
        };
        let projected = narrow != hidden;
        let project_in =
            projected.then(|| self.linear(format!("{prefix}project_in"), hidden, narrow, false)).transpose()?;
        let blocks = (0..config.num_hidden_layers).map(|i| self.block(i)).collect::<Result<_, _>>()?;
        let final_norm =
            config.final_norm.then(|| self.norm(format!("{prefix}{}", self.names.final_norm), hidden)).transpose()?;
        let project_out =
            projected.then(|| self.linear(format!("{prefix}project_out"), narrow, hidden, false)).transpose()?;
        let head = Head {
            weight: match config.tie_word_embeddings {
                true => embed_tokens.clone(),
                false => self.param(format!("{LM_HEAD}.weight"), &[config.vocab_size, narrow])?,
            },
            bias: match config.head_bias {
                true => Some(self.param(format!("{LM_HEAD}.bias"), &[config.vocab_size])?),
                false => None,
            },
            softcap: config.final_softcap.map(|cap| cap as f32),
        };
        Ok(Decoder {
            config: config.clone(),
            embed_tokens,
            embed_positions,
            project_in,
            blocks,
            final_norm,
            project_out,
            head,
            params: std::mem::take(&mut self.params),
            loras: std::mem::take(&mut self.loras),
            linears: std::mem::take(&mut self.linears),
            lora_config: match self.trained {
                Trained::Adapter(setup) => Some(setup.config.clone()),
                Trained::Nothing | Trained::Everything => None,
            },
            activation_checkpointing: false,
        })
    }

    fn block(&mut self, i: usize) -> Result<Block, ModelError> {
        let config = self.config;
        let prefix = format!("{}layers.{i}.", self.names.prefix);
        let hidden = config.hidden_size;
        let BlockNames { attention_norm, attention_post_norm, mlp_norm, mlp_post_norm, .. } = self.names.block;
        let BlockNames { attention_output, gate, up, down, .. } = self.names.block;
        let queries = config.num_attention_heads * config.head_dim;
        let keys = config.num_key_value_heads * config.head_dim;
        let inner = config.intermediate_size;
        let mut norm = |name: &str, width: usize| self.norm(format!("{prefix}{name}"), width);
        let attention_norm = norm(attention_norm, hidden)?;
        let attention_post_norm = attention_post_norm.map(|name| norm(name, hidden)).transpose()?;
        let mlp_norm = mlp_norm.map(|name| norm(name, hidden)).transpose()?;
        let mlp_post_norm = mlp_post_norm.map(|name| norm(name, hidden)).transpose()?;
        let mut qk_norm =
            |name: &str| config.qk_norm.then(|| norm(&format!("self_attn.{name}"), config.head_dim)).transpose();
        let (q_norm, k_norm) = (qk_norm("q_norm")?, qk_norm("k_norm")?);
        let mut linear = |name: &str, outputs: usize, inputs: usize, bias: bool| {
            self.linear(format!("{prefix}{name}"), outputs, inputs, bias)
        };
        let attention = Attention {
            q: linear("self_attn.q_proj", queries, hidden, config.qkv_bias)?,
            k: linear("self_attn.k_proj", keys, hidden, config.qkv_bias)?,
            v: linear("self_attn.v_proj", keys, hidden, config.qkv_bias)?,
            output: linear(attention_output, hidden, queries, config.attention_output_bias)?,
            q_norm,
            k_norm,
            window: config.windows[i],
        };
        let mlp = Mlp {
            gate: gate.map(|name| linear(name, inner, hidden, config.mlp_bias)).transpose()?,
            up: linear(up, inner, hidden, config.mlp_bias)?,
            down: linear(down, hidden, inner, config.mlp_bias)?,
            activation: config.activation,
        };
        Ok(Block {
            placement: config.norm_placement,
            attention_norm,
            attention_post_norm,
            mlp_norm,
            mlp_post_norm,
            attention,
            mlp,
        })
    }

    /// The name under which the source has what transformers calls `name`.
    fn stored_name(&self, name: &str) -> String {
        self.config.stored_name(name, |name| self.source.contains(name))
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Values, ModelError> {
        self.source.stored(&self.stored_name(name), shape)
    }

    fn dtype(&self, name: &str, shape: &[usize]) -> Result<Dtype, ModelError> {
        self.source.dtype(&self.stored_name(name), shape)
    }

    fn param(&mut self, name: String, shape: &[usize]) -> Result<Arc<Param>, ModelError> {
        let trained = matches!(self.trained, Trained::Everything);
        let param = if self.outline {
            let dtype = self.dtype(&name, shape)?;
            if trained { Param::trainable_outline(name, shape) } else { Param::frozen_outline(name, shape, dtype) }
        } else {
            let stored = self.read(&name, shape)?;
            if trained { Param::trainable(name, shape, stored.into_f32()) } else { Param::frozen(name, shape, stored) }
        };
        self.params.push(param.clone());
        Ok(param)
    }

    fn norm(&mut self, name: String, width: usize) -> Result<Norm, ModelError> {
        let weight = self.param(format!("{name}.weight"), &[width])?;
        let eps = self.config.norm_eps as f32;
        Ok(match self.config.norm {
            NormKind::Rms => Norm::Rms { weight, offset: 0.0, eps },
            NormKind::RmsPlusOne => Norm::Rms { weight, offset: 1.0, eps },
            NormKind::Layer => Norm::Layer { weight, bias: self.param(format!("{name}.bias"), &[width])?, eps },
        })
    }

    /// A linear layer with its adapter.
    fn linear(&mut self, name: String, outputs: usize, inputs: usize, bias: bool) -> Result<Linear, ModelError> {
        let weight_name = format!("{name}.weight");
        let quantised = match self.trained {
            Trained::Adapter(setup) => setup.base.quantised(),
            _ => None,
        };
        let weight = match quantised {
            None => self.param(weight_name.clone(), &[outputs, inputs])?,
            Some(dtype) => {
                let shape = &[outputs, inputs];
                let param = if self.outline {
                    self.dtype(&weight_name, shape)?;
                    Param::quantised_outline(weight_name.clone(), shape, dtype)?
                } else {
                    Param::quantised(weight_name.clone(), shape, self.read(&weight_name, shape)?.into_f32(), dtype)?
                };
                self.params.push(param.clone());
                param
            }
        };
        let bias = bias.then(|| self.param(format!("{name}.bias"), &[outputs])).transpose()?;
        let lora = match self.trained {
            Trained::Adapter(setup) if setup.targets(&name) => {
                let lora = setup.adapter(&name, (outputs, inputs), self.outline)?;
                self.loras.insert(weight_name, lora.clone());
                Some(lora)
            }
            _ => None,
        };
        self.linears.insert(name);
        Ok(Linear { weight, bias, lora })
    }
}
