//! A server's reply to a chat request.
//!
//! The text is what counts. Everything beside it may be missing or have any shape: token counts, the reason why the reply
//! ended, log-probabilities, fields that only one provider knows.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error_body::ErrorBody;
use crate::reasoning::Reasoning;

/// A reply, kept as the server sent it. It has a first choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct Reply(Value);

/// Token counts of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the messages.
    pub prompt_tokens: u64,
    /// Tokens of the reply, reasoning included.
    pub completion_tokens: u64,
    /// Those of them that are reasoning, where the server counts them.
    #[serde(default)]
    pub reasoning_tokens: u64,
}

/// Why a response with a good status is not a reply that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unusable {
    /// The server failed while it was answering.
    Failed(ErrorBody),
    /// A content filter withheld the reply, or part of it.
    Filtered(String),
    /// It is something else than a reply.
    Malformed(String),
}

/// Why a reply holds no answer, as the end of a sentence about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// The model declined.
    #[error("is a refusal{}", of(.0))]
    Refused(String),
    /// All tokens went into reasoning.
    #[error("was cut off at its token limit before it said anything")]
    Cut,
    /// Reasoning began and did not end.
    #[error("is reasoning that does not end")]
    Unfinished,
    /// There is nothing.
    #[error("is empty")]
    Empty,
}

fn of(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

/// The reason that [`Reply::finish_reason`] gives for a reply that is a refusal.
pub const REFUSAL: &str = "refusal";
/// The reason that it gives for a reply that was cut off at the token limit.
pub const LENGTH: &str = "length";

/// Other names of these reasons, in lower case.
const LENGTH_ALIASES: [&str; 7] = [
    "max_tokens",
    "model_length",
    "max_output_tokens",
    "max_length",
    "model_context_window_exceeded",
    "context_length_exceeded",
    "error_limit",
];
/// Reasons that mean that a filter withheld the reply (OpenAI and Azure, Gemini, Bedrock, Zhipu, Cohere).
const FILTERS: [&str; 11] = [
    "content_filter",
    "contentfilter",
    "error_toxic",
    "safety",
    "recitation",
    "blocklist",
    "prohibited_content",
    "spii",
    "guardrail_intervened",
    "content_filtered",
    "sensitive",
];
/// Reasons that mean that the server failed (OpenRouter, vLLM and SGLang, DeepSeek, Zhipu, Cohere).
const FAILURES: [&str; 12] = [
    "error",
    "model_error",
    "user_cancel",
    "abort",
    "aborted",
    "cancelled",
    "canceled",
    "failed",
    "timeout",
    "insufficient_system_resource",
    "network_error",
    "server_error",
];

/// Whether a reply that ended for this reason is no answer but a failure of the server, to be asked for again.
pub fn is_failure(finish_reason: Option<&str>) -> bool {
    finish_reason.is_some_and(|reason| FILTERS.contains(&reason) || FAILURES.contains(&reason))
}

impl TryFrom<Value> for Reply {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let problem = match &value["choices"] {
            Value::Array(choices) => match choices.first() {
                Some(choice) if message(choice).is_object() || choice["text"].is_string() => return Ok(Self(value)),
                Some(_) => "`choices[0]` has no message",
                None => "`choices` is empty",
            },
            Value::Null if value.get("choices").is_some() => "`choices` is null",
            Value::Null => "it has no `choices`",
            _ => "`choices` is not a list",
        };
        Err(problem.into())
    }
}

impl From<Reply> for Value {
    fn from(Reply(value): Reply) -> Self {
        value
    }
}

/// The message of a choice; that of a stream is called `delta`.
fn message(choice: &Value) -> &Value {
    if choice["message"].is_object() { &choice["message"] } else { &choice["delta"] }
}

impl Reply {
    /// Takes the body of a response with a good status for a reply.
    ///
    /// # Errors
    /// When it is none, or the reply of a server that failed or of a filter that withheld it.
    pub fn accept(body: Value) -> Result<Self, Unusable> {
        let error = ErrorBody::in_reply(&body["choices"][0]).or_else(|| ErrorBody::in_reply(&body));
        let reply = match (Self::try_from(body), &error) {
            (Ok(reply), Some(error)) if reply.is_silent() => return Err(Unusable::Failed(error.clone())),
            (Ok(reply), _) => reply,
            (Err(_), Some(error)) => return Err(Unusable::Failed(error.clone())),
            (Err(problem), None) => return Err(Unusable::Malformed(problem)),
        };
        let reason = reply.finish_reason().unwrap_or_default();
        if FILTERS.contains(&&*reason) {
            return Err(Unusable::Filtered(reason.into_owned()));
        }
        if FAILURES.contains(&&*reason) {
            let unnamed = || ErrorBody { message: format!("the reply ended with `{reason}`"), ..ErrorBody::default() };
            return Err(Unusable::Failed(error.unwrap_or_else(unnamed)));
        }
        Ok(reply)
    }

