//! The recipe: one TOML file per run, read into types that refuse what they do not know.

mod interval;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::{BatchSize, Boundary};
use crate::error::TrainError;
use crate::loss::NllTarget;
use crate::optim::{AdamWConfig, ScheduleKind};
use crate::step::Objective;

pub use interval::Interval;

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
    /// Loss, optimiser, length, intervals.
    #[serde(default)]
    pub training: TrainingSection,
}

/// `[model]`: either `path`, or `tokenizer` and `[model.init]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// A Hugging Face checkpoint directory.
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
    /// JSONL of preference pairs; for `objective = "sft"` of documents.
    pub train: PathBuf,
    /// JSONL of the same kind, evaluated every `eval_steps` and at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<PathBuf>,
    /// A chat template that replaces the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<PathBuf>,
    /// Longest sequence in tokens; responses are cut, prompts never. Default 1024.
    #[serde(default = "default_max_length")]
    pub max_length: usize,
    /// Where a response begins whose first token merges with the prompt: `"prompt"` (default) or `"trl"`.
    #[serde(default)]
    pub boundary: Boundary,
}

/// Which loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectiveKind {
    /// Odds ratio preference optimisation on pairs.
    #[default]
    Orpo,
    /// Plain next-token loss on documents.
    Sft,
}

/// `[training]`. Names are TRL's where it has the field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingSection {
    /// `"orpo"` (default) or `"sft"`.
    pub objective: ObjectiveKind,
    /// Weight of the odds-ratio term, the paper's lambda; 0 trains on the likelihood alone. Default 0.1.
    pub beta: f64,
    /// Tokens the likelihood averages over: `"full"` (default, TRL), `"response_tokens"`, `"response_sequences"`.
    pub nll: NllTarget,
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
    /// `"cosine"` (default), `"linear"`, `"inverse_sqrt"`, `"constant"`.
    pub lr_scheduler: ScheduleKind,
    /// Steps of linear rise from 0. Default 0.
    pub warmup_steps: usize,
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
            nll: NllTarget::Full,
            epochs: 1,
            max_steps: None,
            batch_size: 8,
            gradient_accumulation_steps: 1,
            learning_rate: 8e-6,
            lr_scheduler: ScheduleKind::Cosine,
            warmup_steps: 0,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
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
            toml::from_str(&text).map_err(|e| TrainError::invalid(path, e.to_string().trim_end()))?
        } else {
            let mut table: toml::Table =
                toml::from_str(&text).map_err(|e| TrainError::invalid(path, e.to_string().trim_end()))?;
            for entry in overrides {
                set(&mut table, entry).map_err(|reason| TrainError::Refused(format!("--set {entry}: {reason}")))?;
            }
            table.try_into().map_err(|e: toml::de::Error| TrainError::invalid(path, e.to_string().trim_end()))?
        };
        recipe.check().map_err(|reason| TrainError::invalid(path, reason))?;
        Ok(recipe.resolved(path.parent().unwrap_or(Path::new(""))))
    }

    fn resolved(mut self, dir: &Path) -> Self {
        let resolve = |path: &mut PathBuf| *path = dir.join(&*path);
        resolve(&mut self.output_dir);
        resolve(&mut self.data.train);
        for path in
            [&mut self.model.path, &mut self.model.tokenizer, &mut self.data.validation, &mut self.data.chat_template]
        {
            path.as_mut().map(resolve);
        }
        self
    }

    fn check(&self) -> Result<(), String> {
        match (&self.model.path, &self.model.tokenizer, &self.model.init) {
            (Some(_), None, None) | (None, Some(_), Some(_)) => {}
            _ => return Err("[model] needs either `path`, or `tokenizer` and `[model.init]`".into()),
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
        Ok(())
    }

    /// The loss.
    pub fn objective(&self) -> Objective {
        let TrainingSection { objective, beta, nll, .. } = self.training;
        match objective {
            ObjectiveKind::Orpo => Objective::Orpo { beta, nll },
            ObjectiveKind::Sft => Objective::Sft { nll },
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
        assert_eq!(recipe.data.train, Path::new("/abs/train.jsonl"));
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
        assert!(error.contains("learning_rat") && error.contains("line 7"), "{error}");
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
        ] {
            let error = load(MINIMAL, &[entry]).unwrap_err();
            assert!(error.contains(key), "{error}");
        }
        assert!(load(&MINIMAL.replace("path = \"base\"", ""), &[]).unwrap_err().contains("[model]"));
    }
}
