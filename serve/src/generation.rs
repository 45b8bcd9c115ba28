//! One reply, from the admitted request to the last token: a task of its own, so that neither a slow reader nor a
//! vanished one holds a slot.

use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout_at};

use crate::admission::Permit;
use crate::engine::{Finish, GenerateRequest, Generation, SampledToken};
use crate::metrics::Meter;
use crate::openai::{ApiError, ChatRequest, ErrorKind, FinishReason, TokenLogprob, TopLogprob, Usage};
use crate::state::Served;
use crate::text::{Delta, ReplyText};

/// The smallest log-probability on the wire: JSON has no infinity.
const MIN_LOGPROB: f32 = -9999.0;

/// A part of a reply.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Text, and its tokens if they were asked for; not both empty.
    Delta {
        /// The text.
        text: String,
        /// The tokens.
        tokens: Vec<TokenLogprob>,
    },
    /// The end; nothing follows.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Token counts.
        usage: Usage,
    },
}

/// A reply as it comes. Dropping it cancels the generation. It ends with [`Output::Finished`] or an error; if it ends
/// without either, the task that produced it is gone.
pub type Outputs = UnboundedReceiver<Result<Output, ApiError>>;

/// Turns a chat request into token ids and limits.
///
/// # Errors
/// [`ErrorKind::TemplateRefused`] and [`ErrorKind::ContextLengthExceeded`].
pub fn prepare(served: &Served, request: &ChatRequest) -> Result<GenerateRequest, ApiError> {
    let prompt_ids = served
        .tokenizer
        .encode_prompt(&request.messages)
        .map_err(|error| ApiError::of_field(ErrorKind::TemplateRefused, "messages", error.to_string()))?;
    let context = served.engine.context_length();
    let left = context.saturating_sub(prompt_ids.len());
    if left == 0 || prompt_ids.is_empty() {
        let message = format!(
            "This model's maximum context length is {context} tokens. However, your messages resulted in {} tokens, \
             which leaves no room for a reply. Please reduce the length of the messages.",
            prompt_ids.len()
        );
        return Err(ApiError::of_field(ErrorKind::ContextLengthExceeded, "messages", message));
    }
    Ok(GenerateRequest {
        prompt_ids,
        max_tokens: request.max_tokens.unwrap_or(left).min(left),
        eos_ids: served.tokenizer.eos_ids().to_vec(),
        sampling: request.sampling.clone(),
        top_logprobs: request.logprobs.unwrap_or(0),
    })
}

/// Starts a reply that ends before the first of `stops` and must be finished by `deadline`.
///
/// # Errors
/// [`ErrorKind::EngineFailed`] when the engine does not take the request.
pub fn start(
    served: Arc<Served>,
    request: GenerateRequest,
    stops: Vec<String>,
    want_logprobs: bool,
    permit: Permit,
    deadline: Instant,
) -> Result<Outputs, ApiError> {
    let prompt_tokens = request.prompt_ids.len();
    let reply = ReplyText::new(&served.tokenizer, &request.prompt_ids, stops);
    let generation = served.engine.generate(request).map_err(engine_failed)?;
    let generation = generation.metered(Meter::of_this_request(&served.name, prompt_tokens));
    let (sender, outputs) = unbounded_channel();
    let driver = Driver { served, sender, reply, want_logprobs, usage: Usage::new(prompt_tokens, 0) };
    tokio::spawn(async move {
        driver.run(generation, deadline).await;
        drop(permit);
    });
    Ok(outputs)
}

struct Driver {
    served: Arc<Served>,
    sender: UnboundedSender<Result<Output, ApiError>>,
    reply: ReplyText,
    want_logprobs: bool,
    usage: Usage,
}

