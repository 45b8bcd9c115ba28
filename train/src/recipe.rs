//! The recipe: one TOML file per run, read into types that refuse what they do not know.

mod export;
mod interval;
mod lora;
mod message;
mod objective;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::{BatchSize, Boundary, Layout, Selection, Sources, TokeniseOptions, Truncation};
use crate::error::TrainError;
use crate::hub;
use crate::loss::NllTarget;
use crate::optim::{AdamWConfig, Schedule, ScheduleKind, ScheduleOptions};
use crate::step::Objective;

pub use export::ExportSection;
pub use interval::Interval;
pub use lora::LoraSection;
pub use objective::{DivergenceType, LossType, ObjectiveKind};

/// Everything that determines a run. Relative paths are relative to the recipe's directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Where checkpoints, metrics and the final model go.
    pub output_dir: PathBuf,
    /// Seed of the data order and of a random initialisation. Default 42.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// The model to start from.
    pub model: ModelSection,
    /// The data.
    pub data: DataSection,
    /// An adapter to train in the place of all weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraSection>,
    /// Loss, optimiser, length, intervals.
    #[serde(default)]
    pub training: TrainingSection,
    /// What the final model's directory holds.
    #[serde(default)]
    pub export: ExportSection,
}

/// `[model]`: either `path`, or `tokenizer` and `[model.init]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// A Hugging Face checkpoint directory, or `hub:owner/name[@revision]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// A tokenizer directory, for a model that starts from random weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Shape of a model that starts from random weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<InitSection>,
}

/// `[model.init]`: a Llama with random weights; `vocab_size` is the tokenizer's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitSection {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Positions the model can use.
    pub max_position_embeddings: usize,
    /// Base of the rotary frequencies. Default 10000.
    #[serde(default = "default_rope_theta")]
    pub rope_theta: f64,
    /// Added to the mean square in the norms. Default 1e-5.
    #[serde(default = "default_rms_norm_eps")]
    pub rms_norm_eps: f64,
    /// Standard deviation of the weights. Default 0.02.
    #[serde(default = "default_initializer_range")]
    pub initializer_range: f64,
    /// Whether the head is the embedding. Default true.
    #[serde(default = "default_true")]
    pub tie_word_embeddings: bool,
}

/// `[data]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSection {
    /// Preference pairs; for `objective = "sft"` documents. A path, a glob or `hub:owner/name[@revision][:path-or-glob]`
    /// of JSONL, JSON arrays (both gzip-compressed or not) or parquet; or tables `{source, weight, format, columns}`.
    pub train: Sources,
    /// The same for evaluation every `eval_steps` and at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<Sources>,
    /// The layout of all sources that name none; by default it is found from the rows of each file. Strings of the `trl`
    /// layouts are trained on as they stand; to bring them into the chat template take `format = "orca_dpo_pairs"` with
    /// `columns = { question = "prompt" }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Layout>,
    /// For a field of the layout the name it has in the files, for all sources that name none: `{ prompt = "question" }`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// A chat template that replaces the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<PathBuf>,
    /// Longest sequence in tokens; responses are cut, prompts never. Default 1024.
    #[serde(default = "default_max_length")]
    pub max_length: usize,
    /// Where a response begins whose first token merges with the prompt: `"prompt"` (default) or `"trl"`.
    #[serde(default)]
    pub boundary: Boundary,
    /// What gives way in a longer pair: `"response"` (default, TRL), `"keep_end"` or `"keep_start"` of the prompt (TRL
    /// before 0.27), `"proportional"` (LLaMA-Factory).
    #[serde(default)]
    pub truncation: Truncation,
    /// Longest prompt in tokens, for `"keep_end"` and `"keep_start"` alone. Default 512.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_prompt_length: Option<usize>,
    /// Pairs whose prompt has more tokens are dropped. Default: none is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop_long_prompts: Option<usize>,
    /// Whether an EOS is put behind a response that does not end in one (a template that ends turns in EOS and newline
    /// so gets a second one, as in TRL). Default true.
    #[serde(default = "default_true")]
    pub append_eos: bool,
    /// Whether a response that was cut ends in an EOS in the place of its last token. Default false, as in TRL.
    #[serde(default)]
    pub truncated_eos: bool,
}

