//! From a validated request to token ids, limits and constraints: what the engine is asked for.

use orpo_chat::{ChatError, Message};
use serde_json::Value;

use crate::engine::{GenerateRequest, Sampling};
use crate::generation::{Prompt, Work};
use crate::openai::{ApiError, ChatRequest, CompletionRequest, ErrorKind, PromptInput};
use crate::state::Served;

/// What a chat request asks for.
///
/// # Errors
/// An [`ApiError`] that names the field: a template that refuses the messages, a prompt that is too long, a token that
/// does not exist, a schema that cannot be followed.
pub fn chat(served: &Served, request: &ChatRequest) -> Result<Work, ApiError> {
    let prompt_ids =
        conversation(served, &request.messages, request.add_generation_prompt, request.continue_final_message)?;
    let left = room(served, prompt_ids.len(), "messages", 1)?;
    let mut sampling = checked(served, &request.sampling)?;
    if let Some(schema) = &request.schema {
        sampling.constraint = Some(constraint(served, schema)?);
    }
    let request_of_choice = GenerateRequest {
        prompt_ids,
        max_tokens: request.max_tokens.unwrap_or(left).min(left),
        eos_ids: served.tokenizer.eos_ids().to_vec(),
        sampling,
        top_logprobs: request.logprobs.unwrap_or(0),
    };
    Ok(Work {
        prompts: vec![Prompt { request: request_of_choice, echo: None }],
        choices: request.choices,
        stops: request.stop.clone(),
        want_tokens: request.logprobs.is_some(),
    })
}

/// What a completion request asks for.
///
/// # Errors
/// As [`chat`].
pub fn completion(served: &Served, request: &CompletionRequest) -> Result<Work, ApiError> {
    let sampling = checked(served, &request.sampling)?;
    let mut prompts = Vec::with_capacity(request.prompts.len());
    for prompt in &request.prompts {
        let prompt_ids = match prompt {
            PromptInput::Text(text) => text_ids(served, text, request.add_special_tokens)?,
            PromptInput::Ids(ids) => known(served, ids, "prompt")?,
        };
        if prompt_ids.is_empty() {
            return Err(ApiError::of_field(ErrorKind::InvalidValue, "prompt", "`prompt` has no tokens"));
        }
        let left = room(served, prompt_ids.len(), "prompt", request.max_tokens.min(1))?;
        let echo = match prompt {
            _ if !request.echo => None,
            PromptInput::Text(text) => Some(text.clone()),
            PromptInput::Ids(ids) => {
                Some(served.tokenizer.decode(ids, true).map_err(|error| refused("prompt", &error))?)
            }
        };
        let request_of_choice = GenerateRequest {
            prompt_ids,
            max_tokens: request.max_tokens.min(left),
            eos_ids: served.tokenizer.eos_ids().to_vec(),
            sampling: sampling.clone(),
            top_logprobs: request.logprobs.unwrap_or(0),
        };
        prompts.push(Prompt { request: request_of_choice, echo });
    }
    Ok(Work { prompts, choices: request.choices, stops: request.stop.clone(), want_tokens: request.logprobs.is_some() })
}

/// The ids of a conversation. With `continue_final_message` they end where the last message's text ends.
///
/// # Errors
/// [`ErrorKind::TemplateRefused`].
pub fn conversation(
    served: &Served,
    messages: &[Message],
    add_generation_prompt: bool,
    continue_final_message: bool,
) -> Result<Vec<u32>, ApiError> {
    let refused = |error: &ChatError| refused("messages", error);
    let mut text = served.tokenizer.render(messages, add_generation_prompt).map_err(|error| refused(&error))?;
    if continue_final_message {
        let last = messages.last().map_or("", |message| message.content.as_str());
        let end = end_of_last_message(&text, last).ok_or_else(|| {
            let message = "the chat template changes the last message, so that the reply cannot continue it";
            ApiError::of_field(ErrorKind::TemplateRefused, "continue_final_message", message)
        })?;
        text.truncate(end);
    }
    Ok(served.tokenizer.with_bos(served.tokenizer.encode(&text).map_err(|error| refused(&error))?))
}

