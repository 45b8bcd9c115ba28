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
    let served = state.asked_for(request.model.as_deref())?;
    let wants_grammar = request.grammar.is_some();
    let preparing = served.clone();
    let prepare = move || prepare::completion(&preparing, &request).map(|work| (request, work));
    let (request, work) = answer::prepared(&state, wants_grammar, deadline, prepare).await?;
    let unchecked = work.unchecked.clone();
    let prompts: Vec<Vec<u32>> = work.prompts.iter().map(|prompt| prompt.request.prompt_ids.clone()).collect();
    let outputs = answer::begin(&state, &served, work, deadline).await?;

    let prompt_tokens = prompts.iter().map(Vec::len).sum();
    let head = Head::new("cmpl", &served, request.stream_usage, prompt_tokens);
    let (has_logprobs, choices) = (request.logprobs.is_some(), request.choices);
    let chunks = CompletionChunks { head, has_logprobs, choices, prompts: request.return_token_ids.then_some(prompts) };
    if request.stream {
        return Ok(answer::unchecked(answer::stream(outputs, chunks), &unchecked));
    }
    let (choices, usage) = answer::collect(outputs).await?;
    let choice = |(index, choice): (usize, answer::Choice)| CompletionChoice {
        prompt_token_ids: chunks.prompt_ids(index),
        finish_reason: Some(choice.reason),
        ..chunks.choice(index, choice.text, choice.tokens)
    };
    let choices = choices.into_iter().enumerate().map(choice).collect();
    let completion = chunks.completion(choices, Some(Some(usage)));
    Ok(answer::unchecked(Json(completion).into_response(), &unchecked))
}

fn logprobs(tokens: Vec<Token>) -> CompletionLogprobs {
    let mut lists = CompletionLogprobs::default();
    for Token { offset, logprob, unpredicted, .. } in tokens {
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
    has_logprobs: bool,
    /// How many each prompt has.
    choices: usize,
    /// The tokens of the prompts, if ids were asked for.
    prompts: Option<Vec<Vec<u32>>>,
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

    fn choice(&self, index: usize, text: String, tokens: Vec<Token>) -> CompletionChoice {
        let token_ids = answer::token_ids(self.prompts.is_some(), &tokens);
        let logprobs = self.has_logprobs.then(|| logprobs(tokens));
        CompletionChoice { index, text, logprobs, finish_reason: None, token_ids, prompt_token_ids: None }
    }

    fn prompt_ids(&self, index: usize) -> Option<Vec<u32>> {
        self.prompts.as_ref().and_then(|prompts| prompts.get(index / self.choices).cloned())
    }

    fn chunk(&self, choice: CompletionChoice) -> String {
        answer::json(&self.completion(vec![choice], self.head.usage_so_far()))
    }
}

impl Chunks for CompletionChunks {
    fn head(&mut self) -> &mut Head {
        &mut self.head
    }

    fn opening(&self) -> Vec<String> {
        Vec::new()
    }

    fn delta(&mut self, index: usize, text: String, tokens: Vec<Token>) -> Vec<String> {
        let without_tokens = tokens.is_empty();
        let mut choice = self.choice(index, text, tokens);
        if without_tokens {
            (choice.logprobs, choice.token_ids) = (None, None);
        }
        vec![self.chunk(choice)]
    }

    fn finished(&mut self, index: usize, reason: FinishReason) -> Vec<String> {
        vec![self.chunk(CompletionChoice {
            index,
            text: String::new(),
            logprobs: None,
            finish_reason: Some(reason),
            token_ids: None,
            prompt_token_ids: self.prompt_ids(index),
        })]
    }

    fn usage(&self, usage: Usage) -> Option<String> {
        self.head.tells_usage().then(|| answer::json(&self.completion(Vec::new(), Some(Some(usage)))))
    }
}