impl DataSection {
    /// Training data alone, every other key at its default.
    pub fn new(train: impl Into<Sources>) -> Self {
        Self {
            train: train.into(),
            validation: None,
            format: None,
            columns: BTreeMap::new(),
            chat_template: None,
            max_length: default_max_length(),
            boundary: Boundary::default(),
            truncation: Truncation::default(),
            max_prompt_length: None,
            drop_long_prompts: None,
            append_eos: true,
            truncated_eos: false,
        }
    }

    /// How rows are understood where a source says nothing.
    pub fn selection(&self) -> Selection {
        Selection { format: self.format, columns: self.columns.clone() }
    }
}

/// `[training]`. Names are TRL's where it has the field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingSection {
    /// `"orpo"` (default), `"sft"`, `"cpo"`, `"simpo"`, `"alphapo"`, `"asft"`, `"probability_ratio"`, `"orpo_beta"`, or
    /// `"dpo"`, which compares with the starting model.
    pub objective: ObjectiveKind,
    /// Weight of the odds-ratio term, the paper's lambda; 0 trains on the likelihood alone. In the other losses on pairs
    /// the scale of rewards. Default 0.1.
    pub beta: f64,
    /// Tokens the likelihood averages over: `"full"` (TRL's ORPO), `"response_tokens"` (TRL's CPO), `"response_sequences"`
    /// (LLaMA-Factory), `"authors"` or `"authors_response"` (the ORPO authors' code). Default: that of the objective's
    /// reference, `"full"` or, for CPO, SimPO, AlphaPO and DPO, `"response_tokens"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nll: Option<NllTarget>,
    /// Form of CPO (`"sigmoid"`, `"hinge"`, `"ipo"`) or DPO (those and many more, see [`LossType`]). Default `"sigmoid"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_type: Option<LossType>,
    /// Share of labels taken as wrong, below 0.5. Default 0; for `"exo_pair"` 1e-3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_smoothing: Option<f64>,
    /// Weight of the likelihood beside CPO (default 1), SimPO and AlphaPO (default 0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpo_alpha: Option<f64>,
    /// Weight of the likelihood beside DPO. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpo_alpha: Option<f64>,
    /// Target margin of SimPO and AlphaPO. Default 0.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub simpo_gamma: Option<f64>,
    /// Curvature of AlphaPO's reward. Default 0, which is SimPO.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Weight of the probability ratio (default 1), or of DPO-Positive's penalty (default 50).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lambda: Option<f64>,
    /// Temperature of DiscoPOP's blend. Default 0.05.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discopop_tau: Option<f64>,
    /// DPO's divergence: `"reverse_kl"` (default), `"forward_kl"`, `"js_divergence"`, `"alpha_divergence"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f_divergence_type: Option<DivergenceType>,
    /// Coefficient of the alpha divergence. Default 0.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f_alpha_divergence_coef: Option<f64>,
    /// Passes over the data; ignored where `max_steps` is given. Default 1.
    pub epochs: usize,
    /// Optimiser steps in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<usize>,
    /// Pairs (or documents) of one micro-batch. Default 8.
    pub batch_size: usize,
    /// Micro-batches whose mean loss makes one step. Default 1.
    pub gradient_accumulation_steps: usize,
    /// Highest learning rate. Default 8e-6.
    pub learning_rate: f64,
    /// `"cosine"` (default), `"linear"`, `"inverse_sqrt"`, `"polynomial"`, `"constant"`, `"constant_with_warmup"`,
    /// `"cosine_with_restarts"`, `"cosine_with_min_lr"`, `"warmup_stable_decay"`; also under TRL's `lr_scheduler_type`.
    #[serde(alias = "lr_scheduler_type")]
    pub lr_scheduler: ScheduleKind,
    /// Parameters of that shape.
    pub lr_scheduler_kwargs: ScheduleOptions,
    /// Steps of linear rise from 0. Default 0.
    pub warmup_steps: usize,
    /// The same as a share of all steps, rounded up; in the place of `warmup_steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_ratio: Option<f64>,
    /// Decoupled weight decay of matrices. Default 0.
    pub weight_decay: f64,
    /// Default 0.9.
    pub adam_beta1: f64,
    /// Default 0.999.
    pub adam_beta2: f64,
    /// Default 1e-8.
    pub adam_epsilon: f64,
    /// The gradient is scaled down to this norm; 0 for no limit. Default 1.
    pub max_grad_norm: f64,
    /// Whether only the inputs of the blocks are kept in the forward pass and the rest is computed again in the backward
    /// pass: less memory for a seventh more time. Default false.
    pub gradient_checkpointing: bool,
    /// Most tokens of a micro-batch, a pair's shared prompt counted once: micro-batches then hold as many pairs as fit,
    /// whatever `batch_size` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens_per_batch: Option<usize>,
    /// Whether micro-batches are made of examples of similar length, in random order. Default false.
    pub group_by_length: bool,
    /// What the mean over a step's micro-batches weights each by: `"batches"`, all the same as TRL does it, or
    /// `"examples"`, so that a pair counts the same wherever it lands. Default `"batches"`, with
    /// `max_tokens_per_batch` `"examples"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_weighting: Option<LossWeighting>,
    /// Steps between lines of `metrics.jsonl`; each has the means over these steps. Default 1.
    pub logging_steps: usize,
    /// Whether TensorBoard event files are written to `tensorboard` in the run directory. Default true.
    pub tensorboard: bool,
    /// Steps between evaluations, or `"epoch"`; 0 for one at the end only. Default 0.
    pub eval_steps: Interval,
    /// Validation prompts that each evaluation continues greedily, into `samples.jsonl`. Default 0.
    pub sample_prompts: usize,
    /// Longest of these continuations in tokens. Default 64.
    pub sample_max_new_tokens: usize,
    /// Steps between checkpoints, or `"epoch"`; 0 for none at intervals. The last step and an evaluation that is the
    /// best so far are saved in any case. Default 100.
    pub save_steps: Interval,
    /// Checkpoints that are kept, the latest ones; the best one is kept besides. Default 1.
    pub save_total_limit: usize,
    /// The metric of an evaluation that tells the best checkpoint. Default `"eval_loss"`.
    pub metric_for_best_model: String,
    /// Whether more of it is better. By default true unless its name ends in `loss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub greater_is_better: Option<bool>,
    /// Whether the final model is the best checkpoint and not the last. Default false.
    pub load_best_model_at_end: bool,
    /// Evaluations without improvement after which the run ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping_patience: Option<usize>,
    /// What counts as an improvement there: more than this. Default 0.
    pub early_stopping_threshold: f64,
}

