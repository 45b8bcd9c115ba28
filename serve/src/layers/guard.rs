//! Protection against web pages of other sites. A server without keys answers anyone who can reach it, and any page can make
//! the browser on the same machine reach it. So requests from foreign pages are refused, and so are requests that call the
//! server by a foreign name (DNS rebinding).
//!
//! Where there are keys none of this is needed: a foreign page has no key.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::openai::{ApiError, ErrorKind};
use crate::state::AppState;

/// Refuses requests of foreign pages and for foreign names.
pub(super) async fn own_pages(State(state): State<Arc<AppState>>, request: Request, next: Next) -> Response {
    if state.access.keys.is_some() {
        return next.run(request).await;
    }
    let headers = request.headers();
    let host = text(headers, header::HOST.as_str());
    if let Some(host) = host.filter(|host| !state.access.hosts.allow(host)) {
        let message = format!("this server is not called `{}`; start it with --allowed-host if it is", shown(host));
        return ApiError::new(ErrorKind::ForeignHost, message).into_response();
    }
    let origin = text(headers, header::ORIGIN.as_str());
    let sent = headers.get(header::ORIGIN);
    let is_own = |origin: &str| {
        let authority = origin.split_once("://").map_or("", |(_, authority)| authority);
        let by_browser = text(headers, "sec-fetch-site") == Some("same-origin");
        by_browser || host.is_some_and(|host| host.eq_ignore_ascii_case(authority))
    };
    let is_allowed = sent.is_some_and(|sent| state.access.origins.iter().any(|listed| listed.allows(sent)));
    if let Some(origin) = origin.filter(|origin| !is_own(origin) && !is_allowed) {
        let message = format!("pages of `{}` may not ask this server; allow them with --cors-origin", shown(origin));
        return ApiError::new(ErrorKind::ForeignOrigin, message).into_response();
    }
    next.run(request).await
}

/// Refuses bodies that are not announced as JSON, because a browser sends others for every page without asking first,
/// and compressed ones, which the server does not unpack.
pub(super) async fn json_only(request: Request, next: Next) -> Response {
    let kind = text(request.headers(), header::CONTENT_TYPE.as_str());
    let coding = text(request.headers(), header::CONTENT_ENCODING.as_str());
    if request.method() == Method::POST
        && let Some(coding) = coding.filter(|coding| !coding.trim().eq_ignore_ascii_case("identity"))
    {
        let coding = shown(coding);
        let message = format!(
            "the body is compressed (`Content-Encoding: {coding}`); send it as plain JSON, without that header"
        );
        let mut response = ApiError::new(ErrorKind::NotJson, message).into_response();
        response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        return response;
    }
    if request.method() != Method::POST || kind.is_some_and(is_json) {
        return next.run(request).await;
    }
    let message = "send the body as JSON, with the header `Content-Type: application/json`";
    ApiError::new(ErrorKind::NotJson, message).into_response()
}

fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    // A value that is not text names nobody.
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

/// A header for a message: short.
fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_several_names() {
        for json in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"] {
            assert!(is_json(json), "{json}");
        }
        for other in ["", "text/plain", "application/x-www-form-urlencoded", "text/json", "multipart/form-data"] {
            assert!(!is_json(other), "{other}");
        }
    }
}
