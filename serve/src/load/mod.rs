//! From what the user names to models that an engine can load: [`hub`] fetches, [`manifest`] checks hashes, and
//! [`merge`](merge()) puts LoRA adapters into the base's weights; [`gguf`] looks into GGUF files.

pub mod gguf;
pub mod hub;
pub mod manifest;
mod merge;
mod progress;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use clap::ValueEnum;
use orpo_chat::ChatTokenizer;
use orpo_hub::Hub;
use orpo_model::adapter::Adapter;
use serde_json::{Value, json};

use self::gguf::Gguf;
pub use self::merge::{MergeError, merge};
use crate::checkpoint::Checkpoint;
use crate::config::{NamedAdapter, ServeArgs};
use crate::engine::{Engine, EngineChoice, choice};
use crate::state::Served;

/// A model that is complete and checked, but not loaded.
#[derive(Debug)]
pub struct Model {
    /// The name that answers carry.
    pub name: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// The model that this one is an adapter of.
    pub parent: Option<String>,
    /// Where it comes from, if its directory says so.
    pub lineage: Option<Value>,
    /// Weights and config.
    pub weights: Weights,
    /// Tokenizer and chat template.
    pub tokenizer: ChatTokenizer,
}

/// What an engine loads.
#[derive(Debug)]
pub enum Weights {
    /// A checkpoint directory.
    Checkpoint(Box<Checkpoint>),
    /// A GGUF file, which brings its config with it.
    Gguf(Gguf),
    /// An adapter for the engine that serves the base.
    Adapter(Box<Adapter>),
}

/// All models that `args` ask for, the base first. Where the engine takes no adapters, they are merged into directories
/// below `scratch`, which must stay as long as the models are used. Blocks: it may fetch, hash and write whole models.
///
/// # Errors
/// In one line: what is wrong with which model, and what to do.
pub fn models(args: &ServeArgs, scratch: &Path) -> anyhow::Result<Vec<Model>> {
    let mut names = args.model_names();
    check_names(names.iter().chain(args.adapter.iter().map(|adapter| &adapter.name)))?;
    let path = model_dir(&args.model)?;
    if path.is_file() {
        return Ok(vec![gguf_model(args, &path, names)?]);
    }
    if args.tokenizer.is_some() {
        bail!("--tokenizer is for GGUF files; the tokenizer of a checkpoint directory lies in it");
    }
    let base = Checkpoint::open(&path)?;
    // Before long work: what no engine can run.
    let selected = choice::select(args.engine, &base);
    let engine = selected.with_context(|| format!("cannot serve `{}`", args.model.display()))?.engine();
    let tokenizer_of_base = tokenizer(args, &base.dir)?;
    check_vocabulary(&tokenizer_of_base, &base)?;
    let adapters: Vec<Adapter> =
        args.adapter.iter().map(|named| Adapter::open(&named.dir)).collect::<Result<_, _>>()?;
    for dir in std::iter::once(&base.dir).chain(args.adapter.iter().map(|named| &named.dir)) {
        verify(args, dir)?;
    }
    let name = names.remove(0);
    let mut models = Vec::with_capacity(1 + adapters.len());
    for (number, (named, adapter)) in args.adapter.iter().zip(adapters).enumerate() {
        let mut model = adapter_model(args, &base, &name, named, adapter)?;
        if let Weights::Adapter(adapter) = &model.weights
            && engine != EngineChoice::Native
        {
            tracing::info!(adapter = %named.name, dir = %named.dir.display(), "merging");
            let merged = merge(&base, adapter, &scratch.join(number.to_string()))?;
            model.weights = Weights::Checkpoint(Box::new(merged));
        }
        models.push(model);
    }
    let lineage = manifest::lineage(&base.dir, !args.no_verify)?;
    let weights = Weights::Checkpoint(Box::new(base));
    let tokenizer = tokenizer_of_base;
    models.insert(0, Model { name, aliases: names, parent: None, lineage, weights, tokenizer });
    Ok(models)
}

/// An adapter of `base`, which is called `base_name`.
fn adapter_model(
    args: &ServeArgs,
    base: &Checkpoint,
    base_name: &str,
    named: &NamedAdapter,
    adapter: Adapter,
) -> anyhow::Result<Model> {
    let tokenizer = tokenizer(args, adapter.tokenizer_dir(&base.dir))
        .with_context(|| format!("adapter `{}`", named.dir.display()))?;
    check_vocabulary(&tokenizer, base)?;
    let lineage = manifest::lineage(&named.dir, !args.no_verify)?;
    let (name, parent) = (named.name.clone(), Some(base_name.to_string()));
    Ok(Model { name, aliases: Vec::new(), parent, lineage, weights: Weights::Adapter(Box::new(adapter)), tokenizer })
}

/// Opens adapters of a base while it is served.
#[derive(Debug, Clone)]
pub struct AdapterLoader {
    args: ServeArgs,
    base: Checkpoint,
    base_name: String,
}

