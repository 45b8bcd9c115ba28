//! A client of OpenAI-compatible servers: model list and chat completions, with bounded retries.
//!
//! A request is tried again after a connection error, a timeout, a reply that is cut off or malformed, and the statuses
//! 408, 409, 425, 429 and 5xx, whether they are the status of the response or that of an error in its body; any other
//! status is the server's last word. [`Retry`] says how long to wait between tries.

use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use reqwest::{RequestBuilder, Url};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error_body::{self, ErrorBody};
use crate::lenient_json;
use crate::reply::{Reply, Unusable};
pub use crate::retry::Retry;
use crate::retry::{Pause, retry_after};

/// A key that is sent but never shown.
#[derive(Clone)]
pub struct ApiKey(String);

impl ApiKey {
    /// Wraps a key.
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    /// The key in `ORPO_EVAL_API_KEY`, else in `OPENAI_API_KEY`, if either is set and not empty.
    pub fn from_environment() -> Option<Self> {
        let set = |name| std::env::var(name).ok().map(|key| key.trim().to_owned()).filter(|key| !key.is_empty());
        set("ORPO_EVAL_API_KEY").or_else(|| set("OPENAI_API_KEY")).map(Self)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(hidden)")
    }
}

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// The text.
    pub content: String,
}

/// How a reply is sampled.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sampling {
    /// 0 asks for the likeliest token every time.
    pub temperature: f64,
    /// The most tokens of a reply.
    pub max_tokens: u32,
    /// The probability mass that tokens are drawn from; without it, what the server prefers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// The seed of the sampling; without it, what the server prefers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
}

impl Sampling {
    /// The fields of a request.
    pub fn fields(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(fields)) => fields,
            _ => unreachable!("a struct of numbers is an object"),
        }
    }
}

/// A model that a server lists.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ModelCard {
    /// Its name.
    pub id: String,
    /// What it really is, if the server says so: the same for several names of one model.
    #[serde(default)]
    pub root: Option<String>,
    /// The model that it adapts, if it is an adapter.
    #[serde(default)]
    pub parent: Option<String>,
    /// Where it comes from, if the server says so.
    #[serde(default)]
    pub lineage: Option<Value>,
}

/// Why a request failed, after all tries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The endpoint is no usable address.
    #[error("`{endpoint}` is no usable endpoint: {problem}; give one like http://127.0.0.1:8000/v1")]
    Endpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No connection, or none that lasted.
    #[error("cannot reach {url}: {problem}")]
    Unreachable {
        /// The address.
        url: String,
        /// The cause.
        problem: String,
    },
    /// The server answered with an error.
    #[error("{url} answered {status}: {message}")]
    Status {
        /// The address.
        url: String,
        /// The HTTP status, or the status that the body names.
        status: u16,
        /// The message of the error object, or the beginning of the body.
        message: String,
        /// The kind of error, if the server names it.
        code: Option<String>,
        /// The field of the request that is at fault, if the server names it.
        param: Option<String>,
    },
    /// The server answered with an error that has no status.
    #[error("{url} answered with an error: {message}")]
    Failed {
        /// The address.
        url: String,
        /// The server's words.
        message: String,
    },
    /// A content filter withheld the reply.
    #[error("{url} withheld the reply: its content filter says `{message}`")]
    Filtered {
        /// The address.
        url: String,
        /// The server's words.
        message: String,
    },
    /// The address is that of a web site.
    #[error(
        "{url} sent a web page instead of a reply (`{title}`), perhaps because it wants a login or is not the address of the \
         API; check the endpoint"
    )]
    WebPage {
        /// The address.
        url: String,
        /// The title of the page.
        title: String,
    },
    /// The server does not want to be asked for longer than anybody is ready to wait.
    #[error(
        "{url} answered {status} and asks to be left alone for {wait_secs} seconds; run again then, or raise \
         --max-wait-secs"
    )]
    Later {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it asks for.
        wait_secs: u64,
    },
    /// The reply is not what the protocol says.
    #[error("{url} sent a reply that cannot be used: {problem}")]
    Malformed {
        /// The address.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl ClientError {
    /// True if the server is away: nobody listens, or what stands before it, or it itself while it starts or ends, says
    /// so.
    fn is_of_absence(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Status { status: 502..=504, .. })
    }
}

