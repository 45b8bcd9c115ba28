//! One answer, from the admitted request to the last token of its last choice: a task of its own, so that neither a slow
//! reader nor a vanished one holds a slot. Each choice is a request of its own to the engine, so that it is the same
//! whatever else is asked for. An engine that schedules gets all of them at once, another gets one after the other; they
//! are read and told in order.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use orpo_chat::StreamDecoder;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout_at};

use crate::admission::Permit;
use crate::engine::{EngineError, Finish, GenerateRequest, Generation, SampledToken, Scoring};
use crate::meter::Meter;
use crate::openai::{ApiError, ErrorKind, FinishReason, TokenLogprob, TopLogprob, Usage};
use crate::served::Served;
use crate::text::{Delta, Placed, ReplyText};

/// The smallest log-probability on the wire: JSON has no infinity.
const MIN_LOGPROB: f32 = -9999.0;

/// All that one request asks for.
#[derive(Debug)]
pub struct Work {
    /// The prompts; each has `choices` replies, and those of the first prompt come first.
    pub prompts: Vec<Prompt>,
    /// How many replies each prompt gets.
    pub choices: usize,
    /// A reply ends before the first of them.
    pub stops: Vec<String>,
    /// Whether the tokens are told, not only the text.
    pub want_tokens: bool,
    /// Whether special tokens are part of the text.
    pub special_tokens: bool,
    /// The keywords of a schema that the replies are not held to.
    pub unchecked: Vec<&'static str>,
}

/// One prompt.
#[derive(Debug)]
pub struct Prompt {
    /// What each choice asks of the engine, but for the seed; with no `max_tokens` it is not asked.
    pub request: GenerateRequest,
    /// The prompt as the beginning of the reply, if it is to begin with it.
    pub echo: Option<Echo>,
}

/// A prompt that is echoed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Echo {
    /// Its text.
    pub text: String,
    /// Which of its tokens are the text's; the tokenizer put the others around it.
    pub written: Range<usize>,
}

/// A token of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// How many characters of the choice come before it.
    pub offset: usize,
    /// The token.
    pub id: u32,
    /// Its text and its log-probability.
    pub logprob: TokenLogprob,
    /// It begins an echoed prompt: nothing predicts it, and its log-probability means nothing.
    pub unpredicted: bool,
}

/// A part of an answer.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Text of a choice, and its tokens if they were asked for; not both empty.
    Delta {
        /// The choice.
        choice: usize,
        /// The text.
        text: String,
        /// The tokens.
        tokens: Vec<Token>,
        /// Token counts so far.
        usage: Usage,
    },
    /// The end of a choice.
    Finished {
        /// The choice.
        choice: usize,
        /// Why.
        reason: FinishReason,
        /// Token counts so far.
        usage: Usage,
    },
    /// The end of the answer; nothing follows.
    Done {
        /// Token counts of all choices; each prompt counts once.
        usage: Usage,
    },
}

/// An answer as it comes. Dropping it cancels the generation. It ends with [`Output::Done`] or an error; if it ends
/// without either, the task that produced it is gone.
pub type Outputs = UnboundedReceiver<Result<Output, ApiError>>;

/// Starts an answer that must be finished by `deadline`. To be called where the request's handler runs, so that its tokens
/// are counted as that request's.
pub fn start(served: Arc<Served>, work: Work, permit: Permit, deadline: Instant) -> Outputs {
    let (sender, outputs) = unbounded_channel();
    let prompt_tokens = work.prompts.iter().map(|prompt| prompt.request.prompt_ids.len()).sum();
    let meter = Meter::of_this_request(&served.name, prompt_tokens);
    let driver = Driver { served, sender, work, usage: Usage::new(prompt_tokens, 0), meter };
    tokio::spawn(async move {
        driver.run(deadline).await;
        drop(permit);
    });
    outputs
}

/// What the engine was asked for one prompt ahead of time.
#[derive(Default)]
struct Begun {
    scoring: Option<Scoring>,
    replies: VecDeque<Generation>,
}

struct Driver {
    served: Arc<Served>,
    sender: UnboundedSender<Result<Output, ApiError>>,
    work: Work,
    usage: Usage,
    meter: Option<Meter>,
}

