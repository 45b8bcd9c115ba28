//! What is known of a request while it is answered, wherever its handler runs.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName};

use crate::metrics::Metrics;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_ID_BYTES: usize = 128;

/// The address that a connection comes from.
#[derive(Debug, Clone, Copy)]
pub struct Client(pub SocketAddr);

tokio::task_local! {
    pub(crate) static CURRENT: Arc<Record>;
}

/// What is known of a request while it is answered.
#[derive(Debug)]
pub struct Record {
    pub(crate) id: String,
    pub(crate) method: String,
    /// The pattern that the path matched, so that the number of routes is bounded.
    pub(crate) route: String,
    pub(crate) arrived: Instant,
    /// Where it comes from.
    pub(crate) client: Option<SocketAddr>,
    /// The name of the API key.
    pub(crate) key: OnceLock<String>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) prompt_tokens: AtomicUsize,
    pub(crate) completion_tokens: AtomicUsize,
}

impl Record {
    pub(crate) fn new(request: &Request, metrics: Arc<Metrics>) -> Self {
        let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_string();
        // Methods can be made up, too.
        let known = ["GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"];
        let method = known.into_iter().find(|known| *known == request.method()).unwrap_or("other").to_string();
        Self {
            id: given_id(request.headers()).unwrap_or_else(|| format!("req_{}", uuid::Uuid::new_v4().simple())),
            method,
            route,
            arrived: Instant::now(),
            client: request.extensions().get::<Client>().map(|client| client.0),
            key: OnceLock::new(),
            metrics,
            prompt_tokens: AtomicUsize::new(0),
            completion_tokens: AtomicUsize::new(0),
        }
    }

    /// The record of the request whose handler calls this.
    pub fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Notes whose key it came with.
    pub(crate) fn of_key(&self, name: &str) {
        let _ = self.key.set(name.to_string());
    }

    /// Adds tokens for the log line.
    pub fn count_tokens(&self, prompt: usize, completion: usize) {
        self.prompt_tokens.fetch_add(prompt, Ordering::Relaxed);
        self.completion_tokens.fetch_add(completion, Ordering::Relaxed);
    }
}

/// The client's own id, if it is fit for a log.
fn given_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let is_fit = !id.is_empty() && id.len() <= MAX_ID_BYTES && id.bytes().all(|byte| byte.is_ascii_graphic());
    is_fit.then(|| id.to_string())
}
