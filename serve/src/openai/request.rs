//! The body of `POST /v1/chat/completions`.

use orpo_chat::{Message, RESERVED_VARIABLES, content_text};
use serde_json::{Map, Value};

use super::fields::{Fields, Neutral, nothing, wrong_type};
use super::shared::{self, AskedGrammar, Ending, HARMLESS, NEUTRAL, StreamUsage};
use super::{ApiError, ErrorKind, Tools, tools};
use crate::engine::Sampling;

/// How many alternatives per token a request may ask for.
pub const MAX_TOP_LOGPROBS: usize = 20;

/// Fields that clients send with a value that asks for nothing; any other value is refused.
const OWN_NEUTRAL: [Neutral; 16] = [
    ("functions", nothing::is_empty),
    ("function_call", |value| value == "none" || value == "auto"),
    ("modalities", |value| value == &serde_json::json!(["text"])),
    ("echo", nothing::is_false),
    ("add_special_tokens", nothing::is_false),
    ("documents", nothing::is_empty),
    ("chat_template", nothing::is_empty),
    ("tool_prompt", nothing::is_empty),
    ("parse_tool_calls", nothing::is_true),
    ("include_reasoning", nothing::is_true),
    ("separate_reasoning", nothing::is_true),
    ("stream_reasoning", nothing::is_true),
    ("reasoning", nothing::is_empty),
    ("reasoning_effort", |value| value == "none" || value == "medium"),
    ("reasoning_format", |value| value == "none" || value == "auto"),
    ("verbosity", |value| value == "medium"),
];

/// Keys of a message that clients echo back from a reply, and that say nothing to the model.
const HARMLESS_IN_MESSAGE: [&str; 7] =
    ["annotations", "cache_control", "id", "index", "parsed", "provider_specific_fields", "reasoning_details"];
/// Keys that clients echo back with a value that asks for nothing.
const NEUTRAL_IN_MESSAGE: [Neutral; 5] = [
    ("refusal", nothing::is_empty),
    ("images", nothing::is_empty),
    ("thinking_blocks", nothing::is_empty),
    ("prefix", nothing::is_false),
    ("function_call", nothing::is_empty),
];
/// The model's reasoning before an answer, for chat templates that show it.
const THOUGHTS: [&str; 2] = ["reasoning_content", "reasoning"];

/// A validated chat request.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// The model asked for; absent means the only one.
    pub model: Option<String>,
    /// The conversation; not empty.
    pub messages: Vec<Message>,
    /// Whether the assistant's turn is opened after the messages.
    pub add_generation_prompt: bool,
    /// The reply goes on with the last message instead.
    pub continue_final_message: bool,
    /// How many replies; at least 1.
    pub choices: usize,
    /// The form of replies, if one is asked for.
    pub grammar: Option<AskedGrammar>,
    /// Further variables of the chat template.
    pub variables: Map<String, Value>,
    /// The functions that replies may call.
    pub tools: Option<Tools>,
    /// `max_completion_tokens` or `max_tokens`; at least 1.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// When replies end.
    pub ending: Ending,
    /// Stop strings, none of them empty.
    pub stop: Vec<String>,
    /// With `logprobs`, the number of alternatives per token.
    pub logprobs: Option<usize>,
    /// Reply as server-sent events.
    pub stream: bool,
    /// Which chunks of a stream tell the usage.
    pub stream_usage: StreamUsage,
    /// Tell the ids of the prompt and of the text.
    pub return_token_ids: bool,
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
        let grammar = shared::grammar(&mut fields)?;
        let variables = variables(&mut fields)?;
        let tools = Tools::parse(&mut fields)?;
        let sampling = shared::sampling(&mut fields)?;
        let ending = shared::ending(&mut fields)?;
        let stop = shared::stop(&mut fields)?;
        let logprobs = logprobs(&mut fields)?;
        let (stream, stream_usage) = shared::stream(&mut fields)?;
        let return_token_ids = fields.boolean("return_token_ids")?.unwrap_or(false);
        fields.refuse_rest(&HARMLESS, &[&NEUTRAL[..], &OWN_NEUTRAL].concat())?;
        if messages.is_empty() {
            return Err(ApiError::of_field(ErrorKind::InvalidValue, "messages", "`messages` must not be empty"));
        }
        if let Some(asked) = &grammar
            && tools.as_ref().is_some_and(|tools| !tools.is_forced())
        {
            let message = format!(
                "`{}` and a free choice of tools are not supported together by this server; set `tool_choice` to \
                 `none` or `required`",
                asked.param
            );
            return Err(ApiError::of_field(ErrorKind::Unsupported, asked.param, message));
        }
        Ok(Self {
            model,
            messages,
            add_generation_prompt,
            continue_final_message,
            choices,
            grammar,
            variables,
            tools,
            max_tokens,
            sampling,
            ending,
            stop,
            logprobs,
            stream,
            stream_usage,
            return_token_ids,
        })
    }

    /// Whether replies are bound to a grammar.
    pub fn wants_grammar(&self) -> bool {
        self.grammar.is_some() || self.tools.as_ref().is_some_and(Tools::is_forced)
    }
}

