//! Where a client is sent that a rule redirects (Gateway API v1.6, HTTPRequestRedirectFilter).

use crate::snapshot::{Redirect, Scheme};

/// A request that is redirected, as far as it says where it went.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The host as its client named it, of IPv6 in brackets.
    pub host: &'a str,
    /// The port that it named.
    pub port: Option<u16>,
    /// The port of the service that it came to.
    pub service_port: u16,
    /// As it came.
    pub path: &'a str,
    pub query: Option<&'a str>,
}

/// The value of `Location`. Requests inside the mesh are plain HTTP to their client. The port: what the filter says, else what
/// goes with the scheme that it says, else that which the client used where host and scheme stay, else the service's. One
/// that goes without saying is not said.
pub fn location(redirect: &Redirect, asked: Asked<'_>) -> String {
    let scheme = redirect.scheme.unwrap_or(Scheme::Http);
    let host = redirect.hostname.as_deref().unwrap_or(asked.host);
    let port = match (redirect.port, redirect.scheme, &redirect.hostname) {
        (Some(port), ..) => port,
        (None, Some(scheme), _) => scheme.well_known_port(),
        (None, None, None) => asked.port.unwrap_or(asked.service_port),
        (None, None, Some(_)) => asked.service_port,
    };
    let port = if port == scheme.well_known_port() { String::new() } else { format!(":{port}") };
    let path = redirect.path.as_ref().map(|rewrite| rewrite.apply(asked.path));
    let path = path.as_deref().unwrap_or(asked.path);
    // Of `OPTIONS *`: there is no such place.
    let path = if path.starts_with('/') { path } else { "/" };
    let query = asked.query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}://{host}{port}{path}{query}", scheme.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::PathRewrite;

    #[test]
    fn what_is_not_said_stays_as_the_client_had_it() {
        let asked =
            Asked { host: "c.shop", port: None, service_port: 8080, path: "/a/b", query: Some("x=%20") };
        let at = |port| Asked { port: Some(port), ..asked };
        let (http, https) = (Some(Scheme::Http), Some(Scheme::Https));
        let full = Some(PathRewrite::Full("/all".into()));
        let prefix = Some(PathRewrite::Prefix { matched: "/a".into(), replacement: String::new() });
        for (scheme, hostname, port, path, asked, expected) in [
            (None, None, None, None, asked, "http://c.shop:8080/a/b?x=%20"),
            (None, None, None, None, at(80), "http://c.shop/a/b?x=%20"),
            (None, None, None, None, at(4711), "http://c.shop:4711/a/b?x=%20"),
            (None, Some("d.org"), None, None, at(4711), "http://d.org:8080/a/b?x=%20"),
            (None, Some("d.org"), None, None, Asked { service_port: 80, ..asked }, "http://d.org/a/b?x=%20"),
            (https, None, None, None, at(4711), "https://c.shop/a/b?x=%20"),
            (http, None, None, None, at(4711), "http://c.shop/a/b?x=%20"),
            (http, None, Some(443), None, asked, "http://c.shop:443/a/b?x=%20"),
            (https, None, Some(443), None, asked, "https://c.shop/a/b?x=%20"),
            (None, None, Some(8081), full, asked, "http://c.shop:8081/all?x=%20"),
            (None, None, Some(80), prefix, Asked { query: None, ..asked }, "http://c.shop/b"),
            (None, None, Some(80), None, Asked { path: "*", query: None, ..asked }, "http://c.shop/"),
        ] {
            let hostname = hostname.map(Into::into);
            let redirect = Redirect { index: 0, scheme, hostname, port, path, status: 302 };
            assert_eq!(location(&redirect, asked), expected);
        }
    }
}
