//! The names by which clients may call the server.

use std::net::IpAddr;

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
    pub(crate) fn allow(&self, host: &str) -> bool {
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
}
