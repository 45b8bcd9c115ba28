//! The thread that owns weights and pages: commands in, step after step, tokens out.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

use orpo_model::infer::{AdapterId, Batch, LowRank};
use orpo_model::kv::Pages;
use rayon::prelude::*;
use tokio::sync::oneshot;

use super::scheduler::{Piece, Scheduler};
use super::sequence::{Number, Sequence};
use super::task::{Outcome, Reply, Score, Task};
use crate::engine::sampling::Sampler;
use crate::engine::{CachedTokens, EngineError, GenerateRequest, Occupancy, ScoringSender, StepSender};

/// What computes, with the arrays that it works in.
pub trait Model: Send {
    /// Computes a batch, writes its keys and values into the pages, and replaces `logits` by those of the wanted rows,
    /// one after another.
    ///
    /// # Errors
    /// Why the batch cannot be computed; nothing was written then.
    fn forward(&mut self, batch: &Batch<'_>, pages: &mut Pages, logits: &mut Vec<f32>) -> Result<(), String>;

    /// Takes an adapter for batches to ask for.
    ///
    /// # Errors
    /// Why it does not fit.
    fn add_adapter(&mut self, layers: Vec<LowRank>) -> Result<AdapterId, String>;

    /// Forgets an adapter.
    fn remove_adapter(&mut self, adapter: AdapterId);
}

/// What the thread is asked to do.
pub enum Command {
    /// A reply.
    Generate {
        /// What is to be generated.
        request: Box<GenerateRequest>,
        /// By the model with this adapter.
        adapter: Option<AdapterId>,
        /// Where the tokens go.
        steps: StepSender,
        /// Where it is noted how many tokens of the prompt were known.
        cached: CachedTokens,
    },
    /// The scores of a text.
    Score {
        /// The text.
        ids: Vec<u32>,
        /// How many alternatives each token carries.
        top_logprobs: usize,
        /// By the model with this adapter.
        adapter: Option<AdapterId>,
        /// Where the scores go.
        scores: ScoringSender,
    },
    /// One more adapter.
    AddAdapter {
        /// Its matrices.
        layers: Vec<LowRank>,
        /// Where its number goes, or why it does not fit.
        added: oneshot::Sender<Result<AdapterId, String>>,
    },
    /// An adapter that nobody will ask for any more.
    RemoveAdapter(AdapterId),
}

/// What the model allows.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// How many tokens prompt and reply may have together.
    pub context_length: usize,
    /// Logits in a row.
    pub vocabulary: usize,
    /// Ids from here on are padding that the tokenizer does not know.
    pub known_ids: usize,
}

/// Steps after which it is told how full the pages are, if no sequence comes or goes.
const TOLD_STEPS: usize = 16;

/// The thread's state.
pub struct Worker {
    model: Box<dyn Model>,
    /// New pages, after a panic.
    new_pages: Box<dyn Fn() -> Pages + Send>,
    scheduler: Scheduler,
    sizes: Sizes,
    tasks: BTreeMap<Number, Task>,
    next: Number,
    logits: Vec<f32>,
    occupancy: Arc<Mutex<Occupancy>>,
    /// How many sequences ran and waited when that was told, and how many steps ago.
    told: (usize, usize),
    untold: usize,
}

impl Worker {
    /// A thread without work.
    pub fn new(
        model: Box<dyn Model>,
        new_pages: Box<dyn Fn() -> Pages + Send>,
        scheduler: Scheduler,
        sizes: Sizes,
        occupancy: Arc<Mutex<Occupancy>>,
    ) -> Self {
        let (tasks, logits, told) = (BTreeMap::new(), Vec::new(), (0, 0));
        let mut new = Self { model, new_pages, scheduler, sizes, tasks, next: 0, logits, occupancy, told, untold: 0 };
        new.publish();
        new
    }

    /// Works until nobody can send a command any more and everything is done.
    pub fn run(mut self, commands: &Receiver<Command>) {
        loop {
            if self.tasks.is_empty() {
                match commands.recv() {
                    Ok(command) => self.take(command),
                    Err(_) => return,
                }
            }
            while let Ok(command) = commands.try_recv() {
                self.take(command);
            }
            self.leave_what_nobody_waits_for();
            self.step();
            self.publish();
        }
    }

