//! The engine on mistralrs: its forward pass, and as little else of it as possible.
//!
//! Measured on 0.8.1: the logits are sound; seeds, log-probabilities, stop strings, text and length limits are not. So
//! tokens are chosen here, in a [`CustomLogitsProcessor`] that sees the logits of each step: it samples, reports the
//! token, and hands back a distribution with that token alone, which mistralrs then "samples". Its own replies are
//! read only for errors. Requests are always streaming (a dropped non-streaming one panics the engine) and their reply
//! channel is always read to its end (a full or closed one stalls or panics it).
//!
//! Sequences of equal length share a step, whatever number the scheduler is given, and sharing changes the logits by
//! about 1e-6. So requests wait for a slot here, and a slot is free only once mistralrs has let go of its sequence:
//! with one slot a reply is the same to the bit whatever was asked before, beside or cancelled.
//!
//! Prompts are scored from mistralrs' raw logits. A step that mixes them with sampled tokens panics it: so scoring takes
//! every slot.
//!
//! Should its thread panic all the same, every sequence in it ends with an error, and what waits for a slot goes on
//! waiting until a new thread has answered a request of ours.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::mistralrs::core::{
    Constraint, CustomLogitsProcessor, DefaultSchedulerMethod, DeviceMapSetting, GGUFLoaderBuilder, GGUFSpecificConfig,
    IsqType, MistralRs, MistralRsBuilder, ModelDType, NormalLoaderBuilder, NormalRequest, NormalSpecificConfig,
    Request, RequestMessage, Response, SamplingParams, SchedulerConfig, TokenSource,
};
use candle_core::{DType, Device, Tensor};
use orpo_chat::ChatTokenizer;
use tokio::sync::mpsc::{Receiver, Sender as ReplySender, channel};
use tokio::sync::{Semaphore, watch};

use super::sampling::{self, SampledToken, Sampler, Sampling};
use super::stage::{Format, GGUF_FILE, Staged};
use super::{
    Engine, EngineError, Finish, GenerateRequest, Generation, LoadError, Scoring, ScoringSender, Step, StepSender,
    known_ids,
};
use crate::quantization::Quantization;

/// Replies beyond one per token: errors, and a step or two that run on while a cancelled request is noticed.
const SPARE_REPLIES: usize = 16;
/// How often a crashed engine is tried again, and after how long.
const RECOVERY_ATTEMPTS: usize = 20;
const RECOVERY_PAUSE: Duration = Duration::from_millis(500);
/// More requests than this at a time cannot be meant, and a semaphore has a limit.
const MAX_SLOTS: u32 = 1 << 16;

/// A model loaded into mistralrs, in f32 on the CPU.
pub struct MistralEngine {
    inner: Arc<Inner>,
}

struct Inner {
    runner: Arc<MistralRs>,
    slots: Semaphore,
    /// How many slots there are.
    all_slots: u32,
    context_length: usize,
    /// Ids from here on are padding of the model's vocabulary that the tokenizer does not know.
    known_ids: usize,
    health: watch::Sender<Health>,
    next_id: AtomicUsize,
    /// The weights are mapped from here.
    _staged: Staged,
}

/// How mistralrs' thread is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Well,
    /// It panicked, and its successor has not answered yet.
    Recovering,
    /// It does not come back.
    Lost,
}

impl MistralEngine {
    /// Loads the model and generates one token with it.
    ///
    /// # Errors
    /// [`LoadError::Engine`] with mistralrs' words.
    pub async fn load(
        staged: Staged,
        tokenizer: &ChatTokenizer,
        max_concurrent: NonZeroUsize,
    ) -> Result<Self, LoadError> {
        let (directory, format) = (staged.path().to_path_buf(), staged.format);
        let (sender, built) = tokio::sync::oneshot::channel();
        // A thread of its own: loading blocks for seconds, may panic, and runs a runtime inside.
        std::thread::spawn(move || sender.send(build(&directory, format, max_concurrent)));
        let runner = match built.await {
            Ok(Ok(runner)) => runner,
            Ok(Err(error)) => return Err(LoadError::Engine(first_line(&format!("{error:#}")))),
            Err(_) => return Err(LoadError::Engine("it panicked while loading".into())),
        };
        let all_slots = u32::try_from(max_concurrent.get()).unwrap_or(u32::MAX).min(MAX_SLOTS);
        let inner = Inner {
            runner,
            slots: Semaphore::new(all_slots as usize),
            all_slots,
            context_length: staged.context_length,
            known_ids: known_ids(tokenizer),
            health: watch::Sender::new(Health::Well),
            next_id: AtomicUsize::new(1),
            _staged: staged,
        };
        let engine = Self { inner: Arc::new(inner) };
        engine.inner.probe().await.map_err(|error| LoadError::Engine(first_line(&error.to_string())))?;
        Ok(engine)
    }
}

