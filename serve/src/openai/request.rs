//! The body of `POST /v1/chat/completions`.

use orpo_chat::Message;
use serde_json::{Map, Value};

use super::fields::{Fields, Neutral, wrong_type};
use super::{ApiError, ErrorKind};
use crate::engine::Sampling;

/// How many stop strings a request may have.
pub const MAX_STOPS: usize = 4;
/// How many alternatives per token a request may ask for.
pub const MAX_TOP_LOGPROBS: usize = 20;

/// Fields that do not change the reply: accounting, caching and routing hints.
const HARMLESS: [&str; 7] =
    ["user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"];

/// Fields that clients send with a value that asks for nothing; any other value is refused.
const NEUTRAL: [Neutral; 17] = [
    ("n", |value| value.as_i64() == Some(1)),
    ("best_of", |value| value.as_i64() == Some(1)),
    ("frequency_penalty", is_zero),
    ("presence_penalty", is_zero),
    ("min_p", is_zero),
    ("repetition_penalty", |value| value.as_f64() == Some(1.0)),
    ("logit_bias", is_empty),
    ("tools", is_empty),
    ("functions", is_empty),
    ("tool_choice", |value| value == "none" || value == "auto"),
    ("function_call", |value| value == "none" || value == "auto"),
    ("parallel_tool_calls", Value::is_boolean),
    ("response_format", |value| value == &serde_json::json!({"type": "text"})),
    ("modalities", |value| value == &serde_json::json!(["text"])),
    ("add_generation_prompt", |value| value == true),
    ("continue_final_message", |value| value == false),
    ("echo", |value| value == false),
];

/// Keys of a message that clients echo back from a reply.
const NEUTRAL_IN_MESSAGE: [Neutral; 3] =
    [("tool_calls", is_empty), ("annotations", is_empty), ("refusal", |value| value == "")];

fn is_zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}

/// A validated chat request.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// The model asked for.
    pub model: String,
    /// The conversation; not empty.
    pub messages: Vec<Message>,
    /// `max_completion_tokens` or `max_tokens`; at least 1.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Stop strings, none of them empty.
    pub stop: Vec<String>,
    /// With `logprobs`, the number of alternatives per token.
    pub logprobs: Option<usize>,
    /// Reply as server-sent events.
    pub stream: bool,
    /// End a stream with a chunk that carries the usage.
    pub include_usage: bool,
}

impl ChatRequest {
    /// Reads and validates a body.
    ///
    /// # Errors
    /// An [`ApiError`] that names the field.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| ApiError::new(ErrorKind::InvalidJson, format!("the body is not valid JSON: {error}")))?;
        let mut fields = Fields::new(value, "")?;

        let model = match fields.require("model")? {
            Value::String(model) => model,
            other => return Err(wrong_type("model", "a string", &other)),
        };
        let messages = messages(fields.require("messages")?)?;
        let max_tokens = max_tokens(&mut fields)?;
        let sampling = sampling(&mut fields)?;
        let stop = stop(&mut fields)?;
        let logprobs = logprobs(&mut fields)?;
        let stream = fields.boolean("stream")?.unwrap_or(false);
        let include_usage = include_usage(&mut fields, stream)?;
        fields.refuse_rest(&HARMLESS, &NEUTRAL)?;
        if messages.is_empty() {
            return Err(ApiError::of_field(ErrorKind::InvalidValue, "messages", "`messages` must not be empty"));
        }
        Ok(Self { model, messages, max_tokens, sampling, stop, logprobs, stream, include_usage })
    }
}

fn messages(value: Value) -> Result<Vec<Message>, ApiError> {
    let Value::Array(messages) = value else { return Err(wrong_type("messages", "a list of messages", &value)) };
    messages.into_iter().enumerate().map(|(index, value)| message(value, &format!("messages[{index}]."))).collect()
}

fn message(value: Value, prefix: &str) -> Result<Message, ApiError> {
    let mut fields = Fields::new(value, prefix)?;
    let role = match fields.require("role")? {
        Value::String(role) => role,
        other => return Err(wrong_type(&fields.path("role"), "a string", &other)),
    };
    let role = match role.as_str() {
        "system" | "user" | "assistant" => role,
        // OpenAI's later name of the same thing; templates know only the first.
        "developer" => "system".to_string(),
        "tool" | "function" => {
            let message = format!("`{}` is `{role}`, but this server does not support tools", fields.path("role"));
            return Err(ApiError::of_field(ErrorKind::Unsupported, fields.path("role"), message));
        }
        _ => return Err(fields.invalid("role", &format!("must be `system`, `user` or `assistant`, not `{role}`"))),
    };
    let content = content(fields.require("content")?, &fields.path("content"))?;
    let mut message = Message::new(role, content);
    if let Some(name) = fields.take("name") {
        if !name.is_string() {
            return Err(wrong_type(&fields.path("name"), "a string", &name));
        }
        message.extra.insert("name".into(), name);
    }
    fields.refuse_rest(&[], &NEUTRAL_IN_MESSAGE)?;
    Ok(message)
}