/// How the micro-batches of a step are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossWeighting {
    /// Every micro-batch the same.
    Batches,
    /// Each by its number of examples.
    Examples,
}

impl LossWeighting {
    /// The weight of a micro-batch of so many examples.
    pub fn weight(self, examples: usize) -> f64 {
        match self {
            Self::Batches => 1.0,
            Self::Examples => examples as f64,
        }
    }
}

impl Default for TrainingSection {
    fn default() -> Self {
        Self {
            objective: ObjectiveKind::Orpo,
            beta: 0.1,
            nll: None,
            loss_type: None,
            label_smoothing: None,
            cpo_alpha: None,
            rpo_alpha: None,
            simpo_gamma: None,
            alpha: None,
            lambda: None,
            discopop_tau: None,
            f_divergence_type: None,
            f_alpha_divergence_coef: None,
            epochs: 1,
            max_steps: None,
            batch_size: 8,
            gradient_accumulation_steps: 1,
            learning_rate: 8e-6,
            lr_scheduler: ScheduleKind::Cosine,
            lr_scheduler_kwargs: ScheduleOptions::default(),
            warmup_steps: 0,
            warmup_ratio: None,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            gradient_checkpointing: false,
            max_tokens_per_batch: None,
            group_by_length: false,
            loss_weighting: None,
            logging_steps: 1,
            tensorboard: true,
            eval_steps: Interval::Steps(0),
            sample_prompts: 0,
            sample_max_new_tokens: 64,
            save_steps: Interval::Steps(100),
            save_total_limit: 1,
            metric_for_best_model: "eval_loss".into(),
            greater_is_better: None,
            load_best_model_at_end: false,
            early_stopping_patience: None,
            early_stopping_threshold: 0.0,
        }
    }
}

