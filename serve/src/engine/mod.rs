//! The contract between the server and what computes the tokens: ids in, sampled tokens out, one at a time.

pub mod choice;
pub mod constraint;
mod ending;
#[cfg(feature = "mistralrs")]
pub mod mistralrs;
pub mod native;
pub mod sampling;
pub(crate) mod schema;
pub(crate) mod schema_limits;
pub mod stage;
pub mod unsupported;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use orpo_chat::ChatTokenizer;
use orpo_model::infer::LowRank;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

pub use choice::{EngineChoice, Prepared, Selected};
pub use sampling::{SampledToken, Sampling, SamplingError};

/// What is to be generated.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    /// The prompt; not empty, and `prompt_ids.len() + max_tokens` is at most [`Engine::context_length`].
    pub prompt_ids: Vec<u32>,
    /// How many tokens at most, the end token included; at least 1.
    pub max_tokens: usize,
    /// The tokens that end a reply.
    pub eos_ids: Vec<u32>,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// How many alternatives each token carries ([`SampledToken::top`]).
    pub top_logprobs: usize,
}

/// Why an engine ended a generation by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The token is one of [`GenerateRequest::eos_ids`].
    Eos,
    /// The token is the last of [`GenerateRequest::max_tokens`].
    Length,
}

/// One generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The token, an end token included.
    pub token: SampledToken,
    /// Set on the last step and only there.
    pub finish: Option<Finish>,
}

/// What can go wrong inside an engine. The text is for the log, not for the client.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EngineError {
    /// The engine reports that this request failed; others go on.
    #[error("the engine failed: {0}")]
    Failed(String),
    /// The reply's grammar cannot be followed any further; the text is for the client.
    #[error("{0}")]
    Constraint(String),
    /// The engine went away without a word, as it does when its thread panics.
    #[error("the engine stopped before the reply was finished")]
    Stopped,
}

impl From<SamplingError> for EngineError {
    fn from(error: SamplingError) -> Self {
        match error {
            SamplingError::Constraint(error) => Self::Constraint(error.to_string()),
            other => Self::Failed(other.to_string()),
        }
    }
}

/// A reply in the making. Dropping it cancels: the engine stops within one step.
#[derive(Debug)]
pub struct Generation {
    steps: UnboundedReceiver<Result<Step, EngineError>>,
    cached: CachedTokens,
}

/// How many tokens of a prompt the engine knew before and need not compute; final with the reply's first token.
#[derive(Debug, Clone, Default)]
pub struct CachedTokens(Arc<AtomicUsize>);

impl CachedTokens {
    /// Notes the number.
    pub fn set(&self, tokens: usize) {
        self.0.store(tokens, Ordering::Release);
    }

    /// The number.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

/// The engine's end of a [`Generation`]. Unbounded, so that a slow reader cannot hold up the engine; what can pile up
/// is bounded by `max_tokens`.
pub type StepSender = UnboundedSender<Result<Step, EngineError>>;

impl Generation {
    /// A channel for one reply: the engine's end and the reader's.
    pub fn channel() -> (StepSender, Self) {
        let (sender, steps) = unbounded_channel();
        (sender, Self { steps, cached: CachedTokens::default() })
    }

    /// How many tokens of the prompt the engine knew before; for the engine, where to say so.
    pub fn cached(&self) -> &CachedTokens {
        &self.cached
    }

    /// The next token. After a step with [`Step::finish`] it must not be called again.
    ///
    /// # Errors
    /// [`EngineError::Failed`] when the engine says so, [`EngineError::Stopped`] when it hangs up before the end.
    pub async fn next(&mut self) -> Result<Step, EngineError> {
        self.steps.recv().await.unwrap_or(Err(EngineError::Stopped))
    }
}

/// The scores of a prompt in the making. Dropping it cancels.
#[derive(Debug)]
pub struct Scoring {
    scores: oneshot::Receiver<Result<Vec<SampledToken>, EngineError>>,
}

/// The engine's end of a [`Scoring`].
pub type ScoringSender = oneshot::Sender<Result<Vec<SampledToken>, EngineError>>;

impl Scoring {
    /// A channel for one prompt: the engine's end and the reader's.
    pub fn channel() -> (ScoringSender, Self) {
        let (sender, scores) = oneshot::channel();
        (sender, Self { scores })
    }

