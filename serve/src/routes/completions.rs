//! `POST /v1/completions`.

use std::fmt::Write;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;

use super::answer::{self, Body, Chunks, Head};
use crate::generation::Token;
use crate::openai::{
    ApiError, Completion, CompletionChoice, CompletionLogprobs, CompletionRequest, FinishReason, TopLogprob,
    TopLogprobs, Usage,
};
use crate::prepare;
use crate::state::AppState;

/// Validates, waits for a slot, generates or scores, and answers whole or as a stream.
pub(super) async fn completions(State(state): State<Arc<AppState>>, body: Body) -> Result<Response, ApiError> {
    let deadline = Instant::now() + state.limits.request_timeout;
    let request = CompletionRequest::parse(&answer::bytes(&state, body)?)?;
    let served = state.model(&request.model)?;
    let preparing = served.clone();
    let prepared = move || prepare::completion(&preparing, &request).map(|work| (request, work));
    let (request, work) = answer::aside(deadline, prepared).await?;
    let outputs = answer::begin(&state, served, work, deadline).await?;

    let chunks = CompletionChunks { head: Head::new("cmpl", served, request.include_usage) };
    if request.stream {
        return Ok(answer::stream(outputs, chunks));
    }
    let (choices, usage) = answer::collect(outputs).await?;
    let choice = |(index, choice): (usize, answer::Choice)| CompletionChoice {
        index,
        text: choice.text,
        logprobs: request.logprobs.map(|_| logprobs(choice.tokens)),
        finish_reason: Some(choice.reason),
    };
    let choices = choices.into_iter().enumerate().map(choice).collect();
    Ok(Json(chunks.completion(choices, Some(Some(usage)))).into_response())
}

fn logprobs(tokens: Vec<Token>) -> CompletionLogprobs {
    let mut lists = CompletionLogprobs::default();
    for Token { offset, logprob, unpredicted } in tokens {
        let text = written(&logprob.chosen);
        let top = || {
            let mut top: Vec<(String, f32)> = Vec::with_capacity(logprob.top_logprobs.len() + 1);
            // Best first: where two tokens are written alike, the better one stays.
            for entry in logprob.top_logprobs.iter().chain([&logprob.chosen]) {
                let text = written(entry);
                if top.iter().all(|(other, _)| *other != text) {
                    top.push((text, entry.logprob));
                }
            }
            TopLogprobs(top)
        };
        lists.top_logprobs.push((!unpredicted).then(top));
        lists.token_logprobs.push((!unpredicted).then_some(logprob.chosen.logprob));
        lists.tokens.push(text);
        lists.text_offset.push(offset);
    }
    lists
}

/// The text of a token; where it is only a part of a character, its bytes, as OpenAI writes them.
fn written(token: &TopLogprob) -> String {
    if std::str::from_utf8(&token.bytes).is_ok() {
        return token.token.clone();
    }
    token.bytes.iter().fold("bytes:".to_string(), |mut text, byte| {
        let _ = write!(text, "\\x{byte:02x}");
        text
    })
}

/// The chunks of a streamed completion.
struct CompletionChunks {
    head: Head,
}

impl CompletionChunks {
    fn completion(&self, choices: Vec<CompletionChoice>, usage: Option<Option<Usage>>) -> Completion {
        Completion {
            id: self.head.id.clone(),
            object: "text_completion",
            created: self.head.created,
            model: self.head.model.clone(),
            choices,
            usage,
        }
    }

    fn chunk(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> String {
        answer::json(&self.completion(choices, self.head.include_usage.then_some(usage)))
    }
}

impl Chunks for CompletionChunks {
    fn opening(&self) -> Vec<String> {
        Vec::new()
    }

    fn delta(&mut self, index: usize, text: String, tokens: Vec<Token>) -> Vec<String> {
        let logprobs = (!tokens.is_empty()).then(|| logprobs(tokens));
        vec![self.chunk(vec![CompletionChoice { index, text, logprobs, finish_reason: None }], None)]
    }

    fn finished(&mut self, index: usize, reason: FinishReason) -> Vec<String> {
        let (text, finish_reason) = (String::new(), Some(reason));
        vec![self.chunk(vec![CompletionChoice { index, text, logprobs: None, finish_reason }], None)]
    }

    fn usage(&self, usage: Usage) -> Option<String> {
        self.head.include_usage.then(|| self.chunk(Vec::new(), Some(usage)))
    }
}
