//! The thread that owns the model, and the line before it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};

use orpo_chat::ChatTokenizer;
use tokio::sync::oneshot;

use super::config::CandleConfig;
use super::decoder::{self, Decoder, PASS};
use crate::checkpoint::Checkpoint;
use crate::engine::sampling::{self, SampledToken, Sampler};
use crate::engine::{
    Engine, EngineError, Finish, GenerateRequest, Generation, LoadError, Scoring, ScoringSender, Step, StepSender,
    known_ids,
};

/// A model on candle.
pub struct CandleEngine {
    jobs: Sender<Job>,
    context_length: usize,
}

enum Job {
    Generate(GenerateRequest, StepSender),
    Score(Vec<u32>, usize, ScoringSender),
}

impl CandleEngine {
    /// Loads the weights and computes one token with them.
    ///
    /// # Errors
    /// [`LoadError::Engine`] with candle's words.
    pub async fn load(
        checkpoint: Checkpoint,
        config: CandleConfig,
        tokenizer: &ChatTokenizer,
    ) -> Result<Self, LoadError> {
        let context_length = config.context_length;
        Self::start(context_length, known_ids(tokenizer), move || {
            let mut decoder = decoder::load(&checkpoint, &config.model)?;
            decoder.logits(&[0])?;
            Ok(decoder)
        })
        .await
    }

    /// Runs `load` on a thread of its own, which then does the jobs. Ids from `known_ids` on are padding of the model's
    /// vocabulary that the tokenizer does not know.
    async fn start(
        context_length: usize,
        known_ids: usize,
        load: impl FnOnce() -> candle_core::Result<Box<dyn Decoder>> + Send + 'static,
    ) -> Result<Self, LoadError> {
        let (jobs, line) = channel();
        let (loaded, outcome) = oneshot::channel();
        std::thread::spawn(move || match load() {
            Ok(decoder) => {
                if loaded.send(Ok(())).is_ok() {
                    Worker { decoder, known_ids }.run(&line);
                }
            }
            Err(error) => drop(loaded.send(Err(first_line(&error)))),
        });
        match outcome.await {
            Ok(Ok(())) => Ok(Self { jobs, context_length }),
            Ok(Err(error)) => Err(LoadError::Engine(error)),
            Err(_) => Err(LoadError::Engine("it panicked while loading".into())),
        }
    }

    fn queue(&self, job: Job) -> Result<(), EngineError> {
        self.jobs.send(job).map_err(|_| EngineError::Stopped)
    }
}

impl Engine for CandleEngine {
    fn context_length(&self) -> usize {
        self.context_length
    }

    fn generate(&self, request: GenerateRequest) -> Result<Generation, EngineError> {
        let (steps, generation) = Generation::channel();
        self.queue(Job::Generate(request, steps))?;
        Ok(generation)
    }

    fn score(&self, prompt_ids: Vec<u32>, top_logprobs: usize) -> Result<Scoring, EngineError> {
        let (scores, scoring) = Scoring::channel();
        self.queue(Job::Score(prompt_ids, top_logprobs, scores))?;
        Ok(scoring)
    }
}

struct Worker {
    decoder: Box<dyn Decoder>,
    known_ids: usize,
}

impl Worker {
    fn run(mut self, line: &Receiver<Job>) {
        while let Ok(job) = line.recv() {
            match job {
                Job::Generate(request, steps) => {
                    if let Err(error) = self.guarded(|worker| worker.generate(request, &steps)) {
                        // Nobody waits for the error of a cancelled job.
                        let _ = steps.send(Err(error));
                    }
                }
                Job::Score(prompt_ids, top_logprobs, scores) => {
                    if let Some(outcome) =
                        self.guarded(|worker| worker.score(&prompt_ids, top_logprobs, &scores)).transpose()
                    {
                        let _ = scores.send(outcome);
                    }
                }
            }
        }
    }

