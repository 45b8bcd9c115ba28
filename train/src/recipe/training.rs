//! `[training]`: loss, optimiser, steps, and what is written when.

use serde::{Deserialize, Serialize};

use super::{DivergenceType, Interval, LossType, ObjectiveKind};
use crate::loss::NllTarget;
use crate::optim::{ScheduleKind, ScheduleOptions};

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
