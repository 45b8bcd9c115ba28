//! A run, top-down: recipe, data, model, optimiser, loop, export.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use orpo_chat::ChatTokenizer;
use serde_json::{Value, json};

use crate::checkpoint::{
    CheckpointDir, DataLineage, Manifest, ModelFiles, TrainerState, replace_dir, sha256_file, write_file, write_model,
};
use crate::data::{DataFile, Dataset, Example, Mixture, Sources, Tokeniser, collate};
use crate::error::TrainError;
use crate::evaluate::evaluate;
use crate::hub::model_dir;
use crate::loss::PreferenceMetrics;
use crate::model::{Decoder, ModelConfig, WeightFiles};
use crate::optim::{AdamW, Schedule};
use crate::recipe::{ObjectiveKind, Recipe};
use crate::step::forward_backward;
use crate::telemetry::{MetricsLog, Progress, StepRecord, metric_fields, resident_bytes};

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All steps are made; the model is in this directory.
    Finished(PathBuf),
    /// It was asked to stop; `--resume` goes on after this step.
    Interrupted {
        /// Steps made and saved.
        step: usize,
    },
}

/// Name of the final model's directory in the run directory.
pub const MODEL_DIR: &str = "model";

/// Name of the file in the run directory that lists every row that is not used, one line of JSON each: `{"source", "row",
/// "reason"}`.
pub const DROPPED_FILE: &str = "dropped.jsonl";

