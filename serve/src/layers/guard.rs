//! Protection against web pages of other sites. A server without keys answers anyone who can reach it, and any page can make
//! the browser on the same machine reach it. So requests from foreign pages are refused, and so are requests that call the
//! server by a foreign name (DNS rebinding).
//!
//! Where there are keys none of this is needed: a foreign page has no key.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::openai::{ApiError, ErrorKind};
use crate::state::AppState;

/// The names by which clients may call the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Hosts {
    /// Any.
    #[default]
    Any,
    /// `localhost`, IP addresses, and these.
    Named(Vec<String>),
}

/// Reads a name of `--allowed-host`. Ports are no part of it: a page that gives the machine another name cannot choose
/// the port that the server listens on, and behind a proxy the port is another one.
///
/// # Errors
/// When it is not the name of a host.
pub fn host_name(text: &str) -> Result<String, String> {
    let name = without_port(text.trim()).trim_end_matches('.');
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '[' | ']' | ':');
    if name.is_empty() || !name.chars().all(is_name) {
        return Err("must be the name of a host, as serve.example, without scheme, path or `*`".into());
    }
    Ok(name.to_ascii_lowercase())
}

impl Hosts {
    /// True if a `Host` header names the server.
    fn allow(&self, host: &str) -> bool {
        let Self::Named(names) = self else { return true };
        let name = without_port(host).to_ascii_lowercase();
        let name = name.trim_end_matches('.');
        let is_address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        let is_local = name == "localhost" || name.ends_with(".localhost");
        is_address || is_local || names.iter().any(|known| known.eq_ignore_ascii_case(name))
    }
}

/// The host of `host:port`; IPv6 addresses stay in brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

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
    let is_own = |origin: &str| {
        let authority = origin.split_once("://").map_or("", |(_, authority)| authority);
        let by_browser = text(headers, "sec-fetch-site") == Some("same-origin");
        by_browser || host.is_some_and(|host| host.eq_ignore_ascii_case(authority))
    };
    let allowed = |origin: &str| state.access.origins.iter().any(|listed| listed.allows(origin));
    if let Some(origin) = origin.filter(|origin| !is_own(origin) && !allowed(origin)) {
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
    fn the_server_has_local_names_addresses_and_those_it_is_given() {
        let hosts = Hosts::Named(vec!["serve.example".into()]);
        for own in [
            "localhost",
            "LOCALHOST:8000",
            "a.localhost:1",
            "127.0.0.1:8000",
            "[::1]:8000",
            "[::1]",
            "10.0.0.7:80",
            "serve.example",
            "Serve.Example.:8000",
        ] {
            assert!(hosts.allow(own), "{own}");
        }
        for foreign in ["", "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example"] {
            assert!(!hosts.allow(foreign), "{foreign}");
        }
        assert!(Hosts::Any.allow("evil.example"));
    }

    #[test]
    fn a_listed_name_may_come_with_a_port() {
        for text in ["serve.example:8000", "Serve.Example", "serve.example.", " serve.example:443"] {
            let hosts = Hosts::Named(vec![host_name(text).unwrap()]);
            assert!(hosts.allow("serve.example:8000") && hosts.allow("serve.example"), "{text}");
            assert!(!hosts.allow("evil.example:8000"), "{text}");
        }
        for text in ["", "*", "*.example", "https://serve.example", "serve.example/x", ":80"] {
            assert!(host_name(text).is_err(), "{text}");
        }
    }

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
