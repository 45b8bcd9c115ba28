//! What a server says went wrong, in the many forms in which servers say it.
//!
//! The message may be under `error.message` (OpenAI), be `error` itself (xAI, LM Studio), stand at the top (vLLM), in a list of
//! one (Gemini), in `detail` (FastAPI), in the JSON text of a provider behind a gateway (OpenRouter, LiteLLM), or in the title
//! of a web page.

use serde_json::Value;

/// The longest part of a body that is shown as it is.
const SHOWN: usize = 200;

/// An error, as far as it could be understood.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorBody {
    /// What a person should read.
    pub message: String,
    /// The kind of error, such as `unsupported_parameter` or `insufficient_quota`.
    pub code: Option<String>,
    /// The HTTP status that the body names, which may differ from the status of the response.
    pub status: Option<u16>,
    /// The field of the request that is at fault.
    pub param: Option<String>,
}

impl ErrorBody {
    /// Reads the body of a response whose status says that it is an error.
    pub fn of_failure(body: &[u8]) -> Self {
        let value = crate::lenient_json::parse(body).ok();
        let found = value.as_ref().and_then(Self::anywhere);
        let message = || if body.trim_ascii().is_empty() { "(its body is empty)".into() } else { beginning(body) };
        found.unwrap_or_else(|| Self { message: message(), ..Self::default() })
    }

    /// Finds the error in a body that may as well be a reply.
    pub fn in_reply(value: &Value) -> Option<Self> {
        let value = match value {
            Value::Array(values) => values.first()?,
            value => value,
        };
        match &value["error"] {
            Value::String(message) if !message.is_empty() => {
                Some(Self { message: message.clone(), ..Self::default() }.unwrapped())
            }
            Value::Object(fields) if !fields.is_empty() => {
                Self::of_object(&value["error"], || Some(shortened(&value["error"].to_string())))
            }
            _ if value["object"] == "error" || value["type"] == "error" => Self::of_object(value, || None),
            _ => None,
        }
    }

    /// Finds the error in a body that is one.
    fn anywhere(value: &Value) -> Option<Self> {
        Self::in_reply(value).or_else(|| Self::of_object(value, || None))
    }

    /// Reads an error object; without a message it has that of `otherwise`.
    fn of_object(error: &Value, otherwise: impl FnOnce() -> Option<String>) -> Option<Self> {
        let named = |name: &str| error[name].as_str().filter(|text| !matches!(*text, "" | "None" | "null"));
        let status = match &error["code"] {
            Value::String(code) => code.parse().ok(),
            code => code.as_f64(),
        };
        let status = status.filter(|status| (100.0..600.0).contains(status)).map(|status: f64| status as u16);
        let (message, location) = match &error["detail"] {
            // FastAPI: a text, or what is wrong with each field.
            Value::Array(details) => {
                let first = details.first()?;
                (first["msg"].as_str().map(str::to_owned), first["loc"].as_array())
            }
            Value::String(detail) => (Some(detail.clone()), None),
            _ => (error["message"].as_str().map(str::to_owned), None),
        };
        let location = location.and_then(|path| path.iter().filter_map(Value::as_str).find(|step| *step != "body"));
        let found = Self {
            message: match (message.or_else(otherwise)?, location) {
                (message, Some(field)) => format!("`{field}`: {message}"),
                (message, None) => message,
            },
            code: named("code").filter(|_| status.is_none()).or_else(|| named("type")).map(str::to_owned),
            status,
            param: named("param").or(location).map(str::to_owned),
        };
        Some(match &error["metadata"]["raw"] {
            Value::String(raw) => found.caused_by(raw),
            Value::Null => found.unwrapped(),
            raw => found.caused_by(&raw.to_string()),
        })
    }