impl Engine for MistralEngine {
    fn context_length(&self) -> usize {
        self.inner.context_length
    }

    fn is_ready(&self) -> bool {
        *self.inner.health.borrow() == Health::Well
    }

    fn generate(&self, request: GenerateRequest) -> Result<Generation, EngineError> {
        Ok(self.inner.generate(request))
    }

    fn score(&self, prompt_ids: Vec<u32>, top_logprobs: usize) -> Result<Scoring, EngineError> {
        let (scores, scoring) = Scoring::channel();
        tokio::spawn(self.inner.clone().score(prompt_ids, top_logprobs, scores));
        Ok(scoring)
    }
}

fn build(directory: &Path, format: Format, max_concurrent: NonZeroUsize) -> anyhow::Result<Arc<MistralRs>> {
    let model = directory.to_str().ok_or_else(|| anyhow::anyhow!("`{}` is not UTF-8", directory.display()))?;
    let (loader, quantization) = match format {
        Format::Safetensors(quantization) => {
            let config = NormalSpecificConfig::default();
            let builder = NormalLoaderBuilder::new(config, None, None, Some(model.into()), false, None)
                // Never used for a local directory, but by default looked for below a home directory that must exist.
                .hf_cache_path(directory.to_path_buf());
            (builder.build(None)?, quantization.map(isq_type))
        }
        Format::Gguf => {
            let (config, files) = (GGUFSpecificConfig::default(), vec![GGUF_FILE.into()]);
            let builder = GGUFLoaderBuilder::new(None, Some(model.into()), model.into(), files, config, false, None);
            (builder.build(), None)
        }
    };
    let pipeline = loader.load_model_from_hf(
        None,
        TokenSource::None,
        &ModelDType::F32,
        &Device::Cpu,
        true,
        DeviceMapSetting::dummy(),
        quantization,
        None,
    )?;
    let scheduler = SchedulerConfig::DefaultScheduler { method: DefaultSchedulerMethod::Fixed(max_concurrent) };
    // On a runtime with several threads mistralrs would generate a token at once, and only log how that went.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The prefix cache is never evicted on a CPU.
    let builder = MistralRsBuilder::new(pipeline, scheduler, false, None).with_no_prefix_cache(true);
    Ok(runtime.block_on(builder.build()))
}

fn isq_type(quantization: Quantization) -> IsqType {
    match quantization {
        Quantization::Q2K => IsqType::Q2K,
        Quantization::Q3K => IsqType::Q3K,
        Quantization::Q4_0 => IsqType::Q4_0,
        Quantization::Q4K => IsqType::Q4K,
        Quantization::Q5_0 => IsqType::Q5_0,
        Quantization::Q5K => IsqType::Q5K,
        Quantization::Q6K => IsqType::Q6K,
        Quantization::Q8_0 => IsqType::Q8_0,
    }
}

impl Inner {
    fn generate(self: &Arc<Self>, request: GenerateRequest) -> Generation {
        let (steps, generation) = Generation::channel();
        tokio::spawn(self.clone().run(request, steps));
        generation
    }

    /// Waits for a slot and generates.
    async fn run(self: Arc<Self>, request: GenerateRequest, steps: StepSender) {
        let slot = self.slots.acquire().await.expect("the semaphore is never closed");
        let well = tokio::select! {
            biased;
            () = steps.closed() => return,
            well = self.is_well() => well,
        };
        let crashed = well && self.sequence(request, &steps).await;
        // Before anybody hears of it, and before the slot is free for the next.
        let recovering = crashed && self.begins_to_recover();
        if crashed || !well {
            let _ = steps.send(Err(EngineError::Stopped));
        }
        drop(slot);
        if recovering {
            self.recover().await;
        }
    }

    /// Sees one sequence through, from handing it over until mistralrs lets go of it. Returns whether it crashed.
    async fn sequence(&self, request: GenerateRequest, steps: &StepSender) -> bool {
        let (replies, replies_read) = channel(request.max_tokens + SPARE_REPLIES);
        let finished = Arc::new(AtomicBool::new(false));
        let chooser = Chooser {
            choosing: Mutex::new(Choosing { sampler: Sampler::new(request.sampling), chosen: 0 }),
            steps: steps.clone(),
            finished: finished.clone(),
            known_ids: self.known_ids,
            max_tokens: request.max_tokens,
            eos_ids: request.eos_ids,
            top_logprobs: request.top_logprobs,
        };
        self.hand_over(NormalRequest {
            logits_processors: Some(vec![Arc::new(chooser)]),
            ..self.request(request.prompt_ids, request.max_tokens, replies)
        });
        watch_replies(replies_read, steps, &finished).await
    }