fn default_seed() -> u64 {
    42
}
fn default_rope_theta() -> f64 {
    10_000.0
}
fn default_rms_norm_eps() -> f64 {
    1e-5
}
fn default_initializer_range() -> f64 {
    0.02
}
fn default_true() -> bool {
    true
}
fn default_max_length() -> usize {
    1024
}

impl Recipe {
    /// Reads a recipe, applies `--set key=value` overrides, resolves paths and checks every value.
    ///
    /// # Errors
    /// With the file and the key: unreadable, not TOML, an unknown or missing key, a value out of range.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, TrainError> {
        let text = std::fs::read_to_string(path).map_err(|e| TrainError::read(path, e))?;
        // Without overrides straight from the text, whose errors show the line.
        let recipe: Self = if overrides.is_empty() {
            toml::from_str(&text).map_err(|e| message::of_recipe(path, Some(&text), &e))?
        } else {
            let mut table: toml::Table =
                toml::from_str(&text).map_err(|e| message::of_recipe(path, Some(&text), &e))?;
            for entry in overrides {
                set(&mut table, entry).map_err(|reason| TrainError::Refused(format!("--set {entry}: {reason}")))?;
            }
            table.try_into().map_err(|e| message::of_recipe(path, None, &e))?
        };
        recipe.check().map_err(|reason| TrainError::invalid(path, reason))?;
        Ok(recipe.resolved(path.parent().unwrap_or(Path::new(""))))
    }

    fn resolved(mut self, dir: &Path) -> Self {
        let resolve = |path: &mut PathBuf| *path = dir.join(&*path);
        resolve(&mut self.output_dir);
        for sources in [Some(&mut self.data.train), self.data.validation.as_mut()].into_iter().flatten() {
            sources.resolve(dir);
        }
        if self.model.path.as_ref().is_some_and(|path| !hub::is_id(path)) {
            self.model.path.as_mut().map(resolve);
        }
        for path in [&mut self.model.tokenizer, &mut self.data.chat_template] {
            path.as_mut().map(resolve);
        }
        if let Some(adapter) = self.lora.as_mut().and_then(|lora| lora.adapter.as_mut()) {
            resolve(adapter);
        }
        self
    }

    fn check(&self) -> Result<(), String> {
        match (&self.model.path, &self.model.tokenizer, &self.model.init) {
            (Some(_), None, None) | (None, Some(_), Some(_)) => {}
            _ => return Err("[model] needs either `path`, or `tokenizer` and `[model.init]`".into()),
        }
        if self.lora.is_some() && self.model.path.is_none() {
            return Err("[lora] needs `model.path`: an adapter to random weights cannot be used without them".into());
        }
        for (key, sources) in [("train", Some(&self.data.train)), ("validation", self.data.validation.as_ref())] {
            let Some(sources) = sources else { continue };
            sources.check().map_err(|reason| format!("`data.{key}`: {reason}"))?;
            let has_format = self.data.format.is_some() || sources.0.iter().any(|source| source.format.is_some());
            if has_format && self.training.objective == ObjectiveKind::Sft {
                return Err("`format` is a layout of pairs; documents (objective = \"sft\") have only one".into());
            }
        }
        if let Some(lora) = &self.lora {
            lora.check()?;
        }
        let t = &self.training;
        let positive = [
            ("training.batch_size", t.batch_size),
            ("training.gradient_accumulation_steps", t.gradient_accumulation_steps),
            ("training.epochs", t.epochs),
            ("training.max_steps", t.max_steps.unwrap_or(1)),
            ("training.logging_steps", t.logging_steps),
            ("training.max_tokens_per_batch", t.max_tokens_per_batch.unwrap_or(1)),
            ("training.sample_max_new_tokens", t.sample_max_new_tokens),
            ("training.save_total_limit", t.save_total_limit),
            ("training.early_stopping_patience", t.early_stopping_patience.unwrap_or(1)),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("`{key}` must be at least 1"));
        }
        if self.data.max_length < 2 {
            return Err("`data.max_length` must be at least 2".into());
        }
        let need_validation = [
            ("load_best_model_at_end", t.load_best_model_at_end),
            ("early_stopping_patience", t.early_stopping_patience.is_some()),
            ("sample_prompts", t.sample_prompts > 0),
        ];
        if self.data.validation.is_none()
            && let Some((key, _)) = need_validation.iter().find(|(_, asked)| *asked)
        {
            return Err(format!("`training.{key}` needs `data.validation`"));
        }
        let cuts_prompts = matches!(self.data.truncation, Truncation::KeepEnd | Truncation::KeepStart);
        if !cuts_prompts && self.data.max_prompt_length.is_some() {
            return Err("`data.max_prompt_length` needs `truncation` = \"keep_end\" or \"keep_start\"; \
                        to leave out rows with longer prompts use `drop_long_prompts`"
                .into());
        }
        let max_prompt_length = self.tokenise_options().max_prompt_length;
        if cuts_prompts && !(1..self.data.max_length).contains(&max_prompt_length) {
            return Err(format!(
                "`data.max_prompt_length` = {max_prompt_length} must be at least 1 and less than `data.max_length`"
            ));
        }
        let ranges = [
            ("training.early_stopping_threshold", t.early_stopping_threshold, 0.0..f64::INFINITY),
            ("training.beta", t.beta, 0.0..f64::INFINITY),
            ("training.learning_rate", t.learning_rate, f64::MIN_POSITIVE..f64::INFINITY),
            ("training.weight_decay", t.weight_decay, 0.0..f64::INFINITY),
            ("training.adam_beta1", t.adam_beta1, 0.0..1.0),
            ("training.adam_beta2", t.adam_beta2, 0.0..1.0),
            ("training.adam_epsilon", t.adam_epsilon, f64::MIN_POSITIVE..f64::INFINITY),
            ("training.max_grad_norm", t.max_grad_norm, 0.0..f64::INFINITY),
        ];
        if let Some((key, value, range)) = ranges.iter().find(|(_, value, range)| !range.contains(value)) {
            return Err(format!("`{key}` = {value} is outside {} .. {}", range.start, range.end));
        }
        if t.warmup_ratio.is_some_and(|ratio| t.warmup_steps > 0 || !(0.0..=1.0).contains(&ratio)) {
            return Err(
                "`training.warmup_ratio` must lie between 0 and 1, and stand in the place of `warmup_steps`".into()
            );
        }
        self.schedule(1).check().map_err(|reason| format!("`training.lr_scheduler`: {reason}"))?;
        objective::resolve(t).map(|_| ())
    }

    /// The loss.
    pub fn objective(&self) -> Objective {
        objective::resolve(&self.training).expect("the recipe was checked")
    }

    /// The learning rates of a run of `total_steps`.
    pub fn schedule(&self, total_steps: usize) -> Schedule {
        let t = &self.training;
        let share = |ratio: f64| (ratio * total_steps as f64).ceil() as usize;
        Schedule {
            kind: t.lr_scheduler,
            options: t.lr_scheduler_kwargs,
            learning_rate: t.learning_rate,
            warmup_steps: t.warmup_ratio.map_or(t.warmup_steps, share),
            total_steps,
        }
    }

    /// How rows become token ids.
    pub fn tokenise_options(&self) -> TokeniseOptions {
        let d = &self.data;
        TokeniseOptions {
            max_length: d.max_length,
            max_prompt_length: d.max_prompt_length.unwrap_or(512),
            truncation: d.truncation,
            drop_long_prompts: d.drop_long_prompts,
            boundary: d.boundary,
            append_eos: d.append_eos,
            truncated_eos: d.truncated_eos,
            authors: self.training.nll.is_some_and(NllTarget::is_authors),
        }
    }

    /// How many examples make a micro-batch.
    pub fn batch_size(&self) -> BatchSize {
        let t = &self.training;
        t.max_tokens_per_batch.map_or(BatchSize::Examples(t.batch_size), BatchSize::Tokens)
    }

    /// How the micro-batches of a step are averaged.
    pub fn loss_weighting(&self) -> LossWeighting {
        let t = &self.training;
        let default = if t.max_tokens_per_batch.is_some() { LossWeighting::Examples } else { LossWeighting::Batches };
        t.loss_weighting.unwrap_or(default)
    }

    /// The optimiser.
    pub fn adamw(&self) -> AdamWConfig {
        let t = &self.training;
        AdamWConfig {
            beta1: t.adam_beta1,
            beta2: t.adam_beta2,
            epsilon: t.adam_epsilon,
            weight_decay: t.weight_decay,
            max_grad_norm: (t.max_grad_norm > 0.0).then_some(t.max_grad_norm),
        }
    }
}