    /// The error with what the provider behind a gateway said.
    fn caused_by(self, raw: &str) -> Self {
        let cause = serde_json::from_str(raw).ok().and_then(|value| Self::anywhere(&value));
        match cause {
            Some(cause) => Self {
                message: format!("{}: {}", self.message, cause.message),
                code: cause.code.or(self.code),
                status: self.status,
                param: cause.param.or(self.param),
            },
            None if raw.trim().is_empty() => self,
            None => Self { message: format!("{}: {}", self.message, beginning(raw.as_bytes())), ..self },
        }
    }

    /// The error with the message out of the JSON that its message begins with.
    fn unwrapped(self) -> Self {
        if !self.message.starts_with('{') {
            return self;
        }
        let inner = serde_json::Deserializer::from_str(&self.message).into_iter::<Value>().next().and_then(Result::ok);
        match inner.and_then(|inner| Self::anywhere(&inner)) {
            Some(inner) => Self {
                message: inner.message,
                code: inner.code.or(self.code),
                status: self.status.or(inner.status),
                param: inner.param.or(self.param),
            },
            None => self,
        }
    }

    /// True if the account has run out of money, which no waiting cures.
    pub fn is_about_money(&self) -> bool {
        self.code_has(&["quota", "billing"])
    }

    /// Whether the same request may succeed later; none where the error does not say.
    pub fn is_passing(&self) -> Option<bool> {
        const PASSING: [&str; 6] = ["rate_limit", "overload", "server_error", "timeout", "unavailable", "internal"];
        const LASTING: [&str; 6] = ["invalid", "unsupported", "not_found", "context_length", "auth", "permission"];
        match self.status {
            _ if self.is_about_money() => Some(false),
            Some(status) => Some(is_passing(status)),
            None if self.code_has(&PASSING) => Some(true),
            None if self.code_has(&LASTING) => Some(false),
            None => None,
        }
    }

    fn code_has(&self, words: &[&str]) -> bool {
        let code = self.code.as_deref().unwrap_or_default().to_ascii_lowercase();
        words.iter().any(|word| code.contains(word))
    }
}

/// True if a request that got this HTTP status may get another one later.
pub fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 409 | 425 | 429 | 500..=599)
}

/// The title of a web page, or its beginning if it has none; nothing if the bytes are not a web page.
pub fn web_page(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let lower = text.to_ascii_lowercase();
    let start = lower.trim_start_matches('\u{feff}').trim_start();
    if !["<html", "<!doctype html", "<head"].iter().any(|tag| start.starts_with(tag)) {
        return None;
    }
    let title = || {
        let find = |needle: &str, from: usize| lower[from..].find(needle).map(|at| from + at);
        let start = find(">", find("<title", 0)?)? + 1;
        let words: Vec<&str> = text[start..find("</title", start)?].split_whitespace().collect();
        (!words.is_empty()).then(|| words.join(" "))
    };
    Some(title().unwrap_or_else(|| shortened(text.trim())))
}

