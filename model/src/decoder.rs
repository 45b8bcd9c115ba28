//! A decoder over packed rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use candle_core::{Result as TensorResult, Tensor};

use crate::adapter::{LoraConfig, LoraSetup, adapter_params, merged, target_names};
use crate::block::{Block, Context};
use crate::config::{ModelConfig, Positions};
use crate::error::ModelError;
use crate::kernels::{self, Head, Input, Linear, LoraWeights, Norm, RopeTables, Segment};
use crate::load::{Trained, load};
use crate::param::Param;
use crate::source::{RandomWeights, WeightSource};
use crate::weights::WeightFiles;

/// Sequences laid one after another without padding.
#[derive(Debug, Clone)]
pub struct PackedRows {
    /// Token of each row.
    pub ids: Vec<u32>,
    /// Its position in its sequence.
    pub positions: Arc<Vec<u32>>,
    /// Which rows see which.
    pub groups: Arc<Vec<Vec<Segment>>>,
    /// Seed of the dropout in adapters; none for no dropout.
    pub dropout_seed: Option<u64>,
}

impl PackedRows {
    /// One sequence by itself.
    pub fn single(ids: Vec<u32>) -> Self {
        let rows = 0..ids.len();
        let positions = Arc::new(rows.clone().map(|p| p as u32).collect());
        let groups = Arc::new(vec![vec![Segment { rows, prefix: 0..0 }]]);
        Self { ids, positions, groups, dropout_seed: None }
    }
}

/// A decoder whose weights, or an adapter to them, can be trained.
#[derive(Debug)]
pub struct Decoder {
    pub(crate) config: ModelConfig,
    pub(crate) embed_tokens: Arc<Param>,
    pub(crate) embed_positions: Option<Arc<Param>>,
    pub(crate) project_in: Option<Linear>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) final_norm: Option<Norm>,
    pub(crate) project_out: Option<Linear>,
    /// Its weight is the embedding itself where it is tied.
    pub(crate) head: Head,
    pub(crate) params: Vec<Arc<Param>>,
    /// Adapters by the names of the weights that they belong to.
    pub(crate) loras: BTreeMap<String, LoraWeights>,
    /// Every linear layer but the head.
    pub(crate) linears: BTreeSet<String>,
    pub(crate) lora_config: Option<LoraConfig>,
    pub(crate) activation_checkpointing: bool,
}

impl Decoder {
    /// A decoder with weights from `source`.
    ///
    /// # Errors
    /// When a weight is missing, has another shape, or has no place in the model.
    pub fn load(config: &ModelConfig, source: &impl WeightSource, trained: Trained<'_>) -> Result<Self, ModelError> {
        load(config, source, trained, false)
    }

    /// A decoder whose weights have names and shapes and no values, to be counted; without `source` that of random
    /// weights. It cannot compute.
    ///
    /// # Errors
    /// As [`Decoder::load`], of which the headers of the files tell everything.
    pub fn outline(
        config: &ModelConfig,
        source: Option<&WeightFiles>,
        trained: Trained<'_>,
    ) -> Result<Self, ModelError> {
        match source {
            Some(source) => load(config, source, trained, true),
            None => load(config, &RandomWeights { seed: 0, standard_deviation: 0.0 }, trained, true),
        }
    }

    /// A trainable decoder with random weights (normal with `initializer_range`, norms 1, biases 0).
    ///
    /// # Errors
    /// When the configuration's `initializer_range` is no standard deviation.
    pub fn random(config: &ModelConfig, seed: u64) -> Result<Self, ModelError> {
        let source = RandomWeights { seed, standard_deviation: config.initializer_range };
        Self::load(config, &source, Trained::Everything)
    }

    /// An adapter on frozen random weights.
    ///
    /// # Errors
    /// As [`Decoder::random`] and [`Decoder::load`].
    pub fn random_with_adapter(config: &ModelConfig, seed: u64, setup: &LoraSetup) -> Result<Self, ModelError> {
        let source = RandomWeights { seed, standard_deviation: config.initializer_range };
        Self::load(config, &source, Trained::Adapter(setup))
    }

    /// Keeps only the inputs of the blocks in the forward pass and computes the rest again in the backward pass.
    pub fn with_activation_checkpointing(mut self, on: bool) -> Self {
        self.activation_checkpointing = on;
        self
    }

    /// Whether the blocks are computed again in the backward pass.
    pub fn has_activation_checkpointing(&self) -> bool {
        self.activation_checkpointing
    }

    /// Its configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Every weight of the model once, in the order of the forward pass, without adapters.
    pub fn params(&self) -> &[Arc<Param>] {
        &self.params
    }

    /// The weights of the adapters.
    pub fn adapter_params(&self) -> Vec<Arc<Param>> {
        // In the order of the forward pass, as the weights are.
        adapter_params(self.params.iter().filter_map(|param| self.loras.get(param.name())))
    }

