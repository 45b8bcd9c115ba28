//! Which pages of other origins may talk to the server from a browser: those on the list, and by default none.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::origin::Origin;
use crate::state::AppState;

/// Answers the question that a browser asks first, and marks answers that an allowed page may read.
pub(super) async fn for_pages(State(state): State<Arc<AppState>>, request: Request, next: Next) -> Response {
    let origins = &state.access.origins;
    let asking = request.headers().get(header::ORIGIN);
    let allowed = asking.and_then(|asking| origins.iter().find(|origin| origin.allows(asking))).map(Origin::header);
    let is_question =
        request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match &allowed {
        Some(_) if is_question => {
            let wanted = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
            let mut response = StatusCode::NO_CONTENT.into_response();
            let headers = response.headers_mut();
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
            // Official clients send a dozen of their own.
            headers.extend(wanted.map(|wanted| (header::ACCESS_CONTROL_ALLOW_HEADERS, wanted)));
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
            response
        }
        _ => next.run(request).await,
    };
    let headers = response.headers_mut();
    if let Some(origin) = allowed {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let readable = HeaderValue::from_static("x-request-id, retry-after, x-unchecked-keywords");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, readable);
    }
    if !origins.is_empty() {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
    response
}
