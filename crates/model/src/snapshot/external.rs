//! Somebody else who is asked about requests (Gateway API, HTTPExternalAuthFilter: GEP-1494), as it applies to a workload.

use std::borrow::Cow;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{take_away, uneditable};
use crate::name::ServiceName;
use crate::routing::join_values;

/// Whom a policy has asked, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalAuth {
    pub service: ServiceName,
    /// Of the service.
    pub port: u16,
    pub protocol: ExternalProtocol,
    /// How many bytes of a body it is told, and a body may have; `0`: bodies pass unseen.
    pub max_body: u16,
    /// From when it is asked until all of its answer is there.
    pub timeout: Duration,
    /// Whether requests pass of which it does not say anything.
    pub fail_open: bool,
    /// Ports of the workload at which it is not asked: there the workload itself is, by it or by policies that count as much.
    pub spared: Vec<u16>,
}

/// What it speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExternalProtocol {
    /// `envoy.service.auth.v3.Authorization/Check`.
    Grpc {
        /// Which headers it is told; where there are none, all.
        headers: Vec<HeaderName>,
    },
    Http {
        /// What stands before the paths that it is asked for.
        path: String,
        /// Which headers it is told, besides [`ALWAYS_TOLD`].
        headers: Vec<HeaderName>,
        /// Which headers of its answers count; where there are none, all.
        answered: Vec<HeaderName>,
    },
}

/// What a service that speaks HTTP is told of each request, besides the method, the path, the host and the length.
pub const ALWAYS_TOLD: HeaderName = http::header::AUTHORIZATION;

/// How many headers a service may have changed, and bytes of them: of requests, and of answers.
pub const MOST_EDITS: usize = 64;
pub const MOST_EDITED: usize = 16 << 10;

/// How long it has where a policy does not say, as with Envoy; and at most.
pub const EXTERNAL_TIMEOUT: Duration = Duration::from_millis(200);
pub const LONGEST_EXTERNAL_TIMEOUT: Duration = Duration::from_secs(10);

/// What is said of the message that has them, and of no other.
const OF_THE_MESSAGE: [&str; 10] = [
    "content-type",
    "content-encoding",
    "content-language",
    "content-location",
    "content-range",
    "date",
    "server",
    "vary",
    "etag",
    "last-modified",
];

/// What becomes of a header that a service names: an answer to it changes nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EditAction {
    Set,
    Append,
    Remove,
    /// Only where there is none of that name.
    SetIfAbsent,
    /// Only where there is one.
    SetIfPresent,
}

/// What a service has changed in headers, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExternalEdits {
    /// What is taken away before.
    taken: Vec<HeaderName>,
    edits: Vec<(HeaderName, HeaderValue, EditAction)>,
    size: usize,
}

/// They are more than are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyEdits;

impl ExternalEdits {
    /// Notes one; of a header that is nobody's to change, and of what is no header, nothing is noted.
    ///
    /// # Errors
    /// They are too many, or too large.
    pub fn push(&mut self, name: &[u8], value: &[u8], action: EditAction) -> Result<(), TooManyEdits> {
        self.size = self.size.saturating_add(name.len()).saturating_add(value.len());
        if self.edits.len() >= MOST_EDITS || self.size > MOST_EDITED {
            return Err(TooManyEdits);
        }
        // That of a pseudo header is no name.
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) else {
            return Ok(());
        };
        if uneditable(name.as_str()).is_none() {
            self.edits.push((name, value, action));
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.edits.is_empty() && self.taken.is_empty()
    }

    pub fn apply(&self, headers: &mut HeaderMap) {
        self.taken.iter().for_each(|name| take_away(headers, name));
        for (name, value, action) in &self.edits {
            if matches!(action, EditAction::Set | EditAction::Remove) {
                take_away(headers, name);
            }
            let is_there = headers.contains_key(name);
            match action {
                EditAction::Append => drop(headers.try_append(name, value.clone())),
                EditAction::Remove => drop(headers.remove(name)),
                EditAction::SetIfAbsent if is_there => {}
                EditAction::SetIfPresent if !is_there => {}
                EditAction::Set | EditAction::SetIfAbsent | EditAction::SetIfPresent => {
                    drop(headers.try_insert(name, value.clone()));
                }
            }
        }
    }
}

