//! What stands around every request, whatever its route.
//!
//! From the outside in: the record (id, log line, metrics), CORS, panics, foreign pages, the API key, the end of the
//! server, the body.
//! So a refusal by any of them has an id, is logged and counted, and can be read by an allowed page.

mod cors;
mod guard;
mod record;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures::{FutureExt, StreamExt};
use tokio::time::timeout;

use crate::openai::{ApiError, ErrorKind};
use crate::record::Record;
use crate::state::AppState;

/// How long the next bytes of a body may take.
const BODY_PAUSE: Duration = Duration::from_secs(10);
/// The routes that need no key: two that tell nothing but yes or no, and the page, which holds no secret and asks for
/// the key itself.
const OPEN_ROUTES: [&str; 3] = ["/health", "/ready", "/"];
/// The routes that answer as ever while the server finishes what runs. `/ready` then says no by itself.
const WATCHED_ROUTES: [&str; 3] = ["/health", "/ready", "/metrics"];

/// Puts all layers around `router`.
pub fn around(router: Router, state: &Arc<AppState>) -> Router {
    // What is added last is met first.
    router
        .layer(from_fn_with_state(state.clone(), whole_body))
        .layer(from_fn(guard::json_only))
        .layer(DefaultBodyLimit::max(state.limits.max_body_bytes))
        .layer(from_fn_with_state(state.clone(), while_running))
        .layer(from_fn_with_state(state.clone(), with_key))
        .layer(from_fn_with_state(state.clone(), guard::own_pages))
        .layer(from_fn(without_panic))
        .layer(from_fn_with_state(state.clone(), cors::for_pages))
        .layer(from_fn_with_state(state.clone(), record::recorded))
}

fn is_one_of(request: &Request, routes: &[&str]) -> bool {
    request.extensions().get::<MatchedPath>().is_some_and(|path| routes.contains(&path.as_str()))
}

/// A panic of this request is this request's 500. Its message went to stderr.
async fn without_panic(request: Request, next: Next) -> Response {
    AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(|_| {
        let message = "the server failed on this request; its log says why";
        ApiError::new(ErrorKind::Internal, message).into_response()
    })
}

/// Lets through who has a key, if there are keys.
async fn with_key(State(state): State<Arc<AppState>>, request: Request, next: Next) -> Response {
    let Some(keys) = state.access.keys.as_ref().filter(|_| !is_one_of(&request, &OPEN_ROUTES)) else {
        return next.run(request).await;
    };
    let key = bearer(request.headers());
    let Some(name) = key.and_then(|key| keys.name_of(key)) else {
        let message = match key {
            Some(_) => "this API key is not one of this server's",
            None => "this server wants an API key; send the header `Authorization: Bearer KEY`",
        };
        let mut response = ApiError::new(ErrorKind::InvalidApiKey, message).into_response();
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return response;
    };
    if let Some(record) = Record::current() {
        record.of_key(name);
    }
    next.run(request).await
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// Refuses what comes after the server was told to stop.
async fn while_running(State(state): State<Arc<AppState>>, request: Request, next: Next) -> Response {
    if !state.is_stopping() || is_one_of(&request, &WATCHED_ROUTES) {
        return next.run(request).await;
    }
    let error = ApiError::new(ErrorKind::Stopping, "the server is stopping; retry in a moment or elsewhere");
    let mut response = error.into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Reads the body before the handler runs, so that a slow or endless one is refused the same way everywhere.
async fn whole_body(State(state): State<Arc<AppState>>, request: Request, next: Next) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let limits = &state.limits;
    let limit = limits.body_timeout.min(limits.request_timeout);
    let bytes = timeout(limit, read(body, limits.max_body_bytes)).await.map_err(|_| timed_out())??;
    if state.access.log_prompts && !bytes.is_empty() {
        let id = Record::current().map(|record| record.id.clone());
        tracing::info!(request_id = id, body = %String::from_utf8_lossy(&bytes), "request body");
    }
    Ok(next.run(Request::from_parts(parts, Body::from(bytes))).await)
}

/// A body of at most `limit` bytes that does not pause for long.
async fn read(body: Body, limit: usize) -> Result<Vec<u8>, ApiError> {
    let too_large = || {
        let message = format!("the request body is larger than {limit} bytes; send less");
        ApiError::new(ErrorKind::BodyTooLarge, message)
    };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = timeout(BODY_PAUSE, chunks.next()).await.map_err(|_| timed_out())? {
        let chunk = chunk
            .map_err(|_| ApiError::new(ErrorKind::BodyUnreadable, "the request body could not be read to its end"))?;
        if bytes.len() + chunk.len() > limit {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn timed_out() -> ApiError {
    ApiError::new(ErrorKind::BodyTimedOut, "the request body did not arrive in time")
}
