//! Whom a rule lets read answers from pages of other origins, as it is compiled (Gateway API v1.6, HTTPCORSFilter).

use std::fmt;

use http::{HeaderName, HeaderValue};

use super::Scheme;

/// What decides over requests of other origins: see [`crate::routing::cors`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// Its place among the filters of the rule, or backend.
    pub index: u32,
    pub origins: AllowedOrigins,
    pub credentials: bool,
    pub methods: Listing,
    pub headers: Listing,
    pub exposed: Listing,
    /// For how many seconds a browser may keep the answer to a preflight.
    pub max_age: u32,
}

impl Cors {
    /// How long that is where nothing is said.
    pub const MAX_AGE: u32 = 5;
}

/// The origins that a rule allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedOrigins {
    Any,
    /// Those that one of these matches.
    These(Vec<OriginPattern>),
}

/// Origins of one scheme and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginPattern {
    pub scheme: Scheme,
    pub host: OriginHost,
    pub port: u16,
}

/// Hosts, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginHost {
    Any,
    /// Whatever ends with that, which begins with a dot.
    Below(String),
    Exact(String),
}

impl OriginPattern {
    /// Reads one such as `https://*.d.org:8443`. The error says what it must be.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "must be `*`, or `http://` or `https://` with a host and perhaps a port, such as `https://shop.example:8443`";
        const HOST: &str = "must have a host of letters, digits, `-` and `.`, or `*` in the place of it or of its first labels (`*.`)";
        const PORT: &str = "must have a port from 1 to 65535";
        let (scheme, authority) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (Scheme::Http, rest),
            (_, Some(rest)) => (Scheme::Https, rest),
            _ => return Err(FORM),
        };
        if authority.contains(['/', '?', '#', '@']) {
            return Err(FORM);
        }
        let (host, port) = match authority.split_once(':') {
            None => (authority, scheme.well_known_port()),
            Some((host, port)) => (host, port_of(port).ok_or(PORT)?),
        };
        let is_label = |label: &str| {
            !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        let (below, labels) = host.strip_prefix("*.").map_or((false, host), |labels| (true, labels));
        let host = match host {
            "*" => OriginHost::Any,
            _ if !labels.split('.').all(is_label) => return Err(HOST),
            _ if below => OriginHost::Below(host[1..].to_ascii_lowercase()),
            _ => OriginHost::Exact(host.to_ascii_lowercase()),
        };
        Ok(Self { scheme, host, port })
    }

    /// Whether an origin is one of these. Letters are the same in upper and lower case.
    pub fn matches(&self, origin: &Origin<'_>) -> bool {
        let host = origin.host.as_bytes();
        let is_host = match &self.host {
            OriginHost::Any => true,
            OriginHost::Exact(exact) => host.eq_ignore_ascii_case(exact.as_bytes()),
            OriginHost::Below(end) => host
                .len()
                .checked_sub(end.len())
                .is_some_and(|at| at > 0 && host[at..].eq_ignore_ascii_case(end.as_bytes())),
        };
        is_host && self.scheme == origin.scheme && self.port == origin.port
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.scheme.as_str();
        match &self.host {
            OriginHost::Any => write!(f, "{scheme}://*")?,
            OriginHost::Below(end) => write!(f, "{scheme}://*{end}")?,
            OriginHost::Exact(exact) => write!(f, "{scheme}://{exact}")?,
        }
        match self.port == self.scheme.well_known_port() {
            true => Ok(()),
            false => write!(f, ":{}", self.port),
        }
    }
}

/// An origin, as requests name theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    pub scheme: Scheme,
    pub host: &'a str,
    pub port: u16,
}

impl<'a> Origin<'a> {
    /// `None`: it is `null`, of another scheme, or none at all.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        let end = match authority.starts_with('[') {
            true => authority.find(']')? + 1,
            false => authority.find(':').unwrap_or(authority.len()),
        };
        let (host, port) = authority.split_at(end);
        let port = match port {
            "" => scheme.well_known_port(),
            port => port_of(port.strip_prefix(':')?)?,
        };
        // What else there is in an authority could pass for the end of a host.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let is_host = match host.strip_prefix('[') {
            Some(address) => address.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(plain),
        };
        is_host.then_some(Self { scheme, host, port })
    }
}

fn port_of(digits: &str) -> Option<u16> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|port| plain && *port > 0)
}

/// Names of methods or header fields, as they are told to browsers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// `None`: there are none.
    text: Option<HeaderValue>,
    any: bool,
}