    fn take(&mut self, command: Command) {
        let number = self.next;
        self.next += 1;
        match command {
            Command::Generate { request, adapter, steps, cached } => {
                let GenerateRequest { prompt_ids, max_tokens, eos_ids, sampling, top_logprobs } = *request;
                if let Err(error) = self.check(&prompt_ids, max_tokens) {
                    let _ = steps.send(Err(error));
                    return;
                }
                let sequence = Sequence::to_continue(number, adapter, prompt_ids, self.scheduler.cache());
                let sampler = Sampler::new(sampling);
                let reply = Reply { sampler, left: max_tokens, eos_ids, top_logprobs, steps, cached };
                self.scheduler.add(sequence);
                self.tasks.insert(number, Task::Reply(Box::new(reply)));
            }
            Command::Score { ids, top_logprobs, adapter, scores } => {
                if ids.len() < 2 {
                    let _ = scores.send(Ok(Vec::new()));
                    return;
                }
                if let Err(error) = self.check(&ids, 0) {
                    let _ = scores.send(Err(error));
                    return;
                }
                let next = ids[1..].to_vec();
                let sequence = Sequence::to_score(number, adapter, ids, self.scheduler.cache());
                let scored = Vec::with_capacity(next.len());
                self.scheduler.add(sequence);
                self.tasks.insert(number, Task::Score(Score { ids: next, top_logprobs, scored, scores }));
            }
            Command::AddAdapter { layers, added } => {
                // If nobody waits for it any more, nobody will ask for it.
                if let Err(Ok(adapter)) = added.send(self.model.add_adapter(layers)) {
                    self.model.remove_adapter(adapter);
                }
            }
            Command::RemoveAdapter(adapter) => {
                for number in self.scheduler.with_adapter(adapter) {
                    self.fail(number, EngineError::Failed("its adapter was unloaded".into()));
                }
                self.model.remove_adapter(adapter);
            }
        }
    }

    /// Refuses what would break the forward pass for others, too.
    fn check(&self, ids: &[u32], max_tokens: usize) -> Result<(), EngineError> {
        let Sizes { context_length, vocabulary, .. } = self.sizes;
        if ids.is_empty() {
            return Err(EngineError::Failed("the prompt has no tokens".into()));
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
            let reason = format!("the prompt has the token {id}, but the model's vocabulary has {vocabulary} tokens");
            return Err(EngineError::Failed(reason));
        }
        if ids.len() + max_tokens > context_length {
            let reason = format!(
                "a prompt of {} tokens and a reply of {max_tokens} exceed the context of {context_length} tokens",
                ids.len()
            );
            return Err(EngineError::Failed(reason));
        }
        Ok(())
    }

    fn leave_what_nobody_waits_for(&mut self) {
        let scheduler = &mut self.scheduler;
        self.tasks.retain(|number, task| {
            let waits = !task.is_closed();
            if !waits {
                scheduler.remove(*number);
            }
            waits
        });
    }

    fn step(&mut self) {
        let pieces = self.scheduler.plan();
        if pieces.is_empty() {
            // No request is admitted that the pages cannot hold, so that this is not reached; if it were, waiting on
            // would be for ever.
            if let Some(number) = self.scheduler.oldest() {
                self.fail(number, EngineError::Failed("there are no pages for it".into()));
            }
            return;
        }
        self.logits.clear();
        let (batch, pages) = self.scheduler.batch(&pieces);
        let (model, logits) = (&mut self.model, &mut self.logits);
        let computed = catch_unwind(AssertUnwindSafe(|| model.forward(&batch, pages, logits)));
        drop(batch);
        let (error, is_broken) = match computed {
            Ok(Ok(())) => {
                self.scheduler.advance(&pieces);
                return self.hand_out(pieces);
            }
            Ok(Err(reason)) => (EngineError::Failed(reason), false),
            Err(panic) => (panicked(&*panic), true),
        };
        for piece in &pieces {
            self.fail(piece.number, error.clone());
        }
        if is_broken {
            self.scheduler.restart((self.new_pages)());
        }
    }