/// A string, or a list of text parts, which are joined by newlines.
fn content(value: Value, path: &str) -> Result<String, ApiError> {
    let parts = match value {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        other => return Err(wrong_type(path, "a string or a list of text parts", &other)),
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (index, part) in parts.into_iter().enumerate() {
        let mut fields = Fields::new(part, &format!("{path}[{index}]."))?;
        let kind = fields.require("type")?;
        if kind != "text" {
            let path = fields.path("type");
            let message = format!("`{path}` must be `text`: other content is not supported by this server");
            return Err(ApiError::of_field(ErrorKind::Unsupported, path, message));
        }
        match fields.require("text")? {
            Value::String(text) => texts.push(text),
            other => return Err(wrong_type(&fields.path("text"), "a string", &other)),
        }
        fields.refuse_rest(&[], &[])?;
    }
    Ok(texts.join("\n"))
}

fn max_tokens(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let old = fields.integer("max_tokens", 1)?;
    let new = fields.integer("max_completion_tokens", 1)?;
    if let (Some(old), Some(new)) = (old, new)
        && old != new
    {
        return Err(fields.invalid("max_tokens", "and `max_completion_tokens` differ; send only the latter"));
    }
    Ok(new.or(old).map(|tokens| usize::try_from(tokens).unwrap_or(usize::MAX)))
}

fn sampling(fields: &mut Fields) -> Result<Sampling, ApiError> {
    let defaults = Sampling::default();
    let temperature = fields.number("temperature", 0.0, 2.0)?.unwrap_or(defaults.temperature);
    let top_p = fields.number("top_p", 0.0, 1.0)?.unwrap_or(defaults.top_p);
    // 0 and -1 are how other servers spell "off".
    let top_k = fields.integer("top_k", -1)?.filter(|&top_k| top_k > 0);
    let top_k = top_k.map(|top_k| usize::try_from(top_k).unwrap_or(usize::MAX));
    let seed = match fields.take("seed") {
        None => None,
        Some(value) => match (value.as_i64(), value.as_u64()) {
            (_, Some(seed)) => Some(seed),
            (Some(negative), None) => Some(negative.cast_unsigned()),
            (None, None) => return Err(wrong_type("seed", "a whole number", &value)),
        },
    };
    Ok(Sampling { temperature, top_k, top_p, seed })
}

fn stop(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let values = match fields.take("stop") {
        None => return Ok(Vec::new()),
        Some(Value::Array(values)) => values,
        Some(value) => vec![value],
    };
    if values.len() > MAX_STOPS {
        return Err(fields.invalid("stop", &format!("has {} strings; {MAX_STOPS} are allowed", values.len())));
    }
    values
        .into_iter()
        .map(|value| match value {
            Value::String(stop) if !stop.is_empty() => Ok(stop),
            Value::String(_) => Err(fields.invalid("stop", "must not contain an empty string")),
            other => Err(wrong_type("stop", "a string or a list of strings", &other)),
        })
        .collect()
}

fn logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let wanted = fields.boolean("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0)?;
    match (wanted, top.map(usize::try_from)) {
        (false, None | Some(Ok(0))) => Ok(None),
        (false, Some(_)) => Err(fields.invalid("top_logprobs", "needs `logprobs` to be true")),
        (true, None) => Ok(Some(0)),
        (true, Some(Ok(top))) if top <= MAX_TOP_LOGPROBS => Ok(Some(top)),
        (true, Some(_)) => Err(fields.invalid("top_logprobs", &format!("must be at most {MAX_TOP_LOGPROBS}"))),
    }
}

fn include_usage(fields: &mut Fields, stream: bool) -> Result<bool, ApiError> {
    let Some(options) = fields.take("stream_options") else { return Ok(false) };
    if !stream {
        return Err(fields.invalid("stream_options", "needs `stream` to be true"));
    }
    let mut options = Fields::new(options, "stream_options.")?;
    let include_usage = options.boolean("include_usage")?.unwrap_or(false);
    options.refuse_rest(&[], &[("include_obfuscation", |value| value == false)])?;
    Ok(include_usage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(extra: Value) -> Result<ChatRequest, ApiError> {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        for (name, value) in extra.as_object().unwrap() {
            body[name] = value.clone();
        }
        ChatRequest::parse(body.to_string().as_bytes())
    }

    fn refused(extra: Value) -> (ErrorKind, String) {
        let error = parse(extra.clone()).expect_err(&extra.to_string());
        (error.kind(), error.param().unwrap_or_default().to_string())
    }

    #[test]
    fn defaults_are_openai_s() {
        let request = parse(json!({})).unwrap();
        assert_eq!(request.sampling, Sampling { temperature: 1.0, top_k: None, top_p: 1.0, seed: None });
        assert_eq!((request.max_tokens, request.logprobs, request.stream), (None, None, false));
    }

    #[test]
    fn every_supported_field_is_read() {
        let request = parse(json!({
            "max_completion_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "seed": -1, "stop": ["a", "b"],
            "logprobs": true, "top_logprobs": 3, "stream": true, "stream_options": {"include_usage": true},
            "user": "me", "metadata": {"a": "b"}, "n": 1, "tools": [], "frequency_penalty": 0, "logit_bias": null,
            "response_format": {"type": "text"}
        }))
        .unwrap();
        assert_eq!(request.sampling, Sampling { temperature: 0.5, top_k: Some(40), top_p: 0.9, seed: Some(u64::MAX) });
        assert_eq!((request.max_tokens, request.logprobs), (Some(7), Some(3)));
        assert_eq!(request.stop, ["a", "b"]);
        assert!(request.stream && request.include_usage);
    }

    #[test]
    fn text_parts_are_joined_and_developer_is_system() {
        let messages = json!([
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "ann"},
            {"role": "assistant", "content": "c", "refusal": null, "tool_calls": null}
        ]);
        let request = parse(json!({ "messages": messages })).unwrap();
        assert_eq!(request.messages[0], Message::new("system", "be brief"));
        assert_eq!(request.messages[1].content, "a\nb");
        assert_eq!(request.messages[1].extra["name"], "ann");
    }

    #[test]
    fn what_the_engine_cannot_do_is_refused_by_name() {
        for (extra, param) in [
            (json!({"n": 2}), "n"),
            (json!({"tools": [{"type": "function"}]}), "tools"),
            (json!({"tool_choice": "required"}), "tool_choice"),
            (json!({"response_format": {"type": "json_object"}}), "response_format"),
            (json!({"logit_bias": {"5": 1}}), "logit_bias"),
            (json!({"frequency_penalty": 0.1}), "frequency_penalty"),
            (json!({"presence_penalty": 1}), "presence_penalty"),
            (json!({"min_p": 0.1}), "min_p"),
            (json!({"temprature": 0.1}), "temprature"),
            (json!({"messages": [{"role": "tool", "content": "x"}]}), "messages[0].role"),
            (
                json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
                "messages[0].content[0].type",
            ),
            (json!({"messages": [{"role": "user", "content": "x", "audio": {}}]}), "messages[0].audio"),
            (json!({"stream": true, "stream_options": {"x": 1}}), "stream_options.x"),
        ] {
            assert_eq!(refused(extra), (ErrorKind::Unsupported, param.to_string()));
        }
    }

    #[test]
    fn wrong_values_name_the_field() {
        for (extra, param) in [
            (json!({"temperature": "hot"}), "temperature"),
            (json!({"temperature": 2.5}), "temperature"),
            (json!({"top_p": -0.1}), "top_p"),
            (json!({"top_k": 1.5}), "top_k"),
            (json!({"seed": "x"}), "seed"),
            (json!({"max_tokens": 0}), "max_tokens"),
            (json!({"max_tokens": 3, "max_completion_tokens": 4}), "max_tokens"),
            (json!({"stop": ["a", "b", "c", "d", "e"]}), "stop"),
            (json!({"stop": ""}), "stop"),
            (json!({"stop": [1]}), "stop"),
            (json!({"logprobs": 5}), "logprobs"),
            (json!({"top_logprobs": 2}), "top_logprobs"),
            (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
            (json!({"stream": "yes"}), "stream"),
            (json!({"stream_options": {"include_usage": true}}), "stream_options"),
            (json!({"messages": []}), "messages"),
            (json!({"messages": "hi"}), "messages"),
            (json!({"messages": ["hi"]}), "messages[0]"),
            (json!({"messages": [{"role": "king", "content": "x"}]}), "messages[0].role"),
            (json!({"messages": [{"role": "user", "content": 1}]}), "messages[0].content"),
        ] {
            assert_eq!(refused(extra), (ErrorKind::InvalidValue, param.to_string()));
        }
    }

    #[test]
    fn missing_fields_are_named() {
        assert_eq!(refused(json!({"model": null})), (ErrorKind::MissingField, "model".into()));
        assert_eq!(refused(json!({"messages": null})), (ErrorKind::MissingField, "messages".into()));
        let extra = json!({"messages": [{"role": "user"}]});
        assert_eq!(refused(extra), (ErrorKind::MissingField, "messages[0].content".into()));
    }

    #[test]
    fn a_body_that_is_not_an_object_is_invalid_json() {
        for body in ["", "{", "[]", "\"x\""] {
            assert_eq!(ChatRequest::parse(body.as_bytes()).unwrap_err().kind(), ErrorKind::InvalidJson);
        }
    }
}
