//! Which pages of other origins may talk to the server from a browser: those on the list, and by default none.

use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::state::AppState;

/// An origin as browsers name it, `https://example.org` or `http://localhost:3000`, or `*` for all.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin(HeaderValue);

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self(HeaderValue::from_static("*")));
        }
        const FORM: &str = "must be `*` or SCHEME://HOST[:PORT], without a path or a slash at the end";
        // Browsers send it in lower case, and without the port that the scheme has anyway.
        let text = text.to_ascii_lowercase();
        let (scheme, authority) = text.split_once("://").ok_or(FORM)?;
        let (host, port) = match authority.rsplit_once(':') {
            // The colon is within an IPv6 address.
            Some((_, end)) if end.ends_with(']') => (authority, None),
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        };
        if scheme.is_empty() || host.is_empty() || authority.contains(['/', '?', '#', '@', ' ', '*']) {
            return Err(FORM.into());
        }
        if port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return Err("the port must be a number; repeat the option for several ports".into());
        }
        let implied = match scheme {
            "http" => Some("80"),
            "https" => Some("443"),
            _ => None,
        };
        let port = port.filter(|port| Some(*port) != implied).map_or_else(String::new, |port| format!(":{port}"));
        HeaderValue::from_str(&format!("{scheme}://{host}{port}")).map(Self).map_err(|error| error.to_string())
    }
}

impl Origin {
    fn is_any(&self) -> bool {
        self.0 == "*"
    }

    /// True if this is `origin`, or any.
    pub(super) fn allows(&self, origin: &str) -> bool {
        self.is_any() || self.0 == origin
    }
}

/// Answers the question that a browser asks first, and marks answers that an allowed page may read.
pub(super) async fn for_pages(State(state): State<Arc<AppState>>, request: Request, next: Next) -> Response {
    let origins = &state.access.origins;
    let asking = request.headers().get(header::ORIGIN).cloned();
    let allowed =
        asking.and_then(|asking| origins.iter().find(|origin| origin.is_any() || origin.0 == asking)).cloned();
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
    if let Some(Origin(origin)) = allowed {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let readable = HeaderValue::from_static("x-request-id, retry-after, x-unchecked-keywords");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, readable);
    }
    if !origins.is_empty() {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_have_no_path() {
        for good in ["*", "https://example.org", "http://localhost:3000", "HTTP://[::1]:80"] {
            assert!(good.parse::<Origin>().is_ok(), "{good}");
        }
        for bad in ["", "example.org", "https://", "https://example.org/", "https://a b", "null", "https://u@h"] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
        for bad in [
            "http://localhost:*",
            "http://localhost:",
            "http://localhost:80/x",
            "http://*.example.org",
            "http://h:99999",
        ] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_port_that_browsers_leave_out_is_left_out() {
        for (given, sent) in [
            ("http://example.org:80", "http://example.org"),
            ("https://Example.org:443", "https://example.org"),
            ("http://[::1]:80", "http://[::1]"),
            ("http://[::1]", "http://[::1]"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("https://example.org:80", "https://example.org:80"),
        ] {
            assert!(given.parse::<Origin>().unwrap().allows(sent), "{given}");
        }
    }
}