/// Runs `recipe`. With `resume` it goes on from the last complete checkpoint, if there is one. It stops after the step
/// during which `stop` becomes true, and saves.
///
/// # Errors
/// When anything named in the recipe is missing or wrong, or the loss is not finite any more.
pub fn run(recipe: &Recipe, resume: bool, stop: &AtomicBool) -> Result<Outcome, TrainError> {
    let run_dir = &recipe.output_dir;
    let model_dir = run_dir.join(MODEL_DIR);
    let checkpoints = CheckpointDir::of_run(run_dir);
    let latest = checkpoints.latest()?;
    if !resume && (latest.is_some() || model_dir.exists()) {
        let reason = "it holds a run already; use --resume to go on with it, or another `output_dir`";
        return Err(TrainError::invalid(run_dir, reason));
    }

    let source = ModelSource::open(recipe)?;
    let train = source.dataset(&recipe.data.train, recipe)?;
    let validation = recipe.data.validation.as_ref().map(|sources| source.dataset(sources, recipe)).transpose()?;
    let mut data = lineage("train", &train);
    let mut dropped = train.dropped_lines();
    if let Some(validation) = &validation {
        data.extend(lineage("validation", validation));
        dropped += &validation.dropped_lines();
    }
    let validation = validation.map(|dataset| dataset.weighted_examples(recipe.seed));
    let fingerprint = fingerprint(recipe, &source.base, &data);

    let decoder = source.load(recipe.seed)?;
    let mut step = 0;
    if let Some((dir, state)) = &latest {
        if state.fingerprint != fingerprint {
            let reason = "it was trained with another recipe, base model or data; use another `output_dir`";
            return Err(TrainError::invalid(dir, reason));
        }
        if model_dir.exists() {
            return Ok(Outcome::Finished(model_dir));
        }
        CheckpointDir::restore(dir, decoder.params())?;
        step = state.step;
    }

    fs::create_dir_all(run_dir).map_err(|e| TrainError::write(run_dir, e))?;
    write_file(&run_dir.join(DROPPED_FILE), dropped.as_bytes())?;
    let objective = recipe.objective();
    let plan = Plan::new(recipe, train.mixture.clone());
    let mut optimizer = AdamW::new(decoder.params(), recipe.adamw(), step);
    let mut log = MetricsLog::open(run_dir, step)?;
    let progress = Progress::new(objective, step, plan.schedule.total_steps);
    progress.say(&describe(&decoder, &train.examples, &plan, step));

    let save = |step: usize| {
        let state = TrainerState { step, fingerprint: fingerprint.clone() };
        checkpoints.save(decoder.params(), &source.files, &state)
    };
    let mut last = (step, Value::Null);
    let mut since_record = (Instant::now(), 0usize);
    while step < plan.schedule.total_steps {
        let mut parts = Vec::new();
        let mut used = Vec::new();
        for indices in plan.micro_batches(step) {
            let batch = collate(&indices.iter().map(|i| &train.examples[*i]).collect::<Vec<_>>());
            let metrics = forward_backward(&decoder, &batch, &objective)?;
            check_finite(step + 1, "the loss", metrics.loss, &train, &indices)?;
            since_record.1 += batch.tokens;
            parts.push((metrics, 1.0));
            used.extend(indices);
        }
        let learning_rate = plan.schedule.rate(step);
        check_finite(step + 1, "the gradient norm", optimizer.grad_norm(), &train, &used)?;
        let grad_norm = optimizer.step(learning_rate, 1.0 / parts.len() as f64)?;
        step += 1;

        let metrics = PreferenceMetrics::weighted_mean(&parts);
        if step % recipe.training.logging_steps == 0 || step == plan.schedule.total_steps {
            let (since, tokens) = std::mem::replace(&mut since_record, (Instant::now(), 0));
            let record = StepRecord {
                step,
                epoch: step as f64 / plan.steps_per_epoch as f64,
                metrics,
                learning_rate,
                grad_norm,
                tokens_per_sec: tokens as f64 / since.elapsed().as_secs_f64(),
                rss_bytes: resident_bytes(),
            };
            log.step(&record, &objective)?;
            progress.step(&record);
            last = (step, Value::Object(metric_fields(&metrics, &objective, "")));
        }
        let every = |interval: usize| interval > 0 && step % interval == 0;
        if let Some(validation) = &validation
            && (every(recipe.training.eval_steps) || step == plan.schedule.total_steps)
        {
            let metrics = evaluate(&decoder, validation, &objective, recipe.training.batch_size)?;
            log.evaluation(step, &metrics, &objective)?;
            progress.evaluation(step, &metrics);
            last = (step, Value::Object(metric_fields(&metrics, &objective, "eval_")));
        }
        let interrupted = stop.load(Ordering::Relaxed) && step < plan.schedule.total_steps;
        if every(recipe.training.save_steps) || step == plan.schedule.total_steps || interrupted {
            save(step)?;
        }
        if interrupted {
            progress.finish();
            return Ok(Outcome::Interrupted { step });
        }
    }
    progress.finish();

    replace_dir(&model_dir, |dir| {
        write_model(dir, decoder.params(), &source.files)?;
        let manifest = Manifest {
            recipe: recipe.clone(),
            base: source.base.clone(),
            data: data.clone(),
            step: last.0,
            metrics: last.1.clone(),
            orpo_version: env!("CARGO_PKG_VERSION").into(),
            files: BTreeMap::new(),
        };
        manifest.write(dir)
    })?;
    Ok(Outcome::Finished(model_dir))
}

/// The model to start from, not yet loaded.
struct ModelSource {
    config: ModelConfig,
    files: ModelFiles,
    weights: Option<WeightFiles>,
    /// SHA-256 of the weight files.
    base: BTreeMap<String, String>,
}