impl Driver {
    async fn run(mut self, deadline: Instant) {
        let started = Instant::now();
        let sender = self.sender.clone();
        let finished = tokio::select! {
            biased;
            () = sender.closed() => {
                tracing::info!(completion_tokens = self.usage.completion_tokens, "client gone, generation cancelled");
                return;
            }
            finished = timeout_at(deadline, self.answer()) => finished.unwrap_or_else(|_| Err(timed_out())),
        };
        match &finished {
            Ok(()) => tracing::info!(
                prompt_tokens = self.usage.prompt_tokens,
                completion_tokens = self.usage.completion_tokens,
                milliseconds = started.elapsed().as_millis() as u64,
                "answer finished"
            ),
            Err(error) => tracing::warn!(kind = ?error.kind(), "answer failed"),
        }
        let _ = sender.send(finished.map(|()| Output::Done { usage: self.usage }));
    }

    async fn answer(&mut self) -> Result<(), ApiError> {
        let mut choice = 0;
        let prompts = std::mem::take(&mut self.work.prompts);
        let mut begun = VecDeque::new();
        if self.served.engine.occupancy().is_some() {
            begun = prompts.iter().map(|prompt| self.begin(prompt)).collect::<Result<_, _>>()?;
        }
        for prompt in prompts {
            let Begun { scoring, mut replies } = begun.pop_front().unwrap_or_default();
            let echo = self.echo(&prompt, scoring).await?;
            for index in 0..self.work.choices {
                let mut characters = 0;
                if let Some(echo) = &echo {
                    characters = echo.text.chars().count();
                    self.emit(choice, echo.clone(), true);
                }
                let reason = match prompt.request.max_tokens {
                    0 => FinishReason::Length,
                    _ => {
                        let generation = match replies.pop_front() {
                            Some(generation) => generation,
                            None => self.generate(&prompt, index)?,
                        };
                        self.reply(choice, index, &prompt, generation, characters).await?
                    }
                };
                self.send(Output::Finished { choice, reason, usage: self.usage });
                choice += 1;
            }
        }
        Ok(())
    }

    /// Asks the engine for everything that a prompt needs.
    fn begin(&self, prompt: &Prompt) -> Result<Begun, ApiError> {
        let scores = self.work.want_tokens && prompt.echo.is_some();
        let choices = if prompt.request.max_tokens == 0 { 0 } else { self.work.choices };
        Ok(Begun {
            scoring: scores.then(|| self.score(prompt)).transpose()?,
            replies: (0..choices).map(|index| self.generate(prompt, index)).collect::<Result<_, _>>()?,
        })
    }

    fn generate(&self, prompt: &Prompt, index: usize) -> Result<Generation, ApiError> {
        let sampling = prompt.request.sampling.of_choice(index);
        let request = GenerateRequest { sampling, ..prompt.request.clone() };
        self.served.engine.generate(request).map_err(engine_failed)
    }

    fn score(&self, prompt: &Prompt) -> Result<Scoring, ApiError> {
        let GenerateRequest { prompt_ids, top_logprobs, .. } = &prompt.request;
        self.served.engine.score(prompt_ids.clone(), *top_logprobs).map_err(engine_failed)
    }

    /// The prompt as the beginning of its replies.
    async fn echo(&self, prompt: &Prompt, begun: Option<Scoring>) -> Result<Option<Delta>, ApiError> {
        let Some(Echo { text, written }) = prompt.echo.clone() else { return Ok(None) };
        let ids = &prompt.request.prompt_ids;
        let mut tokens = Vec::new();
        if self.work.want_tokens {
            let scoring = match begun {
                Some(scoring) => scoring,
                None => self.score(prompt)?,
            };
            let scores = scoring.finish().await.map_err(engine_failed)?;
            if scores.iter().map(|token| token.id).ne(ids.iter().copied().skip(1)) {
                return Err(engine_failed(EngineError::Failed("it scored other tokens than the prompt's".into())));
            }
            let first = ids.first().map(|&id| SampledToken { id, logprob: 0.0, top: Vec::new() });
            let mut reply = ReplyText::new(StreamDecoder::new(&[], false), Vec::new());
            for (index, token) in first.into_iter().chain(scores).enumerate() {
                if written.contains(&index) {
                    tokens.extend(reply.push(&self.served.tokenizer, token).map_err(undecodable)?.tokens);
                } else {
                    reply.push_unwritten(token);
                }
            }
            tokens.extend(reply.finish(&self.served.tokenizer).map_err(undecodable)?.tokens);
        }
        Ok(Some(Delta { text, tokens, stopped: false }))
    }

