//! A refusal that every request of a run would get: the server does not take a field that all of them have.

use serde_json::Value;

use crate::asking::Party;
use crate::client::ClientError;
use crate::error_body::is_passing;

/// Words of errors that are about one request: another one may be shorter.
const OF_ONE: [&str; 9] = [
    "context length",
    "context_length",
    "context window",
    "reduce the length",
    "too long",
    "too large: ",
    "must be at least 1, got -",
    "input tokens",
    "prompt tokens",
];

/// The limits of a reply: servers that refuse one of them take the other.
const LIMITS: [&str; 2] = ["max_tokens", "max_completion_tokens"];

/// Names of fields that are words of everyday language, too.
const WORDS: [&str; 6] = ["n", "stop", "store", "tools", "functions", "user"];

/// A field that a server does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// The field of the body.
    pub field: &'a str,
    /// The name under which the server takes its value, if it says so.
    pub rename_to: Option<&'static str>,
}

/// Returns the field of the body that a server refuses by name; nothing if it names none, or if the next request may fare
/// better.
pub fn refusal<'a>(body: &'a Value, error: &ClientError) -> Option<Refusal<'a>> {
    let ClientError::Status { status: 400 | 422, message, param, .. } = error else { return None };
    if is_of_one(error) {
        return None;
    }
    let named =
        param.as_deref().and_then(|param| field(body, first_step(param)).or_else(|| field(body, &snake_case(param))));
    let mentioned = mentioned(body, message);
    let first = named.or(mentioned.first().copied())?;
    let is_limit = LIMITS.contains(&first);
    let rename_to = LIMITS.into_iter().find(|limit| is_limit && *limit != first && message.contains(limit));
    let is_first = rename_to.is_some() || matches!(first, "logprobs" | "top_logprobs");
    let field = if is_first { first } else { named.or(mentioned.last().copied()).unwrap_or(first) };
    Some(Refusal { field, rename_to })
}

/// Returns what to do about a refusal, as the end of a sentence; nothing if the next request may fare better.
pub fn advice(party: Party, body: &Value, error: &ClientError) -> Option<String> {
    let flag = party.body_flag();
    if let ClientError::Status { status: 400 | 422, param: Some(param), .. } = error
        && param.starts_with("messages[")
        && param.ends_with(".role")
        && !is_of_one(error)
    {
        return Some("; it does not take this role of a message".into());
    }
    let Refusal { field, rename_to } = refusal(body, error)?;
    Some(match (rename_to, field) {
        (Some(other), _) => format!("; rename the field with {flag} {field}= {flag} {other}={}", body[field]),
        (None, "logprobs" | "top_logprobs") if party == Party::Judge => {
            "; use --judge-verdict auto, or an annotator that reads the judge's text instead of log-probabilities \
             (--annotator-config)"
                .into()
        }
        (None, _) => format!("; {flag} {field}= leaves the field out, and {flag} {field}=VALUE changes it"),
    })
}

/// True if the server refuses the request and waiting would not change its mind, although another request may please it.
pub fn is_lasting(error: &ClientError) -> bool {
    match error {
        ClientError::Status { status, .. } => !is_passing(*status) && !is_of_one(error),
        ClientError::WebPage { .. } => true,
        _ => false,
    }
}

/// True if an error is about the length of one request.
fn is_of_one(error: &ClientError) -> bool {
    let ClientError::Status { status, message, code, .. } = error else { return false };
    let message = message.to_ascii_lowercase();
    *status == 413
        || code.as_deref() == Some("context_length_exceeded")
        || (OF_ONE.iter().any(|words| message.contains(words)) && !message.contains("supports at most"))
}

/// The field of the body that has this name, unless it is what is asked.
fn field<'a>(body: &'a Value, name: &str) -> Option<&'a str> {
    let (key, _) = body.as_object()?.get_key_value(name)?;
    (!matches!(key.as_str(), "model" | "messages")).then_some(key)
}

/// The field in a path such as `response_format.type`.
fn first_step(path: &str) -> &str {
    path.split(['.', '[']).next().unwrap_or(path)
}