impl ExternalAuth {
    /// The headers of a request that the service is told, each name once, its lines joined.
    pub fn told<'h>(&self, headers: &'h HeaderMap) -> Vec<(&'h HeaderName, Cow<'h, str>)> {
        let is_told = |name: &HeaderName| match &self.protocol {
            ExternalProtocol::Grpc { headers } => headers.is_empty() || headers.contains(name),
            ExternalProtocol::Http { headers, .. } => *name == ALWAYS_TOLD || headers.contains(name),
        };
        let joined = |name: &'h HeaderName| {
            let values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
            Some((name, join_values(name.as_str(), values)?))
        };
        let told = headers.keys().filter(|name| uneditable(name.as_str()).is_none() && is_told(name));
        told.filter_map(joined).collect()
    }

    /// Which headers of an answer over HTTP go into the request: they replace what the client sent.
    ///
    /// # Errors
    /// They are too many, or too large.
    pub fn admitted(&self, answer: &HeaderMap) -> Result<ExternalEdits, TooManyEdits> {
        let edits = self.edits(answer, &[]).map_err(|_| TooManyEdits)?;
        Ok(ExternalEdits { taken: self.unasked().taken, ..edits })
    }

    /// Which go to the client, where the answer denies: besides, how to get in, and where to. As many as are taken.
    pub fn denied(&self, answer: &HeaderMap) -> ExternalEdits {
        let besides = ["www-authenticate", "location", "set-cookie", "content-type"];
        self.edits(answer, &besides).unwrap_or_else(|few| few)
    }

    /// What becomes of a request of which the service says nothing: headers that only it may set are taken away.
    pub fn unasked(&self) -> ExternalEdits {
        let taken = match &self.protocol {
            ExternalProtocol::Http { answered, .. } => answered.clone(),
            ExternalProtocol::Grpc { .. } => Vec::new(),
        };
        ExternalEdits { taken, ..ExternalEdits::default() }
    }

    /// An error has as many as are taken.
    fn edits(&self, answer: &HeaderMap, besides: &[&str]) -> Result<ExternalEdits, ExternalEdits> {
        let mut edits = ExternalEdits::default();
        let ExternalProtocol::Http { answered, .. } = &self.protocol else { return Ok(edits) };
        for name in answer.keys() {
            let text = name.as_str();
            let is_asked_for = besides.contains(&text)
                || if answered.is_empty() {
                    !OF_THE_MESSAGE.contains(&text)
                } else {
                    answered.contains(name)
                };
            if !is_asked_for {
                continue;
            }
            for (place, value) in answer.get_all(name).iter().enumerate() {
                let action = if place == 0 { EditAction::Set } else { EditAction::Append };
                if edits.push(text.as_bytes(), value.as_bytes(), action).is_err() {
                    return Err(edits);
                }
            }
        }
        Ok(edits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn external(protocol: ExternalProtocol) -> ExternalAuth {
        ExternalAuth {
            service: ServiceName::new("shop", "authz"),
            port: 80,
            protocol,
            max_body: 0,
            timeout: EXTERNAL_TIMEOUT,
            fail_open: false,
            spared: Vec::new(),
        }
    }

    fn names(names: &[&'static str]) -> Vec<HeaderName> {
        names.iter().map(|name| HeaderName::from_static(name)).collect()
    }

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn shown(headers: &HeaderMap) -> Vec<String> {
        let mut all: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn a_service_is_told_the_headers_that_it_may_know() {
        let request = headers(&[
            ("authorization", "a"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("x-a", "1"),
            ("x-a", "2"),
            ("content-length", "5"),
            ("tulle-x", "1"),
            ("te", "trailers"),
        ]);
        let told = |protocol| {
            let external = external(protocol);
            let told = external.told(&request).into_iter();
            let mut told: Vec<_> = told.map(|(name, value)| format!("{name}={value}")).collect();
            told.sort_unstable();
            told
        };
        let http = |headers| ExternalProtocol::Http { path: String::new(), headers, answered: Vec::new() };
        assert_eq!(told(http(vec![])), ["authorization=a"]);
        assert_eq!(told(http(names(&["x-a", "tulle-x"]))), ["authorization=a", "x-a=1,2"]);
        let all = ["authorization=a", "cookie=a=1; b=2", "x-a=1,2"];
        assert_eq!(told(ExternalProtocol::Grpc { headers: vec![] }), all);
        assert_eq!(told(ExternalProtocol::Grpc { headers: names(&["cookie"]) }), ["cookie=a=1; b=2"]);
    }

    #[test]
    fn an_answer_changes_what_it_may() {
        let answer = headers(&[
            ("x-user", "ada"),
            ("x-role", "a"),
            ("x-role", "b"),
            ("content-type", "text/plain"),
            ("content-length", "2"),
            ("date", "now"),
            ("connection", "close"),
            ("set-cookie", "s=1"),
            ("www-authenticate", "Test"),
            ("location", "/login"),
            ("tulle-reason", "x"),
        ]);
        let of = |answered: &[&'static str], denies: bool| {
            let (path, headers) = (String::new(), Vec::new());
            let external = external(ExternalProtocol::Http { path, headers, answered: names(answered) });
            let edits = if denies { external.denied(&answer) } else { external.admitted(&answer).unwrap() };
            // As the client had it.
            let mut request = HeaderMap::new();
            request.insert("x-user", HeaderValue::from_static("root"));
            request.insert("x-role", HeaderValue::from_static("root"));
            edits.apply(&mut request);
            shown(&request)
        };
        assert_eq!(of(&["x-user", "content-length"], false), ["x-role=root", "x-user=ada"]);
        let all = [
            "location=/login",
            "set-cookie=s=1",
            "www-authenticate=Test",
            "x-role=a",
            "x-role=b",
            "x-user=ada",
        ];
        assert_eq!(of(&[], false), all);
        let how = ["content-type=text/plain", "location=/login", "set-cookie=s=1", "www-authenticate=Test"];
        assert_eq!(of(&["x-none"], true), [&how[..], &["x-role=root", "x-user=root"]].concat());
        assert_eq!(of(&[], true), [&how[..], &["x-role=a", "x-role=b", "x-user=ada"]].concat());
    }

    #[test]
    fn what_only_the_service_says_is_taken_from_clients() {
        let http = |answered: &[&'static str]| {
            let (path, headers) = (String::new(), Vec::new());
            external(ExternalProtocol::Http { path, headers, answered: names(answered) })
        };
        let sent = || headers(&[("x-user", "root"), ("x_user", "root"), ("x-other", "1")]);
        let mut request = sent();
        http(&["x-user"]).unasked().apply(&mut request);
        assert_eq!(shown(&request), ["x-other=1"]);
        let mut request = sent();
        let admitted = http(&["x-user"]).admitted(&headers(&[("x-user", "ada")])).unwrap();
        admitted.apply(&mut request);
        assert_eq!(shown(&request), ["x-other=1", "x-user=ada"]);
        let mut request = sent();
        http(&[]).unasked().apply(&mut request);
        assert_eq!(request, sent());
    }

    #[test]
    fn edits_are_done_in_their_order_and_bounded() {
        let mut edits = ExternalEdits::default();
        assert!(edits.is_empty());
        for (name, value, action) in [
            ("a", "1", EditAction::Remove),
            ("A", "2", EditAction::SetIfPresent),
            ("b", "3", EditAction::SetIfAbsent),
            ("b", "4", EditAction::SetIfAbsent),
            ("c", "5", EditAction::Append),
            ("c", "6", EditAction::SetIfPresent),
            ("c", "7", EditAction::Append),
            ("d", "8", EditAction::Set),
            // These are nobody's to change, or no headers.
            ("host", "x", EditAction::Set),
            (":path", "/x", EditAction::Set),
            ("content-length", "9", EditAction::Append),
            ("transfer-encoding", "chunked", EditAction::Set),
            ("tulle-workload", "x", EditAction::Set),
            ("e", "a\r\nf: g", EditAction::Set),
            ("", "x", EditAction::Set),
        ] {
            edits.push(name.as_bytes(), value.as_bytes(), action).unwrap();
        }
        let mut request = headers(&[("a", "0"), ("c", "0"), ("d", "0"), ("d", "1"), ("host", "c")]);
        edits.apply(&mut request);
        assert_eq!(shown(&request), ["b=3", "c=6", "c=7", "d=8", "host=c"]);
        assert!(!edits.is_empty());

        let mut many = ExternalEdits::default();
        for number in 0..MOST_EDITS {
            many.push(format!("x-{number}").as_bytes(), b"", EditAction::Set).unwrap();
        }
        assert_eq!(many.push(b"x", b"", EditAction::Set), Err(TooManyEdits));
        let mut large = ExternalEdits::default();
        large.push(b"x", &vec![b'x'; MOST_EDITED - 1], EditAction::Set).unwrap();
        assert_eq!(large.push(b"x", b"", EditAction::Set), Err(TooManyEdits));
        // What is left out counts all the same.
        let mut hidden = ExternalEdits::default();
        assert!(hidden.push(b"host", &vec![b'x'; MOST_EDITED], EditAction::Set).is_err());
    }
}
