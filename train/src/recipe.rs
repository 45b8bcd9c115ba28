//! The recipe: one TOML file per run, read into types that refuse what they do not know.

mod data;
mod export;
mod interval;
mod keys;
mod lora;
mod message;
mod model;
mod objective;
mod training;

use std::path::{Path, PathBuf};

use orpo_chat::RESERVED_VARIABLES;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::{BatchSize, TokeniseOptions, Truncation};
use crate::error::TrainError;
use crate::hub;
use crate::loss::NllTarget;
use crate::optim::{AdamWConfig, Schedule};
use crate::step::Objective;

pub use data::DataSection;
pub use export::ExportSection;
pub use interval::Interval;
pub use keys::{Key, keys, listing, markdown};
pub use lora::LoraSection;
pub use model::{InitSection, ModelSection};
pub use objective::{DivergenceType, LossType, ObjectiveKind};
pub use training::{LossWeighting, TrainingSection};

/// Everything that determines a run. Relative paths are relative to the recipe's directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Directory for checkpoints, metrics and the final model.
    #[schemars(extend("trl" = "output_dir"))]
    pub output_dir: PathBuf,
    /// Seed of the data order, of dropout and of a random initialisation. Default 42.
    #[serde(default = "default_seed")]
    #[schemars(extend("trl" = "seed"))]
    pub seed: u64,
    /// The model to start from.
    pub model: ModelSection,
    /// The data.
    pub data: DataSection,
    /// An adapter that is trained instead of all weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraSection>,
    /// Loss, optimiser, length, intervals.
    #[serde(default)]
    pub training: TrainingSection,
    /// Form of the final model.
    #[serde(default)]
    pub export: ExportSection,
}

fn default_seed() -> u64 {
    42
}

/// The text of a recipe.
fn text(path: &Path) -> Result<String, TrainError> {
    let bytes = std::fs::read(path).map_err(|e| TrainError::read(path, e))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| TrainError::invalid(path, "it is not UTF-8 text; save the file as UTF-8"))?;
    let table: toml::Table = toml::from_str(&text).unwrap_or_default();
    if table.get("base").is_some_and(toml::Value::is_table) && !table.contains_key("output_dir") {
        let reason =
            "this is a pipeline, not a recipe for one training run; `orpo run` runs it and `orpo plan` checks it";
        return Err(TrainError::invalid(path, reason));
    }
    Ok(text)
}

