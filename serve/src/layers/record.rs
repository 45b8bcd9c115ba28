//! A record of every request: its id, a log line at its end, and the metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::middleware::Next;
use axum::response::Response;
use futures::StreamExt;
use futures::stream;

use crate::metrics::Answer;
use crate::openai::ErrorKind;
use crate::record::{CURRENT, REQUEST_ID, Record};
use crate::state::{AppState, InFlight};

/// How nginx calls the end of a request whose client did not wait for it.
const CLIENT_GONE: u16 = 499;

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
        record.metrics.request(&Answer {
            route: &record.route,
            method: &record.method,
            key: record.key.get().map_or("", String::as_str),
            arrived: record.arrived,
            status: *status,
            error: *error,
        });
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