    /// Does a job on an empty cache and turns a panic into an error. What a panic leaves behind is the cache, which the
    /// next job empties.
    fn guarded<T>(&mut self, job: impl FnOnce(&mut Self) -> candle_core::Result<T>) -> Result<T, EngineError> {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            self.decoder.clear();
            job(self)
        }));
        match outcome {
            Ok(done) => done.map_err(|error| EngineError::Failed(first_line(&error))),
            Err(panic) => {
                let message = panic.downcast_ref::<&str>().map(|text| (*text).to_string());
                let message = message.or_else(|| panic.downcast_ref::<String>().cloned());
                Err(EngineError::Failed(format!("it panicked: {}", message.unwrap_or_default())))
            }
        }
    }

    fn generate(&mut self, request: GenerateRequest, steps: &StepSender) -> candle_core::Result<()> {
        let mut sampler = Sampler::new(request.sampling);
        let mut logits = Vec::new();
        for pass in request.prompt_ids.chunks(PASS) {
            if steps.is_closed() {
                return Ok(());
            }
            logits = self.decoder.logits(pass)?.to_vec1()?;
        }
        for chosen in 1..=request.max_tokens {
            let token = match sampler.sample(&logits, self.known_ids, request.top_logprobs) {
                Ok(token) => token,
                Err(error) => {
                    let _ = steps.send(Err(error.into()));
                    break;
                }
            };
            let id = token.id;
            let finish = if request.eos_ids.contains(&id) {
                Some(Finish::Eos)
            } else {
                (chosen == request.max_tokens).then_some(Finish::Length)
            };
            let gone = steps.send(Ok(Step { token, finish })).is_err();
            if gone || finish.is_some() {
                break;
            }
            logits = self.decoder.logits(&[id])?.to_vec1()?;
        }
        Ok(())
    }

    /// The scores, or none when nobody waits for them any more.
    fn score(
        &mut self,
        prompt_ids: &[u32],
        top_logprobs: usize,
        scores: &ScoringSender,
    ) -> candle_core::Result<Option<Vec<SampledToken>>> {
        let mut scored = Vec::with_capacity(prompt_ids.len());
        // Nothing follows the last token.
        let context = &prompt_ids[..prompt_ids.len().saturating_sub(1)];
        let mut next = prompt_ids.iter().skip(1);
        for pass in context.chunks(PASS) {
            if scores.is_closed() {
                return Ok(None);
            }
            let logits: Vec<Vec<f32>> = self.decoder.logits_of_each(pass)?.to_vec2()?;
            for (logits, &id) in logits.iter().zip(&mut next) {
                let token = sampling::score(logits, id, self.known_ids, top_logprobs);
                scored.push(token.map_err(candle_core::Error::wrap)?);
            }
        }
        Ok(Some(scored))
    }
}