impl Listing {
    /// Names with `, ` between them; `*` stands for any. `None`: one is no name.
    pub fn new(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::default());
        }
        let mut any = false;
        for name in text.split(", ") {
            HeaderName::from_bytes(name.as_bytes()).ok()?;
            any |= name == "*";
        }
        Some(Self { text: Some(HeaderValue::from_str(text).ok()?), any })
    }

    /// `None`: there are none.
    pub fn text(&self) -> Option<&HeaderValue> {
        self.text.as_ref()
    }

    /// Whether all are meant.
    pub fn is_any(&self) -> bool {
        self.any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_allowed_by_scheme_host_and_port() {
        for (pattern, origin, expected) in [
            ("https://foo.example", "https://foo.example", true),
            ("https://FOO.example", "https://foo.Example", true),
            ("https://foo.example", "https://foo.example:443", true),
            ("https://foo.example:443", "https://foo.example", true),
            ("https://foo.example", "http://foo.example", false),
            ("https://foo.example", "https://foo.example:8443", false),
            ("https://foo.example", "http://foo.example:443", false),
            ("http://foo.example", "http://foo.example:80", true),
            ("http://foo.example:8080", "http://foo.example:8080", true),
            ("http://foo.example:8080", "http://foo.example", false),
            ("https://foo.example", "https://a.foo.example", false),
            ("https://foo.example", "https://foo.example.org", false),
            ("https://*.bar.com", "https://www.bar.com", true),
            ("https://*.bar.com", "https://xpto.www.BAR.com", true),
            ("https://*.bar.com", "https://bar.com", false),
            ("https://*.bar.com", "https://.bar.com", false),
            ("https://*.bar.com", "https://foobar.com", false),
            ("https://*.bar.com", "https://www.bar.com:8443", false),
            ("https://*.bar.com:8443", "https://www.bar.com:8443", true),
            ("https://*.bar.com", "https://www.bar.com.evil.org", false),
            ("https://*", "https://foo.example", true),
            ("https://*", "https://[::1]", true),
            ("https://*", "https://foo.example:8443", false),
            ("https://*", "http://foo.example", false),
            ("http://*:8080", "http://10.0.0.1:8080", true),
        ] {
            let read = OriginPattern::parse(pattern).unwrap();
            let matches = read.matches(&Origin::parse(origin).unwrap());
            assert_eq!(matches, expected, "{pattern} {origin}");
            assert_eq!(OriginPattern::parse(&read.to_string()), Ok(read), "{pattern}");
        }
        // None of these is an origin that a pattern could match, whatever its end.
        for text in [
            "null",
            "",
            "*",
            "https://",
            "https://:443",
            "file://www.bar.com",
            "HTTPS://www.bar.com",
            "https://evil.org,https://www.bar.com",
            "https://evil.org/.bar.com",
            "https://evil.org?.bar.com",
            "https://evil.org#.bar.com",
            "https://evil.org@www.bar.com",
            "https://evil.org\\.bar.com",
            "https://www.bar.com/",
            "https://www.bar.com:",
            "https://www.bar.com:+443",
            "https://www.bar.com:0",
            "https://www.bar.com:70000",
            "https://[::1",
            "https://[::1].bar.com",
            "https://[.bar.com]",
        ] {
            assert_eq!(Origin::parse(text), None, "{text}");
        }
    }

    #[test]
    fn patterns_have_the_form_of_gateway_api() {
        for text in [
            "foo.example",
            "ftp://foo.example",
            "https://",
            "https://:80",
            "https://foo.example/",
            "https://foo.example?",
            "https://a@foo.example",
            "https://foo..example",
            "https://.foo",
            "https://foo_bar",
            "https://*foo.example",
            "https://foo.*.example",
            "https://*.",
            "https://foo.*",
            "https://[::1]",
            "https://foo:0",
            "https://foo:65536",
            "https://foo:",
            "https://foo:+80",
        ] {
            assert!(OriginPattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn listings_have_names_and_nothing_else() {
        let listing = Listing::new("X-A, x-b").unwrap();
        assert_eq!((listing.text().unwrap().as_bytes(), listing.is_any()), (&b"X-A, x-b"[..], false));
        assert_eq!((Listing::new("").unwrap().text(), Listing::new("a, *").unwrap().is_any()), (None, true));
        for text in ["a,b", "a, ", ", a", "a b", "a\r\nb: c", "a, :path"] {
            assert_eq!(Listing::new(text), None, "{text}");
        }
    }
}