    /// Reads tokens until the engine or a stop string ends the reply.
    async fn reply(
        &mut self,
        choice: usize,
        index: usize,
        prompt: &Prompt,
        mut generation: Generation,
        characters: usize,
    ) -> Result<FinishReason, ApiError> {
        let stops = self.work.stops.clone();
        let decoder = StreamDecoder::new(&prompt.request.prompt_ids, !self.work.special_tokens);
        let mut reply = ReplyText::new(decoder, stops).after(characters);
        // The prompt counts once; its further choices find it in the cache.
        let mut cached = Some(generation.cached().clone()).filter(|_| index == 0);
        let reason = loop {
            let step = generation.next().await;
            if let Some(meter) = &mut self.meter {
                match &step {
                    Ok(_) => meter.token(),
                    Err(_) => meter.failed(),
                }
            }
            let step = step.map_err(engine_failed)?;
            self.usage.count_token();
            if let Some(cached) = cached.take() {
                self.usage.count_cached(cached.get());
            }
            if step.finish == Some(Finish::Eos) {
                break FinishReason::Stop;
            }
            let delta = reply.push(&self.served.tokenizer, step.token).map_err(undecodable)?;
            let stopped = delta.stopped;
            self.emit(choice, delta, false);
            if stopped {
                return Ok(FinishReason::Stop);
            }
            if step.finish.is_some() {
                break FinishReason::Length;
            }
        };
        let delta = reply.finish(&self.served.tokenizer).map_err(undecodable)?;
        let stopped = delta.stopped;
        self.emit(choice, delta, false);
        Ok(if stopped { FinishReason::Stop } else { reason })
    }

    fn emit(&self, choice: usize, delta: Delta, echo: bool) {
        let tokens = if self.work.want_tokens { delta.tokens } else { Vec::new() };
        if delta.text.is_empty() && tokens.is_empty() {
            return;
        }
        let mut tokens: Vec<Token> = tokens.into_iter().map(|token| self.token(token)).collect();
        if let Some(first) = tokens.first_mut().filter(|_| echo) {
            first.unpredicted = true;
        }
        self.send(Output::Delta { choice, text: delta.text, tokens, usage: self.usage });
    }

    fn send(&self, output: Output) {
        // A reader that is gone is noticed by `closed`.
        let _ = self.sender.send(Ok(output));
    }

    fn token(&self, placed: Placed) -> Token {
        let entry = |id: u32, logprob: f32| {
            let bytes = self.served.token_bytes.of(&self.served.tokenizer, id);
            TopLogprob { token: String::from_utf8_lossy(&bytes).into_owned(), logprob: logprob.max(MIN_LOGPROB), bytes }
        };
        let SampledToken { id, logprob, top } = placed.token;
        let top_logprobs = top.into_iter().map(|(id, logprob)| entry(id, logprob)).collect();
        Token {
            offset: placed.offset,
            id,
            logprob: TokenLogprob { chosen: entry(id, logprob), top_logprobs },
            unpredicted: false,
        }
    }
}

/// The error of a request that outlived its deadline.
pub fn timed_out() -> ApiError {
    ApiError::new(
        ErrorKind::TimedOut,
        "the request took longer than this server allows; ask for fewer tokens, or raise --request-timeout-secs",
    )
}

fn engine_failed(error: EngineError) -> ApiError {
    if let EngineError::Constraint(reason) = &error {
        let message =
            format!("the reply cannot be continued in the form that was asked for: {reason}; ask for a simpler form");
        return ApiError::new(ErrorKind::InvalidValue, message);
    }
    tracing::error!(%error, "generation failed");
    ApiError::new(ErrorKind::EngineFailed, "the inference engine failed on this request; the server's log says why")
}

fn undecodable(error: orpo_chat::ChatError) -> ApiError {
    tracing::error!(%error, "a token cannot be decoded");
    ApiError::new(ErrorKind::EngineFailed, "a token cannot be decoded; the server's log says why")
}