/// candle's errors carry a backtrace in further lines.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use candle_core::{Device, Tensor};

    use super::*;
    use crate::engine::Sampling;

    /// Answers each id with the next; 7 panics, 8 fails.
    #[derive(Default)]
    struct Counting {
        fed: Vec<u32>,
        passes: Arc<AtomicUsize>,
        /// Every pass waits for a word, as long as there is somebody to give it.
        gate: Option<Receiver<()>>,
    }

    impl Decoder for Counting {
        fn clear(&mut self) {
            self.fed.clear();
        }

        /// Logits at once.
        fn hidden(&mut self, ids: &[u32]) -> candle_core::Result<Tensor> {
            if let Some(gate) = &self.gate {
                let _ = gate.recv();
            }
            self.passes.fetch_add(1, Ordering::SeqCst);
            assert!(!ids.contains(&7), "seven");
            if ids.contains(&8) {
                candle_core::bail!("eight\nbacktrace");
            }
            self.fed.extend(ids);
            let mut logits = vec![0.0_f32; ids.len() * 1000];
            for (row, &id) in logits.chunks_mut(1000).zip(ids) {
                // A cache that was not emptied would show.
                row[id as usize + 1] = 10.0 + self.fed.len() as f32;
            }
            Tensor::from_vec(logits, (ids.len(), 1000), &Device::Cpu)
        }

        fn head(&self, hidden: &Tensor) -> candle_core::Result<Tensor> {
            Ok(hidden.clone())
        }
    }

    async fn started(decoder: Counting) -> CandleEngine {
        CandleEngine::start(1000, 999, move || Ok(Box::new(decoder) as Box<dyn Decoder>)).await.unwrap()
    }

    fn greedy(prompt_ids: &[u32], max_tokens: usize, eos_ids: &[u32]) -> GenerateRequest {
        GenerateRequest {
            prompt_ids: prompt_ids.to_vec(),
            max_tokens,
            eos_ids: eos_ids.to_vec(),
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            top_logprobs: 1,
        }
    }

    async fn ids(engine: &CandleEngine, request: GenerateRequest) -> Result<(Vec<u32>, Vec<f32>, Finish), EngineError> {
        let mut generation = engine.generate(request)?;
        let (mut ids, mut logprobs) = (Vec::new(), Vec::new());
        loop {
            let step = generation.next().await?;
            ids.push(step.token.id);
            logprobs.push(step.token.logprob);
            if let Some(finish) = step.finish {
                return Ok((ids, logprobs, finish));
            }
        }
    }

    #[tokio::test]
    async fn a_reply_ends_at_its_limit_or_an_end_token() {
        let engine = started(Counting::default()).await;
        let (reply, _, finish) = ids(&engine, greedy(&[1, 2, 10], 3, &[])).await.unwrap();
        assert_eq!((reply, finish), (vec![11, 12, 13], Finish::Length));
        let (reply, _, finish) = ids(&engine, greedy(&[10], 9, &[12])).await.unwrap();
        assert_eq!((reply, finish), (vec![11, 12], Finish::Eos));
    }

    #[tokio::test]
    async fn a_panic_and_an_error_break_only_their_own_job() {
        let engine = started(Counting::default()).await;
        let expected = ids(&engine, greedy(&[20], 3, &[])).await.unwrap();
        assert_eq!(ids(&engine, greedy(&[5], 9, &[])).await, Err(EngineError::Failed("it panicked: seven".into())));
        assert_eq!(ids(&engine, greedy(&[20], 3, &[])).await.unwrap(), expected);
        assert_eq!(ids(&engine, greedy(&[8], 9, &[])).await, Err(EngineError::Failed("eight".into())));
        let scoring = engine.score(vec![1, 7, 9], 0).unwrap();
        assert_eq!(scoring.finish().await, Err(EngineError::Failed("it panicked: seven".into())));
        assert_eq!(ids(&engine, greedy(&[20], 3, &[])).await.unwrap(), expected);
    }

    #[tokio::test]
    async fn a_job_that_nobody_waits_for_is_left() {
        let passes = Arc::new(AtomicUsize::new(0));
        let (permit, gate) = channel();
        let engine = started(Counting { passes: passes.clone(), gate: Some(gate), ..Counting::default() }).await;
        let mut generation = engine.generate(greedy(&[10], 900, &[])).unwrap();
        permit.send(()).unwrap();
        generation.next().await.unwrap();
        // It is in its second pass; these wait behind it.
        drop(generation);
        drop(engine.generate(greedy(&[10], 900, &[])).unwrap());
        drop(engine.score((10..900).collect(), 0).unwrap());
        drop(permit);
        ids(&engine, greedy(&[10], 1, &[])).await.unwrap();
        assert_eq!(passes.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_long_prompt_is_left_between_two_passes() {
        let ids: Vec<u32> = (10..10 + 4 * PASS as u32).collect();
        for scored in [false, true] {
            let passes = Arc::new(AtomicUsize::new(0));
            let (permit, gate) = channel();
            let engine = started(Counting { passes: passes.clone(), gate: Some(gate), ..Counting::default() }).await;
            let waiting: Box<dyn std::any::Any> = if scored {
                Box::new(engine.score(ids.clone(), 0).unwrap())
            } else {
                Box::new(engine.generate(greedy(&ids, 1, &[])).unwrap())
            };
            permit.send(()).unwrap();
            while passes.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            // It is in its second pass, or about to begin it.
            drop(waiting);
            drop(permit);
            let next = engine.generate(greedy(&[10], 1, &[])).unwrap().next().await.unwrap();
            assert_eq!(next.token.id, 11);
            assert!(passes.load(Ordering::SeqCst) <= 3);
        }
    }

    #[tokio::test]
    async fn a_prompt_is_scored_from_its_second_token_on() {
        let engine = started(Counting::default()).await;
        let scores = engine.score(vec![10, 11, 50, 51], 2).unwrap().finish().await.unwrap();
        assert_eq!(scores.iter().map(|score| score.id).collect::<Vec<_>>(), [11, 50, 51]);
        assert_eq!(scores.iter().map(|score| score.top[0].0).collect::<Vec<_>>(), [11, 12, 51]);
        assert_eq!(scores[0].top[0].1, scores[0].logprob);
        assert!(scores[1].logprob < -10.0 && scores[2].logprob > -1.0);
        // Over several passes.
        let long: Vec<u32> = (10..10 + 2 * PASS as u32 + 5).collect();
        let scores = engine.score(long.clone(), 0).unwrap().finish().await.unwrap();
        assert_eq!(scores.iter().map(|score| score.id).collect::<Vec<_>>(), long[1..]);
        assert!(scores.iter().all(|score| score.logprob > -1.0));
        for nothing in [vec![], vec![3]] {
            assert!(engine.score(nothing, 2).unwrap().finish().await.unwrap().is_empty());
        }
        // An id beyond the vocabulary.
        assert!(matches!(engine.score(vec![1, 4000], 0).unwrap().finish().await, Err(EngineError::Failed(_))));
    }

    #[tokio::test]
    async fn a_model_that_does_not_load_is_an_error() {
        let failing = || candle_core::bail!("no tensor\nbacktrace");
        let error = CandleEngine::start(1, 1, failing).await.err().unwrap();
        assert_eq!(error.to_string(), "the inference engine refuses the model: no tensor");
        let panicking = || panic!("while loading");
        let error = CandleEngine::start(1, 1, panicking).await.err().unwrap();
        assert!(error.to_string().contains("panicked"));
    }
}