/// One failed try.
struct Failure {
    error: ClientError,
    again: bool,
    retry_after: Option<Duration>,
}

/// A connection pool to one server.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<ApiKey>,
    retry: Retry,
    repetitions: Arc<AtomicUsize>,
}

impl Client {
    /// A client of the server at `endpoint`, which may or may not end in `/v1`. A single try may take `timeout`.
    ///
    /// # Errors
    /// When the endpoint is no HTTP address.
    pub fn new(endpoint: &str, key: Option<ApiKey>, timeout: Duration, retry: Retry) -> Result<Self, ClientError> {
        let failed = |problem: String| ClientError::Endpoint { endpoint: endpoint.to_owned(), problem };
        let url = Url::parse(endpoint.trim()).map_err(|error| failed(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(failed("it must begin with http:// or https://".into()));
        }
        let mut builder =
            reqwest::Client::builder().timeout(timeout).connect_timeout(timeout.min(Duration::from_secs(20)));
        // A proxy cannot reach this machine's own loopback.
        if matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| failed(cause(&error)))?;
        Ok(Self { http, base: base(&url), key, retry, repetitions: Arc::default() })
    }

    /// How many requests have been repeated so far.
    pub fn repetitions(&self) -> usize {
        self.repetitions.load(Ordering::Relaxed)
    }

    /// The address that requests go to, ending in `/v1`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The server's models.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses, or sends something else.
    pub async fn models(&self) -> Result<Vec<ModelCard>, ClientError> {
        let url = format!("{}/models", self.base);
        // Some send the list itself.
        let read = |mut body: Value| {
            let list = if body.is_array() { body } else { body["data"].take() };
            serde_json::from_value(list).map_err(|error| Unusable::Malformed(format!("not a list of models: {error}")))
        };
        self.send(&url, || self.http.get(&url), async || (), read).await
    }

    /// The same with at most two repetitions: whether a server is there should be known soon, unless it is one that may be
    /// away for a while.
    ///
    /// # Errors
    /// As [`Client::models`].
    pub async fn models_soon(&self) -> Result<Vec<ModelCard>, ClientError> {
        let retry = Retry { retries: self.retry.retries.min(2), ..self.retry };
        Self { retry, ..self.clone() }.models().await
    }

    /// Sends a body to the chat route. Every try waits for `before_try` first, which may hold it back.
    ///
    /// # Errors
    /// When no try brought a usable reply.
    pub async fn chat(&self, body: &Value, before_try: impl AsyncFn()) -> Result<Reply, ClientError> {
        let url = format!("{}/chat/completions", self.base);
        self.send(&url, || self.http.post(&url).json(body), before_try, Reply::accept).await
    }