    /// What is trained: the weights, or the adapters.
    pub fn trainable(&self) -> Vec<Arc<Param>> {
        let all = self.params.iter().cloned().chain(self.adapter_params());
        all.filter(|param| param.is_trainable()).collect()
    }

    /// The hyper-parameters of the adapter, if there is one.
    pub fn lora_config(&self) -> Option<&LoraConfig> {
        self.lora_config.as_ref()
    }

    /// The `target_modules` that name the layers with an adapter.
    pub fn adapter_targets(&self) -> Vec<String> {
        target_names(&self.loras.keys().filter_map(|name| name.strip_suffix(".weight")).collect(), &self.linears)
    }

    /// A weight in f32, its adapter added.
    ///
    /// # Errors
    /// From the sum.
    pub fn merged_weight(&self, param: &Param) -> Result<Tensor, ModelError> {
        match self.loras.get(param.name()) {
            Some(lora) => merged(param, lora),
            None => Ok(param.weight()?),
        }
    }

    /// The output layer.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The input of the first block, `(rows, hidden)`, outside any graph.
    ///
    /// # Errors
    /// When a token is not in the vocabulary or a position is beyond `max_position_embeddings`.
    pub(crate) fn embed(&self, rows: &PackedRows) -> TensorResult<Tensor> {
        let limit = self.config.max_position_embeddings;
        if let Some(position) = rows.positions.iter().find(|position| **position as usize >= limit) {
            candle_core::bail!("position {position} is beyond max_position_embeddings = {limit}");
        }
        let mut x = kernels::embedding(&rows.ids, &self.embed_tokens)?;
        if self.config.embedding_scale != 1.0 {
            x = (x * self.config.embedding_scale)?;
        }
        if let Some(project_in) = &self.project_in {
            x = kernels::linear(Input::Plain(&x), None, project_in, rows.dropout_seed)?;
        }
        match &self.embed_positions {
            Some(table) => x + kernels::embedding(&self.position_ids(rows), table)?,
            None => Ok(x),
        }
    }

    /// Rows of the table of learnt positions.
    pub(crate) fn position_ids(&self, rows: &PackedRows) -> Vec<u32> {
        let offset = match self.config.positions {
            Positions::Learned { offset } => offset as u32,
            Positions::Rope(_) => 0,
        };
        rows.positions.iter().map(|position| position + offset).collect()
    }

    /// What every block of a pass over `rows` shares.
    pub(crate) fn context<'a>(&'a self, rows: &'a PackedRows) -> Context<'a> {
        let rope = match &self.config.positions {
            Positions::Rope(rope) => Some(Arc::new(RopeTables::new(&rows.positions, &rope.frequencies()))),
            Positions::Learned { .. } => None,
        };
        Context { config: &self.config, rows, rope }
    }

    /// From the last block's output to the head's input `(rows, embedding_size)`.
    ///
    /// # Errors
    /// When the shape does not fit.
    fn head_input(&self, x: &Tensor, dropout_seed: Option<u64>) -> TensorResult<Tensor> {
        let x = match &self.final_norm {
            Some(norm) => kernels::norm(x, norm)?,
            None => x.clone(),
        };
        match &self.project_out {
            Some(project_out) => kernels::linear(Input::Plain(&x), None, project_out, dropout_seed),
            None => Ok(x),
        }
    }

    /// The last block's output `(rows, hidden)`; nothing is kept.
    ///
    /// # Errors
    /// As of a forward pass: a token or position that the model does not have.
    pub fn hidden_states(&self, rows: &PackedRows) -> TensorResult<Tensor> {
        let context = self.context(rows);
        let mut x = self.embed(rows)?;
        for block in &self.blocks {
            x = block.forward(&x, &context)?;
        }
        Ok(x)
    }

    /// Log-probabilities `(labels)` of `labels`, each predicted by a row of the last block's output `hidden`. The seed is
    /// that of the rows.
    ///
    /// # Errors
    /// When a row or label does not exist.
    pub fn logps(
        &self,
        hidden: &Tensor,
        predicting_rows: &[u32],
        labels: &[u32],
        dropout_seed: Option<u64>,
    ) -> TensorResult<Tensor> {
        let rows = Tensor::new(predicting_rows, hidden.device())?;
        let selected = self.head_input(&hidden.index_select(&rows, 0)?, dropout_seed)?;
        kernels::linear_logp(&selected, &self.head, labels)
    }

    /// Logits `(rows, vocab)`.
    ///
    /// # Errors
    /// As [`Decoder::hidden_states`].
    pub fn logits(&self, rows: &PackedRows) -> TensorResult<Tensor> {
        let hidden = self.head_input(&self.hidden_states(rows)?, rows.dropout_seed)?;
        let output = Linear { bias: self.head.bias.clone(), ..Linear::plain(self.head.weight.clone()) };
        let logits = kernels::linear(Input::Plain(&hidden), None, &output, None)?;
        match self.head.softcap {
            Some(cap) => (logits / f64::from(cap))?.tanh()? * f64::from(cap),
            None => Ok(logits),
        }
    }
}