/// Where the text of `last` ends in a rendered conversation, as transformers' `apply_chat_template` finds it: with the
/// whitespace at its end if the template keeps that.
fn end_of_last_message(rendered: &str, last: &str) -> Option<usize> {
    let start = rendered.rfind(last.trim())?;
    let kept = last.trim_start();
    let text = if rendered[start..].starts_with(kept) { kept } else { last.trim() };
    Some(start + text.len())
}

/// The ids of a text, with those that the tokenizer puts around it if asked for, as transformers does.
///
/// # Errors
/// [`ErrorKind::InvalidValue`] for a text that the tokenizer refuses.
pub fn text_ids(served: &Served, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, ApiError> {
    let encoding = served.tokenizer.tokenizer().encode_fast(text, add_special_tokens);
    let encoding =
        encoding.map_err(|error| ApiError::of_field(ErrorKind::InvalidValue, "prompt", error.to_string()))?;
    Ok(encoding.get_ids().to_vec())
}

/// `ids`, if the tokenizer knows them all.
///
/// # Errors
/// [`ErrorKind::InvalidValue`] with the first that it does not know.
pub fn known(served: &Served, ids: &[u32], param: &str) -> Result<Vec<u32>, ApiError> {
    match ids.iter().find(|&&id| id as usize >= served.vocabulary) {
        None => Ok(ids.to_vec()),
        Some(id) => {
            let message =
                format!("`{param}` has the token {id}, but the vocabulary has only {} tokens", served.vocabulary);
            Err(ApiError::of_field(ErrorKind::InvalidValue, param, message))
        }
    }
}

/// How many tokens a reply may have after `prompt_tokens`; at least `wanted`.
fn room(served: &Served, prompt_tokens: usize, param: &str, wanted: usize) -> Result<usize, ApiError> {
    let context = served.engine.context_length();
    if prompt_tokens > 0 && prompt_tokens + wanted <= context {
        return Ok(context - prompt_tokens);
    }
    let message = format!(
        "This model's maximum context length is {context} tokens. However, your {param} resulted in {prompt_tokens} \
         tokens, which leaves no room for a reply. Please reduce the length of the {param}."
    );
    Err(ApiError::of_field(ErrorKind::ContextLengthExceeded, param, message))
}

fn checked(served: &Served, sampling: &Sampling) -> Result<Sampling, ApiError> {
    let ids: Vec<u32> = sampling.logit_bias.iter().map(|&(id, _)| id).collect();
    known(served, &ids, "logit_bias")?;
    Ok(sampling.clone())
}

fn constraint(served: &Served, schema: &Value) -> Result<crate::engine::constraint::Constraint, ApiError> {
    let grammars = served.grammars().map_err(|error| {
        ApiError::of_field(ErrorKind::Unsupported, "response_format", format!("`response_format`: {error}"))
    })?;
    grammars.json_schema(schema).map_err(|error| {
        ApiError::of_field(ErrorKind::InvalidValue, "response_format", format!("`response_format`: {error}"))
    })
}

fn refused(param: &str, error: &ChatError) -> ApiError {
    ApiError::of_field(ErrorKind::TemplateRefused, param, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_message_is_found_as_transformers_finds_it() {
        // Kept and trimmed whitespace at its end, and an earlier message with the same text.
        for (rendered, last, expected) in [
            ("user: a\nbot: ab \n", "ab ", "user: a\nbot: ab "),
            ("user: a\nbot: ab\n", " ab  ", "user: a\nbot: ab"),
            ("user: ab\nbot: ab</s>", "ab", "user: ab\nbot: ab"),
        ] {
            assert_eq!(end_of_last_message(rendered, last).map(|end| &rendered[..end]), Some(expected));
        }
        assert_eq!(end_of_last_message("bot: AB", "ab"), None);
    }
}