impl AdapterLoader {
    /// For adapters of `model`; none where that is no checkpoint directory.
    pub fn of(args: &ServeArgs, model: &Model) -> Option<Self> {
        let Weights::Checkpoint(base) = &model.weights else { return None };
        Some(Self { args: args.clone(), base: (**base).clone(), base_name: model.name.clone() })
    }

    /// The adapter in `dir`, checked as those that the server begins with. Blocks.
    ///
    /// # Errors
    /// As [`models`].
    pub fn open(&self, name: &str, dir: &Path) -> anyhow::Result<Model> {
        let adapter = Adapter::open(dir)?;
        verify(&self.args, dir)?;
        let named = NamedAdapter { name: name.into(), dir: dir.into() };
        adapter_model(&self.args, &self.base, &self.base_name, &named, adapter)
    }

    /// A model that it opened as the base's `engine` serves it. Blocks.
    ///
    /// # Errors
    /// In one line: why the engine does not take it.
    pub fn serve(&self, model: Model, engine: &Arc<dyn Engine>) -> anyhow::Result<Served> {
        let Weights::Adapter(adapter) = &model.weights else { bail!("`{}` is not an adapter", model.name) };
        let engine = engine.with_adapter(adapter.low_rank()?);
        let engine = engine.map_err(|error| anyhow!("cannot load the adapter `{}`: {error}", model.name))?;
        let settings = settings(&self.args, EngineChoice::Native, &model);
        Ok(Served::of(model, engine, settings))
    }
}

/// How a model is served, for its card.
pub fn settings(args: &ServeArgs, engine: EngineChoice, model: &Model) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "engine": engine.to_string(),
        "quantize": args.quantize.and_then(|kind| Some(kind.to_possible_value()?.get_name().to_owned())),
        "adapter": model.parent.as_ref().map(|_| &model.name),
    })
}

fn gguf_model(args: &ServeArgs, file: &Path, mut names: Vec<String>) -> anyhow::Result<Model> {
    if !args.adapter.is_empty() {
        bail!("--adapter needs the base as a checkpoint directory; `{}` is a file", file.display());
    }
    if args.quantize.is_some() {
        bail!("--quantize needs a checkpoint directory; the weights of `{}` are as they are", file.display());
    }
    let gguf = Gguf::open(file, args.engine)?;
    let beside = file.parent().unwrap_or(Path::new("."));
    let tokenizer = tokenizer(args, args.tokenizer.as_deref().unwrap_or(beside))
        .context("a GGUF file needs --tokenizer DIR with tokenizer.json and tokenizer_config.json")?;
    if let Gguf::Native(gguf) = &gguf {
        tokenizer.check_vocabulary(gguf.config().vocab_size)?;
    }
    let name = names.remove(0);
    Ok(Model { name, aliases: names, parent: None, lineage: None, weights: Weights::Gguf(gguf), tokenizer })
}

/// `model` itself, or the directory in the cache where it is no path but an id of the hub.
fn model_dir(model: &Path) -> anyhow::Result<PathBuf> {
    match model.to_str() {
        Some(id) if !model.exists() && hub::is_id(model) => {
            hub::model(&Hub::from_env(), id).with_context(|| format!("there is no directory `{id}`"))
        }
        _ => Ok(model.to_path_buf()),
    }
}

/// A token without a row in the embedding would fail each request that has it.
fn check_vocabulary(tokenizer: &ChatTokenizer, checkpoint: &Checkpoint) -> anyhow::Result<()> {
    match checkpoint.config.get("vocab_size").and_then(Value::as_u64) {
        Some(rows) => Ok(tokenizer.check_vocabulary(usize::try_from(rows)?)?),
        None => Ok(()),
    }
}

fn check_names<'a>(names: impl Iterator<Item = &'a String>) -> anyhow::Result<()> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            bail!(
                "the name `{name}` is given twice; clients choose a model by its name: --served-model-name, --adapter"
            );
        }
    }
    Ok(())
}

fn verify(args: &ServeArgs, dir: &Path) -> anyhow::Result<()> {
    if args.no_verify {
        return Ok(());
    }
    if let Some(files) = manifest::verify(dir)? {
        tracing::info!(dir = %dir.display(), files, "every file is the one that {} names", orpo_files::MANIFEST);
    }
    Ok(())
}

fn tokenizer(args: &ServeArgs, dir: &Path) -> anyhow::Result<ChatTokenizer> {
    let mut tokenizer = ChatTokenizer::from_dir(dir)?;
    if let Some(path) = &args.chat_template {
        let source = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read --chat-template `{}`", path.display()))?;
        tokenizer = tokenizer.with_template(source).with_context(|| format!("--chat-template `{}`", path.display()))?;
    }
    if let Some(variables) = &args.default_chat_template_kwargs {
        tokenizer = tokenizer.with_variables(variables.clone());
        for name in tokenizer.unused_variables() {
            tracing::warn!(dir = %dir.display(), "the chat template does not name `{name}` of --default-chat-template-kwargs");
        }
    }
    if tokenizer.template().is_err() {
        tracing::warn!(dir = %dir.display(), "no chat template: only /v1/completions is answered; --chat-template FILE gives one");
    }
    Ok(tokenizer)
}
