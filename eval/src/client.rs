//! A client of OpenAI-compatible servers: model list and chat completions, with bounded retries.
//!
//! A request is tried again after a connection error, a timeout, a reply that is cut off or malformed, and the statuses
//! 408, 409, 425, 429 and 5xx; any other status is the server's last word. [`Retry`] says how long to wait between
//! tries.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::{RequestBuilder, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 asks for the likeliest token every time.
    pub temperature: f64,
    /// The most tokens of a reply.
    pub max_tokens: u32,
    /// The probability mass that tokens are drawn from; without it, what the server prefers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// The seed of the sampling; without it, what the server prefers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
}

#[derive(Serialize)]
struct ChatRequest<'a> {
    model: &'a str,
    messages: &'a [Message],
    #[serde(flatten)]
    sampling: &'a Sampling,
}

/// A reply to a chat request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatReply {
    /// The text; empty where the server gave none. Reasoning that the server keeps apart (`reasoning_content`,
    /// `reasoning`) is no part of it.
    pub content: String,
    /// Why the server stopped: `stop`, `length`, ...
    pub finish_reason: Option<String>,
    /// The tokens of the request and of the reply, where the server counts them.
    pub usage: Option<Usage>,
}

/// Token counts of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the messages.
    pub prompt_tokens: u64,
    /// Tokens of the reply.
    pub completion_tokens: u64,
}

#[derive(Deserialize)]
struct ChatResponse {
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    message: ReplyMessage,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct ReplyMessage {
    content: Option<String>,
}

#[derive(Deserialize)]
struct ModelList {
    data: Vec<ModelCard>,
}

/// A model that a server lists.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ModelCard {
    /// Its name.
    pub id: String,
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
        /// The HTTP status.
        status: u16,
        /// The message of the error object, or the beginning of the body.
        message: String,
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
    /// Whether the server is away: nobody listens, or what stands before it, or it itself while it starts or ends, says
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
        let list: ModelList = self.send(&url, || self.http.get(&url), async || ()).await?;
        Ok(list.data)
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

    /// Asks for one reply.
    ///
    /// # Errors
    /// When no try brought a usable reply.
    pub async fn chat(&self, model: &str, messages: &[Message], sampling: &Sampling) -> Result<ChatReply, ClientError> {
        let response: ChatResponse = self.post_chat(&ChatRequest { model, messages, sampling }, async || ()).await?;
        let url = self.chat_url();
        let usage = response.usage;
        let Some(choice) = response.choices.into_iter().next() else {
            return Err(ClientError::Malformed { url, problem: "`choices` is empty".into() });
        };
        let content = choice.message.content.unwrap_or_default();
        Ok(ChatReply { content, finish_reason: choice.finish_reason, usage })
    }

    /// Sends any body to the chat route and reads the reply as `T`; a reply that is no `T` is asked for again. Every try
    /// waits for `before_try` first, which may hold it back.
    ///
    /// # Errors
    /// When no try brought a usable reply.
    pub async fn post_chat<T: DeserializeOwned>(
        &self,
        body: &impl Serialize,
        before_try: impl AsyncFn(),
    ) -> Result<T, ClientError> {
        let url = self.chat_url();
        self.send(&url, || self.http.post(&url).json(body), before_try).await
    }

    fn chat_url(&self) -> String {
        format!("{}/chat/completions", self.base)
    }

    /// Sends a request, again and again as far as the policy allows, and reads the reply.
    async fn send<T: DeserializeOwned>(
        &self,
        url: &str,
        request: impl Fn() -> RequestBuilder,
        before_try: impl AsyncFn(),
    ) -> Result<T, ClientError> {
        let mut repetition = 0;
        let mut away_since = None;
        loop {
            before_try().await;
            let failure = match self.try_once(url, request()).await {
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

    async fn try_once<T: DeserializeOwned>(&self, url: &str, request: RequestBuilder) -> Result<T, Failure> {
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
        let body = response.bytes().await.map_err(unreachable)?;
        if !status.is_success() {
            return Err(Failure {
                error: ClientError::Status { url: url.to_owned(), status: status.as_u16(), message: message(&body) },
                again: is_passing(status),
                retry_after,
            });
        }
        serde_json::from_slice(&body).map_err(|error| Failure {
            error: ClientError::Malformed { url: url.to_owned(), problem: error.to_string() },
            again: true,
            retry_after: None,
        })
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

/// Whether a status may be another one later.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 408 | 409 | 425 | 429)
}

/// The message of an OpenAI error object, else the beginning of the body.
fn message(body: &[u8]) -> String {
    let object: Option<Value> = serde_json::from_slice(body).ok();
    let error = object.as_ref().and_then(|object| object.get("error"));
    let text = error.and_then(|error| error.get("message").or(Some(error))).and_then(|message| message.as_str());
    match text {
        Some(text) => text.to_owned(),
        None => String::from_utf8_lossy(body).trim().chars().take(200).collect(),
    }
}

/// The innermost cause of a transport error: the outer ones repeat the address.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time; --timeout-secs sets how long to wait".into();
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

    #[test]
    fn error_bodies_are_read_for_their_message() {
        assert_eq!(message(br#"{"error": {"message": "too long"}}"#), "too long");
        assert_eq!(message(br#"{"error": "busy"}"#), "busy");
        assert_eq!(message(b"<html>"), "<html>");
    }

    #[test]
    fn a_key_is_not_shown() {
        let key = Some(ApiKey::new("sk-secret"));
        let client = Client::new("http://h", key, Duration::from_secs(1), Retry::default()).unwrap();
        assert!(!format!("{client:?}").contains("sk-secret"));
    }
}
