//! The body of `POST /v1/chat/completions`.

use orpo_chat::Message;
use serde_json::{Map, Value};

use super::fields::{Fields, Neutral, wrong_type};
use super::shared::{self, HARMLESS};
use super::{ApiError, ErrorKind, Tools, tools};
use crate::engine::Sampling;

/// How many alternatives per token a request may ask for.
pub const MAX_TOP_LOGPROBS: usize = 20;

/// Fields that clients send with a value that asks for nothing; any other value is refused.
const NEUTRAL: [Neutral; 5] = [
    ("functions", is_empty),
    ("function_call", |value| value == "none" || value == "auto"),
    ("modalities", |value| value == &serde_json::json!(["text"])),
    ("echo", |value| value == false),
    ("store", |value| value == false),
];

/// Keys of a message that clients echo back from a reply.
const NEUTRAL_IN_MESSAGE: [Neutral; 2] = [("annotations", is_empty), ("refusal", |value| value == "")];

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
    /// Whether the assistant's turn is opened after the messages.
    pub add_generation_prompt: bool,
    /// The reply goes on with the last message instead.
    pub continue_final_message: bool,
    /// How many replies; at least 1.
    pub choices: usize,
    /// The JSON schema that replies must follow.
    pub schema: Option<Value>,
    /// The functions that replies may call.
    pub tools: Option<Tools>,
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
        let mut fields = shared::body(body)?;
        let model = shared::model(&mut fields)?;
        let messages = messages(fields.require("messages")?)?;
        let max_tokens = max_tokens(&mut fields)?;
        let (add_generation_prompt, continue_final_message) = turn(&mut fields, &messages)?;
        let choices = shared::choices(&mut fields)?;
        let schema = schema(&mut fields)?;
        let tools = Tools::parse(&mut fields)?;
        let sampling = shared::sampling(&mut fields)?;
        let stop = shared::stop(&mut fields)?;
        let logprobs = logprobs(&mut fields)?;
        let (stream, include_usage) = shared::stream(&mut fields)?;
        fields.refuse_rest(&HARMLESS, &NEUTRAL)?;
        if messages.is_empty() {
            return Err(ApiError::of_field(ErrorKind::InvalidValue, "messages", "`messages` must not be empty"));
        }
        if schema.is_some() && tools.as_ref().is_some_and(|tools| !tools.is_forced()) {
            let message = "`response_format` and a free choice of tools are not supported together by this server; set \
                           `tool_choice` to `none` or `required`";
            return Err(ApiError::of_field(ErrorKind::Unsupported, "response_format", message));
        }
        Ok(Self {
            model,
            messages,
            add_generation_prompt,
            continue_final_message,
            choices,
            schema,
            tools,
            max_tokens,
            sampling,
            stop,
            logprobs,
            stream,
            include_usage,
        })
    }

    /// Whether replies are bound to a grammar.
    pub fn wants_grammar(&self) -> bool {
        self.schema.is_some() || self.tools.as_ref().is_some_and(Tools::is_forced)
    }
}

pub(super) fn messages(value: Value) -> Result<Vec<Message>, ApiError> {
    let Value::Array(messages) = value else { return Err(wrong_type("messages", "a list of messages", &value)) };
    let messages = messages.into_iter().enumerate();
    let mut messages: Vec<Message> =
        messages.map(|(index, value)| message(value, &format!("messages[{index}]."))).collect::<Result<_, _>>()?;
    tools::name_results(&mut messages);
    Ok(messages)
}

fn message(value: Value, prefix: &str) -> Result<Message, ApiError> {
    let mut fields = Fields::new(value, prefix)?;
    let role = fields.text("role")?;
    let role = match role.as_str() {
        "system" | "user" | "assistant" | "tool" => role,
        // OpenAI's later name of the same thing; templates know only the first.
        "developer" => "system".to_string(),
        _ => {
            let what = format!("must be `system`, `user`, `assistant` or `tool`, not `{role}`");
            return Err(fields.invalid("role", &what));
        }
    };
    let calls = if role == "assistant" { tools::calls(&mut fields)? } else { Vec::new() };
    let path = fields.path("content");
    let content = match fields.take("content") {
        // Templates that show calls want a text all the same.
        None if !calls.is_empty() => String::new(),
        None => return Err(ApiError::of_field(ErrorKind::MissingField, &path, format!("`{path}` is required"))),
        Some(value) => content(value, &path)?,
    };
    let mut message = Message::new(role, content);
    if !calls.is_empty() {
        message.extra.insert("tool_calls".into(), Value::Array(calls));
    }
    if message.role == "tool" {
        let id = fields.text("tool_call_id")?;
        message.extra.insert("tool_call_id".into(), Value::String(id));
    }
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
        texts.push(fields.text("text")?);
        fields.refuse_rest(&[], &[])?;
    }
    Ok(texts.join("\n"))
}

