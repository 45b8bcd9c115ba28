//! From a validated request to token ids, limits and constraints: what the engine is asked for.

use orpo_chat::{ChatError, Message, RenderOptions};
use serde_json::Value;

use crate::engine::constraint::{Constraint, ConstraintError};
use crate::engine::{GenerateRequest, Sampling};
use crate::generation::{Prompt, Work};
use crate::openai::{ApiError, ChatRequest, CompletionRequest, ErrorKind, PromptInput};
use crate::state::Served;
use crate::tool_calls::{self, CallReader, Style};

/// What a chat request asks for.
///
/// # Errors
/// An [`ApiError`] that names the field: a template that refuses the messages or knows no tools, a prompt that is too
/// long, a token that does not exist, a schema that cannot be followed.
pub fn chat(served: &Served, request: &ChatRequest) -> Result<Work, ApiError> {
    let tools = request.tools.as_ref();
    let presented = tools
        .map_or_else(Vec::new, |tools| tools.functions.iter().map(|function| function.presented.clone()).collect());
    let prompt_ids = conversation(
        served,
        &request.messages,
        &presented,
        request.add_generation_prompt,
        request.continue_final_message,
    )?;
    let left = room(served, prompt_ids.len(), "messages", 1)?;
    let mut sampling = checked(served, &request.sampling)?;
    let style = style(served);
    if let Some(tools) = tools.filter(|tools| tools.is_forced()) {
        sampling.constraint = Some(constraint(served, &tool_calls::schema(tools, style), "tools")?);
    } else if let Some(schema) = &request.schema {
        sampling.constraint = Some(constraint(served, schema, "response_format")?);
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
        special_tokens: tools.is_some() && style.marker().is_some_and(|marker| is_special(served, marker)),
    })
}

/// The reader of a reply to `request` that may have calls in it.
pub fn call_reader(served: &Served, request: &ChatRequest) -> Option<CallReader> {
    request.tools.as_ref().map(|tools| CallReader::new(tools, style(served)))
}

fn style(served: &Served) -> Style {
    Style::of(served.tokenizer.tools_template().map_or("", |template| template.source()))
}

fn is_special(served: &Served, token: &str) -> bool {
    let added = served.tokenizer.tokenizer().get_added_tokens_decoder();
    added.values().any(|added| added.special && added.content == token)
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
    Ok(Work {
        prompts,
        choices: request.choices,
        stops: request.stop.clone(),
        want_tokens: request.logprobs.is_some(),
        special_tokens: false,
    })
}

/// The ids of a conversation. With `continue_final_message` they end where the last message's text ends.
///
/// # Errors
/// [`ErrorKind::TemplateRefused`], or [`ErrorKind::Unsupported`] for tools that the template would leave out.
pub fn conversation(
    served: &Served,
    messages: &[Message],
    tools: &[Value],
    add_generation_prompt: bool,
    continue_final_message: bool,
) -> Result<Vec<u32>, ApiError> {
    let refused = |error: &ChatError| refused("messages", error);
    if served.tokenizer.template().is_err() {
        let message = format!(
            "`{}` has no chat template; ask /v1/completions, or serve the model with --chat-template FILE",
            served.name
        );
        return Err(ApiError::of_field(ErrorKind::TemplateRefused, "messages", message));
    }
    if let Some(param) = speaks_of_tools(messages, tools)
        && !served.tokenizer.knows_tools()
        && (!tools.is_empty() || !served.tokenizer.renders_calls())
    {
        let message = format!(
            "`{param}`: the chat template of `{}` knows no tools; leave them out, or serve the model with a \
             --chat-template that presents them",
            served.name
        );
        return Err(ApiError::of_field(ErrorKind::Unsupported, param, message));
    }
    let options = RenderOptions { tools, add_generation_prompt, variables: None };
    let text = served.tokenizer.render_with(messages, options);
    let mut text = text.map_err(|error| refused(&error))?;
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

/// The field in which a request speaks of tools.
fn speaks_of_tools(messages: &[Message], tools: &[Value]) -> Option<String> {
    if !tools.is_empty() {
        return Some("tools".into());
    }
    let of_tools = |message: &Message| message.role == "tool" || message.extra.contains_key("tool_calls");
    messages.iter().position(of_tools).map(|index| format!("messages[{index}]"))
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

fn constraint(served: &Served, schema: &Value, param: &str) -> Result<Constraint, ApiError> {
    let refused = |kind| move |error: ConstraintError| ApiError::of_field(kind, param, format!("`{param}`: {error}"));
    let grammars = served.grammars().map_err(refused(ErrorKind::Unsupported))?;
    grammars.json_schema(schema).map_err(refused(ErrorKind::InvalidValue))
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
