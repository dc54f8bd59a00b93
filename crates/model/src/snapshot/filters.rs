//! What a rule makes of requests and their answers, besides choosing where they go (Gateway API v1.6, HTTPRouteFilter).

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::cors::Cors;
use super::mirror::Mirror;

/// The filters of a rule, or of one of its backends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpFilters {
    pub request_headers: HeaderEdit,
    pub response_headers: HeaderEdit,
    /// There is no backend then.
    pub redirect: Option<Redirect>,
    pub rewrite: Option<Rewrite>,
    /// Where copies of requests go. Not of those that are redirected.
    pub mirrors: Vec<Mirror>,
    /// Answers preflights, and changes answers.
    pub cors: Option<Cors>,
}

impl HttpFilters {
    /// `None`: there is nothing to do.
    pub fn into_option(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }

    /// Whether something is put in the place of the beginning of a path.
    pub(super) fn replaces_prefixes(&self) -> bool {
        let redirected = self.redirect.as_ref().and_then(|redirect| redirect.path.as_ref());
        let rewritten = self.rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref());
        [redirected, rewritten].into_iter().flatten().any(|path| matches!(path, PathRewrite::Prefix { .. }))
    }
}

/// Whether a header is taken off before requests are routed (RFC 9110, section 7.6.1), or is the mesh's own. `name`: in lower
/// case.
pub(crate) fn is_of_the_connection(name: &str) -> bool {
    const NAMES: [&str; 6] =
        ["connection", "http2-settings", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];
    NAMES.contains(&name) || name.starts_with("tulle-")
}

/// Takes a header away in all its spellings: to many applications `x_user` is `x-user`, too.
pub fn take_away(headers: &mut HeaderMap, name: &HeaderName) {
    let folded = |name: &HeaderName| name.as_str().replace('_', "-");
    let own = folded(name);
    let same: Vec<HeaderName> = headers.keys().filter(|other| folded(other) == own).cloned().collect();
    same.iter().for_each(|other| drop(headers.remove(other)));
}

/// Why a header field is nobody's to change, as a part of a sentence; `None`: it may be changed. `name`: in lower case.
pub fn uneditable(name: &str) -> Option<&'static str> {
    // They say where a message ends, or what is done with its body.
    const FRAMING: [&str; 5] = ["content-length", "te", "trailer", "expect", "max-forwards"];
    match name {
        "host" => Some("is changed by a URLRewrite (`urlRewrite.hostname`)"),
        _ if is_of_the_connection(name) => Some("is about one connection, or the mesh's own"),
        _ if FRAMING.contains(&name) => Some("is written by whoever sends the message on"),
        _ => None,
    }
}

/// A change of header fields (Gateway API, HTTPHeaderFilter): what is removed goes first, then what is set replaces what is
/// there, then values are added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderEdit {
    /// Its place among the filters; 0 where it is empty.
    pub index: u32,
    pub remove: Vec<HeaderName>,
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderEdit {
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

/// Sends the client elsewhere (Gateway API, HTTPRequestRedirectFilter). What is not said stays as the client had it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// Its place among the rule's filters.
    pub index: u32,
    pub scheme: Option<Scheme>,
    pub hostname: Option<Arc<str>>,
    pub port: Option<u16>,
    pub path: Option<PathRewrite>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that is meant where none is named.
    pub fn well_known_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// What the application is told instead of what the client asked for (Gateway API, HTTPURLRewriteFilter).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// Its place among the filters.
    pub index: u32,
    pub hostname: Option<Arc<str>>,
    pub path: Option<PathRewrite>,
}

/// Another path (Gateway API, HTTPPathModifier). The query is not part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathRewrite {
    Full(String),
    Prefix {
        /// The prefix that the rule matches: whole path elements, without a trailing slash.
        matched: String,
        /// What comes in its place, without a trailing slash; may be empty.
        replacement: String,
    },
}

impl PathRewrite {
    /// What `path`, which the rule matches, becomes. It may be written in other ways than the prefix
    /// ([`crate::path::normal_form`]), but has as many elements.
    pub fn apply(&self, path: &str) -> String {
        let (matched, replacement) = match self {
            Self::Full(full) => return full.clone(),
            Self::Prefix { matched, replacement } => (matched, replacement),
        };
        let elements = matched.matches('/').count();
        let rest = path.match_indices('/').nth(elements).map_or("", |(at, _)| &path[at..]);
        let rewritten = format!("{replacement}{rest}");
        if rewritten.is_empty() { "/".to_owned() } else { rewritten }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_replaced_by_whole_elements() {
        // Gateway API's table of ReplacePrefixMatch, and paths that are written in other ways than the prefix.
        for (path, matched, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/%66oo/b%20r", "/foo", "/x/y", "/x/y/b%20r"),
            ("/a/b/c", "/a/b", "/x", "/x/c"),
            ("/a/b//c/", "/a/b", "/x", "/x//c/"),
            ("/a/b", "", "/x", "/x/a/b"),
            ("/", "", "/x", "/x/"),
            ("/a", "", "", "/a"),
        ] {
            let rewrite = PathRewrite::Prefix { matched: matched.into(), replacement: replacement.into() };
            assert_eq!(rewrite.apply(path), expected, "{path} {matched} {replacement}");
        }
        assert_eq!(PathRewrite::Full("/all".into()).apply("/a/b"), "/all");
    }

    #[test]
    fn headers_are_removed_then_set_then_added() {
        let field = |name: &'static str, value: &'static str| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let edit = HeaderEdit {
            index: 0,
            remove: vec![HeaderName::from_static("a"), HeaderName::from_static("gone")],
            set: vec![field("b", "2")],
            add: vec![field("a", "3"), field("c", "4")],
        };
        let mut headers = HeaderMap::new();
        for (name, value) in [("a", "1"), ("b", "1"), ("b", "0"), ("c", "1"), ("d", "1")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        edit.apply(&mut headers);
        let values =
            |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(
            [values("a"), values("b"), values("c"), values("d")],
            [vec!["3"], vec!["2"], vec!["1", "4"], vec!["1"]]
        );
    }
}