/// `add_generation_prompt` and `continue_final_message`, which exclude each other.
pub(super) fn turn(fields: &mut Fields, messages: &[Message]) -> Result<(bool, bool), ApiError> {
    let opened = fields.boolean("add_generation_prompt")?;
    let continued = fields.boolean("continue_final_message")?.unwrap_or(false);
    if continued && opened == Some(true) {
        return Err(fields.invalid("continue_final_message", "and `add_generation_prompt` exclude each other"));
    }
    if continued && messages.last().is_none_or(|message| message.content.trim().is_empty()) {
        return Err(fields.invalid("continue_final_message", "needs a last message with text"));
    }
    Ok((opened.unwrap_or(!continued), continued))
}

/// `response_format` as a JSON schema.
fn schema(fields: &mut Fields) -> Result<Option<Value>, ApiError> {
    let Some(format) = fields.take("response_format") else { return Ok(None) };
    let mut format = Fields::new(format, "response_format.")?;
    let kind = format.require("type")?;
    let schema = match kind.as_str() {
        Some("text") => None,
        Some("json_object") => Some(serde_json::json!({"type": "object"})),
        Some("json_schema") => Some(json_schema(format.require("json_schema")?)?),
        Some(_) => {
            let path = format.path("type");
            let message = format!("`{path}` must be `text`, `json_object` or `json_schema`");
            return Err(ApiError::of_field(ErrorKind::Unsupported, path, message));
        }
        None => return Err(wrong_type(&format.path("type"), "a string", &kind)),
    };
    format.refuse_rest(&[], &[])?;
    Ok(schema)
}

