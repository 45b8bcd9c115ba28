//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;

use super::answer::{self, Body, Chunks, Head};
use crate::generation::Token;
use crate::openai::{
    ApiError, ChatChoice, ChatChunk, ChatCompletion, ChatRequest, ChunkChoice, ChunkDelta, FinishReason, Logprobs,
    ReplyMessage, Usage,
};
use crate::prepare;
use crate::state::AppState;

/// Validates, waits for a slot, generates, and answers whole or as a stream.
pub(super) async fn chat_completions(State(state): State<Arc<AppState>>, body: Body) -> Result<Response, ApiError> {
    let deadline = Instant::now() + state.limits.request_timeout;
    let request = ChatRequest::parse(&answer::bytes(&state, body)?)?;
    let served = state.model(&request.model)?;
    let work = prepare::chat(served, &request)?;
    let outputs = answer::begin(&state, served, work, deadline).await?;

    let head = Head::new("chatcmpl", served, request.include_usage);
    if request.stream {
        return Ok(answer::stream(outputs, ChatChunks { head, choices: request.choices }));
    }
    let (choices, usage) = answer::collect(outputs).await?;
    let choice = |(index, choice): (usize, answer::Choice)| ChatChoice {
        index,
        message: ReplyMessage { role: "assistant", content: choice.text, refusal: None },
        logprobs: request.logprobs.map(|_| logprobs(choice.tokens)),
        finish_reason: choice.reason,
    };
    let completion = ChatCompletion {
        id: head.id,
        object: "chat.completion",
        created: head.created,
        model: head.model,
        choices: choices.into_iter().enumerate().map(choice).collect(),
        usage,
    };
    Ok(Json(completion).into_response())
}

fn logprobs(tokens: Vec<Token>) -> Logprobs {
    Logprobs { content: tokens.into_iter().map(|token| token.logprob).collect(), refusal: None }
}

/// The chunks of a streamed chat answer.
struct ChatChunks {
    head: Head,
    choices: usize,
}

impl ChatChunks {
    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Usage>) -> String {
        let chunk = ChatChunk {
            id: self.head.id.clone(),
            object: "chat.completion.chunk",
            created: self.head.created,
            model: self.head.model.clone(),
            choices,
            usage: self.head.include_usage.then_some(usage),
        };
        answer::json(&chunk)
    }
}

impl Chunks for ChatChunks {
    fn opening(&self) -> Vec<String> {
        let delta = ChunkDelta { role: Some("assistant"), content: Some(String::new()) };
        let choice = |index| ChunkChoice { index, delta: delta.clone(), logprobs: None, finish_reason: None };
        (0..self.choices).map(|index| self.chunk(vec![choice(index)], None)).collect()
    }

    fn delta(&self, index: usize, text: String, tokens: Vec<Token>) -> String {
        let delta = ChunkDelta { role: None, content: Some(text) };
        let logprobs = (!tokens.is_empty()).then(|| logprobs(tokens));
        self.chunk(vec![ChunkChoice { index, delta, logprobs, finish_reason: None }], None)
    }

    fn finished(&self, index: usize, reason: FinishReason) -> String {
        let delta = ChunkDelta::default();
        self.chunk(vec![ChunkChoice { index, delta, logprobs: None, finish_reason: Some(reason) }], None)
    }

    fn usage(&self, usage: Usage) -> Option<String> {
        self.head.include_usage.then(|| self.chunk(Vec::new(), Some(usage)))
    }
}