impl Recipe {
    /// Reads a recipe, applies `--set key=value` overrides, resolves paths and checks every value.
    ///
    /// # Errors
    /// With the file and the key: unreadable, not TOML, an unknown or missing key, a value out of range.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, TrainError> {
        let text = text(path)?;
        // Without overrides straight from the text, whose errors show the line.
        if overrides.is_empty() {
            let recipe: Self = toml::from_str(&text).map_err(|e| message::of_recipe(path, Some(&text), &e))?;
            return recipe.checked(path);
        }
        let table = toml::from_str(&text).map_err(|e| message::of_recipe(path, Some(&text), &e))?;
        Self::with_overrides(path, table, overrides)
    }

    /// A recipe's text as a table, after looking at all of it.
    ///
    /// # Errors
    /// As [`Recipe::load`].
    pub fn table(path: &Path) -> Result<toml::Table, TrainError> {
        Self::load(path, &[])?;
        let text = text(path)?;
        toml::from_str(&text).map_err(|e| message::of_recipe(path, Some(&text), &e))
    }

    /// [`Recipe::from_table`] after `key=value` overrides.
    ///
    /// # Errors
    /// As there, and with an override that sets nothing.
    pub fn with_overrides(path: &Path, mut table: toml::Table, overrides: &[String]) -> Result<Self, TrainError> {
        for entry in overrides {
            set(&mut table, entry).map_err(|reason| TrainError::Refused(format!("--set {entry}: {reason}")))?;
        }
        Self::from_table(path, table)
    }

    /// Every key at its default, for the model at `path`; there is no data.
    pub fn standard(path: &Path) -> Self {
        Self {
            output_dir: PathBuf::new(),
            seed: default_seed(),
            model: ModelSection { path: Some(path.to_path_buf()), tokenizer: None, init: None },
            data: DataSection::new(Path::new("")),
            lora: None,
            training: TrainingSection::default(),
            export: ExportSection::default(),
        }
    }

    /// Reads a recipe that is part of, or made from, the file `path`; relative paths are relative to its directory.
    ///
    /// # Errors
    /// With the file and the key: an unknown or missing key, a value out of range.
    pub fn from_table(path: &Path, table: toml::Table) -> Result<Self, TrainError> {
        let recipe: Self = table.try_into().map_err(|e| message::of_recipe(path, None, &e))?;
        recipe.checked(path)
    }

    fn checked(self, path: &Path) -> Result<Self, TrainError> {
        self.check().map_err(|reason| TrainError::invalid(path, reason))?;
        Ok(self.resolved(path.parent().unwrap_or(Path::new(""))))
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
        if let Some(name) = RESERVED_VARIABLES.iter().find(|name| self.data.chat_template_kwargs.contains_key(**name)) {
            return Err(format!("`data.chat_template_kwargs.{name}` cannot be set: the data decides what it is"));
        }
        if let Some(lora) = &self.lora {
            lora.check()?;
        }
        if let Some(reason) = keys::out_of_range(self) {
            return Err(reason);
        }
        let t = &self.training;
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
        if t.warmup_ratio.is_some() && t.warmup_steps > 0 {
            return Err("`training.warmup_ratio` replaces `training.warmup_steps`; set only one of them".into());
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
    fn a_pipeline_and_a_file_of_another_encoding_are_told_from_a_recipe() {
        let pipeline = "out = \"o\"\n[base]\nmodel = \"m\"\n[data]\ntrain = \"t\"\n";
        for overrides in [&[][..], &["training.beta=1"]] {
            let message = load(pipeline, overrides).unwrap_err();
            assert!(message.contains("this is a pipeline, not a recipe for one training run; `orpo run`"), "{message}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recipe.toml");
        std::fs::write(&path, b"# \xfcber\n").unwrap();
        let message = Recipe::load(&path, &[]).unwrap_err().to_string();
        assert!(message.ends_with("it is not UTF-8 text; save the file as UTF-8"), "{message}");
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
    fn all_linear_layers_are_one_word_as_in_peft() {
        let targets = |value: &str| {
            let recipe = load(MINIMAL, &[&format!("lora.target_modules={value}")])?;
            Ok::<_, String>(recipe.lora.unwrap().target_modules)
        };
        assert_eq!(targets("all-linear").unwrap(), ["all-linear"]);
        assert_eq!(targets("[\"all-linear\"]").unwrap(), ["all-linear"]);
        assert_eq!(targets("[\"q_proj\", \"v_proj\"]").unwrap(), ["q_proj", "v_proj"]);
        for (value, says) in [("q_proj", "write [\"q_proj\"]"), ("3", "a list of names, or \"all-linear\"")] {
            let error = targets(value).unwrap_err();
            assert!(error.contains("lora.target_modules") && error.contains(says), "{error}");
        }
    }

    #[test]
    fn types_of_weights_have_their_usual_spellings() {
        use clap::ValueEnum;

        use crate::checkpoint::WeightDtype::{self, Bf16, F16, F32};

        for (dtype, spellings) in
            [(F32, &["f32", "fp32", "float32"][..]), (Bf16, &["bf16", "bfloat16"]), (F16, &["f16", "fp16", "float16"])]
        {
            for spelling in spellings {
                let recipe = load(MINIMAL, &[&format!("export.dtype={spelling}")]).unwrap();
                assert_eq!((recipe.export.dtype, WeightDtype::from_str(spelling, false)), (dtype, Ok(dtype)));
            }
        }
        assert!(load(MINIMAL, &["export.dtype=half"]).unwrap_err().contains("export.dtype"));
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
            ("data.chat_template_kwargs.tools=[]", "`data.chat_template_kwargs.tools` cannot be set"),
        ] {
            let error = load(MINIMAL, &[entry]).unwrap_err();
            assert!(error.contains(key), "{error}");
        }
        assert!(load(&MINIMAL.replace("path = \"base\"", ""), &[]).unwrap_err().contains("[model]"));
    }
}
