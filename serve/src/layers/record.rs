//! A record of every request: its id, a log line at its end, and the metrics.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::body::{Body, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use futures::StreamExt;
use futures::stream;

use crate::metrics::Metrics;
use crate::openai::ErrorKind;
use crate::state::{AppState, InFlight};

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_ID_BYTES: usize = 128;
/// How nginx calls the end of a request whose client did not wait for it.
const CLIENT_GONE: u16 = 499;

/// The address that a connection comes from.
#[derive(Debug, Clone, Copy)]
pub struct Client(pub SocketAddr);

tokio::task_local! {
    static CURRENT: Arc<Record>;
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
    client: Option<SocketAddr>,
    /// The name of the API key.
    pub(crate) key: OnceLock<String>,
    pub(crate) metrics: Arc<Metrics>,
    prompt_tokens: AtomicUsize,
    completion_tokens: AtomicUsize,
}

impl Record {
    fn new(request: &Request, metrics: Arc<Metrics>) -> Self {
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
    pub(super) fn of_key(&self, name: &str) {
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

/// Keeps the record until the last byte of the answer is handed over, or the client is gone.
pub(super) async fn recorded(State(state): State<Arc<AppState>>, request: Request, next: Next) -> Response {
    let record = Arc::new(Record::new(&request, state.metrics.clone()));
    let mut end = End { record: record.clone(), status: CLIENT_GONE, error: None, _in_flight: state.in_flight() };
    let id = HeaderValue::from_str(&record.id);
    let mut response = CURRENT.scope(record, next.run(request)).await;
    if let Ok(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let status = response.status().as_u16();
    end.error = response.extensions().get::<ErrorKind>().map(|kind| kind.code());
    if response.body().size_hint().exact().is_some() {
        end.with(status);
        return response;
    }
    response.map(|body| {
        let ended = stream::once(async move { end.with(status) }).filter_map(|()| std::future::ready(None));
        Body::from_stream(body.into_data_stream().chain(ended))
    })
}

/// Logs and counts when dropped.
struct End {
    record: Arc<Record>,
    status: u16,
    error: Option<&'static str>,
    _in_flight: InFlight,
}

impl End {
    /// The answer was handed over whole.
    fn with(mut self, status: u16) {
        self.status = status;
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let Self { record, status, error, .. } = self;
        record.metrics.request(record, *status, *error);
        let tokens = |count: &AtomicUsize| Some(count.load(Ordering::Relaxed)).filter(|&count| count > 0);
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    request_id = %record.id,
                    client = record.client.map(tracing::field::display),
                    method = %record.method,
                    route = %record.route,
                    status = *status,
                    error = *error,
                    milliseconds = record.arrived.elapsed().as_millis() as u64,
                    prompt_tokens = tokens(&record.prompt_tokens),
                    completion_tokens = tokens(&record.completion_tokens),
                    api_key = record.key.get().map(String::as_str),
                    "request"
                )
            };
        }
        // What asks every few seconds would drown the rest.
        if super::WATCHED_ROUTES.contains(&record.route.as_str()) { line!(debug) } else { line!(info) }
    }
}
