//! The body of `POST /v1/completions`.

use serde_json::Value;

use super::fields::{Fields, wrong_type};
use super::shared::{self, AskedGrammar, Ending, HARMLESS, NEUTRAL, StreamUsage, token_ids};
use super::{ApiError, ErrorKind};
use crate::engine::Sampling;

/// How many tokens a completion has if the request does not say, as OpenAI has it.
const DEFAULT_MAX_TOKENS: usize = 16;
/// How many alternatives per token a request may ask for, as vLLM has it.
pub const MAX_COMPLETION_LOGPROBS: usize = 20;
/// How many prompts a request may have.
pub const MAX_PROMPTS: usize = 2048;

/// A prompt as it came.
#[derive(Debug, Clone, PartialEq)]
pub enum PromptInput {
    /// Text.
    Text(String),
    /// Token ids, taken as they are.
    Ids(Vec<u32>),
}

/// A validated completion request.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletionRequest {
    /// The model asked for; absent means the only one.
    pub model: Option<String>,
    /// The prompts, at least one.
    pub prompts: Vec<PromptInput>,
    /// Whether text gets the tokens that the tokenizer puts around it, such as BOS.
    pub add_special_tokens: bool,
    /// How many replies each prompt gets; at least 1.
    pub choices: usize,
    /// How many tokens at most; 0 generates nothing.
    pub max_tokens: usize,
    /// Whether the text begins with the prompt.
    pub echo: bool,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// When completions end.
    pub ending: Ending,
    /// The form of completions, if one is asked for.
    pub grammar: Option<AskedGrammar>,
    /// Stop strings, none of them empty.
    pub stop: Vec<String>,
    /// The number of alternatives per token, if tokens are to be told.
    pub logprobs: Option<usize>,
    /// Reply as server-sent events.
    pub stream: bool,
    /// Which chunks of a stream tell the usage.
    pub stream_usage: StreamUsage,
    /// Tell the ids of the prompt and of the text.
    pub return_token_ids: bool,
}

impl CompletionRequest {
    /// Reads and validates a body.
    ///
    /// # Errors
    /// An [`ApiError`] that names the field.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = shared::body(body)?;
        let model = shared::model(&mut fields)?;
        let prompts = prompts(fields.require("prompt")?)?;
        let max_tokens = fields.limit("max_tokens", 0)?.unwrap_or(DEFAULT_MAX_TOKENS);
        let (stream, stream_usage) = shared::stream(&mut fields)?;
        let request = Self {
            model,
            prompts,
            add_special_tokens: fields.boolean("add_special_tokens")?.unwrap_or(true),
            choices: shared::choices(&mut fields)?,
            max_tokens,
            echo: fields.boolean("echo")?.unwrap_or(false),
            sampling: shared::sampling(&mut fields)?,
            ending: shared::ending(&mut fields)?,
            grammar: shared::grammar(&mut fields)?,
            stop: shared::stop(&mut fields)?,
            logprobs: logprobs(&mut fields)?,
            stream,
            stream_usage,
            return_token_ids: fields.boolean("return_token_ids")?.unwrap_or(false),
        };
        fields.refuse_rest(&HARMLESS, &NEUTRAL)?;
        if request.echo && request.grammar.is_some() {
            return Err(ApiError::of_field(
                ErrorKind::Unsupported,
                "echo",
                "`echo` and a completion of a given form are not supported together by this server; leave one out",
            ));
        }
        Ok(request)
    }
}

fn logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    match fields.integer("logprobs", 0)?.map(usize::try_from) {
        None => Ok(None),
        Some(Ok(top)) if top <= MAX_COMPLETION_LOGPROBS => Ok(Some(top)),
        Some(_) => Err(fields.invalid("logprobs", &format!("must be at most {MAX_COMPLETION_LOGPROBS}"))),
    }
}