    /// A greedy request for a reply of so many tokens.
    fn request(&self, prompt_ids: Vec<u32>, max_tokens: usize, replies: ReplySender<Response>) -> NormalRequest {
        NormalRequest {
            messages: RequestMessage::CompletionTokens(prompt_ids),
            sampling_params: SamplingParams {
                // Absent means 1 here; 0 takes the largest logit, which is the token that was chosen.
                temperature: Some(0.0),
                max_len: Some(max_tokens),
                ..SamplingParams::deterministic()
            },
            response: replies,
            return_logprobs: false,
            is_streaming: true,
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            constraint: Constraint::None,
            suffix: None,
            tools: None,
            tool_choice: None,
            logits_processors: None,
            return_raw_logits: false,
            web_search_options: None,
            model_id: None,
            truncate_sequence: false,
        }
    }

    /// `get_sender` starts a new engine thread when the last one has crashed. A request that cannot be handed over is
    /// dropped with its end of the channel, which reads as a crash.
    fn hand_over(&self, request: NormalRequest) {
        match self.runner.get_sender(None) {
            Ok(sender) => drop(sender.try_send(Request::Normal(Box::new(request)))),
            Err(error) => tracing::error!(%error, "mistralrs has no engine"),
        }
    }

    /// Waits for every slot and scores a prompt alone.
    async fn score(self: Arc<Self>, mut prompt_ids: Vec<u32>, top_logprobs: usize, scores: ScoringSender) {
        // Nothing follows the last token, and nothing comes before the first.
        let Some(last) = prompt_ids.pop().filter(|_| !prompt_ids.is_empty()) else {
            let _ = scores.send(Ok(Vec::new()));
            return;
        };
        let all = self.slots.acquire_many(self.all_slots).await.expect("the semaphore is never closed");
        let well = self.is_well().await;
        if scores.is_closed() || !well {
            // Dropped, it reads as an engine that stopped.
            return;
        }
        let (replies, mut replies_read) = channel(SPARE_REPLIES);
        self.hand_over(NormalRequest { return_raw_logits: true, ..self.request(prompt_ids.clone(), 1, replies) });
        let mut outcome = Err(EngineError::Stopped);
        // After the logits mistralrs takes one more step, whose outcome it throws away; it has let go of the sequence
        // when the channel closes.
        while let Some(reply) = replies_read.recv().await {
            let error = match reply {
                Response::Raw { logits_chunks, .. } => {
                    outcome = Ok(logits_chunks);
                    continue;
                }
                Response::InternalError(error) | Response::ValidationError(error) => error.to_string(),
                Response::CompletionModelError(error, _) => error,
                _ => continue,
            };
            if outcome.is_err() {
                outcome = Err(EngineError::Failed(first_line(&error)));
            }
        }
        let recovering = matches!(outcome, Err(EngineError::Stopped)) && self.begins_to_recover();
        drop(all);
        let known_ids = self.known_ids;
        let scored = move |chunks: Vec<Tensor>| {
            let ids: Vec<u32> = prompt_ids.into_iter().skip(1).chain([last]).collect();
            scores_of(&chunks, &ids, known_ids, top_logprobs)
        };
        let outcome = match outcome {
            // Long, where prompt and vocabulary are large.
            Ok(chunks) => {
                tokio::task::spawn_blocking(move || scored(chunks)).await.unwrap_or(Err(EngineError::Stopped))
            }
            Err(error) => Err(error),
        };
        let _ = scores.send(outcome);
        if recovering {
            self.recover().await;
        }
    }

    /// Waits while the engine recovers. Returns whether it can be asked.
    async fn is_well(&self) -> bool {
        let mut health = self.health.subscribe();
        let decided = health.wait_for(|&health| health != Health::Recovering).await;
        decided.is_ok_and(|health| *health == Health::Well)
    }

    /// Notes a crash. Returns whether it is news, so that [`Self::recover`] is to be called.
    fn begins_to_recover(&self) -> bool {
        self.health.send_if_modified(|health| {
            let news = *health == Health::Well;
            if news {
                *health = Health::Recovering;
            }
            news
        })
    }

    /// Waits until the engine answers again.
    async fn recover(&self) {
        tracing::error!("the inference engine crashed; starting it again");
        for _ in 0..RECOVERY_ATTEMPTS {
            tokio::time::sleep(RECOVERY_PAUSE).await;
            if self.probe().await.is_ok() {
                tracing::info!("the inference engine is back");
                self.health.send_replace(Health::Well);
                return;
            }
        }
        tracing::error!("the inference engine does not come back; restart the server");
        self.health.send_replace(Health::Lost);
    }

