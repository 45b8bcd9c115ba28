//! A run, top-down: recipe, data, model, optimiser, loop, export.

mod dir;
mod divergence;
mod examples;
mod failure;
mod fingerprint;
mod lock;
mod plan;
mod source;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use orpo_model::Decoder;

use crate::checkpoint::{CheckpointDir, Manifest, TrainerState, replace_dir, write_file};
use crate::data::collate;
use crate::error::TrainError;
use crate::evaluate::{evaluate, sample};
use crate::loss::PreferenceMetrics;
use crate::optim::AdamW;
use crate::recipe::Recipe;
use crate::selection::Selection;
use crate::step::{Objective, weighted_forward_backward};
use crate::telemetry::{Reports, StepRecord, Telemetry, memory, metric_fields};
use crate::terminal::{counted, say};

pub use dir::{MODEL_DIR, RunDir};
pub use examples::{DROPPED_FILE, Data, Suspect, read_dataset, suspects};
pub use failure::{is_finite, non_finite};
pub use lock::RunLock;
pub use plan::{Plan, PlannedStep};
pub use source::{ModelSource, load_chat};

use self::divergence::Divergence;
use self::failure::Suspects;

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All steps are made; the model is in this directory.
    Finished(PathBuf),
    /// It was asked to stop; `--resume` continues after this step.
    Interrupted {
        /// Steps made and saved.
        step: usize,
    },
}

/// Runs `recipe`. With `resume` it continues from the last complete checkpoint, if there is one; a recipe with more steps
/// than before extends the run. It stops after the step during which `stop` becomes true, and saves.
///
/// # Errors
/// When anything named in the recipe is missing or wrong, or the loss is not finite any more.
pub fn run(recipe: &Recipe, resume: bool, stop: &AtomicBool) -> Result<Outcome, TrainError> {
    let mut dir = RunDir::open(&recipe.output_dir)?;
    let latest = dir.latest(resume)?;

    let source = ModelSource::open(recipe)?;
    // What the headers of the weights tell is told before the data is read.
    source.outline()?;
    let mut data = Data::load(recipe, &source)?;
    source.notes.iter().chain(&data.notes).for_each(|note| say(note));
    if let Some(warning) = source.files.template_warning()? {
        say(&format!("warning: {warning}"));
    }
    let objective = recipe.objective();
    let selection = Selection::new(recipe)?;
    let plan = Plan::new(recipe, &data.train)?;

    let base = source.hashes()?;
    let mut state = TrainerState::new(fingerprint::fingerprint(recipe, &base, &data.lineage));
    // Before the weights are read: there may be nothing to do, or it may be refused.
    if let Some((checkpoint, saved)) = &latest {
        fingerprint::check(checkpoint, &saved.fingerprint, &state.fingerprint)?;
        if saved.step > plan.total_steps() {
            let (done, total) = (counted(saved.step, "step"), plan.total_steps());
            let reason =
                format!("{done} are made, more than the {total} of the recipe; raise training.max_steps or epochs");
            return Err(TrainError::invalid(checkpoint, reason));
        }
        if is_finished(recipe, &dir, saved)? {
            say(&finished(&selection, saved));
            return Ok(Outcome::Finished(dir.model()));
        }
        extension(recipe, &plan, saved).iter().for_each(|note| say(note));
    } else if resume {
        say(&format!("there is no checkpoint in `{}`: the run begins anew", recipe.output_dir.display()));
    }
    let decoder = source.load(recipe.seed)?.with_activation_checkpointing(recipe.training.gradient_checkpointing);
    if objective.needs_reference() {
        data.set_references(&decoder)?;
    }
    if let Some((checkpoint, saved)) = latest {
        CheckpointDir::restore(&checkpoint, &decoder)?;
        state = TrainerState { fingerprint: state.fingerprint, ..saved };
    }
    state.total_steps = plan.total_steps();

    dir.create()?;
    dir.checkpoints.prune(&state, recipe.training.save_total_limit)?;
    write_file(&recipe.output_dir.join(DROPPED_FILE), data.dropped.as_bytes())?;
    let optimizer = AdamW::new(&decoder.trainable(), recipe.adamw(), state.step);
    let reports = Reports { tensorboard: recipe.training.tensorboard, samples: recipe.training.sample_prompts > 0 };
    let telemetry = Telemetry::open(&recipe.output_dir, objective, state.step, plan.total_steps(), reports)?;
    telemetry.say(&plan.describe(&decoder, state.step));
    let (pace, divergence) = Default::default();
    Run {
        recipe,
        objective,
        dir,
        source,
        base,
        data,
        selection,
        plan,
        state,
        decoder,
        optimizer,
        telemetry,
        pace,
        divergence,
    }
    .go(stop)
}