    /// Sends a request, again and again as far as the policy allows, and reads the response.
    async fn send<T>(
        &self,
        url: &str,
        request: impl Fn() -> RequestBuilder,
        before_try: impl AsyncFn(),
        read: impl Fn(Value) -> Result<T, Unusable>,
    ) -> Result<T, ClientError> {
        let mut repetition = 0;
        let mut away_since = None;
        loop {
            before_try().await;
            let failure = match self.try_once(url, request(), &read).await {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            let away = failure.error.is_of_absence().then(|| away_since.get_or_insert_with(Instant::now).elapsed());
            if !failure.again || !self.retry.goes_on(repetition, away) {
                return Err(failure.error);
            }
            repetition += 1;
            let pause = match away {
                Some(_) if !self.retry.outage.is_zero() => self.retry.pause_while_away(repetition, failure.retry_after),
                _ => self.retry.pause(repetition, failure.retry_after),
            };
            match (pause, failure.error) {
                (Pause::Wait(pause), _) => tokio::time::sleep(pause).await,
                (Pause::TooLong(wait), ClientError::Status { url, status, .. }) => {
                    return Err(ClientError::Later { url, status, wait_secs: wait.as_secs() });
                }
                (Pause::TooLong(_), error) => return Err(error),
            }
            self.repetitions.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn try_once<T>(
        &self,
        url: &str,
        request: RequestBuilder,
        read: impl Fn(Value) -> Result<T, Unusable>,
    ) -> Result<T, Failure> {
        let unreachable = |error: reqwest::Error| Failure {
            error: ClientError::Unreachable { url: url.to_owned(), problem: cause(&error) },
            again: true,
            retry_after: None,
        };
        let request = match &self.key {
            Some(ApiKey(key)) => request.bearer_auth(key),
            None => request,
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let retry_after = retry_after(response.headers(), chrono::Utc::now());
        let body = unpacked(response.bytes().await.map_err(unreachable)?.into());
        let failure = if status.is_success() {
            match read_body(&body, read) {
                Ok(read) => return Ok(read),
                Err(unusable) => Failure::of_body(url, &body, unusable),
            }
        } else {
            Failure::of_status(url, status.as_u16(), ErrorBody::of_failure(&body))
        };
        Err(Failure { retry_after, ..failure })
    }
}

/// A body as text: some servers and proxies compress it although nobody asked them to.
fn unpacked(body: Vec<u8>) -> Vec<u8> {
    let mut text = Vec::new();
    if body.starts_with(&[0x1f, 0x8b]) && GzDecoder::new(body.as_slice()).read_to_end(&mut text).is_ok() {
        return text;
    }
    body
}

/// Reads the body of a response with a good status.
fn read_body<T>(body: &[u8], read: impl Fn(Value) -> Result<T, Unusable>) -> Result<T, Unusable> {
    let is_stream = body.trim_ascii_start().starts_with(b"data:");
    match lenient_json::parse(body) {
        Ok(value) => read(value).map_err(|unusable| match unusable {
            Unusable::Malformed(problem) => {
                Unusable::Malformed(format!("{problem}; it begins `{}`", error_body::beginning(body)))
            }
            told => told,
        }),
        Err(_) if body.trim_ascii().is_empty() => Err(Unusable::Malformed("its body is empty".into())),
        Err(_) if is_stream => {
            let beginning = error_body::beginning(body);
            let problem = format!("a stream of events, although none was asked for; it begins `{beginning}`");
            Err(Unusable::Malformed(problem))
        }
        Err(error) => {
            let beginning = error_body::beginning(body);
            Err(Unusable::Malformed(format!("not JSON ({error}); it begins `{beginning}`")))
        }
    }
}

impl Failure {
    /// A response whose HTTP status says that it is an error.
    fn of_status(url: &str, status: u16, error: ErrorBody) -> Self {
        let again = error_body::is_passing(status) && !error.is_about_money();
        Self::of_error(url, Some(status), error, again)
    }

    /// A response with a good status and a body that is no reply.
    fn of_body(url: &str, body: &[u8], unusable: Unusable) -> Self {
        let url = || url.to_owned();
        let (error, again) = match unusable {
            Unusable::Failed(mut error) => {
                let again = error.is_passing().unwrap_or(true);
                error.message += " (the HTTP status was good)";
                return Self::of_error(&url(), error.status, error, again);
            }
            Unusable::Filtered(message) => (ClientError::Filtered { url: url(), message }, false),
            Unusable::Malformed(problem) => match error_body::web_page(body) {
                Some(title) => (ClientError::WebPage { url: url(), title }, false),
                None => (ClientError::Malformed { url: url(), problem }, true),
            },
        };
        Self { error, again, retry_after: None }
    }

    fn of_error(url: &str, status: Option<u16>, error: ErrorBody, again: bool) -> Self {
        let (url, ErrorBody { message, code, param, .. }) = (url.to_owned(), error);
        let is_filter = |code: &String| code.contains("content_filter") || code.contains("content_policy");
        let error = match status {
            Some(400) | None if code.as_ref().is_some_and(is_filter) => ClientError::Filtered { url, message },
            Some(status) => ClientError::Status { url, status, message, code, param },
            None => ClientError::Failed { url, message },
        };
        Self { error, again, retry_after: None }
    }
}

/// The address without a path that the client adds itself.
fn base(url: &Url) -> String {
    let mut base = url.clone();
    base.set_query(None);
    base.set_fragment(None);
    let base = base.as_str().trim_end_matches('/');
    let base = base.strip_suffix("/chat/completions").unwrap_or(base).trim_end_matches('/');
    if base.ends_with("/v1") { base.to_owned() } else { format!("{base}/v1") }
}

/// The innermost cause of a transport error: the outer ones repeat the address.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time; --timeout-secs (for a judge, --judge-timeout-secs) sets how long to wait".into();
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_accepted_with_or_without_its_path() {
        for endpoint in
            ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/", "http://h:1/v1/chat/completions"]
        {
            assert_eq!(base(&Url::parse(endpoint).unwrap()), "http://h:1/v1", "{endpoint}");
        }
        assert_eq!(base(&Url::parse("https://h/api/v1").unwrap()), "https://h/api/v1");
        for endpoint in ["localhost:8000", "ftp://h", ""] {
            let client = Client::new(endpoint, None, Duration::from_secs(1), Retry::default());
            assert!(matches!(client, Err(ClientError::Endpoint { .. })), "{endpoint}");
        }
    }

    /// The error that a body with a good status becomes, and whether the request is sent again.
    fn failure(body: &str) -> (String, bool) {
        let unusable = read_body(body.as_bytes(), Reply::accept).unwrap_err();
        let Failure { error, again, .. } = Failure::of_body("URL", body.as_bytes(), unusable);
        (error.to_string(), again)
    }

    #[test]
    fn a_good_status_with_an_error_is_an_error_whose_code_decides() {
        let good = "(the HTTP status was good)";
        for (body, message, again) in [
            (
                r#"{"error": {"message": "overloaded", "code": 429}}"#,
                format!("URL answered 429: overloaded {good}"),
                true,
            ),
            (
                r#"{"choices": null, "error": {"message": "no", "code": 400}}"#,
                format!("URL answered 400: no {good}"),
                false,
            ),
            (r#"{"error": "busy"}"#, format!("URL answered with an error: busy {good}"), true),
            (
                r#"{"choices": [{"message": {"content": "half"}, "finish_reason": "content_filter"}]}"#,
                "URL withheld the reply: its content filter says `content_filter`".to_owned(),
                false,
            ),
            ("", "URL sent a reply that cannot be used: its body is empty".to_owned(), true),
            ("{}", "URL sent a reply that cannot be used: it has no `choices`; it begins `{}`".to_owned(), true),
        ] {
            assert_eq!(failure(body), (message, again), "{body}");
        }
        let (message, again) = failure("<html><title>Log in</title></html>");
        assert!(message.starts_with("URL sent a web page instead of a reply (`Log in`)") && !again, "{message}");
        let (message, again) = failure(r#"data: {"choices": []}"#);
        assert!(
            message.contains("a stream of events")
                && message.ends_with(r#"it begins `data: {"choices": []}`"#)
                && again,
            "{message}"
        );
    }

    #[test]
    fn a_compressed_body_is_unpacked() {
        let mut encoder = flate2::read::GzEncoder::new(&b"{}"[..], flate2::Compression::fast());
        let mut packed = Vec::new();
        encoder.read_to_end(&mut packed).unwrap();
        assert_eq!(unpacked(packed.clone()), b"{}");
        packed.truncate(12);
        assert_eq!(unpacked(packed.clone()), packed);
        assert_eq!(unpacked(b"{}".to_vec()), b"{}");
    }

    #[test]
    fn a_bad_status_is_repeated_unless_waiting_is_of_no_use() {
        let again =
            |status, body: &str| Failure::of_status("URL", status, ErrorBody::of_failure(body.as_bytes())).again;
        assert!(
            again(429, "{}")
                && again(500, "{}")
                && again(529, r#"{"error": {"type": "overloaded_error", "message": "m"}}"#)
        );
        assert!(!again(400, "{}") && !again(401, r#"{"error": {"message": "m", "code": 500}}"#));
        assert!(!again(429, r#"{"error": {"message": "m", "code": "insufficient_quota"}}"#));
        assert!(again(500, r#"{"error": {"message": "m", "code": 400}}"#));
        let filtered = ErrorBody::of_failure(br#"{"error": {"message": "m", "code": "content_filter"}}"#);
        assert!(matches!(Failure::of_status("URL", 400, filtered).error, ClientError::Filtered { .. }));
    }

    #[test]
    fn a_key_is_not_shown() {
        let key = Some(ApiKey::new("sk-secret"));
        let client = Client::new("http://h", key, Duration::from_secs(1), Retry::default()).unwrap();
        assert!(!format!("{client:?}").contains("sk-secret"));
    }
}