    /// Generates one token, whatever the engine's health. It takes no slot: while the engine recovers, those who have one
    /// wait.
    async fn probe(&self) -> Result<(), EngineError> {
        let (steps, mut generation) = Generation::channel();
        let request = GenerateRequest {
            prompt_ids: vec![0],
            max_tokens: 1,
            eos_ids: Vec::new(),
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            top_logprobs: 0,
        };
        self.sequence(request, &steps).await;
        drop(steps);
        generation.next().await.map(|_| ())
    }
}

/// Scores `ids` by the logits, chunks of `(tokens, vocab)`, of the positions before each.
fn scores_of(
    chunks: &[Tensor],
    ids: &[u32],
    known_ids: usize,
    top_logprobs: usize,
) -> Result<Vec<SampledToken>, EngineError> {
    let failed = |error: &dyn std::fmt::Display| EngineError::Failed(first_line(&error.to_string()));
    let mut logits: Vec<Vec<f32>> = Vec::new();
    for chunk in chunks {
        let rows = chunk.to_dtype(DType::F32).and_then(|chunk| chunk.to_vec2()).map_err(|error| failed(&error))?;
        logits.extend(rows);
    }
    if logits.len() != ids.len() {
        return Err(failed(&format!("logits of {} positions came for {}", logits.len(), ids.len())));
    }
    let score = |(logits, &id): (&Vec<f32>, &u32)| sampling::score(logits, id, known_ids, top_logprobs);
    logits.iter().zip(ids).map(score).collect::<Result<_, _>>().map_err(|error| failed(&error))
}

/// Reads mistralrs' replies to their end, and reports the errors, which the chooser cannot see. Returns whether mistralrs
/// crashed.
async fn watch_replies(mut replies: Receiver<Response>, steps: &StepSender, finished: &AtomicBool) -> bool {
    let mut failed = false;
    while let Some(reply) = replies.recv().await {
        let error = match reply {
            Response::InternalError(error) | Response::ValidationError(error) => error.to_string(),
            Response::CompletionModelError(error, _) => error,
            _ => continue,
        };
        failed = true;
        let _ = steps.send(Err(EngineError::Failed(first_line(&error))));
    }
    !failed && !finished.load(Ordering::SeqCst)
}

/// Chooses the tokens of one reply from within mistralrs' step.
struct Chooser {
    choosing: Mutex<Choosing>,
    steps: StepSender,
    /// The sequence has got its last token.
    finished: Arc<AtomicBool>,
    known_ids: usize,
    max_tokens: usize,
    eos_ids: Vec<u32>,
    top_logprobs: usize,
}

struct Choosing {
    sampler: Sampler,
    chosen: usize,
}

impl CustomLogitsProcessor for Chooser {
    fn apply(&self, logits: &Tensor, _context: &[u32]) -> candle_core::Result<Tensor> {
        let logits: Vec<f32> = logits.to_vec1()?;
        if self.finished.load(Ordering::SeqCst) || self.steps.is_closed() {
            return self.end(logits.len());
        }
        let mut choosing = self.choosing.lock().map_err(|_| candle_core::Error::msg("an earlier step panicked"))?;
        let token = match choosing.sampler.sample(&logits, self.known_ids, self.top_logprobs) {
            Ok(token) => token,
            Err(error) => {
                // The reader leaves after an error, and the sequence ends as one that nobody reads.
                let _ = self.steps.send(Err(error.into()));
                self.finished.store(true, Ordering::SeqCst);
                return self.end(logits.len());
            }
        };
        choosing.chosen += 1;
        let id = token.id;
        let finish = if self.eos_ids.contains(&id) {
            Some(Finish::Eos)
        } else {
            (choosing.chosen >= self.max_tokens).then_some(Finish::Length)
        };
        self.finished.store(finish.is_some(), Ordering::SeqCst);
        // A reader that is gone is noticed at the next step.
        let _ = self.steps.send(Ok(Step { token, finish }));
        only(id, logits.len())
    }
}

impl Chooser {
    /// Ends a sequence that nobody reads any more: by an end token, or where there is none by an error.
    fn end(&self, vocabulary: usize) -> candle_core::Result<Tensor> {
        match self.eos_ids.first() {
            Some(&id) => {
                self.finished.store(true, Ordering::SeqCst);
                only(id, vocabulary)
            }
            None => Err(candle_core::Error::msg("cancelled")),
        }
    }
}

/// Logits under which `id` is certain.
fn only(id: u32, vocabulary: usize) -> candle_core::Result<Tensor> {
    let mut logits = vec![f32::NEG_INFINITY; vocabulary];
    match logits.get_mut(id as usize) {
        Some(logit) => *logit = 0.0,
        None => return Err(candle_core::Error::msg(format!("token {id} is not in the model's vocabulary"))),
    }
    Tensor::from_vec(logits, vocabulary, &Device::Cpu)
}

/// candle's errors carry a backtrace in further lines.
fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_string()
}