    fn choice(&self) -> &Value {
        &self.0["choices"][0]
    }

    fn message(&self) -> &Value {
        message(self.choice())
    }

    /// The text without any reasoning that the server keeps apart; of content in parts, those that are text, joined. A reply
    /// that only calls a tool has none.
    pub fn content(&self) -> Option<Cow<'_, str>> {
        match &self.message()["content"] {
            Value::String(text) => Some(text.into()),
            Value::Array(parts) => Some(parts.iter().filter_map(text_of).collect()),
            part @ Value::Object(_) => text_of(part).map(Cow::Borrowed),
            _ => self.choice()["text"].as_str().map(Cow::Borrowed),
        }
    }

    /// What the model says in place of an answer that it declines to give.
    pub fn refusal(&self) -> Option<&str> {
        let parts = self.message()["content"].as_array().into_iter().flatten();
        let said = parts.map(|part| &part["refusal"]).chain([&self.message()["refusal"]]);
        let said = said.filter_map(Value::as_str).find(|text| !text.is_empty());
        let by_reason = || (self.raw_finish_reason()?.eq_ignore_ascii_case(REFUSAL)).then_some("");
        if self.is_blank() { said.or_else(by_reason) } else { None }
    }

    /// The model's answer as it is scored: the text, else the words of a refusal, else nothing.
    pub fn answer(&self) -> String {
        match self.refusal() {
            Some(refusal) => refusal.to_owned(),
            None => self.content().unwrap_or_default().into_owned(),
        }
    }

    /// Whether there is no text but white space.
    fn is_blank(&self) -> bool {
        self.content().is_none_or(|text| text.trim().is_empty())
    }

    /// Whether there is nothing that could be an answer: no text, no call of a tool, no token.
    fn is_silent(&self) -> bool {
        self.is_blank() && self.tool_arguments().is_none() && self.tokens().is_none_or(<[Value]>::is_empty)
    }

    /// The reply as a verdict is read from it: without reasoning in its text, and without the tokens of reasoning.
    ///
    /// # Errors
    /// When nothing is left.
    pub fn without(&self, reasoning: &Reasoning) -> Result<Cow<'_, Self>, NoAnswer> {
        let is_cut = self.finish_reason().as_deref() == Some(LENGTH);
        let mut left = Cow::Borrowed(self);
        if let Some(stripped) = self.content().and_then(|text| reasoning.strip(&text)) {
            let nothing = if is_cut { NoAnswer::Cut } else { NoAnswer::Unfinished };
            let answer = stripped.answer.ok_or(nothing)?;
            message_mut(&mut left.to_mut().0["choices"][0])["content"] = answer.into();
        }
        if let Some(tokens) = self.tokens().and_then(|tokens| answer_tokens(tokens, reasoning)) {
            left.to_mut().0["choices"][0]["logprobs"]["content"] = tokens.into();
        }
        if left.has_end_token()
            && let Some(tokens) = left.to_mut().0["choices"][0]["logprobs"]["content"].as_array_mut()
        {
            tokens.pop();
        }
        if !left.is_silent() {
            return Ok(left);
        }
        Err(match self.refusal() {
            Some(refusal) => NoAnswer::Refused(refusal.to_owned()),
            None if is_cut => NoAnswer::Cut,
            None => NoAnswer::Empty,
        })
    }

    /// The arguments of the first tool call, or of a call in the older form `function_call`, as JSON text.
    pub fn tool_arguments(&self) -> Option<Cow<'_, str>> {
        let message = self.message();
        let called = [&message["tool_calls"][0]["function"], &message["function_call"]];
        called.into_iter().find_map(|call| match &call["arguments"] {
            Value::String(text) => Some(text.into()),
            Value::Null => None,
            arguments => Some(arguments.to_string().into()),
        })
    }

    /// True if the last of several tokens is not part of the text, such as `<|im_end|>`, which vLLM lists, too.
    fn has_end_token(&self) -> bool {
        let Some((last, before @ [_, ..])) = self.tokens().and_then(<[Value]>::split_last) else { return false };
        let (text, last) = (self.content().unwrap_or_default(), token_text(last));
        let written: String = before.iter().map(token_text).collect();
        written.trim() == text.trim() && (last.is_empty() || !text.ends_with(last))
    }

    fn tokens(&self) -> Option<&[Value]> {
        self.choice()["logprobs"]["content"].as_array().map(Vec::as_slice)
    }

    /// The likeliest tokens at one position of the reply, each with its natural log-probability; a negative position
    /// counts from the end. `None` where the server gave none.
    pub fn top_logprobs(&self, position: i64) -> Option<Vec<(String, f64)>> {
        let tokens = self.tokens()?;
        let index = if position < 0 { tokens.len() as i64 + position } else { position };
        let top = tokens.get(usize::try_from(index).ok()?)?["top_logprobs"].as_array()?;
        // What is not finite has no JSON: null is the logarithm of nothing.
        let entry = |entry: &Value| {
            Some((entry["token"].as_str()?.to_owned(), entry["logprob"].as_f64().unwrap_or(f64::NEG_INFINITY)))
        };
        Some(top.iter().filter_map(entry).collect())
    }

    fn raw_finish_reason(&self) -> Option<&str> {
        let reason = &self.choice()["finish_reason"];
        reason.as_str().or(reason["type"].as_str())
    }

    /// Why the reply ended, in the words of OpenAI where they have one for it; `refusal` if it is one.
    pub fn finish_reason(&self) -> Option<Cow<'_, str>> {
        if self.refusal().is_some() {
            return Some(REFUSAL.into());
        }
        let raw = self.raw_finish_reason()?;
        let lower = raw.to_ascii_lowercase().replace('-', "_");
        Some(match lower.as_str() {
            name if LENGTH_ALIASES.contains(&name) => LENGTH.into(),
            name if name == raw => raw.into(),
            _ => lower.into(),
        })
    }

    /// The tokens of question and reply, where the server counts them. Most servers count the tokens of reasoning among those
    /// of the reply; where the total shows that one does not (xAI), they are added.
    pub fn usage(&self) -> Option<Usage> {
        let usage = &self.0["usage"];
        let whole = |count: &Value| count.as_f64().filter(|count| *count >= 0.0).map(|count| count as u64);
        let count =
            |names: [&str; 2]| whole(names.into_iter().map(|name| &usage[name]).find(|count| count.is_number())?);
        let prompt_tokens = count(["prompt_tokens", "input_tokens"])?;
        let completion_tokens = count(["completion_tokens", "output_tokens"])?;
        let details = ["completion_tokens_details", "output_tokens_details"];
        let reasoning_tokens =
            details.into_iter().find_map(|name| whole(&usage[name]["reasoning_tokens"])).unwrap_or_default();
        let apart = prompt_tokens + completion_tokens + reasoning_tokens;
        let is_apart = reasoning_tokens > 0 && whole(&usage["total_tokens"]) == Some(apart);
        let completion_tokens = completion_tokens + if is_apart { reasoning_tokens } else { 0 };
        Some(Usage { prompt_tokens, completion_tokens, reasoning_tokens })
    }

    /// True if the model has reasoned before it ended: the server says so by a text of its own or by its count.
    pub fn has_reasoned(&self) -> bool {
        let message = self.message();
        let is_there = |name: &str| match &message[name] {
            Value::String(text) => !text.trim().is_empty(),
            Value::Array(parts) => !parts.is_empty(),
            _ => false,
        };
        ["reasoning_content", "reasoning", "reasoning_details"].into_iter().any(is_there)
            || self.usage().is_some_and(|usage| usage.reasoning_tokens > 0)
    }
}