/// The schema inside of `{"name", "description", "strict", "schema"}`; it is followed strictly in any case.
fn json_schema(value: Value) -> Result<Value, ApiError> {
    let mut fields = Fields::new(value, "response_format.json_schema.")?;
    let schema = fields.require("schema")?;
    if !schema.is_object() {
        return Err(wrong_type(&fields.path("schema"), "an object", &schema));
    }
    fields.boolean("strict")?;
    fields.refuse_rest(&["name", "description"], &[])?;
    Ok(schema)
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
        assert_eq!(request.sampling, Sampling::default());
        assert_eq!((request.choices, request.add_generation_prompt, request.continue_final_message), (1, true, false));
        assert_eq!((request.max_tokens, request.logprobs, request.stream), (None, None, false));
    }

    #[test]
    fn every_supported_field_is_read() {
        let request = parse(json!({
            "max_completion_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "seed": -1, "stop": ["a", "b"],
            "logprobs": true, "top_logprobs": 3, "stream": true, "stream_options": {"include_usage": true},
            "user": "me", "metadata": {"a": "b"}, "store": false, "n": 3, "tools": [], "frequency_penalty": 0.5,
            "presence_penalty": -0.5, "repetition_penalty": 1.1, "min_p": 0.1, "logit_bias": {"5": -100, "7": 1.5},
            "response_format": {"type": "json_object"}, "continue_final_message": true
        }))
        .unwrap();
        let sampling = Sampling {
            temperature: 0.5,
            top_k: Some(40),
            top_p: 0.9,
            min_p: 0.1,
            presence_penalty: -0.5,
            frequency_penalty: 0.5,
            repetition_penalty: 1.1,
            logit_bias: vec![(5, -100.0), (7, 1.5)],
            constraint: None,
            seed: Some(u64::MAX),
            ..Sampling::default()
        };
        assert_eq!(request.sampling, sampling);
        assert_eq!((request.choices, request.schema), (3, Some(json!({"type": "object"}))));
        assert!(request.continue_final_message && !request.add_generation_prompt);
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
            (json!({"best_of": 2}), "best_of"),
            (json!({"store": true}), "store"),
            (json!({"guided_json": {}}), "guided_json"),
            (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
            (json!({"functions": [{"name": "f"}]}), "functions"),
            (json!({"function_call": {"name": "f"}}), "function_call"),
            (
                json!({"response_format": {"type": "json_object"},
                       "tools": [{"type": "function", "function": {"name": "f"}}]}),
                "response_format",
            ),
            (json!({"response_format": {"type": "grammar"}}), "response_format.type"),
            (json!({"response_format": {"type": "text", "x": 1}}), "response_format.x"),
            (json!({"temprature": 0.1}), "temprature"),
            (json!({"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]}), "messages[0].tool_calls"),
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

    fn call_with(arguments: &str) -> Value {
        let call = json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}});
        json!({"messages": [{"role": "assistant", "content": null, "tool_calls": [call]}]})
    }

    #[test]
    fn calls_and_results_reach_the_template_with_objects_and_names() {
        let mut body = call_with("{\"b\": 1, \"a\": []}");
        body["messages"].as_array_mut().unwrap().extend([
            json!({"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "3"}]}),
            json!({"role": "tool", "tool_call_id": "c1", "content": "4", "name": "other"}),
            json!({"role": "tool", "tool_call_id": "c2", "content": "5"}),
        ]);
        let messages = serde_json::to_string(&parse(body).unwrap().messages).unwrap();
        let expected = concat!(
            r#"[{"role":"assistant","content":"","tool_calls":[{"id":"c1","type":"function","function":"#,
            r#"{"name":"f","arguments":{"b":1,"a":[]}}}]},"#,
            r#"{"role":"tool","content":"3","tool_call_id":"c1","name":"f"},"#,
            r#"{"role":"tool","content":"4","tool_call_id":"c1","name":"other"},"#,
            r#"{"role":"tool","content":"5","tool_call_id":"c2"}]"#
        );
        assert_eq!(messages, expected);
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
            (json!({"n": 0}), "n"),
            (json!({"n": 129}), "n"),
            (json!({"frequency_penalty": 3}), "frequency_penalty"),
            (json!({"presence_penalty": "x"}), "presence_penalty"),
            (json!({"repetition_penalty": 0}), "repetition_penalty"),
            (json!({"min_p": 2}), "min_p"),
            (json!({"logit_bias": [1]}), "logit_bias"),
            (json!({"logit_bias": {"the": 1}}), "logit_bias.the"),
            (json!({"logit_bias": {"5": 101}}), "logit_bias.5"),
            (json!({"response_format": "json"}), "response_format"),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"schema": 1}}}),
                "response_format.json_schema.schema",
            ),
            (json!({"continue_final_message": true, "add_generation_prompt": true}), "continue_final_message"),
            (json!({"stream_options": {"include_usage": true}}), "stream_options"),
            (json!({"messages": []}), "messages"),
            (json!({"messages": "hi"}), "messages"),
            (json!({"messages": ["hi"]}), "messages[0]"),
            (json!({"messages": [{"role": "king", "content": "x"}]}), "messages[0].role"),
            (json!({"messages": [{"role": "user", "content": 1}]}), "messages[0].content"),
            (json!({"messages": [{"role": "function", "name": "f", "content": "x"}]}), "messages[0].role"),
            (json!({"messages": [{"role": "assistant", "tool_calls": "x"}]}), "messages[0].tool_calls"),
            (call_with("[1]"), "messages[0].tool_calls[0].function.arguments"),
            (call_with("{"), "messages[0].tool_calls[0].function.arguments"),
        ] {
            assert_eq!(refused(extra), (ErrorKind::InvalidValue, param.to_string()));
        }
    }

    #[test]
    fn missing_fields_are_named() {
        assert_eq!(refused(json!({"model": null})), (ErrorKind::MissingField, "model".into()));
        assert_eq!(refused(json!({"messages": null})), (ErrorKind::MissingField, "messages".into()));
        let extra = json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}});
        assert_eq!(refused(extra), (ErrorKind::MissingField, "response_format.json_schema.schema".into()));
        for (message, param) in [
            (json!({"role": "user"}), "messages[0].content"),
            (json!({"role": "assistant", "content": null, "tool_calls": []}), "messages[0].content"),
            (json!({"role": "tool", "content": "x"}), "messages[0].tool_call_id"),
            (json!({"role": "assistant", "tool_calls": [{"type": "function"}]}), "messages[0].tool_calls[0].id"),
        ] {
            assert_eq!(refused(json!({"messages": [message]})), (ErrorKind::MissingField, param.into()));
        }
    }

    #[test]
    fn a_body_that_is_not_an_object_is_invalid_json() {
        for body in ["", "{", "[]", "\"x\""] {
            assert_eq!(ChatRequest::parse(body.as_bytes()).unwrap_err().kind(), ErrorKind::InvalidJson);
        }
    }
}
