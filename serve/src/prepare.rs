//! From a validated request to token ids, limits and constraints: what the engine is asked for.

use orpo_chat::{ChatError, Message, RenderOptions};
use serde_json::Value;

use crate::engine::constraint::{ConstraintError, Grammar};
use crate::engine::{GenerateRequest, Sampling};
use crate::generation::{Echo, Prompt, Work};
use crate::openai::{ApiError, AskedGrammar, ChatRequest, CompletionRequest, Ending, ErrorKind, PromptInput};
use crate::served::Served;
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
    let options = RenderOptions {
        tools: &presented,
        add_generation_prompt: request.add_generation_prompt,
        variables: Some(&request.variables),
    };
    let prompt_ids = conversation(served, &request.messages, options, request.continue_final_message)?;
    let left = room(served, prompt_ids.len(), "messages", 1)?;
    let max_tokens = request.max_tokens.unwrap_or(left).min(left);
    let mut sampling = sampling(served, &request.sampling, &request.ending)?;
    let style = style(served);
    let forced = tools
        .filter(|tools| tools.is_forced())
        .map(|tools| AskedGrammar { grammar: Grammar::JsonSchema(tool_calls::schema(tools, style)), param: "tools" });
    let unchecked = constrain(served, &mut sampling, forced.as_ref().or(request.grammar.as_ref()), max_tokens)?;
    let request_of_choice = GenerateRequest {
        prompt_ids,
        max_tokens,
        eos_ids: endings(served, &request.ending)?,
        sampling,
        top_logprobs: request.logprobs.unwrap_or(0),
    };
    Ok(Work {
        prompts: vec![Prompt { request: request_of_choice, echo: None }],
        choices: request.choices,
        stops: request.stop.clone(),
        want_tokens: request.logprobs.is_some() || request.return_token_ids,
        special_tokens: tools.is_some() && style.marker().is_some_and(|marker| is_special(served, marker)),
        unchecked,
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
    let sampling = sampling(served, &request.sampling, &request.ending)?;
    let mut prompts = Vec::with_capacity(request.prompts.len());
    let mut unchecked = Vec::new();
    for prompt in &request.prompts {
        let prompt_ids = match prompt {
            PromptInput::Text(text) => text_ids(served, text, request.add_special_tokens)?,
            PromptInput::Ids(ids) => known(served, ids, "prompt")?,
        };
        if prompt_ids.is_empty() {
            return Err(ApiError::of_field(ErrorKind::InvalidValue, "prompt", "`prompt` has no tokens"));
        }
        let left = room(served, prompt_ids.len(), "prompt", request.max_tokens.min(1))?;
        let max_tokens = request.max_tokens.min(left);
        let mut sampling = sampling.clone();
        if max_tokens > 0 {
            unchecked = constrain(served, &mut sampling, request.grammar.as_ref(), max_tokens)?;
        }
        let echo = if request.echo { Some(echo(served, prompt, &prompt_ids)?) } else { None };
        let request_of_choice = GenerateRequest {
            prompt_ids,
            max_tokens,
            eos_ids: endings(served, &request.ending)?,
            sampling,
            top_logprobs: request.logprobs.unwrap_or(0),
        };
        prompts.push(Prompt { request: request_of_choice, echo });
    }
    Ok(Work {
        prompts,
        choices: request.choices,
        stops: request.stop.clone(),
        want_tokens: request.logprobs.is_some() || request.return_token_ids,
        special_tokens: false,
        unchecked,
    })
}

/// A prompt as its reply begins with it: a text as it came, ids with their special tokens.
fn echo(served: &Served, prompt: &PromptInput, prompt_ids: &[u32]) -> Result<Echo, ApiError> {
    match prompt {
        PromptInput::Ids(ids) => {
            let text = served.tokenizer.decode(ids, false).map_err(|error| refused("prompt", &error))?;
            Ok(Echo { text, written: 0..ids.len() })
        }
        PromptInput::Text(text) => {
            let own = text_ids(served, text, false)?;
            let start = (0..=prompt_ids.len().saturating_sub(own.len())).find(|&at| prompt_ids[at..].starts_with(&own));
            let start = start.unwrap_or(0);
            Ok(Echo { text: text.clone(), written: start..start + own.len() })
        }
    }
}

/// The ids of a conversation. With `continue_final_message` they end where the last message's text ends.
///
/// # Errors
/// [`ErrorKind::TemplateRefused`], or [`ErrorKind::Unsupported`] for tools that the template would leave out.
pub fn conversation(
    served: &Served,
    messages: &[Message],
    options: RenderOptions<'_>,
    continue_final_message: bool,
) -> Result<Vec<u32>, ApiError> {
    let tools = options.tools;
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

/// How tokens are chosen, with the ids checked.
fn sampling(served: &Served, sampling: &Sampling, ending: &Ending) -> Result<Sampling, ApiError> {
    let ids: Vec<u32> = sampling.logit_bias.iter().map(|&(id, _)| id).collect();
    known(served, &ids, "logit_bias")?;
    let (min_tokens, held_back) = if ending.ignore_eos {
        (usize::MAX, served.tokenizer.eos_ids().to_vec())
    } else {
        (ending.min_tokens, endings(served, ending)?)
    };
    Ok(Sampling { min_tokens, endings: held_back, ..sampling.clone() })
}

/// The tokens that end a reply.
fn endings(served: &Served, ending: &Ending) -> Result<Vec<u32>, ApiError> {
    let asked = known(served, &ending.stop_token_ids, "stop_token_ids")?;
    Ok([served.tokenizer.eos_ids(), &asked].concat())
}

/// Binds replies of at most `max_tokens` to a grammar, if there is one; returns what it leaves unchecked.
fn constrain(
    served: &Served,
    sampling: &mut Sampling,
    asked: Option<&AskedGrammar>,
    max_tokens: usize,
) -> Result<Vec<&'static str>, ApiError> {
    let Some(AskedGrammar { grammar, param }) = asked else { return Ok(Vec::new()) };
    let refused = |error: ConstraintError| match error {
        ConstraintError::TooFewTokens { needed, .. } => {
            let message = format!(
                "`max_tokens`: the shortest reply that `{param}` allows has {needed} tokens, its end token included, but \
                 this one may have {max_tokens}; allow more, or shorten the prompt"
            );
            ApiError::of_field(ErrorKind::InvalidValue, "max_tokens", message)
        }
        ConstraintError::NoEndToken => {
            ApiError::of_field(ErrorKind::Unsupported, *param, format!("`{param}`: {error}"))
        }
        _ => ApiError::of_field(ErrorKind::InvalidValue, *param, format!("`{param}`: {error}")),
    };
    let grammars = served.grammars().map_err(refused)?;
    sampling.constraint = Some(grammars.constraint(grammar, max_tokens).map_err(refused)?);
    Ok(grammar.unchecked())
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