/// The text of a part of content, unless it is reasoning or no text at all.
fn text_of(part: &Value) -> Option<&str> {
    let kind = part["type"].as_str().unwrap_or_default();
    if kind.contains("think") || kind.contains("reason") {
        return None;
    }
    part.as_str().or(part["text"].as_str()).or(part["text"]["value"].as_str())
}

fn message_mut(choice: &mut Value) -> &mut Value {
    if choice["delta"].is_object() && !choice["message"].is_object() {
        &mut choice["delta"]
    } else {
        &mut choice["message"]
    }
}

fn token_text(token: &Value) -> &str {
    token["token"].as_str().unwrap_or_default()
}

/// The tokens behind the reasoning; nothing if they hold none.
fn answer_tokens(tokens: &[Value], reasoning: &Reasoning) -> Option<Vec<Value>> {
    let text: String = tokens.iter().map(token_text).collect();
    let answer = reasoning.strip(&text)?.answer.unwrap_or_default();
    // Reasoning comes before the answer, which is the end of the text.
    let start = text.strip_suffix(&answer)?.len();
    let mut at = 0;
    let behind = tokens.iter().skip_while(|token| {
        let begins_before = at < start;
        at += token_text(token).len();
        begins_before
    });
    Some(behind.cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reasoning::Format;
    use serde_json::json;

    fn reply(message: Value, finish_reason: Value) -> Reply {
        Reply::try_from(json!({"choices": [{"message": message, "finish_reason": finish_reason}]})).unwrap()
    }

    #[test]
    fn a_reply_is_read_field_by_field() {
        let top = |token: &str| json!({"token": token, "top_logprobs": [{"token": token, "logprob": -0.5}]});
        let body = json!({
            "choices": [{
                "message": {"content": "m", "tool_calls": [{"function": {"arguments": "{}"}}]},
                "finish_reason": "length",
                "logprobs": {"content": [top("a"), top("b")]}
            }],
            "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
        });
        let full = Reply::try_from(body).unwrap();
        assert_eq!((full.content().as_deref(), full.tool_arguments().as_deref()), (Some("m"), Some("{}")));
        assert_eq!(full.finish_reason().as_deref(), Some("length"));
        assert_eq!(full.top_logprobs(0), Some(vec![("a".into(), -0.5)]));
        assert_eq!(full.top_logprobs(-1), Some(vec![("b".into(), -0.5)]));
        assert_eq!((full.top_logprobs(2), full.top_logprobs(-3)), (None, None));
        assert_eq!(full.usage(), Some(Usage { prompt_tokens: 3, completion_tokens: 1, reasoning_tokens: 0 }));
        let bare = reply(json!({"content": null}), Value::Null);
        assert_eq!((bare.content(), bare.top_logprobs(0), bare.usage()), (None, None, None));
        let older = reply(json!({"content": null, "function_call": {"arguments": [1]}}), Value::Null);
        assert_eq!(older.tool_arguments().as_deref(), Some("[1]"));
    }

    #[test]
    fn usage_may_have_any_shape() {
        let usage = |usage: Value| {
            let body = json!({"choices": [{"message": {"content": "m"}}], "usage": usage});
            Reply::accept(body).unwrap().usage().map(|usage| (usage.prompt_tokens, usage.completion_tokens))
        };
        assert_eq!(usage(json!({"prompt_tokens": 3.0, "completion_tokens": 2.0})), Some((3, 2)));
        assert_eq!(usage(json!({"input_tokens": 3, "output_tokens": 2})), Some((3, 2)));
        for unknown in [
            json!(null),
            json!({}),
            json!([]),
            json!("3"),
            json!({"total_tokens": 5}),
            json!({"prompt_tokens": 3, "completion_tokens": null}),
            json!({"prompt_tokens": -1, "completion_tokens": -1}),
            json!({"prompt_tokens": "3", "completion_tokens": "2"}),
        ] {
            assert_eq!(usage(unknown.clone()), None, "{unknown}");
        }
    }

    #[test]
    fn tokens_of_reasoning_are_counted_once() {
        let usage = |total: u64, details: &str| {
            let usage = json!({"prompt_tokens": 10, "completion_tokens": 40, "total_tokens": total,
                details: {"reasoning_tokens": 30}});
            let reply = Reply::accept(json!({"choices": [{"message": {"content": ""}}], "usage": usage})).unwrap();
            assert!(reply.has_reasoned());
            reply.usage().map(|usage| (usage.completion_tokens, usage.reasoning_tokens))
        };
        assert_eq!(usage(50, "completion_tokens_details"), Some((40, 30)));
        assert_eq!(usage(80, "completion_tokens_details"), Some((70, 30)), "counted apart");
        assert_eq!(usage(50, "output_tokens_details"), Some((40, 30)));
        for (message, has) in [
            (json!({"content": null, "reasoning_content": "Hm"}), true),
            (json!({"content": null, "reasoning_details": [{}]}), true),
            (json!({"content": null, "reasoning": null, "reasoning_content": ""}), false),
        ] {
            assert_eq!(reply(message, json!("stop")).has_reasoned(), has);
        }
    }

    #[test]
    fn text_is_found_wherever_it_is() {
        for (message, text) in [
            (json!({"content": "a"}), Some("a")),
            (json!({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}), Some("ab")),
            (
                json!({"content": [{"type": "thinking", "thinking": [{"text": "x"}]}, {"type": "text", "text": "a"}]}),
                Some("a"),
            ),
            (
                json!({"content": [{"type": "reasoning", "text": "x"}, {"type": "output_text", "text": "a"}, "b"]}),
                Some("ab"),
            ),
            (json!({"content": [{"type": "image_url", "image_url": {}}]}), Some("")),
            (json!({"content": {"type": "text", "text": {"value": "a"}}}), Some("a")),
            (json!({"content": []}), Some("")),
            (json!({"content": null, "reasoning_content": "x"}), None),
            (json!({}), None),
        ] {
            assert_eq!(reply(message.clone(), json!("stop")).content().as_deref(), text, "{message}");
        }
        let of_choice =
            |choice: Value| Reply::try_from(json!({"choices": [choice]})).unwrap().content().unwrap().into_owned();
        assert_eq!(of_choice(json!({"text": "a"})), "a");
        assert_eq!(of_choice(json!({"delta": {"content": "a"}})), "a");
    }

    #[test]
    fn refusals_are_known_and_keep_their_words() {
        for (message, reason, refusal) in [
            (json!({"content": null, "refusal": "I cannot."}), "stop", Some("I cannot.")),
            (json!({"content": [{"type": "refusal", "refusal": "No."}]}), "stop", Some("No.")),
            (json!({"content": ""}), "refusal", Some("")),
            (json!({"content": "m", "refusal": ""}), "stop", None),
            (json!({"content": "m", "refusal": "partly"}), "stop", None),
            (json!({"content": null, "refusal": null}), "stop", None),
        ] {
            let reply = reply(message.clone(), json!(reason));
            assert_eq!(reply.refusal(), refusal, "{message}");
            assert_eq!(reply.finish_reason().as_deref() == Some(REFUSAL), refusal.is_some(), "{message}");
            assert_eq!(reply.answer(), refusal.unwrap_or(reply.content().as_deref().unwrap_or_default()), "{message}");
        }
    }

    #[test]
    fn reasons_have_one_name() {
        for (raw, reason) in [
            ("STOP", "stop"),
            ("MAX_TOKENS", "length"),
            ("model_length", "length"),
            ("max_length", "length"),
            ("model_context_window_exceeded", "length"),
            ("tool_calls", "tool_calls"),
        ] {
            assert_eq!(reply(json!({"content": "m"}), json!(raw)).finish_reason().as_deref(), Some(reason));
        }
        assert_eq!(reply(json!({"content": "m"}), json!({"type": "stop"})).finish_reason().as_deref(), Some("stop"));
    }

    #[test]
    fn the_text_counts_and_failures_do_not() {
        let choice = |content: Value, reason: &str| json!({"message": {"content": content}, "finish_reason": reason});
        let failed =
            |message: &str| Err(Unusable::Failed(ErrorBody { message: message.into(), ..ErrorBody::default() }));
        let malformed = |problem: &str| Err(Unusable::Malformed(problem.into()));
        let filtered = |reason: &str| Err(Unusable::Filtered(reason.into()));
        for (body, expected) in [
            (json!({"choices": [choice(json!("m"), "stop")], "error": "odd"}), Ok(())),
            (json!({"choices": [choice(json!("m"), "stop")], "error": null}), Ok(())),
            (json!({"choices": [choice(json!(null), "stop")], "error": "odd"}), failed("odd")),
            (json!({"choices": null, "error": {"message": "busy"}}), failed("busy")),
            (json!({"choices": [choice(json!("half"), "error")]}), failed("the reply ended with `error`")),
            (json!({"choices": [choice(json!(""), "abort")]}), failed("the reply ended with `abort`")),
            (json!({"choices": [choice(json!("half"), "content_filter")]}), filtered("content_filter")),
            (json!({"choices": [choice(json!(null), "SAFETY")]}), filtered("safety")),
            (json!({"choices": [choice(json!("half"), "ERROR_TOXIC")]}), filtered("error_toxic")),
            (json!({"choices": [choice(json!("half"), "USER_CANCEL")]}), failed("the reply ended with `user_cancel`")),
            (json!({"choices": [{"error": {"message": "inside"}}]}), failed("inside")),
            (json!({"choices": [{"message": {"content": null}, "error": {"message": "inside"}}]}), failed("inside")),
            (json!({"choices": [{"message": {"content": "m"}, "error": {"message": "odd"}}]}), Ok(())),
            (json!({"choices": null}), malformed("`choices` is null")),
            (json!({"choices": []}), malformed("`choices` is empty")),
            (json!({"choices": [{}]}), malformed("`choices[0]` has no message")),
            (json!({"choices": "m"}), malformed("`choices` is not a list")),
            (json!({}), malformed("it has no `choices`")),
            (json!([]), malformed("it has no `choices`")),
        ] {
            assert_eq!(Reply::accept(body.clone()).map(drop), expected, "{body}");
        }
        let mut named = choice(json!(""), "error");
        named["error"] = json!({"code": 502, "message": "upstream"});
        let error = ErrorBody { message: "upstream".into(), status: Some(502), ..ErrorBody::default() };
        assert_eq!(Reply::accept(json!({"choices": [named]})), Err(Unusable::Failed(error)));
    }

    #[test]
    fn a_verdict_is_read_behind_the_reasoning() {
        let reasoning = Reasoning::new([Format::Auto]);
        let left = |message: Value, reason: &str| {
            reply(message, json!(reason))
                .without(&reasoning)
                .map(|left| left.content().unwrap_or_default().into_owned())
        };
        assert_eq!(left(json!({"content": "<think>[[3]]</think>\n[[9]]"}), "stop"), Ok("[[9]]".into()));
        assert_eq!(left(json!({"content": "[[9]]"}), "stop"), Ok("[[9]]".into()));
        assert_eq!(left(json!({"content": "<think>[[3]]"}), "length"), Err(NoAnswer::Cut));
        assert_eq!(left(json!({"content": "<think>[[3]]"}), "stop"), Err(NoAnswer::Unfinished));
        assert_eq!(left(json!({"content": "<think>a</think>"}), "length"), Err(NoAnswer::Cut));
        assert_eq!(left(json!({"content": null}), "length"), Err(NoAnswer::Cut));
        assert_eq!(left(json!({"content": " "}), "stop"), Err(NoAnswer::Empty));
        assert_eq!(left(json!({"content": null, "refusal": "No."}), "stop"), Err(NoAnswer::Refused("No.".into())));
        let call = json!({"content": null, "tool_calls": [{"function": {"arguments": "{}"}}]});
        assert_eq!(left(call, "tool_calls"), Ok(String::new()));
        assert_eq!(NoAnswer::Refused("No.".into()).to_string(), "is a refusal: No.");
        assert_eq!(NoAnswer::Refused(String::new()).to_string(), "is a refusal");
    }

    #[test]
    fn tokens_of_reasoning_are_no_verdict() {
        let tokens = |tokens: &[&str]| -> Value {
            tokens
                .iter()
                .map(|token| json!({"token": token, "top_logprobs": [{"token": token, "logprob": -1e-3}]}))
                .collect()
        };
        let reasoning = Reasoning::new([Format::Auto]);
        for (content, all, first) in [
            ("M", &["Hm", "</think>", "M"][..], Some("M")),
            ("<think>Hm</think>\n\nM", &["<think>", "Hm", "</think>", "\n\n", "M"], Some("M")),
            ("M", &["M"], Some("M")),
            ("M", &["M", "<|im_end|>"], Some("M")),
            ("M", &["M", ""], Some("M")),
            ("<think>Hm</think>M", &["<think>", "Hm", "</think>", "M", "<|eot_id|>"], Some("M")),
            ("<|channel|>final<|message|>M", &["<|channel|>", "final", "<|message|>", "M"], Some("M")),
        ] {
            let choice = json!({"message": {"content": content}, "logprobs": {"content": tokens(all)}});
            let reply = Reply::try_from(json!({"choices": [choice]})).unwrap();
            let left = reply.without(&reasoning).unwrap();
            let found = left.top_logprobs(0).map(|top| top[0].0.clone());
            assert_eq!((found.as_deref(), left.top_logprobs(1)), (first, None), "{all:?}");
        }
        let infinite = json!({"token": "m", "top_logprobs": [{"token": "m", "logprob": null}, {"logprob": 0.0}]});
        let choice = json!({"message": {"content": "m"}, "logprobs": {"content": [infinite]}});
        let reply = Reply::try_from(json!({"choices": [choice]})).unwrap();
        assert_eq!(reply.top_logprobs(0), Some(vec![("m".into(), f64::NEG_INFINITY)]));
    }
}