/// True if the final model is there, and is that of a run as long as the recipe says.
fn is_finished(recipe: &Recipe, dir: &RunDir, saved: &TrainerState) -> Result<bool, TrainError> {
    let length = |recipe: &Recipe| (recipe.training.epochs, recipe.training.max_steps);
    let made = Manifest::read(&dir.model())?;
    let is_as_long = made.is_none_or(|made| length(&made.recipe) == length(recipe));
    Ok(dir.model().exists() && (is_as_long || saved.selection.stopped_early))
}

/// Why nothing is left to do.
fn finished(selection: &Selection, saved: &TrainerState) -> String {
    if saved.selection.stopped_early {
        let reason = selection.reason(&saved.selection, saved.step);
        format!("the run is finished, it {reason}; more steps do not continue it")
    } else {
        format!("the run is finished after step {}; to extend it, raise training.max_steps or epochs", saved.step)
    }
}

/// What a run with another number of steps than before is, compared with one that had them from the start.
fn extension(recipe: &Recipe, plan: &Plan, saved: &TrainerState) -> Option<String> {
    let (before, now) = (saved.total_steps, plan.total_steps());
    if before == 0 || before == now {
        return None;
    }
    let schedule = recipe.schedule(before);
    let is_same = (0..saved.step).all(|step| schedule.rate(step) == plan.schedule.rate(step));
    let what = if is_same {
        "the steps that are made had the same learning rates, so that it ends in the same weights as a run of this length"
    } else {
        "from here on the learning rate follows the schedule over the new length; the steps that are made followed the \
         old one, so that it does not end in the same weights as a run of this length from the start"
    };
    Some(format!("{} instead of {before}: {what}", counted(now, "step")))
}

/// A run under way. What a resumed run must know of it is in `state`, the parameters and their moments.
struct Run<'a> {
    recipe: &'a Recipe,
    objective: Objective,
    dir: RunDir,
    source: ModelSource,
    /// SHA-256 of its files.
    base: BTreeMap<String, String>,
    data: Data,
    selection: Selection,
    plan: Plan,
    state: TrainerState,
    decoder: Decoder,
    optimizer: AdamW,
    telemetry: Telemetry,
    /// Training since the last record.
    pace: Pace,
    /// Whether the loss explodes.
    divergence: Divergence,
}

#[derive(Default)]
struct Pace {
    seconds: f64,
    tokens: usize,
}