    fn fail(&mut self, number: Number, error: EngineError) {
        self.scheduler.remove(number);
        if let Some(task) = self.tasks.remove(&number) {
            task.end(Outcome::Failed(error));
        }
    }

    /// Gives each sequence its rows of the logits. Choosing takes time where vocabularies are large, replies constrained
    /// or many rows scored, so that it is done side by side.
    fn hand_out(&mut self, pieces: Vec<Piece>) {
        let Sizes { vocabulary, known_ids, .. } = self.sizes;
        let mut rest = self.logits.as_slice();
        let mut jobs = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let (own, others) = rest.split_at(piece.wanted.len() * vocabulary);
            rest = others;
            if own.is_empty() {
                continue;
            }
            if let Some(task) = self.tasks.remove(&piece.number) {
                let cached = self.scheduler.running(piece.number).map_or(0, Sequence::cached);
                jobs.push((piece.number, task, own, cached));
            }
        }
        let used = jobs.into_par_iter().map(|(number, mut task, logits, cached)| {
            let advance = || task.advance(logits, vocabulary, known_ids, cached);
            let outcome =
                catch_unwind(AssertUnwindSafe(advance)).unwrap_or_else(|panic| Outcome::Failed(panicked(&*panic)));
            (number, task, outcome)
        });
        for (number, task, outcome) in used.collect::<Vec<_>>() {
            match outcome {
                Outcome::Chosen(id) => self.scheduler.push(number, id),
                Outcome::Scored(rows) => self.scheduler.scored(number, rows),
                Outcome::Done | Outcome::Failed(_) => {
                    self.scheduler.remove(number);
                    task.end(outcome);
                    continue;
                }
            }
            self.tasks.insert(number, task);
        }
    }

    /// Tells others how much there is to do. Counting the pages takes time, so that it is not done at each step.
    fn publish(&mut self) {
        let lengths = self.scheduler.lengths();
        self.untold += 1;
        if !self.tasks.is_empty() && lengths == self.told && self.untold < TOLD_STEPS {
            return;
        }
        (self.told, self.untold) = (lengths, 0);
        let (running, waiting) = lengths;
        let (pages, lookups) = (self.scheduler.count(), self.scheduler.lookups());
        let mut told = self.occupancy.lock().unwrap_or_else(PoisonError::into_inner);
        *told = Occupancy {
            sequences: told.sequences,
            running,
            waiting,
            pages: pages.total,
            pages_held: pages.held(),
            pages_known: pages.known,
            prefix_queries: lookups.queries,
            prefix_hits: lookups.hits,
        };
    }
}

