//! From what is asked for to models that answer.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;

use super::gguf::Gguf;
use super::model::{AdapterLoader, Model, Weights, models, settings};
use super::request::Request;
use crate::engine::native::{NativeModel, NativeWeights};
use crate::engine::stage::{self, Format};
use crate::engine::{self, Engine, EngineChoice, Prepared, choice};
use crate::quantization::Quantization;
use crate::served::Served;

const NO_TMPDIR: &str = "cannot prepare the model in the directory for temporary files; set TMPDIR to a writable one";

/// The models, and what opens further adapters of the first.
pub type Started = (Vec<Served>, Option<AdapterLoader>);

/// Fetches, checks and merges what is asked for, and loads it, one model after the other. Where the engine takes no adapters,
/// they are merged into directories below `scratch`, which must stay as long as the models are used.
///
/// # Errors
/// In one line: what is wrong with which model, and what to do.
pub async fn start(request: &Request, scratch: &Path) -> anyhow::Result<Started> {
    let (own, scratch) = (request.clone(), scratch.to_path_buf());
    let models = tokio::task::spawn_blocking(move || models(&own, &scratch));
    let mut served: Vec<Served> = Vec::new();
    let mut loader = None;
    for model in models.await.context("the loading task failed")?? {
        if let (Some(loader), Some(base)) = (&loader, served.first())
            && matches!(model.weights, Weights::Adapter(_))
        {
            let (loader, engine): (AdapterLoader, _) = (AdapterLoader::clone(loader), base.engine.clone());
            let adapter = tokio::task::spawn_blocking(move || loader.serve(model, &engine));
            served.push(adapter.await.context("the loading task failed")??);
            continue;
        }
        let (engine, kind) = load_engine(request, &model).await?;
        tracing::info!(name = %model.name, context_length = engine.context_length(), "loaded");
        if served.is_empty() && kind == EngineChoice::Native {
            loader = AdapterLoader::of(request, &model);
        }
        let settings = settings(request, kind, &model);
        served.push(model.served(engine, settings));
    }
    Ok((served, loader))
}

async fn load_engine(request: &Request, model: &Model) -> anyhow::Result<(Arc<dyn Engine>, EngineChoice)> {
    let Model { name, weights, tokenizer, .. } = model;
    let prepared = match weights {
        Weights::Checkpoint(checkpoint) => {
            let cannot_serve = || format!("cannot serve `{name}`");
            let selected = choice::select(request.engine, checkpoint).with_context(cannot_serve)?;
            match selected.prepare(checkpoint, tokenizer.eos_ids()).context(NO_TMPDIR)? {
                Prepared::Mistralrs(staged) => Prepared::Mistralrs(staged.quantized(request.quantize)),
                Prepared::Native(mut model) => {
                    model.quantize = request.quantize.map(Quantization::storage);
                    Prepared::Native(model)
                }
            }
        }
        Weights::Adapter(_) => anyhow::bail!("cannot serve `{name}`: it is an adapter without its base"),
        Weights::Gguf(Gguf::Mistralrs(gguf)) => {
            Prepared::Mistralrs(stage::stage_gguf(&gguf.file, gguf.context_length, tokenizer).context(NO_TMPDIR)?)
        }
        Weights::Gguf(Gguf::Native(gguf)) => {
            let (weights, config) = (NativeWeights::Gguf(gguf.clone()), gguf.config().clone());
            Prepared::Native(Box::new(NativeModel { weights, config, quantize: None }))
        }
    };
    let format = match &prepared {
        Prepared::Mistralrs(staged) => staged.format,
        Prepared::Native(_) if matches!(weights, Weights::Gguf(_)) => Format::Gguf,
        Prepared::Native(_) => Format::Safetensors(request.quantize),
    };
    tracing::info!(%name, engine = %prepared.engine(), asked = %request.engine, weights = %format, "loading");
    let is_native = matches!(prepared, Prepared::Native(_));
    let lacks_avx2 = cfg!(all(target_arch = "x86_64", not(target_feature = "avx2")));
    if lacks_avx2 && !is_native && format != Format::Safetensors(None) {
        tracing::warn!("quantised weights are slow in this build: it has no AVX2; build with -C target-cpu=x86-64-v3");
    }
    let kind = prepared.engine();
    let engine = engine::load(prepared, tokenizer, request.options).await;
    Ok((engine.with_context(|| format!("cannot load `{name}`"))?, kind))
}