impl Run<'_> {
    /// Every step: train, log, evaluate, save; at the end the model.
    fn go(mut self, stop: &AtomicBool) -> Result<Outcome, TrainError> {
        let t = &self.recipe.training;
        while self.state.step < self.plan.total_steps() && !self.state.selection.stopped_early {
            let planned = self.plan.step(self.state.step);
            let (learning_rate, grad_norm) = self.train(&planned)?;
            let step = self.state.step;
            let is_last = step == self.plan.total_steps();
            if step.is_multiple_of(t.logging_steps) || is_last {
                self.log(planned.epoch, learning_rate, grad_norm)?;
            }
            let is_evaluated = t.eval_steps.is_due(step, planned.ends_epoch) || is_last;
            let is_best = is_evaluated && self.evaluate(planned.epoch)?;
            let is_over = is_last || self.state.selection.stopped_early;
            let is_interrupted = stop.load(Ordering::Relaxed) && !is_over;
            if t.save_steps.is_due(step, planned.ends_epoch) || is_best || is_over || is_interrupted {
                self.save()?;
            }
            if is_interrupted {
                self.telemetry.finish();
                return Ok(Outcome::Interrupted { step });
            }
        }
        self.telemetry.finish();
        if self.state.selection.stopped_early {
            self.telemetry.say(&self.selection.reason(&self.state.selection, self.state.step));
        }
        self.export()
    }

    /// One optimiser step; returns its learning rate and the norm of its gradient.
    fn train(&mut self, planned: &PlannedStep) -> Result<(f64, f64), TrainError> {
        let started = Instant::now();
        let step = self.state.step + 1;
        let mut parts = Vec::new();
        let mut tokens = 0;
        for (i, indices) in planned.micro_batches.iter().enumerate() {
            let examples = self.data.train_at(indices);
            let mut batch = collate(&examples);
            // A function of the place in the run, so that a resumed run drops the same elements.
            batch.rows.dropout_seed = Some(self.recipe.seed.wrapping_add((step as u64) << 24 | i as u64));
            let weight = self.recipe.loss_weighting().weight(examples.len());
            let metrics = weighted_forward_backward(&self.decoder, &batch, &self.objective, weight)?;
            if !failure::is_finite(&metrics) {
                let suspects = Suspects { step, examples: &self.data.suspects_at(indices) };
                return Err(failure::of_loss(suspects, &self.decoder, &self.objective, &metrics));
            }
            tokens += batch.tokens;
            parts.push((metrics, weight));
        }
        let learning_rate = self.plan.schedule.rate(self.state.step);
        let total_weight: f64 = parts.iter().map(|(_, weight)| weight).sum();
        let grad_norm = match self.optimizer.step(learning_rate, 1.0 / total_weight) {
            Ok(norm) => norm,
            Err(error) => {
                let suspects = Suspects { step, examples: &self.data.suspects_at(&planned.micro_batches.concat()) };
                let not_finite = failure::of_gradient(suspects, &self.decoder, &self.objective);
                return Err(not_finite.unwrap_or(error.into()));
            }
        };
        self.state.step = step;
        self.state.num_input_tokens_seen += tokens as u64;
        let metrics = PreferenceMetrics::weighted_mean(&parts);
        let first = *self.state.first_loss.get_or_insert(metrics.loss);
        if let Some(warning) = self.divergence.look(step, metrics.loss, first, self.recipe.training.learning_rate) {
            self.telemetry.say(&warning);
        }
        self.state.unlogged.push(metrics);
        self.pace.tokens += tokens;
        self.pace.seconds += started.elapsed().as_secs_f64();
        Ok((learning_rate, grad_norm))
    }

    fn log(&mut self, epoch: f64, learning_rate: f64, grad_norm: f64) -> Result<(), TrainError> {
        let steps: Vec<_> = self.state.unlogged.drain(..).map(|metrics| (metrics, 1.0)).collect();
        let pace = std::mem::take(&mut self.pace);
        let memory = memory();
        let record = StepRecord {
            step: self.state.step,
            epoch,
            metrics: PreferenceMetrics::weighted_mean(&steps),
            learning_rate,
            grad_norm,
            num_input_tokens_seen: self.state.num_input_tokens_seen,
            tokens_per_sec: pace.tokens as f64 / pace.seconds,
            rss_bytes: memory.resident,
            peak_rss_bytes: memory.peak,
        };
        self.state.last_metrics = metric_fields(&record.metrics, &self.objective, "");
        self.telemetry.step(&record)
    }

    /// Evaluates where there is something to evaluate on; returns whether the model is the best so far.
    fn evaluate(&mut self, epoch: f64) -> Result<bool, TrainError> {
        let Some(validation) = &self.data.validation else { return Ok(false) };
        let (step, t) = (self.state.step, &self.recipe.training);
        let metrics = evaluate(&self.decoder, &validation.examples, &self.objective, self.recipe.batch_size())?;
        if !failure::is_finite(&metrics) {
            let suspects = Suspects { step, examples: &validation.suspects() };
            return Err(failure::of_loss(suspects, &self.decoder, &self.objective, &metrics));
        }
        self.telemetry.evaluation(step, epoch, &metrics)?;
        for example in validation.examples.iter().take(t.sample_prompts) {
            let sample = sample(&self.decoder, &self.source.files.chat, example, t.sample_max_new_tokens)?;
            self.telemetry.sample(step, &sample)?;
        }
        self.state.last_metrics = metric_fields(&metrics, &self.objective, "eval_");
        Ok(self.selection.evaluate(&mut self.state.selection, step, &self.state.last_metrics))
    }

    fn save(&self) -> Result<(), TrainError> {
        if let Some(error) = failure::of_weights(self.state.step, &self.decoder)? {
            return Err(error);
        }
        self.telemetry.sync()?;
        let keep = self.recipe.training.save_total_limit;
        self.dir.checkpoints.save(&self.decoder, &self.source.files, &self.state, keep)
    }

    /// Writes the final model: the last one, or the best one where the recipe asks for it.
    fn export(self) -> Result<Outcome, TrainError> {
        let (mut step, mut metrics) = (self.state.step, self.state.last_metrics);
        if self.recipe.training.load_best_model_at_end
            && let Some(best) = self.state.selection.best
            && best.step != step
        {
            self.telemetry.say(&format!("the model is that of step {}", best.step));
            CheckpointDir::restore(&self.dir.checkpoints.path(best.step), &self.decoder)?;
            (step, metrics) = (best.step, best.metrics);
        }
        let manifest = Manifest {
            recipe: self.recipe.clone(),
            base: self.base,
            data: self.data.lineage,
            step,
            metrics: metrics.into(),
            orpo_version: env!("CARGO_PKG_VERSION").into(),
            files: BTreeMap::new(),
        };
        let model_dir = self.dir.model();
        replace_dir(&model_dir, |dir| {
            self.recipe.export.write(dir, &self.decoder, &self.source.files)?;
            manifest.write(dir)
        })?;
        Ok(Outcome::Finished(model_dir))
    }
}
