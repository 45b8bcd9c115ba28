//! Models that are complete and checked, but not loaded.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use clap::ValueEnum;
use orpo_chat::ChatTokenizer;
use orpo_hub::Hub;
use orpo_model::adapter::Adapter;
use serde_json::{Value, json};

use super::gguf::Gguf;
use super::merge::merge;
use super::request::{NamedAdapter, Request};
use super::{hub, manifest};
use crate::checkpoint::Checkpoint;
use crate::engine::{Engine, EngineChoice, choice};
use crate::served::Served;

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

impl Model {
    /// The model in an engine, loaded now; `settings` says by which engine and how.
    pub(super) fn served(self, engine: Arc<dyn Engine>, settings: Value) -> Served {
        let Self { name, aliases, parent, mut lineage, tokenizer, .. } = self;
        if let Some(lineage) = &mut lineage {
            lineage["server"] = settings;
        }
        let mut served = Served::new(name, engine, tokenizer);
        (served.aliases, served.parent, served.lineage) = (aliases, parent, lineage);
        served
    }
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

/// All models that are asked for, the base first. Where the engine takes no adapters, they are merged into directories
/// below `scratch`, which must stay as long as the models are used. Blocks: it may fetch, hash and write whole models.
///
/// # Errors
/// In one line: what is wrong with which model, and what to do.
pub(super) fn models(request: &Request, scratch: &Path) -> anyhow::Result<Vec<Model>> {
    let mut names = request.names.clone();
    check_names(names.iter().chain(request.adapters.iter().map(|adapter| &adapter.name)))?;
    let path = model_dir(&request.model)?;
    if path.is_file() {
        return Ok(vec![gguf_model(request, &path, names)?]);
    }
    if request.tokenizer.is_some() {
        bail!("--tokenizer is for GGUF files; the tokenizer of a checkpoint directory lies in it");
    }
    let base = Checkpoint::open(&path)?;
    // Before long work: what no engine can run.
    let selected = choice::select(request.engine, &base);
    let engine = selected.with_context(|| format!("cannot serve `{}`", request.model.display()))?.engine();
    let tokenizer_of_base = tokenizer(request, &base.dir)?;
    check_vocabulary(&tokenizer_of_base, &base)?;
    let adapters: Vec<Adapter> =
        request.adapters.iter().map(|named| Adapter::open(&named.dir)).collect::<Result<_, _>>()?;
    for dir in std::iter::once(&base.dir).chain(request.adapters.iter().map(|named| &named.dir)) {
        verify(request, dir)?;
    }
    let name = names.remove(0);
    let mut models = Vec::with_capacity(1 + adapters.len());
    for (number, (named, adapter)) in request.adapters.iter().zip(adapters).enumerate() {
        let mut model = adapter_model(request, &base, &name, named, adapter)?;
        if let Weights::Adapter(adapter) = &model.weights
            && engine != EngineChoice::Native
        {
            tracing::info!(adapter = %named.name, dir = %named.dir.display(), "merging");
            let merged = merge(&base, adapter, &scratch.join(number.to_string()))?;
            model.weights = Weights::Checkpoint(Box::new(merged));
        }
        models.push(model);
    }
    let lineage = manifest::lineage(&base.dir, request.verify)?;
    let weights = Weights::Checkpoint(Box::new(base));
    let tokenizer = tokenizer_of_base;
    models.insert(0, Model { name, aliases: names, parent: None, lineage, weights, tokenizer });
    Ok(models)
}

/// An adapter of `base`, which is called `base_name`.
fn adapter_model(
    request: &Request,
    base: &Checkpoint,
    base_name: &str,
    named: &NamedAdapter,
    adapter: Adapter,
) -> anyhow::Result<Model> {
    let tokenizer = tokenizer(request, adapter.tokenizer_dir(&base.dir))
        .with_context(|| format!("adapter `{}`", named.dir.display()))?;
    check_vocabulary(&tokenizer, base)?;
    let lineage = manifest::lineage(&named.dir, request.verify)?;
    let (name, parent) = (named.name.clone(), Some(base_name.to_string()));
    Ok(Model { name, aliases: Vec::new(), parent, lineage, weights: Weights::Adapter(Box::new(adapter)), tokenizer })
}

/// Opens adapters of a base while it is served.
#[derive(Debug, Clone)]
pub struct AdapterLoader {
    request: Request,
    base: Checkpoint,
    base_name: String,
}

impl AdapterLoader {
    /// For adapters of `model`; none where that is no checkpoint directory.
    pub fn of(request: &Request, model: &Model) -> Option<Self> {
        let Weights::Checkpoint(base) = &model.weights else { return None };
        Some(Self { request: request.clone(), base: (**base).clone(), base_name: model.name.clone() })
    }

    /// The adapter in `dir`, checked as those that the server begins with. Blocks.
    ///
    /// # Errors
    /// As [`models`].
    pub fn open(&self, name: &str, dir: &Path) -> anyhow::Result<Model> {
        let adapter = Adapter::open(dir)?;
        verify(&self.request, dir)?;
        let named = NamedAdapter { name: name.into(), dir: dir.into() };
        adapter_model(&self.request, &self.base, &self.base_name, &named, adapter)
    }

    /// A model that it opened as the base's `engine` serves it. Blocks.
    ///
    /// # Errors
    /// In one line: why the engine does not take it.
    pub fn serve(&self, model: Model, engine: &Arc<dyn Engine>) -> anyhow::Result<Served> {
        let Weights::Adapter(adapter) = &model.weights else { bail!("`{}` is not an adapter", model.name) };
        let engine = engine.with_adapter(adapter.low_rank()?);
        let engine = engine.map_err(|error| anyhow!("cannot load the adapter `{}`: {error}", model.name))?;
        let settings = settings(&self.request, EngineChoice::Native, &model);
        Ok(model.served(engine, settings))
    }
}

/// How a model is served, for its card.
pub(super) fn settings(request: &Request, engine: EngineChoice, model: &Model) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "engine": engine.to_string(),
        "quantize": request.quantize.and_then(|kind| Some(kind.to_possible_value()?.get_name().to_owned())),
        "adapter": model.parent.as_ref().map(|_| &model.name),
    })
}

fn gguf_model(request: &Request, file: &Path, mut names: Vec<String>) -> anyhow::Result<Model> {
    if !request.adapters.is_empty() {
        bail!("--adapter needs the base as a checkpoint directory; `{}` is a file", file.display());
    }
    if request.quantize.is_some() {
        bail!("--quantize needs a checkpoint directory; the weights of `{}` are as they are", file.display());
    }
    let gguf = Gguf::open(file, request.engine)?;
    let beside = file.parent().unwrap_or(Path::new("."));
    let tokenizer = tokenizer(request, request.tokenizer.as_deref().unwrap_or(beside))
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

fn verify(request: &Request, dir: &Path) -> anyhow::Result<()> {
    if !request.verify {
        return Ok(());
    }
    if let Some(files) = manifest::verify(dir)? {
        tracing::info!(dir = %dir.display(), files, "every file is the one that {} names", orpo_files::MANIFEST);
    }
    Ok(())
}

fn tokenizer(request: &Request, dir: &Path) -> anyhow::Result<ChatTokenizer> {
    let mut tokenizer = ChatTokenizer::from_dir(dir)?;
    if let Some(path) = &request.chat_template {
        let source = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read --chat-template `{}`", path.display()))?;
        tokenizer = tokenizer.with_template(source).with_context(|| format!("--chat-template `{}`", path.display()))?;
    }
    if let Some(variables) = &request.template_variables {
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