pub(super) fn messages(value: Value) -> Result<Vec<Message>, ApiError> {
    let Value::Array(messages) = value else { return Err(wrong_type("messages", "a list of messages", &value)) };
    let messages = messages.into_iter().enumerate();
    messages.map(|(index, value)| message(value, &format!("messages[{index}]."))).collect()
}

fn message(value: Value, prefix: &str) -> Result<Message, ApiError> {
    let mut fields = Fields::new(value, prefix)?;
    let role = fields.text("role")?;
    if !["system", "developer", "user", "assistant", "tool"].contains(&role.as_str()) {
        let what = format!("must be `system`, `user`, `assistant` or `tool`, not `{role}`");
        return Err(fields.invalid("role", &what));
    }
    let calls = if role == "assistant" { tools::calls(&mut fields)? } else { Vec::new() };
    let path = fields.path("content");
    // A reply of nothing, or of reasoning only, is null with other servers.
    let may_be_null = role == "assistant" && fields.has("content");
    let content = match fields.take("content") {
        // Templates that show calls want a text all the same.
        None if !calls.is_empty() || may_be_null => String::new(),
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
    let thoughts = if message.role == "assistant" { &THOUGHTS[..] } else { &[] };
    for name in ["name"].iter().chain(thoughts) {
        if let Some(text) = fields.take(name) {
            if !text.is_string() {
                return Err(wrong_type(&fields.path(name), "a string", &text));
            }
            message.extra.insert((*name).into(), text);
        }
    }
    fields.refuse_rest(&HARMLESS_IN_MESSAGE, &NEUTRAL_IN_MESSAGE)?;
    Ok(message)
}

/// A string, or a list of text parts.
fn content(value: Value, path: &str) -> Result<String, ApiError> {
    if !value.is_string() && !value.is_array() {
        return Err(wrong_type(path, "a string or a list of text parts", &value));
    }
    for (index, part) in value.as_array().into_iter().flatten().enumerate() {
        let mut fields = Fields::new(part.clone(), &format!("{path}[{index}]."))?;
        let kind = fields.require("type")?;
        if kind != "text" {
            let path = fields.path("type");
            let message = format!("`{path}` must be `text`: other content is not supported by this server");
            return Err(ApiError::of_field(ErrorKind::Unsupported, path, message));
        }
        fields.text("text")?;
        fields.refuse_rest(&["cache_control", "annotations"], &[])?;
    }
    let text = content_text(&value);
    let text = text.map_err(|error| ApiError::of_field(ErrorKind::InvalidValue, path, format!("`{path}` {error}")))?;
    Ok(text.unwrap_or_default())
}

/// `chat_template_kwargs`: variables of the chat template, such as `enable_thinking`.
///
/// Some services take `enable_thinking` as a field of its own; vLLM and SGLang do not, and ignore it there.
pub(super) fn variables(fields: &mut Fields) -> Result<Map<String, Value>, ApiError> {
    const OF_TEMPLATE: &str = "enable_thinking";
    if fields.has(OF_TEMPLATE) {
        let path = fields.path(OF_TEMPLATE);
        let message = format!(
            "`{path}` is a variable of the chat template: send it as `\"chat_template_kwargs\": {{\"{path}\": ...}}`"
        );
        return Err(ApiError::of_field(ErrorKind::Unsupported, path, message));
    }
    match fields.take("chat_template_kwargs") {
        None => Ok(Map::new()),
        Some(Value::Object(variables)) => match RESERVED_VARIABLES.iter().find(|name| variables.contains_key(**name)) {
            None => Ok(variables),
            Some(name) => {
                let path = format!("chat_template_kwargs.{name}");
                let message = format!("`{path}` is not supported by this server; send `{name}` itself");
                Err(ApiError::of_field(ErrorKind::Unsupported, path, message))
            }
        },
        Some(other) => Err(wrong_type("chat_template_kwargs", "an object", &other)),
    }
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

fn max_tokens(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let old = fields.limit("max_tokens", 1)?;
    let new = fields.limit("max_completion_tokens", 1)?;
    if let (Some(old), Some(new)) = (old, new)
        && old != new
    {
        return Err(fields.invalid("max_tokens", "and `max_completion_tokens` differ; send only the latter"));
    }
    Ok(new.or(old))
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
    use crate::engine::constraint::Grammar;
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
            "max_completion_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "seed": -2, "stop": ["a", "b"],
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
            seed: Some(u64::MAX - 1),
            ..Sampling::default()
        };
        assert_eq!(request.sampling, sampling);
        let object = Grammar::JsonSchema(json!({"type": "object"}));
        assert_eq!((request.choices, request.grammar.map(|asked| asked.grammar)), (3, Some(object)));
        assert!(request.continue_final_message && !request.add_generation_prompt);
        assert_eq!((request.max_tokens, request.logprobs), (Some(7), Some(3)));
        assert_eq!(request.stop, ["a", "b"]);
        assert_eq!((request.stream, request.stream_usage), (true, StreamUsage::AtEnd));
    }

    #[test]
    fn text_parts_are_joined() {
        let messages = json!([
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "ann"},
            {"role": "assistant", "content": "c", "refusal": null, "tool_calls": null}
        ]);
        let request = parse(json!({ "messages": messages })).unwrap();
        assert_eq!(request.messages[0], Message::new("developer", "be brief"));
        assert_eq!(request.messages[1].content, "a\nb");
        assert_eq!(request.messages[1].extra["name"], "ann");
    }

    #[test]
    fn what_the_engine_cannot_do_is_refused_by_name() {
        for (extra, param) in [
            (json!({"best_of": 2}), "best_of"),
            (json!({"store": true}), "store"),
            (json!({"guided_grammar": "root ::= x"}), "guided_grammar"),
            (json!({"structured_outputs": {"grammar": "root ::= x"}}), "structured_outputs.grammar"),
            (json!({"use_beam_search": true}), "use_beam_search"),
            (json!({"typical_p": 0.9}), "typical_p"),
            (json!({"reasoning_effort": "high"}), "reasoning_effort"),
            (json!({"chat_template_kwargs": {"tools": []}}), "chat_template_kwargs.tools"),
            (json!({"enable_thinking": false}), "enable_thinking"),
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

    fn call_with(arguments: Value) -> Value {
        let call = json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}});
        json!({"messages": [{"role": "assistant", "content": null, "tool_calls": [call]}]})
    }

    #[test]
    fn calls_are_taken_as_they_come_even_when_a_limit_cut_them() {
        for arguments in [json!("{\"a\": 1}"), json!("{\"a\": \"wh"), json!(""), json!({"a": 1})] {
            let request = parse(call_with(arguments.clone())).unwrap();
            assert_eq!(request.messages[0].content, "");
            assert_eq!(request.messages[0].extra["tool_calls"][0]["function"]["arguments"], arguments);
        }
    }

    #[test]
    fn what_peers_call_their_defaults_asks_for_nothing() {
        let plain = parse(json!({})).unwrap();
        for neutral in [
            json!({"skip_special_tokens": true, "spaces_between_special_tokens": false, "include_stop_str_in_output": false}),
            json!({"ignore_eos": false, "min_tokens": 0, "stop_token_ids": [], "length_penalty": 1.0, "typical_p": 1}),
            json!({"use_beam_search": false, "best_of": 1, "early_stopping": false, "bad_words": [], "priority": 0}),
            json!({"mirostat": 0, "mirostat_tau": 5.0, "repeat_penalty": 1, "cache_prompt": true, "id_slot": -1}),
            json!({"chat_template_kwargs": {}, "documents": [], "reasoning_effort": "medium", "verbosity": "medium"}),
            json!({"structured_outputs": {}, "response_format": {"type": "text"}, "grammar": "", "options": {}}),
            json!({"store": false, "parallel_tool_calls": true, "function_call": "auto", "audio": null, "think": null}),
            json!({"think": false, "format": "", "suffix": "", "extra_body": {}, "seed": -1}),
        ] {
            assert_eq!(parse(neutral.clone()).unwrap(), plain, "{neutral}");
        }
        let echoed = json!({"messages": [{"role": "assistant", "content": "a", "refusal": null, "annotations": [{}],
            "audio": null, "function_call": null, "tool_calls": [], "reasoning_content": "hm", "index": 0, "parsed": {}}]});
        let request = parse(echoed).unwrap();
        assert_eq!(request.messages[0].extra, Map::from_iter([("reasoning_content".into(), json!("hm"))]));
    }

    #[test]
    fn whole_numbers_are_whole_however_they_are_written() {
        let request = parse(json!({"max_tokens": 8.0, "seed": 1.0, "n": 2e0, "top_k": 5.0})).unwrap();
        let sampling = &request.sampling;
        assert_eq!(
            (request.max_tokens, request.choices, sampling.seed, sampling.top_k),
            (Some(8), 2, Some(1), Some(5))
        );
        for seed in ["-9223372036854775809", "18446744073709551616", "1e300"] {
            let body = format!(r#"{{"messages": [{{"role": "user", "content": "a"}}], "seed": {seed}}}"#);
            let error = ChatRequest::parse(body.as_bytes()).unwrap_err().to_string();
            assert_eq!(error, "`seed` must be between -9223372036854775808 and 18446744073709551615");
        }
    }

    #[test]
    fn replies_of_a_given_form_are_asked_for_in_many_ways() {
        let schema = json!({"type": "integer"});
        let form = |body: Value| parse(body).unwrap().grammar.unwrap();
        for (body, param) in [
            (json!({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}), "response_format"),
            (json!({"response_format": {"type": "json_object", "schema": schema}}), "response_format"),
            (json!({"guided_json": schema}), "guided_json"),
            (json!({"guided_json": schema.to_string()}), "guided_json"),
            (json!({"structured_outputs": {"json": schema}}), "structured_outputs"),
        ] {
            assert_eq!(form(body), AskedGrammar { grammar: Grammar::JsonSchema(schema.clone()), param });
        }
        assert_eq!(form(json!({"guided_regex": "a+"})).grammar, Grammar::Regex("a+".into()));
        assert_eq!(form(json!({"structured_outputs": {"choice": ["a"]}})).grammar, Grammar::Choice(vec!["a".into()]));
        for (two, param) in [
            (json!({"guided_json": {}, "guided_regex": "a"}), "guided_regex"),
            (json!({"response_format": {"type": "json_object"}, "guided_choice": ["a"]}), "guided_choice"),
            (json!({"structured_outputs": {"json": {}, "regex": "a"}}), "structured_outputs"),
            (json!({"guided_choice": []}), "guided_choice"),
        ] {
            assert_eq!(refused(two), (ErrorKind::InvalidValue, param.to_string()));
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
            (json!({"stop": vec!["a"; 17]}), "stop"),
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
            (call_with(json!([1])), "messages[0].tool_calls[0].function.arguments"),
        ] {
            assert_eq!(refused(extra), (ErrorKind::InvalidValue, param.to_string()));
        }
    }

    #[test]
    fn missing_fields_are_named() {
        assert_eq!(refused(json!({"messages": null})), (ErrorKind::MissingField, "messages".into()));
        let extra = json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}});
        assert_eq!(refused(extra), (ErrorKind::MissingField, "response_format.json_schema.schema".into()));
        for (message, param) in [
            (json!({"role": "user"}), "messages[0].content"),
            (json!({"role": "user", "content": null}), "messages[0].content"),
            (json!({"role": "assistant", "tool_calls": []}), "messages[0].content"),
            (json!({"role": "tool", "content": "x"}), "messages[0].tool_call_id"),
            (json!({"role": "assistant", "tool_calls": [{"type": "function"}]}), "messages[0].tool_calls[0].id"),
        ] {
            assert_eq!(refused(json!({"messages": [message]})), (ErrorKind::MissingField, param.into()));
        }
    }

    #[test]
    fn an_assistant_s_content_may_be_null() {
        let messages =
            json!([{"role": "assistant", "content": null, "reasoning": "hm"}, {"role": "user", "content": "a"}]);
        let request = parse(json!({"messages": messages})).unwrap();
        assert_eq!(request.messages[0].content, "");
        assert_eq!(request.messages[0].extra["reasoning"], "hm");
    }

    #[test]
    fn a_body_may_begin_with_a_byte_order_mark() {
        let body = "\u{feff}{\"model\": \"\", \"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}";
        assert_eq!(ChatRequest::parse(body.as_bytes()).unwrap().model, None);
    }

    #[test]
    fn a_body_that_is_not_an_object_is_invalid_json() {
        for body in ["", "{", "[]", "\"x\""] {
            assert_eq!(ChatRequest::parse(body.as_bytes()).unwrap_err().kind(), ErrorKind::InvalidJson);
        }
    }
}