fn panicked(panic: &(dyn Any + Send)) -> EngineError {
    let message = panic.downcast_ref::<&str>().map(|text| (*text).to_string());
    let message = message.or_else(|| panic.downcast_ref::<String>().cloned());
    EngineError::Failed(format!("it panicked: {}", message.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Sender, channel};

    use futures::future::join_all;
    use orpo_model::ModelConfig;
    use orpo_model::kv::PAGE;

    use super::*;
    use crate::engine::native::NativeEngine;
    use crate::engine::native::fake::{self, Fake, KNOWN, VOCABULARY, prompt};
    use crate::engine::{Engine, Finish, Options, Sampling, Step};

    /// Breaks the forward pass.
    const PANICS: u32 = VOCABULARY as u32 - 1;
    /// Makes logits that are none.
    const NOT_FINITE: u32 = VOCABULARY as u32 - 2;

    #[derive(Default)]
    struct Machine {
        fake: Fake,
        passes: Arc<AtomicUsize>,
        /// Every pass waits for a word, as long as there is somebody to give it.
        gate: Option<Receiver<()>>,
    }

    impl Model for Machine {
        fn forward(&mut self, batch: &Batch<'_>, pages: &mut Pages, logits: &mut Vec<f32>) -> Result<(), String> {
            if let Some(gate) = &self.gate {
                let _ = gate.recv();
            }
            self.passes.fetch_add(1, Ordering::SeqCst);
            assert!(!batch.ids.contains(&PANICS), "forty-nine");
            self.fake.forward(batch, pages, logits);
            for (row, logits) in batch.wanted.iter().zip(logits.chunks_exact_mut(VOCABULARY)) {
                if batch.ids[*row] == NOT_FINITE {
                    logits.fill(f32::NAN);
                }
            }
            Ok(())
        }

        fn add_adapter(&mut self, layers: Vec<LowRank>) -> Result<AdapterId, String> {
            self.fake.add_adapter(&layers)
        }

        fn remove_adapter(&mut self, adapter: AdapterId) {
            self.fake.remove_adapter(adapter);
        }
    }

    async fn started(config: ModelConfig, pages: usize, sequences: usize, machine: Machine) -> NativeEngine {
        let bytes = {
            let none = Pages::new(&config, 0);
            pages * (0..none.groups().len()).map(|group| none.bytes_per_page(group)).sum::<usize>()
        };
        let options = Options { max_concurrent: NonZeroUsize::new(sequences), kv_cache_bytes: Some(bytes) };
        NativeEngine::start(config, options, KNOWN, move || Ok(Box::new(machine))).await.unwrap()
    }

    /// With pages for everybody.
    async fn roomy(machine: Machine) -> NativeEngine {
        started(fake::full(), 1000, 16, machine).await
    }

    /// An engine whose passes wait for words.
    async fn gated(pages: usize, sequences: usize) -> (NativeEngine, Sender<()>, Arc<AtomicUsize>) {
        let (permit, gate) = channel();
        let machine = Machine { gate: Some(gate), ..Machine::default() };
        let passes = machine.passes.clone();
        (started(fake::full(), pages, sequences, machine).await, permit, passes)
    }

    fn greedy(prompt_ids: Vec<u32>, max_tokens: usize) -> GenerateRequest {
        let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
        GenerateRequest { prompt_ids, max_tokens, eos_ids: Vec::new(), sampling, top_logprobs: 3 }
    }

    fn sampled(prompt_ids: Vec<u32>, max_tokens: usize, seed: u64) -> GenerateRequest {
        let sampling = Sampling { seed: Some(seed), frequency_penalty: 0.5, top_p: 0.9, ..Sampling::default() };
        GenerateRequest { sampling, ..greedy(prompt_ids, max_tokens) }
    }

    async fn steps(engine: &dyn Engine, request: GenerateRequest) -> Result<Vec<Step>, EngineError> {
        let mut generation = engine.generate(request)?;
        let mut steps: Vec<Step> = Vec::new();
        while steps.last().is_none_or(|step| step.finish.is_none()) {
            steps.push(generation.next().await?);
        }
        Ok(steps)
    }

    fn ids(steps: &[Step]) -> Vec<u32> {
        steps.iter().map(|step| step.token.id).collect()
    }

    async fn eventually(what: &str, condition: impl Fn() -> bool) {
        for _ in 0..2000 {
            if condition() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("not within ten seconds: {what}");
    }

    /// Waits until nothing runs, and makes sure that no page is lost.
    async fn idle(engine: &NativeEngine) {
        let occupancy = || engine.occupancy().unwrap();
        eventually("an idle engine", || (occupancy().running, occupancy().waiting) == (0, 0)).await;
        assert_eq!(occupancy().pages_held, 0);
    }

    #[tokio::test]
    async fn a_reply_ends_at_its_limit_or_an_end_token() {
        let engine = roomy(Machine::default()).await;
        let text = prompt(1, 20);
        let reply = steps(&engine, greedy(text.clone(), 6)).await.unwrap();
        assert_eq!(ids(&reply), fake::reply(&fake::full(), &text, 6));
        assert_eq!(reply.last().unwrap().finish, Some(Finish::Length));
        let eos = reply[2].token.id;
        let first = reply.iter().position(|step| step.token.id == eos).unwrap();
        let ended = steps(&engine, GenerateRequest { eos_ids: vec![eos], ..greedy(text, 6) }).await.unwrap();
        assert_eq!((ended.len(), ended[first].finish), (first + 1, Some(Finish::Eos)));
        assert_eq!(ids(&ended), ids(&reply[..=first]));
        idle(&engine).await;
    }

    /// Log-probabilities included, whatever runs beside it, whatever is known already, and if it is set back.
    #[tokio::test]
    async fn a_reply_is_the_same_alone_and_in_any_crowd() {
        for config in [fake::full(), fake::windowed()] {
            let texts: Vec<_> = (0..9).map(|seed| prompt(seed / 2, 20 + 30 * seed as usize % 90)).collect();
            let requests = || -> Vec<_> {
                let each = texts.iter().zip(0..).map(|(text, seed)| match seed % 2 {
                    0 => greedy(text.clone(), 30),
                    _ => sampled(text.clone(), 30, seed),
                });
                each.collect()
            };
            let mut alone = Vec::new();
            for request in requests() {
                let engine = started(config.clone(), 1000, 1, Machine::default()).await;
                alone.push(steps(&engine, request).await);
            }
            // With room for all, with room for two or three, and where each has to wait for the others.
            for (pages, sequences) in [(1000, 16), (18, 16), (8, 16), (1000, 1)] {
                let engine = started(config.clone(), pages, sequences, Machine::default()).await;
                for _known in 0..2 {
                    let crowd = join_all(requests().into_iter().map(|request| steps(&engine, request))).await;
                    assert_eq!(crowd, alone, "{pages} pages, {sequences} at a time");
                    idle(&engine).await;
                }
                assert!(pages < 1000 || engine.occupancy().unwrap().prefix_hits > 0);
            }
        }
    }

    #[tokio::test]
    async fn a_text_is_scored_from_its_second_token_on() {
        let engine = roomy(Machine::default()).await;
        let text = prompt(3, 3 * PAGE + 5);
        let expected = |end: usize| sampling_score(&fake::logits(&fake::full(), &text[..end]), text[end]);
        for _ in 0..2 {
            let scores = engine.score(text.clone(), 2).unwrap().finish().await.unwrap();
            assert_eq!(scores, (1..text.len()).map(expected).collect::<Vec<_>>());
        }
        for nothing in [vec![], vec![3]] {
            assert!(engine.score(nothing, 2).unwrap().finish().await.unwrap().is_empty());
        }
        idle(&engine).await;
    }

    fn sampling_score(logits: &[f32], id: u32) -> crate::engine::SampledToken {
        crate::engine::sampling::score(logits, id, KNOWN, 2).unwrap()
    }

    #[tokio::test]
    async fn what_the_model_cannot_compute_is_refused_without_harm_to_others() {
        let engine = started(fake::full(), 4, 4, Machine::default()).await;
        assert_eq!(engine.context_length(), 4 * PAGE);
        let beside = engine.generate(greedy(prompt(1, 10), 20)).unwrap();
        for (request, words) in [
            (greedy(vec![], 3), "no tokens"),
            (greedy(vec![1, 4000], 3), "token 4000"),
            (greedy(prompt(1, 60), 5), "context of 64 tokens"),
        ] {
            let Err(EngineError::Failed(reason)) = steps(&engine, request).await else { panic!("{words}") };
            assert!(reason.contains(words), "{reason}");
        }
        assert!(matches!(engine.score(vec![1, 4000], 0).unwrap().finish().await, Err(EngineError::Failed(_))));
        assert!(matches!(engine.score(vec![1; 65], 0).unwrap().finish().await, Err(EngineError::Failed(_))));
        let mut beside = beside;
        for expected in fake::reply(&fake::full(), &prompt(1, 10), 20) {
            assert_eq!(beside.next().await.unwrap().token.id, expected);
        }
        // All of the context.
        assert_eq!(steps(&engine, greedy(prompt(1, 60), 4)).await.unwrap().len(), 4);
        assert_eq!(engine.score(prompt(1, 64), 0).unwrap().finish().await.unwrap().len(), 63);
        idle(&engine).await;
    }

    #[tokio::test]
    async fn a_panic_breaks_its_step_and_nobody_else() {
        let (engine, permit, _) = gated(1000, 3).await;
        let text = prompt(1, 40);
        let expected = fake::reply(&fake::full(), &text, 5);
        // The first pass is under way while the others come.
        let mut known = engine.generate(greedy(text.clone(), 5)).unwrap();
        permit.send(()).unwrap();
        known.next().await.unwrap();
        let bad = engine.generate(greedy(vec![1, 2, PANICS], 5)).unwrap();
        let scored = engine.score(vec![1, PANICS, 2], 0).unwrap();
        let waiting = [(); 3].map(|()| engine.generate(greedy(text.clone(), 5)).unwrap());
        drop(permit);
        let panicked = || EngineError::Failed("it panicked: forty-nine".into());
        let mut bad = bad;
        assert_eq!(bad.next().await, Err(panicked()));
        assert_eq!(scored.finish().await, Err(panicked()));
        // It was in the same step, or its reply is right.
        let mut reply = Vec::new();
        let end = loop {
            match known.next().await {
                Ok(step) if step.finish.is_some() => break None,
                Ok(step) => reply.push(step.token.id),
                Err(error) => break Some(error),
            }
        };
        assert!(end.is_none_or(|error| error == panicked()) && expected[1..].starts_with(&reply));
        for mut generation in waiting {
            for expected in &expected {
                assert_eq!(generation.next().await.unwrap().token.id, *expected);
            }
        }
        assert_eq!(ids(&steps(&engine, greedy(text.clone(), 5)).await.unwrap()), expected);
        idle(&engine).await;
    }

    #[tokio::test]
    async fn logits_that_are_none_break_their_own_reply_only() {
        let engine = roomy(Machine::default()).await;
        let text = prompt(1, 40);
        let requests = [greedy(text.clone(), 5), greedy(vec![3, NOT_FINITE], 5), greedy(text.clone(), 5)];
        let [first, bad, second] = requests.map(|request| steps(&engine, request));
        let (first, bad, second) = tokio::join!(first, bad, second);
        assert_eq!(bad, Err(EngineError::Failed("the model's logits are not finite".into())));
        assert_eq!(ids(&first.unwrap()), fake::reply(&fake::full(), &text, 5));
        assert_eq!(ids(&second.unwrap()), fake::reply(&fake::full(), &text, 5));
        idle(&engine).await;
    }

    #[tokio::test]
    async fn pages_of_what_nobody_waits_for_are_free_within_a_step() {
        let (engine, permit, passes) = gated(20, 4).await;
        let mut leaves = engine.generate(greedy(prompt(1, 250), 50)).unwrap();
        let mut stays = engine.generate(greedy(prompt(2, 30), 4)).unwrap();
        let scores = engine.score(prompt(3, 300), 0).unwrap();
        let waits = engine.generate(greedy(prompt(4, 300), 5)).unwrap();
        permit.send(()).unwrap();
        permit.send(()).unwrap();
        leaves.next().await.unwrap();
        eventually("two passes", || passes.load(Ordering::SeqCst) == 2).await;
        // The third is under way or about to begin.
        drop((leaves, scores, waits));
        permit.send(()).unwrap();
        permit.send(()).unwrap();
        eventually("four passes", || passes.load(Ordering::SeqCst) == 4).await;
        eventually("free pages", || engine.occupancy().unwrap().pages_held <= 3).await;
        assert!(engine.occupancy().unwrap().waiting == 0);
        drop(permit);
        for expected in fake::reply(&fake::full(), &prompt(2, 30), 4) {
            assert_eq!(stays.next().await.unwrap().token.id, expected);
        }
        idle(&engine).await;
    }

    #[tokio::test]
    async fn two_hundred_wait_and_each_gets_its_reply() {
        let engine = started(fake::full(), 12, 5, Machine::default()).await;
        let text = |seed: u32| prompt(seed, 1 + seed as usize * 7 % 150);
        let replies = join_all((0..200).map(|seed| steps(&engine, greedy(text(seed), 20)))).await;
        for (reply, seed) in replies.into_iter().zip(0..) {
            assert_eq!(ids(&reply.unwrap()), fake::reply(&fake::full(), &text(seed), 20));
        }
        idle(&engine).await;
    }

    #[tokio::test]
    async fn a_reply_tells_how_much_of_its_prompt_was_known() {
        let engine = roomy(Machine::default()).await;
        let text = prompt(1, 2 * PAGE + 3);
        for (asked, known) in [(text.clone(), 0), (text.clone(), 2 * PAGE), (prompt(2, 40), 0)] {
            let mut generation = engine.generate(greedy(asked, 2)).unwrap();
            generation.next().await.unwrap();
            assert_eq!(generation.cached().get(), known);
            generation.next().await.unwrap();
        }
        idle(&engine).await;
        let Occupancy { prefix_queries, prefix_hits, pages, pages_known, .. } = engine.occupancy().unwrap();
        assert_eq!((prefix_queries, prefix_hits, pages), (2 * 35 + 40, 32, 1000));
        assert_eq!(pages_known, 2 + 2);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn adapters_share_steps_but_no_pages() {
        let base = Arc::new(roomy(Machine::default()).await);
        let add = async |added: Vec<LowRank>| {
            let base = base.clone();
            tokio::task::spawn_blocking(move || base.with_adapter(added)).await.unwrap()
        };
        let (one, other) = (add(fake::adapter(100)).await.unwrap(), add(fake::adapter(7)).await.unwrap());
        assert_eq!(add(Vec::new()).await.err().unwrap(), "an adapter without layers");
        let text = prompt(1, 3 * PAGE);
        let engines: [(&dyn Engine, u32); 3] = [(&*base, 0), (&*one, 100), (&*other, 7)];
        for _known in 0..2 {
            let replies = engines.map(|(engine, _)| steps(engine, greedy(text.clone(), 5)));
            for (reply, (_, added)) in join_all(replies).await.into_iter().zip(engines) {
                assert_eq!(ids(&reply.unwrap()), fake::adapted_reply(&fake::full(), &text, 5, added));
            }
        }
        assert_eq!(base.occupancy().unwrap().prefix_hits, 3 * 2 * PAGE as u64);
        // What is under way with an adapter ends with it, and nothing else does.
        let (mut gone, mut stays) =
            (one.generate(greedy(text.clone(), 3000)).unwrap(), other.generate(greedy(text.clone(), 5)).unwrap());
        drop(one);
        let error = loop {
            if let Err(error) = gone.next().await {
                break error;
            }
        };
        assert_eq!(error, EngineError::Failed("its adapter was unloaded".into()));
        for expected in fake::adapted_reply(&fake::full(), &text, 5, 7) {
            assert_eq!(stays.next().await.unwrap().token.id, expected);
        }
        assert_eq!(ids(&steps(&*base, greedy(text.clone(), 5)).await.unwrap()), fake::reply(&fake::full(), &text, 5));
        idle(&base).await;
    }

    #[tokio::test]
    async fn a_model_or_a_cache_that_cannot_be_had_is_an_error() {
        let options = Options { max_concurrent: None, kv_cache_bytes: Some(100) };
        let loaded = || Ok(Box::new(Machine::default()) as Box<dyn Model>);
        let error = NativeEngine::start(fake::full(), options, 1, loaded).await.err().unwrap().to_string();
        assert!(error.contains("100 bytes has no room for one page of 16 tokens"), "{error}");
        let failing = || Err("no tensor".to_string());
        let error = NativeEngine::start(fake::full(), Options::default(), 1, failing).await.err().unwrap();
        assert_eq!(error.to_string(), "the inference engine refuses the model: no tensor");
        let panicking = || panic!("while loading");
        let error = NativeEngine::start(fake::full(), Options::default(), 1, panicking).await.err().unwrap();
        assert!(error.to_string().contains("panicked"));
    }
}
