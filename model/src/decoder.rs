//! A decoder over packed rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::adapter::{LoraConfig, LoraSetup, add_product, target_names};
use crate::array::Array;
use crate::block::{Block, Context};
use crate::config::{ModelConfig, Positions};
use crate::error::ModelError;
use crate::kernels::{
    Head, Input, LabelLogps, Linear, LoraWeights, Norm, RopeTables, Segment, add, embedding, linear, linear_backward,
    linear_logp, linear_logp_backward, logits, norm, norm_backward, scale, select_rows, spread_rows,
};
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
        let adapters = self.params.iter().filter_map(|param| self.loras.get(param.name()));
        adapters.flat_map(|lora| [lora.a.clone(), lora.b.clone()]).collect()
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

    /// The values of a weight in f32, its adapter added.
    ///
    /// # Errors
    /// As [`Param::with_values`].
    pub fn merged_weight(&self, param: &Param) -> Result<Vec<f32>, ModelError> {
        let mut weight = param.values()?;
        if let Some(LoraWeights { a, b, scale, .. }) = self.loras.get(param.name()) {
            let (rank, _) = a.dims2()?;
            a.with_values(|a| b.with_values(|b| add_product(&mut weight, a, b, rank, *scale)))??;
        }
        Ok(weight)
    }

    /// The output layer.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The input of the first block, `(rows, hidden)`.
    ///
    /// # Errors
    /// When a token is not in the vocabulary or a position is beyond `max_position_embeddings`.
    pub(crate) fn embed(&self, rows: &PackedRows) -> Result<Array, ModelError> {
        let limit = self.config.max_position_embeddings;
        if let Some(position) = rows.positions.iter().find(|position| **position as usize >= limit) {
            return Err(ModelError::Refused(format!(
                "position {position} is beyond max_position_embeddings = {limit}"
            )));
        }
        let mut x = embedding(&rows.ids, &self.embed_tokens)?;
        if self.config.embedding_scale != 1.0 {
            scale(&mut x, self.config.embedding_scale as f32);
        }
        if let Some(project_in) = &self.project_in {
            x = linear(Input::Plain(&x), None, project_in, rows.dropout_seed)?;
        }
        if let Some(table) = &self.embed_positions {
            add(&mut x, &embedding(&self.position_ids(rows), table)?)?;
        }
        Ok(x)
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

    /// The last block's output `(rows, hidden)`; nothing is kept.
    ///
    /// # Errors
    /// As of a forward pass: a token or position that the model does not have.
    pub fn hidden_states(&self, rows: &PackedRows) -> Result<Array, ModelError> {
        let context = self.context(rows);
        let mut x = self.embed(rows)?;
        for block in &self.blocks {
            x = block.forward(&x, &context, false)?.0;
        }
        Ok(x)
    }

    /// Log-probabilities of `labels`, each predicted by a row of the last block's output `hidden`. The seed is that of the
    /// rows.
    ///
    /// # Errors
    /// When a row or label does not exist.
    pub fn score<'a>(
        &'a self,
        hidden: Array,
        predicting_rows: &'a [u32],
        labels: &'a [u32],
        dropout_seed: Option<u64>,
    ) -> Result<Scored<'a>, ModelError> {
        let rows = hidden.rows();
        let selected = select_rows(&hidden, predicting_rows)?;
        drop(hidden);
        let input = HeadInput::new(self, selected, dropout_seed)?;
        let logps = linear_logp(input.last(), &self.head, labels)?;
        Ok(Scored { decoder: self, rows, predicting_rows, labels, dropout_seed, input, logps })
    }

    /// Logits `(rows, vocab)`.
    ///
    /// # Errors
    /// As [`Decoder::hidden_states`].
    pub fn logits(&self, rows: &PackedRows) -> Result<Array, ModelError> {
        let input = HeadInput::new(self, self.hidden_states(rows)?, rows.dropout_seed)?;
        logits(input.last(), &self.head)
    }
}

/// From the last block's output to what the head multiplies: each step that the architecture has.
#[derive(Debug)]
struct HeadInput {
    hidden: Array,
    normed: Option<Array>,
    projected: Option<Array>,
}

impl HeadInput {
    fn new(decoder: &Decoder, hidden: Array, dropout_seed: Option<u64>) -> Result<Self, ModelError> {
        let mut input = Self { hidden, normed: None, projected: None };
        if let Some(final_norm) = &decoder.final_norm {
            input.normed = Some(norm(&input.hidden, final_norm)?);
        }
        if let Some(project_out) = &decoder.project_out {
            input.projected = Some(linear(Input::Plain(input.last()), None, project_out, dropout_seed)?);
        }
        Ok(input)
    }

    /// `(rows, embedding_size)`.
    fn last(&self) -> &Array {
        self.projected.as_ref().or(self.normed.as_ref()).unwrap_or(&self.hidden)
    }

    /// The gradient of the last block's output, given that of the head's input.
    fn backward(self, decoder: &Decoder, mut grad: Array, dropout_seed: Option<u64>) -> Result<Array, ModelError> {
        let Self { hidden, normed, .. } = self;
        if let Some(project_out) = &decoder.project_out {
            let input = Input::Plain(normed.as_ref().unwrap_or(&hidden));
            grad = linear_backward(input, project_out, dropout_seed, &grad)?;
        }
        if let Some(final_norm) = &decoder.final_norm {
            grad = norm_backward(&hidden, final_norm, &grad)?;
        }
        Ok(grad)
    }
}

/// Log-probabilities of labels, and what takes their gradient back to the last block's output.
#[derive(Debug)]
pub struct Scored<'a> {
    decoder: &'a Decoder,
    rows: usize,
    predicting_rows: &'a [u32],
    labels: &'a [u32],
    dropout_seed: Option<u64>,
    input: HeadInput,
    logps: LabelLogps,
}

impl Scored<'_> {
    /// Natural logarithms, one a label.
    pub fn logps(&self) -> &[f32] {
        &self.logps.values
    }

    /// Adds the gradients of the head's weights and returns that of the last block's output `(rows, hidden)`, given that of
    /// the log-probabilities.
    ///
    /// # Errors
    /// When there are not as many as labels.
    pub fn backward(self, dlogps: &[f32]) -> Result<Array, ModelError> {
        let Self { decoder, rows, predicting_rows, labels, dropout_seed, input, logps } = self;
        let grad = linear_logp_backward(input.last(), &decoder.head, labels, &logps, dlogps)?;
        spread_rows(&input.backward(decoder, grad, dropout_seed)?, predicting_rows, rows)
    }
}