impl ModelSource {
    fn open(recipe: &Recipe) -> Result<Self, TrainError> {
        let chat = |dir: &Path| load_chat(dir, recipe.data.chat_template.as_deref());
        if let Some(path) = &recipe.model.path {
            let dir = &model_dir(path)?;
            let (config, json) = ModelConfig::from_dir(dir)?;
            let files = ModelFiles { config: json, tokenizer_dir: dir.clone(), chat: chat(dir)? };
            let weights = WeightFiles::open(dir)?;
            let mut base = BTreeMap::new();
            for path in weights.paths() {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                base.insert(name, sha256_file(path)?);
            }
            return Ok(Self { config, files, weights: Some(weights), base });
        }
        let (Some(dir), Some(init)) = (&recipe.model.tokenizer, &recipe.model.init) else {
            unreachable!("the recipe was checked to have `path`, or `tokenizer` and `init`")
        };
        let chat = chat(dir)?;
        let config = ModelConfig {
            hidden_size: init.hidden_size,
            intermediate_size: init.intermediate_size,
            num_hidden_layers: init.num_hidden_layers,
            num_attention_heads: init.num_attention_heads,
            num_key_value_heads: init.num_key_value_heads,
            head_dim: init.hidden_size / init.num_attention_heads.max(1),
            vocab_size: chat.tokenizer().get_vocab_size(true),
            max_position_embeddings: init.max_position_embeddings,
            rms_norm_eps: init.rms_norm_eps,
            rope_theta: init.rope_theta,
            tie_word_embeddings: init.tie_word_embeddings,
            initializer_range: init.initializer_range,
        };
        let json = config.to_json();
        // The same checks as for a file.
        let config = ModelConfig::from_json(&json)
            .map_err(|reason| TrainError::Refused(format!("recipe [model.init]: {reason}")))?;
        let files = ModelFiles { config: json, tokenizer_dir: dir.clone(), chat };
        Ok(Self { config, files, weights: None, base: BTreeMap::new() })
    }

    /// The examples of `sources`; what they hold is said on stderr.
    fn dataset(&self, sources: &Sources, recipe: &Recipe) -> Result<Dataset, TrainError> {
        let tokeniser = Tokeniser::new(&self.files.chat, recipe.data.max_length, recipe.data.boundary)
            .with_vocab_size(self.config.vocab_size);
        let documents = recipe.training.objective == ObjectiveKind::Sft;
        let dataset = Dataset::load(sources, &recipe.data.selection(), &tokeniser, documents)?;
        eprintln!("{}", dataset.describe());
        let limit = self.config.max_position_embeddings;
        for (index, example) in dataset.examples.iter().enumerate() {
            let longest = example.chosen.ids.len().max(example.rejected.as_ref().map_or(0, |s| s.ids.len()));
            if longest > limit {
                return Err(TrainError::Refused(format!(
                    "{}: {longest} tokens, but the model has max_position_embeddings = {limit}; \
                     set data.max_length to at most {limit}, or drop prompts that are longer",
                    dataset.place(index)
                )));
            }
        }
        Ok(dataset)
    }

    fn load(&self, seed: u64) -> Result<Decoder, TrainError> {
        match &self.weights {
            Some(weights) => Decoder::load(&self.config, weights, true),
            None => Decoder::random(&self.config, seed),
        }
    }
}

/// The tokenizer of `dir`, with the template file in place of its own where one is given.
///
/// # Errors
/// When a file is missing or wrong.
pub fn load_chat(dir: &Path, template: Option<&Path>) -> Result<ChatTokenizer, TrainError> {
    let chat = ChatTokenizer::from_dir(dir)?;
    match template {
        None => Ok(chat),
        Some(path) => Ok(chat.with_template(fs::read_to_string(path).map_err(|e| TrainError::read(path, e))?)?),
    }
}

/// How a data set came to be, file by file.
fn lineage(split: &str, dataset: &Dataset) -> Vec<DataLineage> {
    let file = |file: &DataFile| DataLineage {
        split: split.into(),
        path: file.path.clone(),
        sha256: file.sha256.clone(),
        layout: file.layout.into(),
        weight: file.weight,
        rows_used: file.examples.len(),
        rows_dropped: file.dropped.iter().map(|(why, rows)| (why.to_string(), rows.len())).collect(),
    };
    dataset.files.iter().map(file).collect()
}

