//! The engine of our own, for every family that the trainer knows: continuous batching over paged keys and values.
//!
//! One thread owns weights and pages. The [`scheduler`] decides which rows of which sequences a step computes, the forward
//! pass of the crate `model` computes them, and the [`worker`] chooses the tokens. Every row is summed in an order that
//! depends on nothing but the row, so that a reply is bit-identical alone or among others.

pub mod cache;
#[cfg(test)]
mod fake;
mod memory;
pub mod scheduler;
pub mod sequence;
mod task;
pub mod worker;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use orpo_chat::ChatTokenizer;
use orpo_model::gguf::Gguf;
use orpo_model::infer::{Adapter, AdapterId, Batch, Inference, LowRank, Workspace};
use orpo_model::kv::{PAGE, Pages};
use orpo_model::product::Storage;
use orpo_model::{Checkpoint, ModelConfig};
use tokio::sync::oneshot;

use self::cache::Cache;
use self::memory::Memory;
use self::scheduler::{Bounds, Scheduler};
use self::worker::{Command, Model, Sizes, Worker};
use super::{Engine, EngineError, GenerateRequest, Generation, LoadError, Occupancy, Options, Scoring, known_ids};

/// Sequences that run at a time unless something else is asked for.
const DEFAULT_SEQUENCES: NonZeroUsize = NonZeroUsize::new(16).unwrap();
/// Rows of a step. More make the products no faster, and running replies wait for the step's end.
const ROWS: usize = 256;
/// Bytes of the logits of texts that are scored in a step.
const SCORED_BYTES: usize = 16 << 20;
/// Bytes of the cache where the system does not tell how much memory there is.
const UNKNOWN_MEMORY: usize = 1 << 30;

/// A model on the engine of our own.
#[derive(Debug, Clone)]
pub struct NativeEngine {
    commands: Sender<Command>,
    context_length: usize,
    /// None for the base.
    adapter: Option<Arc<Loaded>>,
    occupancy: Arc<Mutex<Occupancy>>,
}

/// An adapter that is unloaded when dropped.
#[derive(Debug)]
struct Loaded {
    id: AdapterId,
    commands: Sender<Command>,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // Without the thread nothing is left to be unloaded.
        let _ = self.commands.send(Command::RemoveAdapter(self.id));
    }
}

/// What an engine is loaded from.
#[derive(Debug, Clone)]
pub struct NativeModel {
    /// Where the weights are.
    pub weights: NativeWeights,
    /// Its architecture, with the head that the weights have.
    pub config: ModelConfig,
    /// The type to which matrices are quantised; none keeps theirs.
    pub quantize: Option<Storage>,
}

/// Where the weights of a [`NativeModel`] are.
#[derive(Debug, Clone)]
pub enum NativeWeights {
    /// In a checkpoint directory.
    Directory(PathBuf),
    /// In a file of llama.cpp's, in the types that it has.
    Gguf(Box<Gguf>),
}

impl NativeEngine {
    /// Loads the weights.
    ///
    /// # Errors
    /// [`LoadError::Engine`] with what is wrong with them, or with the size of the cache.
    pub async fn load(model: NativeModel, options: Options, tokenizer: &ChatTokenizer) -> Result<Self, LoadError> {
        let NativeModel { weights, config, quantize } = model;
        let load = move || -> Result<Box<dyn Model>, String> {
            let inference = match weights {
                NativeWeights::Directory(dir) => {
                    Checkpoint::open(&dir).and_then(|checkpoint| Inference::load(&checkpoint, quantize))
                }
                NativeWeights::Gguf(gguf) => gguf.load(),
            };
            let inference = inference.map_err(|error| error.to_string())?;
            Ok(Box::new(Decoder { inference, workspace: Workspace::default() }))
        };
        Self::start(config, options, known_ids(tokenizer), load).await
    }

    /// Runs `load` on a thread of its own, which then does the work.
    async fn start(
        config: ModelConfig,
        options: Options,
        known_ids: usize,
        load: impl FnOnce() -> Result<Box<dyn Model>, String> + Send + 'static,
    ) -> Result<Self, LoadError> {
        let (commands, line) = channel();
        let occupancy = Arc::new(Mutex::new(Occupancy { sequences: sequences(options), ..Occupancy::default() }));
        let told = occupancy.clone();
        let (loaded, outcome) = oneshot::channel();
        std::thread::spawn(move || {
            let ready = load().and_then(|model| worker(model, config, options, known_ids, told));
            match ready {
                Ok((worker, context_length)) => {
                    if loaded.send(Ok(context_length)).is_ok() {
                        worker.run(&line);
                    }
                }
                Err(error) => drop(loaded.send(Err(error))),
            }
        });
        match outcome.await {
            Ok(Ok(context_length)) => Ok(Self { commands, context_length, adapter: None, occupancy }),
            Ok(Err(error)) => Err(LoadError::Engine(error)),
            Err(_) => Err(LoadError::Engine("it panicked while loading".into())),
        }
    }