/// The beginning of a body, in words that a person can read.
pub fn beginning(body: &[u8]) -> String {
    match web_page(body) {
        Some(title) => format!("a web page, `{title}`"),
        None => shortened(String::from_utf8_lossy(body).trim()),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(body: &Value) -> (String, Option<u16>, Option<String>, Option<String>) {
        let ErrorBody { message, code, status, param } = ErrorBody::of_failure(body.to_string().as_bytes());
        (message, status, code, param)
    }

    #[test]
    fn every_form_of_an_error_has_its_message() {
        let text = |text: &str| Some(text.to_owned());
        let raw = json!({"error": {"message": "no logprobs", "param": "logprobs", "code": "unsupported"}}).to_string();
        for (body, expected) in [
            (json!({"error": {"message": "too long"}}), ("too long", None, None, None)),
            (json!({"error": "busy"}), ("busy", None, None, None)),
            (
                json!({"error": {"message": "m", "type": "t", "param": "p", "code": "c"}}),
                ("m", None, text("c"), text("p")),
            ),
            (
                json!({"error": {"message": "m", "type": "None", "param": "None", "code": "400"}}),
                ("m", Some(400), None, None),
            ),
            (json!({"object": "error", "message": "m", "code": 400, "param": null}), ("m", Some(400), None, None)),
            (
                json!({"type": "error", "error": {"type": "overloaded_error", "message": "m"}}),
                ("m", None, text("overloaded_error"), None),
            ),
            (json!([{"error": {"code": 400, "message": "m", "status": "INVALID"}}]), ("m", Some(400), None, None)),
            (json!({"detail": "Not Found"}), ("Not Found", None, None, None)),
            (
                json!({"detail": [{"type": "extra_forbidden", "loc": ["body", "top_k"], "msg": "Extra inputs"}]}),
                ("`top_k`: Extra inputs", None, None, text("top_k")),
            ),
            (
                json!({"error": {"code": 400, "message": "Provider error", "metadata": {"raw": raw}}}),
                ("Provider error: no logprobs", Some(400), text("unsupported"), text("logprobs")),
            ),
            (
                json!({"error": {"code": 502, "message": "Provider error", "metadata": {"raw": "timed out"}}}),
                ("Provider error: timed out", Some(502), None, None),
            ),
            (json!({"error": {"code": 502}}), ("{\"code\":502}", Some(502), None, None)),
            (json!({"error": {"message": "{\"message\":\"m\"}. Received Model"}}), ("m", None, None, None)),
        ] {
            let (message, status, code, param) = expected;
            assert_eq!(read(&body), (message.to_owned(), status, code, param), "{body}");
        }
        assert_eq!(ErrorBody::of_failure(b"upstream died").message, "upstream died");
        assert_eq!(ErrorBody::of_failure(b" \n").message, "(its body is empty)");
        assert_eq!(
            ErrorBody::of_failure(b"<html><head><title>502\n Bad</title></head>").message,
            "a web page, `502 Bad`"
        );
        assert_eq!(ErrorBody::of_failure("x".repeat(999).as_bytes()).message.len(), SHOWN + 3);
    }

    #[test]
    fn a_reply_is_no_error() {
        for reply in [
            json!({"choices": [], "error": null}),
            json!({"choices": [], "error": ""}),
            json!({"choices": [], "error": {}}),
            json!({"choices": [], "error": false}),
            json!({"message": "hello"}),
            json!([]),
            json!("text"),
        ] {
            assert_eq!(ErrorBody::in_reply(&reply), None, "{reply}");
        }
    }

    #[test]
    fn the_kind_of_an_error_decides_whether_it_passes() {
        let passing = |error: Value| ErrorBody::in_reply(&json!({"error": error})).unwrap().is_passing();
        assert_eq!(passing(json!({"message": "m", "code": 429})), Some(true));
        assert_eq!(passing(json!({"message": "m", "code": "502"})), Some(true));
        assert_eq!(passing(json!({"message": "m", "code": 400})), Some(false));
        assert_eq!(passing(json!({"message": "m", "code": 429, "type": "insufficient_quota"})), Some(false));
        assert_eq!(passing(json!({"message": "m", "code": "rate_limit_exceeded"})), Some(true));
        assert_eq!(passing(json!({"message": "m", "type": "invalid_request_error"})), Some(false));
        assert_eq!(passing(json!({"message": "m"})), None);
    }

    #[test]
    fn web_pages_are_known_by_their_beginning() {
        assert_eq!(web_page(b" <!DOCTYPE html><TITLE lang=en>Log in</TITLE>").as_deref(), Some("Log in"));
        assert_eq!(web_page(b"<html><body>x").as_deref(), Some("<html><body>x"));
        assert_eq!(web_page(b"<html>").as_deref(), Some("<html>"));
        assert_eq!(web_page(b"{}"), None);
        assert_eq!(web_page("\u{feff}ä".as_bytes()), None);
    }
}
