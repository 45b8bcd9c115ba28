//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use tokio::time::{Instant, timeout_at};

use super::answer::{self, Body, Chunks, Head};
use crate::generation::{self, Token, Work};
use crate::openai::{
    ApiError, ChatChoice, ChatChunk, ChatCompletion, ChatRequest, ChunkChoice, ChunkDelta, FinishReason, FunctionCall,
    FunctionDelta, Logprobs, ReplyMessage, ToolCall, ToolCallDelta, Usage,
};
use crate::prepare;
use crate::state::{AppState, Served};
use crate::tool_calls::{CallReader, Part};

const FUNCTION: &str = "function";

/// Validates, waits for a slot, generates, and answers whole or as a stream.
pub(super) async fn chat_completions(State(state): State<Arc<AppState>>, body: Body) -> Result<Response, ApiError> {
    let deadline = Instant::now() + state.limits.request_timeout;
    let request = ChatRequest::parse(&answer::bytes(&state, body)?)?;
    let served = state.model(&request.model)?;
    let (request, work) = prepared(&state, served, request, deadline).await?;
    let outputs = answer::begin(&state, served, work, deadline).await?;

    let head = Head::new("chatcmpl", served, request.include_usage);
    let reader = prepare::call_reader(served, &request);
    if request.stream {
        return Ok(answer::stream(outputs, ChatChunks { head, readers: vec![reader; request.choices] }));
    }
    let (choices, usage) = answer::collect(outputs).await?;
    let choice = |(index, choice): (usize, answer::Choice)| {
        let (message, finish_reason) = message(choice.text, choice.reason, reader.clone());
        let logprobs = request.logprobs.map(|_| logprobs(choice.tokens));
        ChatChoice { index, message, logprobs, finish_reason }
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

/// The request and what it asks for. Grammars are made one at a time: a hostile one keeps the others waiting, not the
/// server busy.
async fn prepared(
    state: &AppState,
    served: &Arc<Served>,
    request: ChatRequest,
    deadline: Instant,
) -> Result<(ChatRequest, Work), ApiError> {
    let turn = if request.wants_grammar() {
        let turn = timeout_at(deadline, state.grammar_maker.clone().acquire_owned());
        Some(turn.await.map_err(|_| generation::timed_out())?)
    } else {
        None
    };
    let served = served.clone();
    let prepare = move || {
        let work = prepare::chat(&served, &request);
        drop(turn);
        work.map(|work| (request, work))
    };
    answer::aside(deadline, prepare).await
}

fn logprobs(tokens: Vec<Token>) -> Logprobs {
    Logprobs { content: tokens.into_iter().map(|token| token.logprob).collect(), refusal: None }
}

/// The whole message, and why it ended.
fn message(text: String, reason: FinishReason, reader: Option<CallReader>) -> (ReplyMessage, FinishReason) {
    let Some(mut reader) = reader else {
        return (
            ReplyMessage { role: "assistant", content: Some(text), refusal: None, tool_calls: Vec::new() },
            reason,
        );
    };
    let mut parts = reader.push(&text);
    parts.extend(reader.finish(reason == FinishReason::Length));
    let mut content = String::new();
    let mut tool_calls: Vec<ToolCall> = Vec::new();
    for part in parts {
        match part {
            Part::Content(text) => content += &text,
            Part::Call { name, .. } => {
                let function = FunctionCall { name, arguments: String::new() };
                tool_calls.push(ToolCall { id: call_id(), kind: FUNCTION, function });
            }
            Part::Arguments { index, text } => tool_calls[index].function.arguments += &text,
        }
    }
    let content = Some(content).filter(|content| !content.is_empty() || tool_calls.is_empty());
    (ReplyMessage { role: "assistant", content, refusal: None, tool_calls }, reason_with(reason, &reader))
}

/// A reply with calls ends with them, unless it was cut off.
fn reason_with(reason: FinishReason, reader: &CallReader) -> FinishReason {
    if reason == FinishReason::Stop && reader.calls() > 0 { FinishReason::ToolCalls } else { reason }
}

/// Nine letters and digits, as the templates of Mistral want them.
fn call_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()[..9].to_string()
}

/// The chunks of a streamed chat answer.
struct ChatChunks {
    head: Head,
    /// One for each choice; none where no calls are looked for.
    readers: Vec<Option<CallReader>>,
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

    fn choice(&self, index: usize, delta: ChunkDelta, logprobs: Option<Logprobs>) -> String {
        self.chunk(vec![ChunkChoice { index, delta, logprobs, finish_reason: None }], None)
    }
}

fn delta(part: Part) -> ChunkDelta {
    let call = match part {
        Part::Content(text) => return ChunkDelta { content: Some(text), ..ChunkDelta::default() },
        Part::Call { index, name } => {
            let function = FunctionDelta { name: Some(name), arguments: String::new() };
            ToolCallDelta { index, id: Some(call_id()), kind: Some(FUNCTION), function }
        }
        Part::Arguments { index, text } => {
            let function = FunctionDelta { name: None, arguments: text };
            ToolCallDelta { index, id: None, kind: None, function }
        }
    };
    ChunkDelta { tool_calls: vec![call], ..ChunkDelta::default() }
}

impl Chunks for ChatChunks {
    fn opening(&self) -> Vec<String> {
        // Where calls are looked for, it is not known yet whether there is content.
        let content = |reader: &Option<CallReader>| reader.is_none().then(String::new);
        let first = |(index, reader)| {
            let delta = ChunkDelta { role: Some("assistant"), content: content(reader), ..ChunkDelta::default() };
            self.choice(index, delta, None)
        };
        self.readers.iter().enumerate().map(first).collect()
    }

    fn delta(&mut self, index: usize, text: String, tokens: Vec<Token>) -> Vec<String> {
        let parts = match &mut self.readers[index] {
            Some(reader) => reader.push(&text),
            None => vec![Part::Content(text)],
        };
        let mut deltas: Vec<ChunkDelta> = parts.into_iter().map(delta).collect();
        // Tokens are told when they are there, with text or without.
        let mut logprobs = (!tokens.is_empty()).then(|| logprobs(tokens));
        if deltas.is_empty() && logprobs.is_some() {
            deltas.push(ChunkDelta::default());
        }
        deltas.into_iter().map(|delta| self.choice(index, delta, logprobs.take())).collect()
    }

    fn finished(&mut self, index: usize, reason: FinishReason) -> Vec<String> {
        let (parts, reason) = match &mut self.readers[index] {
            Some(reader) => (reader.finish(reason == FinishReason::Length), reason_with(reason, reader)),
            None => (Vec::new(), reason),
        };
        let mut chunks: Vec<String> = parts.into_iter().map(|part| self.choice(index, delta(part), None)).collect();
        let delta = ChunkDelta::default();
        let end = ChunkChoice { index, delta, logprobs: None, finish_reason: Some(reason) };
        chunks.push(self.chunk(vec![end], None));
        chunks
    }

    fn usage(&self, usage: Usage) -> Option<String> {
        self.head.include_usage.then(|| self.chunk(Vec::new(), Some(usage)))
    }
}