/// What a resumed run must have in common with the one it continues.
fn fingerprint(recipe: &Recipe, base: &BTreeMap<String, String>, data: &[DataLineage]) -> Value {
    let (train, validation) = (&recipe.data.train, recipe.data.validation.as_ref());
    let mut recipe = serde_json::to_value(recipe).expect("plain data");
    // Where things lie and how often they are written do not change what is computed.
    for path in ["/output_dir", "/model/path", "/model/tokenizer", "/data/format", "/data/chat_template"] {
        if let Some(value) = recipe.pointer_mut(path) {
            *value = Value::Null;
        }
    }
    // Layouts and weights are those of the files below.
    for (split, sources) in [("train", Some(train)), ("validation", validation)] {
        let sources = sources.map_or(&[][..], |sources| &sources.0);
        recipe["data"][split] = sources.iter().map(|source| json!(source.columns)).collect();
    }
    for interval in ["logging_steps", "eval_steps", "save_steps"] {
        recipe["training"][interval] = Value::Null;
    }
    let data: Vec<Value> = data.iter().map(|file| json!([file.split, file.sha256, file.layout, file.weight])).collect();
    json!({"recipe": recipe, "base": base, "data": data})
}

/// Which examples make which step.
struct Plan {
    schedule: Schedule,
    steps_per_epoch: usize,
    mixture: Mixture,
    batch_size: usize,
    accumulation: usize,
    seed: u64,
}

impl Plan {
    fn new(recipe: &Recipe, mixture: Mixture) -> Self {
        let t = &recipe.training;
        let steps_per_epoch = mixture.epoch_len().div_ceil(t.batch_size * t.gradient_accumulation_steps);
        let schedule = Schedule {
            kind: t.lr_scheduler,
            learning_rate: t.learning_rate,
            warmup_steps: t.warmup_steps,
            total_steps: t.max_steps.unwrap_or(t.epochs * steps_per_epoch),
        };
        Self {
            schedule,
            steps_per_epoch,
            mixture,
            batch_size: t.batch_size,
            accumulation: t.gradient_accumulation_steps,
            seed: recipe.seed,
        }
    }

    /// The micro-batches of step `step` (counted from 0). Each epoch has an order of its own; its last step may be
    /// smaller.
    fn micro_batches(&self, step: usize) -> Vec<Vec<usize>> {
        let order = self.mixture.epoch(self.seed, step / self.steps_per_epoch);
        let first = step % self.steps_per_epoch * self.batch_size * self.accumulation;
        let last = (first + self.batch_size * self.accumulation).min(order.len());
        order[first..last].chunks(self.batch_size).map(|chunk| chunk.to_vec()).collect()
    }
}

fn check_finite(
    step: usize,
    what: &'static str,
    value: f64,
    train: &Dataset,
    examples: &[usize],
) -> Result<(), TrainError> {
    if value.is_finite() {
        return Ok(());
    }
    let rows = examples.iter().map(|example| train.place(*example)).collect::<Vec<_>>().join(", ");
    Err(TrainError::NotFinite { step, what, value, rows })
}

fn describe(decoder: &Decoder, train: &[Example], plan: &Plan, step: usize) -> String {
    let parameters: usize = decoder.params().iter().map(|p| p.weight().elem_count()).sum();
    let tokens: usize = train.iter().map(|example| example.tokens()).sum();
    let from = if step > 0 { format!(", going on after step {step}") } else { String::new() };
    format!(
        "{parameters} parameters, {} examples, {tokens} tokens, {} steps of {} x {}{from}",
        train.len(),
        plan.schedule.total_steps,
        plan.accumulation,
        plan.batch_size,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_uses_every_example_once() {
        let schedule = Schedule { kind: Default::default(), learning_rate: 1.0, warmup_steps: 0, total_steps: 100 };
        let mixture = Mixture::new(vec![(0..11, 1.0)]);
        let plan = Plan { schedule, steps_per_epoch: 3, mixture, batch_size: 2, accumulation: 2, seed: 1 };
        for epoch in 0..2 {
            let mut seen: Vec<usize> = (0..3).flat_map(|s| plan.micro_batches(3 * epoch + s)).flatten().collect();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..11));
        }
        assert_eq!(plan.micro_batches(2).iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
        assert_ne!(plan.micro_batches(0), plan.micro_batches(3));
    }
}
