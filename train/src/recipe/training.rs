//! `[training]`: the loss, the optimiser, the number of steps, and what is written when.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DivergenceType, Interval, LossType, ObjectiveKind};
use crate::loss::NllTarget;
use crate::optim::{ScheduleKind, ScheduleOptions};

/// `[training]`: the loss, the optimiser, the number of steps, and what is written when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingSection {
    /// The loss.
    pub objective: ObjectiveKind,
    /// Weight of the odds-ratio term, the paper's lambda; 0 trains on the likelihood alone. In the other losses on pairs
    /// it scales the rewards. Default 0.1.
    #[schemars(extend("minimum" = 0, "trl" = "beta"))]
    pub beta: f64,
    /// Tokens that the likelihood averages over. Unset, it is that of the objective's reference: `"full"`, or
    /// `"response_tokens"` for CPO, SimPO, AlphaPO and DPO.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nll: Option<NllTarget>,
    /// Form of CPO (`"sigmoid"`, `"hinge"`, `"ipo"`) or DPO (all). Unset, `"sigmoid"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("trl" = "loss_type"))]
    pub loss_type: Option<LossType>,
    /// Share of labels taken as wrong. Unset, 0; for `"exo_pair"` 1e-3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 0.5, "trl" = "label_smoothing"))]
    pub label_smoothing: Option<f64>,
    /// Weight of the likelihood added to CPO (unset, 1), SimPO and AlphaPO (unset, 0).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0, "trl" = "cpo_alpha"))]
    pub cpo_alpha: Option<f64>,
    /// Weight of the likelihood added to DPO. Unset, 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0, "trl" = "rpo_alpha"))]
    pub rpo_alpha: Option<f64>,
    /// Target margin of SimPO and AlphaPO. Unset, 0.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("trl" = "simpo_gamma"))]
    pub simpo_gamma: Option<f64>,
    /// Curvature of AlphaPO's reward. Unset, 0, which is SimPO.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("trl" = "alpha"))]
    pub alpha: Option<f64>,
    /// Weight of the probability ratio (unset, 1), or of DPO-Positive's penalty (unset, 50).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0))]
    pub lambda: Option<f64>,
    /// Temperature of DiscoPOP's blend. Unset, 0.05.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0, "trl" = "discopop_tau"))]
    pub discopop_tau: Option<f64>,
    /// DPO's divergence. Unset, `"reverse_kl"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("trl" = "f_divergence_type"))]
    pub f_divergence_type: Option<DivergenceType>,
    /// Coefficient of the alpha divergence. Unset, 0.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("trl" = "f_alpha_divergence_coef"))]
    pub f_alpha_divergence_coef: Option<f64>,
    /// Passes over the data; ignored where `max_steps` is set. Default 1.
    #[schemars(extend("minimum" = 1, "trl" = "num_train_epochs"))]
    pub epochs: usize,
    /// Number of optimiser steps. Unset, as many as `epochs` gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "unit" = "steps", "trl" = "max_steps"))]
    pub max_steps: Option<usize>,
    /// Pairs (or documents) in a micro-batch. Default 8.
    #[schemars(extend("minimum" = 1, "trl" = "per_device_train_batch_size, per_device_eval_batch_size"))]
    pub batch_size: usize,
    /// Micro-batches whose mean loss makes one step. Default 1.
    #[schemars(extend("minimum" = 1, "trl" = "gradient_accumulation_steps"))]
    pub gradient_accumulation_steps: usize,
    /// Highest learning rate. Default 8e-6.
    #[schemars(extend("exclusiveMinimum" = 0, "trl" = "learning_rate"))]
    pub learning_rate: f64,
    /// Shape of the learning rate over the steps; `lr_scheduler_type` is accepted as well.
    #[serde(alias = "lr_scheduler_type")]
    #[schemars(extend("trl" = "lr_scheduler_type"))]
    pub lr_scheduler: ScheduleKind,
    /// Parameters of that shape.
    pub lr_scheduler_kwargs: ScheduleOptions,
    /// Steps during which the rate rises from 0. Default 0.
    #[schemars(extend("unit" = "steps", "trl" = "warmup_steps"))]
    pub warmup_steps: usize,
    /// The warm-up as a share of all steps, rounded up; it replaces `warmup_steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0, "maximum" = 1, "trl" = "warmup_ratio"))]
    pub warmup_ratio: Option<f64>,
    /// Decoupled weight decay of matrices; norms and biases have none. Default 0.
    #[schemars(extend("minimum" = 0, "trl" = "weight_decay"))]
    pub weight_decay: f64,
    /// Decay rate of Adam's first moment. Default 0.9.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1, "trl" = "adam_beta1"))]
    pub adam_beta1: f64,
    /// Decay rate of Adam's second moment. Default 0.999.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1, "trl" = "adam_beta2"))]
    pub adam_beta2: f64,
    /// Added to the root of Adam's second moment. Default 1e-8.
    #[schemars(extend("exclusiveMinimum" = 0, "trl" = "adam_epsilon"))]
    pub adam_epsilon: f64,
    /// A gradient with a larger norm is scaled down to this one; 0 for no limit. Default 1.
    #[schemars(extend("minimum" = 0, "trl" = "max_grad_norm"))]
    pub max_grad_norm: f64,
    /// Keep only the inputs of the blocks in the forward pass and compute the rest again in the backward pass: less
    /// memory, and about a seventh more time. Default false.
    #[schemars(extend("trl" = "gradient_checkpointing"))]
    pub gradient_checkpointing: bool,
    /// Most tokens in a micro-batch, a pair's shared prompt counted once: micro-batches then hold as many pairs as fit,
    /// whatever `batch_size` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "unit" = "tokens"))]
    pub max_tokens_per_batch: Option<usize>,
    /// Make micro-batches of examples of similar length, in random order. Default false.
    #[schemars(extend("trl" = "group_by_length"))]
    pub group_by_length: bool,
    /// Weight of each micro-batch in the mean of its step. Unset, `"batches"`; with `max_tokens_per_batch`, `"examples"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_weighting: Option<LossWeighting>,
    /// Steps between lines of `metrics.jsonl`; each line has the means over these steps. Default 1.
    #[schemars(extend("minimum" = 1, "unit" = "steps", "trl" = "logging_steps"))]
    pub logging_steps: usize,
    /// Write TensorBoard event files to `tensorboard` in the run directory. Default true.
    #[schemars(extend("trl" = "report_to"))]
    pub tensorboard: bool,
    /// Steps between evaluations, or `"epoch"`; 0 for one at the end only. Default 0.
    #[schemars(with = "usize", extend("unit" = "steps", "trl" = "eval_steps, eval_strategy"))]
    pub eval_steps: Interval,
    /// Validation prompts that each evaluation continues greedily, written to `samples.jsonl`. Default 0.
    pub sample_prompts: usize,
    /// Longest of these continuations. Default 64.
    #[schemars(extend("minimum" = 1, "unit" = "tokens"))]
    pub sample_max_new_tokens: usize,
    /// Steps between checkpoints, or `"epoch"`; 0 for none in between. The last step and the best evaluation so far are
    /// always saved. Default 100.
    #[schemars(with = "usize", extend("unit" = "steps", "trl" = "save_steps, save_strategy"))]
    pub save_steps: Interval,
    /// Number of checkpoints that are kept, the latest ones; the best one is kept in addition. Default 1.
    #[schemars(extend("minimum" = 1, "trl" = "save_total_limit"))]
    pub save_total_limit: usize,
    /// The metric of an evaluation that decides which checkpoint is the best. Default `"eval_loss"`.
    #[schemars(extend("trl" = "metric_for_best_model"))]
    pub metric_for_best_model: String,
    /// True if a larger value of it is better. Unset, true unless its name ends in `loss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("trl" = "greater_is_better"))]
    pub greater_is_better: Option<bool>,
    /// Take the best checkpoint as the final model, not the last one. Default false.
    #[schemars(extend("trl" = "load_best_model_at_end"))]
    pub load_best_model_at_end: bool,
    /// Evaluations without improvement after which the run ends. Unset, it never ends early.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "unit" = "evaluations", "trl" = "early_stopping_patience"))]
    pub early_stopping_patience: Option<usize>,
    /// An evaluation counts as an improvement if it is better by more than this. Default 0.
    #[schemars(extend("minimum" = 0, "trl" = "early_stopping_threshold"))]
    pub early_stopping_threshold: f64,
}

impl TrainingSection {
    /// The keys of single losses, which the others refuse.
    pub const LOSS_KEYS: [&str; 10] = [
        "loss_type",
        "label_smoothing",
        "cpo_alpha",
        "rpo_alpha",
        "simpo_gamma",
        "alpha",
        "lambda",
        "discopop_tau",
        "f_divergence_type",
        "f_alpha_divergence_coef",
    ];
}

/// How the micro-batches of a step are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossWeighting {
    /// Every micro-batch the same, as in TRL.
    Batches,
    /// Each by its number of examples, so that a pair counts the same wherever it lands.
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