    /// The prompt's tokens from the second on (nothing comes before the first), each as if it had been chosen there.
    ///
    /// # Errors
    /// As [`Generation::next`].
    pub async fn finish(self) -> Result<Vec<SampledToken>, EngineError> {
        self.scores.await.unwrap_or(Err(EngineError::Stopped))
    }
}

/// What an engine is doing that schedules its requests itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// How many sequences run at most.
    pub sequences: usize,
    /// Sequences that run.
    pub running: usize,
    /// Sequences that wait for their turn.
    pub waiting: usize,
    /// Pages of the key-value cache.
    pub pages: usize,
    /// Those that running sequences hold.
    pub pages_held: usize,
    /// Those that are kept for the prefixes in them, and free as soon as they are needed.
    pub pages_known: usize,
    /// Tokens of prompts that were looked up in the cache.
    pub prefix_queries: u64,
    /// Those that were found.
    pub prefix_hits: u64,
}

/// An inference engine with one model loaded.
pub trait Engine: Send + Sync {
    /// How many tokens prompt and reply may have together.
    fn context_length(&self) -> usize;

    /// Whether requests can be expected to succeed now. It turns false while an engine recovers from a crash.
    fn is_ready(&self) -> bool {
        true
    }

    /// What an engine is doing that takes any number of requests and schedules them itself; none where requests are to
    /// be handed over one after another.
    fn occupancy(&self) -> Option<Occupancy> {
        None
    }

    /// The same model with an adapter, where the engine can serve several from one copy of the weights. Blocks until the
    /// running step is done, and is not for a thread that answers requests. The adapter is unloaded when the last of its
    /// engines is dropped.
    ///
    /// # Errors
    /// Why it does not fit, or that the engine takes none.
    fn with_adapter(&self, layers: Vec<LowRank>) -> Result<Arc<dyn Engine>, String> {
        let _ = layers;
        Err("the engine mistralrs takes no adapters; native does".into())
    }

    /// Starts a reply. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`EngineError`] when the request could not even be handed over.
    fn generate(&self, request: GenerateRequest) -> Result<Generation, EngineError>;

    /// Starts to score a prompt of at most [`Engine::context_length`] tokens: the log-probability of each given those
    /// before it, and the `top_logprobs` most likely tokens in its place. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// As [`Engine::generate`].
    fn score(&self, prompt_ids: Vec<u32>, top_logprobs: usize) -> Result<Scoring, EngineError>;
}

/// Ids from here on are padding of the model's vocabulary that the tokenizer does not know.
pub(crate) fn known_ids(tokenizer: &ChatTokenizer) -> usize {
    tokenizer.tokenizer().get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
}

/// Why no engine could be made of a checked model.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The engine refuses the model or fails on its first token.
    #[error("the inference engine refuses the model: {0}")]
    Engine(String),
    /// The model needs the engine mistralrs, which this build lacks.
    #[error(
        "the engine mistralrs is not in this build; make one with `cargo build --release --features mistralrs` \
         (20 minutes), or use the container image"
    )]
    WithoutMistralrs,
}

/// How an engine is to run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// How many requests it does at a time; none for what suits it.
    pub max_concurrent: Option<NonZeroUsize>,
    /// Bytes for keys and values, of the engine of our own; none for a part of the memory that is available.
    pub kv_cache_bytes: Option<usize>,
}

/// Loads a prepared model. The tokenizer tells which ids exist.
///
/// # Errors
/// [`LoadError`].
pub async fn load(
    prepared: Prepared,
    tokenizer: &ChatTokenizer,
    options: Options,
) -> Result<Arc<dyn Engine>, LoadError> {
    match prepared {
        #[cfg(feature = "mistralrs")]
        Prepared::Mistralrs(staged) => {
            let max_concurrent = options.max_concurrent.unwrap_or(NonZeroUsize::MIN);
            Ok(Arc::new(mistralrs::MistralEngine::load(staged, tokenizer, max_concurrent).await?))
        }
        Prepared::Native(model) => Ok(Arc::new(native::NativeEngine::load(*model, options, tokenizer).await?)),
        #[cfg(not(feature = "mistralrs"))]
        Prepared::Mistralrs(_) => Err(LoadError::WithoutMistralrs),
    }
}
