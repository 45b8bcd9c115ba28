//! `POST /v1/chat/completions`.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt};
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::generation::{self, Output, Outputs};
use crate::openai::{
    ApiError, ChatChoice, ChatChunk, ChatCompletion, ChatRequest, ChunkChoice, ChunkDelta, ErrorKind, Logprobs,
    ReplyMessage, TokenLogprob,
};
use crate::state::{AppState, unix_seconds};

/// Validates, waits for a slot, generates, and answers whole or as a stream.
pub(super) async fn chat_completions(
    State(state): State<Arc<AppState>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let deadline = Instant::now() + state.limits.request_timeout;
    let body = body.map_err(|rejection| ApiError::from_body_rejection(&rejection, state.limits.max_body_bytes))?;
    let request = ChatRequest::parse(&body)?;
    let served = state.model(&request.model)?;
    let prepared = generation::prepare(served, &request)?;
    let permit = timeout_at(deadline, state.admission.admit()).await.map_err(|_| generation::timed_out())??;
    let want_logprobs = request.logprobs.is_some();
    let outputs = generation::start(served.clone(), prepared, request.stop, want_logprobs, permit, deadline)?;

    let reply = Reply {
        id: format!("chatcmpl-{}", uuid::Uuid::new_v4().simple()),
        created: unix_seconds(),
        model: served.name.clone(),
        want_logprobs,
        include_usage: request.include_usage,
    };
    Ok(if request.stream { reply.stream(outputs) } else { Json(reply.whole(outputs).await?).into_response() })
}

/// What all parts of one answer have in common.
struct Reply {
    id: String,
    created: u64,
    model: String,
    want_logprobs: bool,
    include_usage: bool,
}

impl Reply {
    async fn whole(self, mut outputs: Outputs) -> Result<ChatCompletion, ApiError> {
        let mut content = String::new();
        let mut tokens = Vec::new();
        loop {
            match outputs.recv().await.unwrap_or_else(|| Err(vanished()))? {
                Output::Delta { text, tokens: more } => {
                    content += &text;
                    tokens.extend(more);
                }
                Output::Finished { reason, usage } => {
                    let choice = ChatChoice {
                        index: 0,
                        message: ReplyMessage { role: "assistant", content, refusal: None },
                        logprobs: self.want_logprobs.then_some(Logprobs { content: tokens, refusal: None }),
                        finish_reason: reason,
                    };
                    return Ok(ChatCompletion {
                        id: self.id,
                        object: "chat.completion",
                        created: self.created,
                        model: self.model,
                        choices: vec![choice],
                        usage,
                    });
                }
            }
        }
    }

    fn stream(self, outputs: Outputs) -> Response {
        let delta = ChunkDelta { role: Some("assistant"), content: Some(String::new()) };
        let first = event(&self.chunk(delta, Vec::new()));
        let events = stream::iter([first]).chain(self.events(outputs)).map(Ok::<_, Infallible>);
        Sse::new(events).keep_alive(KeepAlive::default()).into_response()
    }

    /// One event per output; after the end the usage, if asked for, and `[DONE]`; after an error nothing.
    fn events(self, outputs: Outputs) -> impl Stream<Item = Event> {
        // The `None` at the end stands for a task that vanished; after a proper end it is not reached.
        let outputs = UnboundedReceiverStream::new(outputs).map(Some).chain(stream::iter([None]));
        outputs
            .scan(false, move |ended, output| {
                let events = if *ended { None } else { Some(self.events_of(output, ended)) };
                std::future::ready(events)
            })
            .flat_map(stream::iter)
    }

    fn events_of(&self, output: Option<Result<Output, ApiError>>, ended: &mut bool) -> Vec<Event> {
        match output.unwrap_or_else(|| Err(vanished())) {
            Ok(Output::Delta { text, tokens }) => {
                let delta = ChunkDelta { role: None, content: Some(text) };
                vec![event(&self.chunk(delta, tokens))]
            }
            Ok(Output::Finished { reason, usage }) => {
                *ended = true;
                let mut last = self.chunk(ChunkDelta::default(), Vec::new());
                last.choices[0].finish_reason = Some(reason);
                let mut events = vec![event(&last)];
                if self.include_usage {
                    events.push(event(&ChatChunk { choices: Vec::new(), usage: Some(Some(usage)), ..last }));
                }
                events.push(Event::default().data("[DONE]"));
                events
            }
            Err(error) => {
                *ended = true;
                vec![event(&error.body())]
            }
        }
    }

    fn chunk(&self, delta: ChunkDelta, tokens: Vec<TokenLogprob>) -> ChatChunk {
        let logprobs = (!tokens.is_empty()).then_some(Logprobs { content: tokens, refusal: None });
        ChatChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk",
            created: self.created,
            model: self.model.clone(),
            choices: vec![ChunkChoice { index: 0, delta, logprobs, finish_reason: None }],
            usage: self.include_usage.then_some(None),
        }
    }
}

fn event<T: serde::Serialize>(value: &T) -> Event {
    Event::default().data(serde_json::to_string(value).expect("these types serialise"))
}

fn vanished() -> ApiError {
    ApiError::new(ErrorKind::EngineFailed, "the reply broke off; the server's log says why")
}