/// A string, a list of strings, a list of token ids, or a list of lists of them.
fn prompts(value: Value) -> Result<Vec<PromptInput>, ApiError> {
    let refuse = |what: &str| ApiError::of_field(ErrorKind::InvalidValue, "prompt", format!("`prompt` {what}"));
    let values = match value {
        Value::String(text) => return Ok(vec![PromptInput::Text(text)]),
        Value::Array(values) if values.first().is_some_and(Value::is_number) => {
            return Ok(vec![PromptInput::Ids(token_ids(values, "prompt")?)]);
        }
        Value::Array(values) => values,
        other => return Err(wrong_type("prompt", "a string, a list of strings, or a list of token ids", &other)),
    };
    if values.is_empty() {
        return Err(refuse("must not be an empty list"));
    }
    if values.len() > MAX_PROMPTS {
        return Err(refuse(&format!("has {} entries; {MAX_PROMPTS} are allowed", values.len())));
    }
    values
        .into_iter()
        .enumerate()
        .map(|(index, value)| match value {
            Value::String(text) => Ok(PromptInput::Text(text)),
            Value::Array(ids) => token_ids(ids, &format!("prompt[{index}]")).map(PromptInput::Ids),
            other => Err(wrong_type(&format!("prompt[{index}]"), "a string or a list of token ids", &other)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(extra: Value) -> Result<CompletionRequest, ApiError> {
        let mut body = json!({"model": "m", "prompt": "hi"});
        for (name, value) in extra.as_object().unwrap() {
            body[name] = value.clone();
        }
        CompletionRequest::parse(body.to_string().as_bytes())
    }

    #[test]
    fn prompts_come_in_four_forms() {
        let text = |text: &str| PromptInput::Text(text.into());
        for (prompt, expected) in [
            (json!("a"), vec![text("a")]),
            (json!(["a", "b"]), vec![text("a"), text("b")]),
            (json!([1, 2]), vec![PromptInput::Ids(vec![1, 2])]),
            (json!([[1], [2, 3]]), vec![PromptInput::Ids(vec![1]), PromptInput::Ids(vec![2, 3])]),
        ] {
            assert_eq!(parse(json!({ "prompt": prompt })).unwrap().prompts, expected);
        }
    }

    #[test]
    fn defaults_are_openai_s() {
        let request = parse(json!({})).unwrap();
        assert_eq!((request.max_tokens, request.choices, request.logprobs), (16, 1, None));
        assert_eq!((request.echo, request.stream, request.add_special_tokens), (false, false, true));
        assert_eq!(parse(json!({"max_tokens": 0})).unwrap().max_tokens, 0);
    }

    #[test]
    fn wrong_fields_are_named() {
        use ErrorKind::{InvalidValue, MissingField, Unsupported};
        for (extra, kind, param) in [
            (json!({"prompt": null}), MissingField, "prompt"),
            (json!({"prompt": 3}), InvalidValue, "prompt"),
            (json!({"prompt": []}), InvalidValue, "prompt"),
            (json!({"prompt": vec!["a"; 2049]}), InvalidValue, "prompt"),
            (json!({"prompt": [1, "a"]}), InvalidValue, "prompt[1]"),
            (json!({"prompt": ["a", 1]}), InvalidValue, "prompt[1]"),
            (json!({"prompt": [[1], [-2]]}), InvalidValue, "prompt[1][0]"),
            (json!({"max_tokens": -1}), InvalidValue, "max_tokens"),
            (json!({"logprobs": 21}), InvalidValue, "logprobs"),
            (json!({"guided_regex": 1}), InvalidValue, "guided_regex"),
            (json!({"stop_token_ids": [1.5]}), InvalidValue, "stop_token_ids[0]"),
            (json!({"logprobs": true}), InvalidValue, "logprobs"),
            (json!({"suffix": "x"}), Unsupported, "suffix"),
            (json!({"best_of": 3}), Unsupported, "best_of"),
            (json!({"messages": []}), Unsupported, "messages"),
        ] {
            let error = parse(extra.clone()).expect_err(&extra.to_string());
            assert_eq!((error.kind(), error.param()), (kind, Some(param)), "{extra}");
        }
    }
}
