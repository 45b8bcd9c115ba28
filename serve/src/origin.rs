//! Origins whose pages may ask from a browser.

use std::str::FromStr;

use axum::http::HeaderValue;

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
    /// True if this is `origin`, or any.
    pub(crate) fn allows(&self, origin: &HeaderValue) -> bool {
        self.0 == "*" || self.0 == origin
    }

    /// As the header that allows it.
    pub(crate) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
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
            assert!(given.parse::<Origin>().unwrap().allows(&HeaderValue::from_static(sent)), "{given}");
        }
    }
}