/// The fields of the body that a message names, in its order.
fn mentioned<'a>(body: &'a Value, message: &str) -> Vec<&'a str> {
    let mut fields = Vec::new();
    let mut before = ' ';
    for piece in message.split_inclusive(|character: char| !(character.is_alphanumeric() || "_.".contains(character))) {
        let word = piece.trim_end_matches(|character: char| !(character.is_alphanumeric() || character == '_'));
        let is_quoted = matches!(before, '\'' | '`' | '"');
        before = piece.chars().last().unwrap_or(' ');
        let found = field(body, &snake_case(word)).or_else(|| field(body, &snake_case(first_step(word))));
        fields.extend(found.filter(|name| (is_quoted || !WORDS.contains(name)) && !fields.contains(name)));
    }
    fields
}

/// `presencePenalty`, `Logprobs` and `reasoning.effort` as the fields are spelt.
fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for character in name.chars() {
        if character.is_ascii_uppercase() && !snake.is_empty() && !snake.ends_with('_') {
            snake.push('_');
        }
        snake.push(if character == '.' { '_' } else { character.to_ascii_lowercase() });
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(body: &Value, message: &str, param: Option<&str>) -> Option<String> {
        let (message, param) = (message.to_owned(), param.map(str::to_owned));
        let error = ClientError::Status { url: "URL".into(), status: 400, message, code: None, param };
        advice(Party::Judge, body, &error)
    }

    #[test]
    fn the_refused_field_is_named_with_the_flag_that_changes_it() {
        let body = json!({"model": "m", "messages": [], "max_tokens": 2048, "temperature": 0, "top_p": 1, "logprobs": true,
            "presence_penalty": 0, "reasoning_effort": "minimal", "response_format": {}, "stop": ["x"]});
        let rename = "; rename the field with --judge-body max_tokens= --judge-body max_completion_tokens=2048";
        let without = |field: &str| {
            format!("; --judge-body {field}= leaves the field out, and --judge-body {field}=VALUE changes it")
        };
        let annotator = "; use --judge-verdict auto, or an annotator that reads the judge's text instead of log-probabilities \
             (--annotator-config)";
        for (message, param, expected) in [
            (
                "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
                Some("max_tokens"),
                rename.to_owned(),
            ),
            (
                "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
                None,
                rename.to_owned(),
            ),
            (
                "max_tokens is too large: 5000. This model supports at most 4096 completion tokens",
                None,
                without("max_tokens"),
            ),
            ("'temperature' does not support 0 with this model.", Some("temperature"), without("temperature")),
            ("invalid temperature: only 1 is allowed for this model", None, without("temperature")),
            ("`temperature` and `top_p` cannot both be specified", None, without("top_p")),
            ("Model grok does not support parameter presencePenalty.", None, without("presence_penalty")),
            ("'minimal' is not supported with the 'gpt' model.", Some("reasoning.effort"), without("reasoning_effort")),
            ("'response_format.type' must be 'json_schema'", None, without("response_format")),
            ("Unknown field 'stop'", None, without("stop")),
            ("Logprobs is not enabled for models/m", None, annotator.to_owned()),
            ("Unrecognized request argument supplied: logprobs", None, annotator.to_owned()),
            ("no 'system'", Some("messages[0].role"), "; it does not take this role of a message".to_owned()),
        ] {
            assert_eq!(of(&body, message, param), Some(expected), "{message}");
        }
    }

    #[test]
    fn what_is_about_one_request_is_no_reason_to_stop() {
        let body = json!({"model": "m", "messages": [], "max_tokens": 2048, "stop": ["x"]});
        for (message, param) in [
            (
                "This model's maximum context length is 8192 tokens. Please reduce the length of the messages.",
                Some("messages"),
            ),
            ("'max_tokens' or 'max_completion_tokens' is too large: 32000.", None),
            ("max_tokens must be at least 1, got -186.", None),
            ("the model says no; please stop", None),
            ("too long", None),
            ("Invalid request", Some("user")),
        ] {
            assert_eq!(of(&body, message, param), None, "{message}");
        }
        let error = ClientError::Failed { url: "URL".into(), message: "'max_tokens'".into() };
        assert_eq!(advice(Party::Model, &body, &error), None);
    }
}
