//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;

use super::answer::{self, Body, Chunks, Head};
use crate::generation::Token;
use crate::openai::{
    ApiError, ChatChoice, ChatChunk, ChatCompletion, ChatRequest, ChunkChoice, ChunkDelta, FinishReason, FunctionCall,
    FunctionDelta, Logprobs, ReplyMessage, ToolCall, ToolCallDelta, Usage,
};
use crate::prepare;
use crate::state::AppState;
use crate::tool_calls::{CallReader, Part};

const FUNCTION: &str = "function";

/// Validates, waits for a slot, generates, and answers whole or as a stream.
pub(super) async fn chat_completions(State(state): State<Arc<AppState>>, body: Body) -> Result<Response, ApiError> {
    let deadline = Instant::now() + state.limits.request_timeout;
    let request = ChatRequest::parse(&answer::bytes(&state, body)?)?;
    let served = state.asked_for(request.model.as_deref())?;
    let wants_grammar = request.wants_grammar();
    let preparing = served.clone();
    let prepare = move || prepare::chat(&preparing, &request).map(|work| (request, work));
    let (request, work) = answer::prepared(&state, wants_grammar, deadline, prepare).await?;
    let unchecked = work.unchecked.clone();
    let prompt_ids = work.prompts.first().map_or_else(Vec::new, |prompt| prompt.request.prompt_ids.clone());
    let outputs = answer::begin(&state, &served, work, deadline).await?;

    let head = Head::new("chatcmpl", &served, request.stream_usage, prompt_ids.len());
    let reader = prepare::call_reader(&served, &request);
    let (told, ids) = (Told::of(&request), request.return_token_ids);
    if request.stream {
        let prompt_ids = ids.then_some(prompt_ids);
        let chunks = ChatChunks { head, readers: vec![reader; request.choices], told, prompt_ids };
        return Ok(answer::unchecked(answer::stream(outputs, chunks), &unchecked));
    }
    let (choices, usage) = answer::collect(outputs).await?;
    let choice = |(index, choice): (usize, answer::Choice)| {
        let (message, finish_reason) = message(choice.text, choice.reason, reader.clone());
        let token_ids = answer::token_ids(ids, &choice.tokens);
        let logprobs = told.logprobs.then(|| logprobs(choice.tokens));
        ChatChoice { index, message, logprobs, finish_reason, token_ids }
    };
    let completion = ChatCompletion {
        id: head.id,
        object: "chat.completion",
        created: head.created,
        model: head.model,
        choices: choices.into_iter().enumerate().map(choice).collect(),
        usage,
        prompt_token_ids: ids.then_some(prompt_ids),
    };
    Ok(answer::unchecked(Json(completion).into_response(), &unchecked))
}

/// The details of tokens that a client asked for.
#[derive(Debug, Clone, Copy)]
struct Told {
    logprobs: bool,
    ids: bool,
}

impl Told {
    fn of(request: &ChatRequest) -> Self {
        Self { logprobs: request.logprobs.is_some(), ids: request.return_token_ids }
    }
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
    told: Told,
    /// The tokens of the prompt, if asked for.
    prompt_ids: Option<Vec<u32>>,
}

impl ChatChunks {
    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Option<Usage>>) -> ChatChunk {
        ChatChunk {
            id: self.head.id.clone(),
            object: "chat.completion.chunk",
            created: self.head.created,
            model: self.head.model.clone(),
            choices,
            usage,
            prompt_token_ids: None,
        }
    }

    fn choice(&self, index: usize, delta: ChunkDelta) -> ChunkChoice {
        ChunkChoice { index, delta, logprobs: None, finish_reason: None, token_ids: None }
    }

    fn of_choice(&self, choice: ChunkChoice) -> String {
        answer::json(&self.chunk(vec![choice], self.head.usage_so_far()))
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
    fn head(&mut self) -> &mut Head {
        &mut self.head
    }

    fn opening(&self) -> Vec<String> {
        // Where calls are looked for, it is not known yet whether there is content.
        let content = |reader: &Option<CallReader>| reader.is_none().then(String::new);
        let first = |(index, reader)| {
            let delta = ChunkDelta { role: Some("assistant"), content: content(reader), ..ChunkDelta::default() };
            let chunk = self.chunk(vec![self.choice(index, delta)], self.head.usage_so_far());
            answer::json(&ChatChunk { prompt_token_ids: self.prompt_ids.clone(), ..chunk })
        };
        self.readers.iter().enumerate().map(first).collect()
    }

    fn delta(&mut self, index: usize, text: String, tokens: Vec<Token>) -> Vec<String> {
        let parts = match &mut self.readers[index] {
            Some(reader) => reader.push(&text),
            None => vec![Part::Content(text)],
        };
        let mut choices: Vec<ChunkChoice> = parts.into_iter().map(|part| self.choice(index, delta(part))).collect();
        // Tokens are told when they are there, with text or without.
        if choices.is_empty() && !tokens.is_empty() {
            choices.push(self.choice(index, ChunkDelta::default()));
        }
        if let Some(first) = choices.first_mut().filter(|_| !tokens.is_empty()) {
            first.token_ids = answer::token_ids(self.told.ids, &tokens);
            first.logprobs = self.told.logprobs.then(|| logprobs(tokens));
        }
        choices.into_iter().map(|choice| self.of_choice(choice)).collect()
    }

    fn finished(&mut self, index: usize, reason: FinishReason) -> Vec<String> {
        let (parts, reason) = match &mut self.readers[index] {
            Some(reader) => (reader.finish(reason == FinishReason::Length), reason_with(reason, reader)),
            None => (Vec::new(), reason),
        };
        let mut choices: Vec<ChunkChoice> = parts.into_iter().map(|part| self.choice(index, delta(part))).collect();
        choices.push(ChunkChoice { finish_reason: Some(reason), ..self.choice(index, ChunkDelta::default()) });
        choices.into_iter().map(|choice| self.of_choice(choice)).collect()
    }

    fn usage(&self, usage: Usage) -> Option<String> {
        self.head.tells_usage().then(|| answer::json(&self.chunk(Vec::new(), Some(Some(usage)))))
    }
}
