//! What chat and plain completions share: an answer is collected whole or sent as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::generation::{self, Output, Outputs, Token, Work};
use crate::openai::{ApiError, ErrorKind, FinishReason, StreamUsage, Usage};
use crate::served::{Served, unix_seconds};
use crate::state::AppState;

/// Names the keywords of a schema that the reply was not held to.
const UNCHECKED: HeaderName = HeaderName::from_static("x-unchecked-keywords");

/// The answer with a header for what was not checked, if anything was not.
pub(super) fn unchecked(mut response: Response, keywords: &[&str]) -> Response {
    if let Ok(value) = HeaderValue::from_str(&keywords.join(", "))
        && !keywords.is_empty()
    {
        response.headers_mut().insert(UNCHECKED, value);
    }
    response
}

/// The ids of tokens, if they were asked for.
pub(super) fn token_ids(asked: bool, tokens: &[Token]) -> Option<Vec<u32>> {
    asked.then(|| tokens.iter().map(|token| token.id).collect())
}

/// The body of a request, or why it could not be had.
pub(super) type Body = Result<Bytes, BytesRejection>;

/// The bytes of a body.
pub(super) fn bytes(state: &AppState, body: Body) -> Result<Bytes, ApiError> {
    body.map_err(|rejection| ApiError::from_body_rejection(&rejection, state.limits.max_body_bytes))
}

/// Does what computes, beside the threads that answer. What computes cannot be stopped: at the deadline only the waiting
/// for it ends.
pub(super) async fn aside<T: Send + 'static>(
    deadline: Instant,
    compute: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match timeout_at(deadline, tokio::task::spawn_blocking(compute)).await {
        Err(_) => Err(generation::timed_out()),
        Ok(Ok(done)) => done,
        // It is this request's panic, wherever it happened.
        Ok(Err(failed)) => std::panic::resume_unwind(failed.into_panic()),
    }
}

/// Prepares a request. Grammars are made one at a time: a hostile one keeps the others waiting, not the server busy.
pub(super) async fn prepared<T: Send + 'static>(
    state: &AppState,
    wants_grammar: bool,
    deadline: Instant,
    prepare: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let turn = if wants_grammar {
        let turn = timeout_at(deadline, state.grammar_maker.clone().acquire_owned());
        Some(turn.await.map_err(|_| generation::timed_out())?)
    } else {
        None
    };
    let prepare = move || {
        let prepared = prepare();
        drop(turn);
        prepared
    };
    aside(deadline, prepare).await
}

/// Waits for a slot and starts to generate.
pub(super) async fn begin(
    state: &AppState,
    served: &Arc<Served>,
    work: Work,
    deadline: Instant,
) -> Result<Outputs, ApiError> {
    let permit = timeout_at(deadline, state.admission.admit()).await.map_err(|_| generation::timed_out())??;
    Ok(generation::start(served.clone(), work, permit, deadline))
}

/// What all parts of one answer have in common.
pub(super) struct Head {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
    stream_usage: StreamUsage,
    /// The counts so far.
    usage: Usage,
}

impl Head {
    /// A new one, with an id that begins with `prefix`.
    pub(super) fn new(prefix: &str, served: &Served, stream_usage: StreamUsage, prompt_tokens: usize) -> Self {
        let id = format!("{prefix}-{}", uuid::Uuid::new_v4().simple());
        let usage = Usage::new(prompt_tokens, 0);
        Self { id, created: unix_seconds(), model: served.name.clone(), stream_usage, usage }
    }

    /// The usage that a chunk tells which is not the last.
    pub(super) fn usage_so_far(&self) -> Option<Option<Usage>> {
        match self.stream_usage {
            StreamUsage::Never => None,
            StreamUsage::AtEnd => Some(None),
            StreamUsage::Always => Some(Some(self.usage)),
        }
    }

    /// True if the stream ends with a chunk that carries the usage.
    pub(super) fn tells_usage(&self) -> bool {
        self.stream_usage != StreamUsage::Never
    }
}

/// A finished choice.
pub(super) struct Choice {
    pub(super) text: String,
    pub(super) tokens: Vec<Token>,
    pub(super) reason: FinishReason,
}

/// Reads an answer to its end.
pub(super) async fn collect(mut outputs: Outputs) -> Result<(Vec<Choice>, Usage), ApiError> {
    let mut choices = Vec::new();
    let (mut text, mut tokens) = (String::new(), Vec::new());
    loop {
        match outputs.recv().await.unwrap_or_else(|| Err(vanished()))? {
            Output::Delta { text: piece, tokens: more, .. } => {
                text += &piece;
                tokens.extend(more);
            }
            // Choices come one after another, in order.
            Output::Finished { reason, .. } => {
                choices.push(Choice { text: std::mem::take(&mut text), tokens: std::mem::take(&mut tokens), reason });
            }
            Output::Done { usage } => return Ok((choices, usage)),
        }
    }
}

/// How an API writes the parts of a streamed answer: each as no, one or several chunks of JSON.
pub(super) trait Chunks: Send + 'static {
    /// The fields that all parts share.
    fn head(&mut self) -> &mut Head;
    /// What comes before everything.
    fn opening(&self) -> Vec<String>;
    /// More of a choice.
    fn delta(&mut self, choice: usize, text: String, tokens: Vec<Token>) -> Vec<String>;
    /// The end of a choice.
    fn finished(&mut self, choice: usize, reason: FinishReason) -> Vec<String>;
    /// The token counts, if they were asked for.
    fn usage(&self, usage: Usage) -> Option<String>;
}

/// The outputs as events; after the end the usage, if asked for, and `[DONE]`; after an error nothing.
pub(super) fn stream(outputs: Outputs, chunks: impl Chunks) -> Response {
    let opening: Vec<Event> = chunks.opening().into_iter().map(event).collect();
    let events = stream::iter(opening).chain(events(outputs, chunks)).map(Ok::<_, Infallible>);
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

fn events(outputs: Outputs, mut chunks: impl Chunks) -> impl Stream<Item = Event> {
    // The `None` at the end stands for a task that vanished; after a proper end it is not reached.
    let outputs = UnboundedReceiverStream::new(outputs).map(Some).chain(stream::iter([None]));
    outputs
        .scan(false, move |ended, output| {
            let events = if *ended { None } else { Some(events_of(&mut chunks, output, ended)) };
            std::future::ready(events)
        })
        .flat_map(stream::iter)
}

fn events_of(chunks: &mut impl Chunks, output: Option<Result<Output, ApiError>>, ended: &mut bool) -> Vec<Event> {
    match output.unwrap_or_else(|| Err(vanished())) {
        Ok(Output::Delta { choice, text, tokens, usage }) => {
            chunks.head().usage = usage;
            chunks.delta(choice, text, tokens).into_iter().map(event).collect()
        }
        Ok(Output::Finished { choice, reason, usage }) => {
            chunks.head().usage = usage;
            chunks.finished(choice, reason).into_iter().map(event).collect()
        }
        Ok(Output::Done { usage }) => {
            *ended = true;
            let usage = chunks.usage(usage);
            usage.into_iter().map(event).chain([Event::default().data("[DONE]")]).collect()
        }
        Err(error) => {
            *ended = true;
            vec![event(json(&error.body()))]
        }
    }
}

fn event(json: String) -> Event {
    Event::default().data(json)
}

/// The text of a chunk, written directly: by way of a `Value` its `f32`s would look otherwise than in a whole answer.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("these types serialise")
}

fn vanished() -> ApiError {
    ApiError::new(ErrorKind::EngineFailed, "the reply broke off; the server's log says why")
}