    fn adapter_id(&self) -> Option<AdapterId> {
        self.adapter.as_ref().map(|adapter| adapter.id)
    }

    fn send(&self, command: Command) -> Result<(), EngineError> {
        self.commands.send(command).map_err(|_| EngineError::Stopped)
    }
}

/// The decoder of the crate `model`.
struct Decoder {
    inference: Inference,
    workspace: Workspace,
}

impl Model for Decoder {
    fn forward(&mut self, batch: &Batch<'_>, pages: &mut Pages, logits: &mut Vec<f32>) -> Result<(), String> {
        self.inference.forward(batch, pages, &mut self.workspace, logits).map_err(|error| error.to_string())
    }

    fn add_adapter(&mut self, layers: Vec<LowRank>) -> Result<AdapterId, String> {
        Adapter::new(self.inference.config(), layers).map(|adapter| self.inference.add_adapter(adapter))
    }

    fn remove_adapter(&mut self, adapter: AdapterId) {
        self.inference.unload(adapter);
    }
}

fn sequences(options: Options) -> usize {
    options.max_concurrent.unwrap_or(DEFAULT_SEQUENCES).get()
}

/// The thread's state, and how many tokens prompt and reply may have together.
fn worker(
    model: Box<dyn Model>,
    config: ModelConfig,
    options: Options,
    known_ids: usize,
    occupancy: Arc<Mutex<Occupancy>>,
) -> Result<(Worker, usize), String> {
    let bytes = cache_bytes(&config, options, Memory::of_this_process())?;
    let cache = Cache::new(Pages::new(&config, bytes));
    let limit = config.max_position_embeddings;
    let context_length = limit.min(cache.capacity());
    tracing::info!(bytes, pages = cache.count().total, sequences = sequences(options), "key-value cache");
    if context_length < limit {
        tracing::warn!(
            "the key-value cache holds {context_length} tokens, but the model can use {limit}: longer requests are \
             refused; raise --kv-cache-bytes"
        );
    }
    let vocabulary = config.vocab_size;
    let sequences = sequences(options);
    let scored = (SCORED_BYTES / (vocabulary * size_of::<f32>())).max(1);
    let scheduler = Scheduler::new(cache, Bounds { sequences, rows: ROWS.max(sequences), scored });
    let sizes = Sizes { context_length, vocabulary, known_ids };
    let new_pages = Box::new(move || Pages::new(&config, bytes));
    Ok((Worker::new(model, new_pages, scheduler, sizes, occupancy), context_length))
}

/// How large the cache becomes: as asked for, else a quarter of what is available, but no more than all sequences can fill.
fn cache_bytes(config: &ModelConfig, options: Options, memory: Option<Memory>) -> Result<usize, String> {
    let outline = Pages::new(config, 0);
    let of_page: usize = (0..outline.groups().len()).map(|group| outline.bytes_per_page(group)).sum();
    let bytes = match options.kv_cache_bytes {
        Some(bytes) => {
            if let Some(Memory { total, .. }) = memory.filter(|memory| memory.total < bytes) {
                return Err(format!(
                    "--kv-cache-bytes asks for {bytes} bytes, but there are only {total} bytes of memory"
                ));
            }
            bytes
        }
        None => {
            let pages = sequences(options).saturating_mul(config.max_position_embeddings.div_ceil(PAGE));
            let part = memory.map_or(UNKNOWN_MEMORY, |memory| memory.available / 4);
            part.min(pages.saturating_mul(of_page))
        }
    };
    if bytes < of_page {
        return Err(format!(
            "a key-value cache of {bytes} bytes has no room for one page of {PAGE} tokens, which takes {of_page}; give \
             more with --kv-cache-bytes"
        ));
    }
    Ok(bytes)
}

impl Engine for NativeEngine {
    fn context_length(&self) -> usize {
        self.context_length
    }

    fn occupancy(&self) -> Option<Occupancy> {
        Some(*self.occupancy.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn with_adapter(&self, layers: Vec<LowRank>) -> Result<Arc<dyn Engine>, String> {
        let (added, outcome) = oneshot::channel();
        self.send(Command::AddAdapter { layers, added }).map_err(|error| error.to_string())?;
        let id = outcome.blocking_recv().map_err(|_| EngineError::Stopped.to_string())??;
        let adapter = Some(Arc::new(Loaded { id, commands: self.commands.clone() }));
        Ok(Arc::new(Self { adapter, ..self.clone() }))
    }

    fn generate(&self, request: GenerateRequest) -> Result<Generation, EngineError> {
        let (steps, generation) = Generation::channel();
        let cached = generation.cached().clone();
        self.send(Command::Generate { request: Box::new(request), adapter: self.adapter_id(), steps, cached })?;
        Ok(generation)
    }

    fn score(&self, prompt_ids: Vec<u32>, top_logprobs: usize) -> Result<Scoring, EngineError> {
        let (scores, scoring) = Scoring::channel();
        self.send(Command::Score { ids: prompt_ids, top_logprobs, adapter: self.adapter_id(), scores })?;
        Ok(scoring)
    }
}