/// Sets a dotted key to a TOML value; what is not a TOML value is taken as a string.
fn set(table: &mut toml::Table, entry: &str) -> Result<(), String> {
    let (key, value) = entry.split_once('=').ok_or("expected key=value")?;
    let value = toml::from_str::<toml::Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.to_string()));
    let (path, last) = match key.rsplit_once('.') {
        Some((path, last)) => (path.split('.').collect(), last),
        None => (Vec::new(), key),
    };
    let mut table = table;
    for part in path {
        let next = table.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        table = next.as_table_mut().ok_or_else(|| format!("`{part}` is not a section"))?;
    }
    table.insert(last.to_string(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "output_dir = \"out\"\n[model]\npath = \"base\"\n[data]\ntrain = \"/abs/train.jsonl\"\n";

    fn load(text: &str, overrides: &[&str]) -> Result<Recipe, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recipe.toml");
        std::fs::write(&path, text).unwrap();
        let overrides: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
        Recipe::load(&path, &overrides).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_and_paths() {
        let recipe = load(MINIMAL, &[]).unwrap();
        assert_eq!(recipe.objective(), Objective::Orpo { beta: 0.1, nll: NllTarget::Full });
        assert!(recipe.output_dir.is_absolute() && recipe.output_dir.ends_with("out"));
        assert_eq!(recipe.data.train, Path::new("/abs/train.jsonl").into());
    }

    #[test]
    fn ids_of_the_hub_are_not_paths() {
        let text = MINIMAL.replace("\"base\"", "\"hub:a/b\"").replace("\"/abs/train.jsonl\"", "[\"hub:c/d\", \"x\"]");
        let recipe = load(&text, &[]).unwrap();
        assert_eq!(recipe.model.path.as_deref(), Some(Path::new("hub:a/b")));
        assert_eq!(recipe.data.train.0[0].source, "hub:c/d");
        assert!(Path::new(&recipe.data.train.0[1].source).is_absolute());
        let error = load(MINIMAL, &["data.train=[{source = \"a\", weight = 0.0}]"]).unwrap_err();
        assert!(error.contains("data.train") && error.contains("`weight` = 0"), "{error}");
        let error = load(MINIMAL, &["data.format=hh_transcript", "training.objective=sft"]).unwrap_err();
        assert!(error.contains("`format`"), "{error}");
    }

    #[test]
    fn a_resolved_recipe_reads_back_as_itself() {
        let kwargs = "[training]\nlr_scheduler_type = \"cosine_with_min_lr\"\nwarmup_ratio = 0.1\nobjective = \"dpo\"\n\
                      loss_type = \"robust\"\n[training.lr_scheduler_kwargs]\nmin_lr_rate = 0.1\n";
        let recipe = load(&format!("{MINIMAL}truncation = \"keep_end\"\n{kwargs}"), &[]).unwrap();
        assert_eq!(recipe.schedule(95).warmup_steps, 10);
        assert_eq!(toml::from_str::<Recipe>(&toml::to_string(&recipe).unwrap()).unwrap(), recipe);
        let plain = load(MINIMAL, &[]).unwrap();
        assert_eq!(plain.data, DataSection { train: plain.data.train.clone(), ..DataSection::new(Path::new("")) });
        assert_eq!(plain.tokenise_options(), TokeniseOptions::default());
    }

    #[test]
    fn the_longest_prompt_belongs_to_the_rules_that_cut_prompts() {
        let error = load(MINIMAL, &["data.max_prompt_length=100"]).unwrap_err();
        assert!(error.contains("drop_long_prompts"), "{error}");
        let error = load(MINIMAL, &["data.truncation=keep_end", "data.max_length=512"]).unwrap_err();
        assert!(error.contains("`data.max_prompt_length` = 512"), "{error}");
        assert!(load(MINIMAL, &["data.truncation=keep_end", "data.max_prompt_length=100"]).is_ok());
    }

    #[test]
    fn overrides() {
        let recipe = load(MINIMAL, &["training.beta=0.5", "training.objective=sft", "seed=7"]).unwrap();
        assert_eq!((recipe.training.beta, recipe.seed), (0.5, 7));
        assert_eq!(recipe.training.objective, ObjectiveKind::Sft);
        assert!(load(MINIMAL, &["beta"]).unwrap_err().contains("expected key=value"));
        assert!(load(MINIMAL, &["training.betta=1"]).unwrap_err().contains("betta"));
    }

    #[test]
    fn a_token_budget_takes_the_place_of_the_batch_size() {
        let recipe = load(MINIMAL, &["training.batch_size=4"]).unwrap();
        assert_eq!((recipe.batch_size(), recipe.loss_weighting()), (BatchSize::Examples(4), LossWeighting::Batches));
        let recipe = load(MINIMAL, &["training.max_tokens_per_batch=512"]).unwrap();
        assert_eq!((recipe.batch_size(), recipe.loss_weighting()), (BatchSize::Tokens(512), LossWeighting::Examples));
        let recipe = load(MINIMAL, &["training.max_tokens_per_batch=512", "training.loss_weighting=batches"]).unwrap();
        assert_eq!(recipe.loss_weighting(), LossWeighting::Batches);
    }

    #[test]
    fn a_misspelt_key_is_shown_with_its_line() {
        let error = load(&format!("{MINIMAL}[training]\nlearning_rat = 1e-3\n"), &[]).unwrap_err();
        assert!(error.ends_with("line 7: there is no key `learning_rat`; did you mean `learning_rate`?"), "{error}");
        let error = load(MINIMAL, &["training.epochs=many"]).unwrap_err();
        assert!(
            error.ends_with("in `training.epochs`: expected a whole number of at least 0, got string \"many\""),
            "{error}"
        );
        let error = load(&MINIMAL.replace("= \"base\"", "="), &[]).unwrap_err();
        assert!(error.contains("line 3") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn values_out_of_range_are_named() {
        for (entry, key) in [
            ("training.batch_size=0", "training.batch_size"),
            ("training.beta=-1", "training.beta"),
            ("training.adam_beta2=1.0", "training.adam_beta2"),
            ("training.learning_rate=0", "training.learning_rate"),
            ("data.max_length=1", "data.max_length"),
            ("training.save_total_limit=0", "training.save_total_limit"),
            ("training.eval_steps=\"day\"", "a number of steps or"),
            ("training.early_stopping_patience=2", "needs `data.validation`"),
            ("training.lr_scheduler_kwargs.power=2", "training.lr_scheduler"),
            ("training.warmup_ratio=1.5", "training.warmup_ratio"),
            ("training.simpo_gamma=1", "training.simpo_gamma"),
        ] {
            let error = load(MINIMAL, &[entry]).unwrap_err();
            assert!(error.contains(key), "{error}");
        }
        assert!(load(&MINIMAL.replace("path = \"base\"", ""), &[]).unwrap_err().contains("[model]"));
    }
}