impl Driver {
    async fn run(mut self, mut generation: Generation, deadline: Instant) {
        let started = Instant::now();
        let sender = self.sender.clone();
        let finished = tokio::select! {
            biased;
            () = sender.closed() => {
                tracing::info!(completion_tokens = self.usage.completion_tokens, "client gone, generation cancelled");
                return;
            }
            finished = timeout_at(deadline, self.generate(&mut generation)) => finished,
        };
        // The engine is free from here on; what is left is text.
        drop(generation);
        let finished = match finished {
            Ok(Ok(reason)) => self.finish(reason),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(timed_out()),
        };
        match &finished {
            Ok(Output::Finished { reason, usage }) => tracing::info!(
                prompt_tokens = usage.prompt_tokens,
                completion_tokens = usage.completion_tokens,
                finish_reason = ?reason,
                milliseconds = started.elapsed().as_millis() as u64,
                "reply finished"
            ),
            Ok(Output::Delta { .. }) => {}
            Err(error) => tracing::warn!(kind = ?error.kind(), "reply failed"),
        }
        let _ = sender.send(finished);
    }

    /// Reads tokens until the engine or a stop string ends the reply.
    async fn generate(&mut self, generation: &mut Generation) -> Result<Ending, ApiError> {
        loop {
            let step = generation.next().await.map_err(engine_failed)?;
            self.usage = Usage::new(self.usage.prompt_tokens, self.usage.completion_tokens + 1);
            if step.finish == Some(Finish::Eos) {
                return Ok(Ending::Engine(FinishReason::Stop));
            }
            let delta = self.reply.push(&self.served.tokenizer, step.token).map_err(undecodable)?;
            let stopped = delta.stopped;
            self.emit(delta);
            match (stopped, step.finish) {
                (true, _) => return Ok(Ending::StopString),
                (false, Some(_)) => return Ok(Ending::Engine(FinishReason::Length)),
                (false, None) => {}
            }
        }
    }

    /// Sends what was held back and makes the last output.
    fn finish(mut self, ending: Ending) -> Result<Output, ApiError> {
        let reason = match ending {
            Ending::StopString => FinishReason::Stop,
            Ending::Engine(reason) => {
                let empty = ReplyText::new(&self.served.tokenizer, &[], Vec::new());
                let reply = std::mem::replace(&mut self.reply, empty);
                let delta = reply.finish(&self.served.tokenizer).map_err(undecodable)?;
                let stopped = delta.stopped;
                self.emit(delta);
                if stopped { FinishReason::Stop } else { reason }
            }
        };
        Ok(Output::Finished { reason, usage: self.usage })
    }

    fn emit(&self, delta: Delta) {
        let tokens = if self.want_logprobs { delta.tokens } else { Vec::new() };
        if delta.text.is_empty() && tokens.is_empty() {
            return;
        }
        let tokens = tokens.into_iter().map(|token| token_logprob(&self.served, token)).collect();
        // A reader that is gone is noticed by `closed`.
        let _ = self.sender.send(Ok(Output::Delta { text: delta.text, tokens }));
    }
}

enum Ending {
    StopString,
    Engine(FinishReason),
}

fn token_logprob(served: &Served, token: SampledToken) -> TokenLogprob {
    let entry = |id: u32, logprob: f32| {
        let bytes = served.token_bytes.of(&served.tokenizer, id);
        TopLogprob { token: String::from_utf8_lossy(&bytes).into_owned(), logprob: logprob.max(MIN_LOGPROB), bytes }
    };
    TokenLogprob {
        chosen: entry(token.id, token.logprob),
        top_logprobs: token.top.into_iter().map(|(id, logprob)| entry(id, logprob)).collect(),
    }
}

/// The error of a request that outlived its deadline.
pub fn timed_out() -> ApiError {
    ApiError::new(
        ErrorKind::TimedOut,
        "the request took longer than this server allows; ask for fewer tokens, or raise --request-timeout-secs",
    )
}

fn engine_failed(error: crate::engine::EngineError) -> ApiError {
    tracing::error!(%error, "generation failed");
    ApiError::new(ErrorKind::EngineFailed, "the inference engine failed on this request; the server's log says why")
}

fn undecodable(error: orpo_chat::ChatError) -> ApiError {
    tracing::error!(%error, "a generated token cannot be decoded");
    ApiError::new(ErrorKind::EngineFailed, "a generated token cannot be decoded; the server's log says why")
}
