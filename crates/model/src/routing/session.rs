//! Sessions (Gateway API, GEP-1619): what a client's token says, and which of a rule's backends that is. How tokens are sealed is the
//! proxy's.

use std::time::Duration;

use crate::fnv::fnv1a;
use crate::name::ServiceName;
use crate::snapshot::{BackendTarget, Endpoint, HttpRule, PathMatch, Session};

/// Where the requests of a session go, and since when. Times are since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// [`backend_id`]
    backend: u64,
    /// [`endpoint_id`]
    endpoint: u64,
    /// The port of the endpoint.
    port: u16,
    begun: Duration,
    /// When the last token was made.
    used: Duration,
}

impl Held {
    /// How many bytes it is.
    pub const LENGTH: usize = 4 * 8 + 2;

    /// A session that begins now at the backend of that index, with that port of the endpoint that has this id. `None`: the rule has
    /// no such backend, or it leads nowhere.
    pub fn new(rule: &HttpRule, backend: usize, (endpoint, port): (u64, u16), now: Duration) -> Option<Self> {
        let backend = backend_id(rule, backend)?;
        Some(Self { backend, endpoint, port, begun: now, used: now })
    }

    /// The same with a request more.
    pub fn used(self, now: Duration) -> Self {
        Self { used: now, ..self }
    }

    /// Whether its client is to be told that it goes on: it would end for want of requests, and a good part of that time has passed. Not with
    /// each answer, as each is a token more.
    pub fn is_due(&self, session: &Session, now: Duration) -> bool {
        session.idle.is_some_and(|idle| now.saturating_sub(self.used) >= idle / 10)
    }

    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let parts = [self.backend, self.endpoint, millis(self.begun), millis(self.used)];
        let mut bytes = [0; Self::LENGTH];
        let (port, rest) = bytes.split_at_mut(2);
        port.copy_from_slice(&self.port.to_be_bytes());
        for (place, part) in rest.chunks_exact_mut(8).zip(parts) {
            place.copy_from_slice(&part.to_be_bytes());
        }
        bytes
    }

    /// `None`: there are more bytes, or fewer.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (port, bytes) = bytes.split_first_chunk()?;
        let port = u16::from_be_bytes(*port);
        let (parts, rest) = bytes.as_chunks::<8>();
        let &[backend, endpoint, begun, used] = parts else { return None };
        let time = |millis| Duration::from_millis(u64::from_be_bytes(millis));
        let [backend, endpoint] = [backend, endpoint].map(u64::from_be_bytes);
        rest.is_empty().then(|| Self { backend, endpoint, port, begun: time(begun), used: time(used) })
    }

    /// Whether it has lasted its time. The clocks of nodes differ: one that begins in the future has just begun.
    pub fn is_over(&self, session: &Session, now: Duration) -> bool {
        let has_passed = |limit: Option<Duration>, since: Duration| {
            limit.is_some_and(|limit| now.saturating_sub(since) > limit)
        };
        has_passed(session.absolute, self.begun) || has_passed(session.idle, self.used)
    }

    /// How much is left of that time at most.
    pub fn rest(&self, session: &Session, now: Duration) -> Option<Duration> {
        session.absolute.map(|limit| limit.saturating_sub(now.saturating_sub(self.begun)))
    }

    /// The rule's backend that it is at, whatever its weight now, and which port of it.
    pub fn backend<'r>(&self, rule: &'r HttpRule) -> Option<(usize, &'r ServiceName, u16)> {
        rule.backends.iter().enumerate().find_map(|(index, backend)| match &backend.target {
            BackendTarget::Service { name, port } if backend_id(rule, index) == Some(self.backend) => {
                Some((index, name, *port))
            }
            _ => None,
        })
    }

    /// Whether it is at that port of the endpoint that has this id.
    pub fn is_at(&self, endpoint: &Endpoint, id: u64, port: u16) -> bool {
        // A workload is the same with another port.
        self.endpoint == id && (endpoint.workload.is_some() || self.port == port)
    }
}

/// What makes a backend the same when others come and go: its service, the port, and the how manieth of those it is, as each may have
/// filters of its own.
fn backend_id(rule: &HttpRule, index: usize) -> Option<u64> {
    let backend = rule.backends.get(index)?;
    let BackendTarget::Service { name, port } = &backend.target else { return None };
    let same = rule.backends[..index].iter().filter(|other| other.target == backend.target).count();
    let (port, same) = (port.to_be_bytes(), same.to_be_bytes());
    Some(fnv1a([name.namespace.as_bytes(), b"/", name.name.as_bytes(), b"/", &port, &same]))
}

/// What makes an endpoint the one that a session was begun with.
pub fn endpoint_id(endpoint: &Endpoint) -> u64 {
    let workload = endpoint.workload.as_ref().map(ToString::to_string).unwrap_or_default();
    // Two nodes may use the same loopback address.
    let node = endpoint.node.as_ref().map_or("", |node| &*node.name);
    fnv1a([format!("{workload}/{node}/{}", endpoint.address).as_bytes()])
}

/// The path of the cookies of a match: clients send them with requests that fit it, and as few others as a path can say. `asked`: that
/// of the request, as its client writes it.
pub fn cookie_path<'p>(path: &'p PathMatch, asked: &str) -> &'p str {
    let path = match path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) => path,
        PathMatch::Regex(pattern) => {
            let source = pattern.source();
            match source.find(|c: char| !(c.is_ascii_alphanumeric() || "/-_~".contains(c))) {
                None => source,
                // One of them may begin in another way.
                Some(_) if source.contains('|') => "",
                Some(end) => {
                    // What may be there or not; and the last segment may go on.
                    let counted = source[end..].starts_with(['?', '*', '{']);
                    let literal = &source[..if counted { end.saturating_sub(1) } else { end }];
                    literal.rfind('/').map_or("", |slash| &literal[..slash])
                }
            }
        }
    };
    // It would end the attribute.
    let path = match path.find(';') {
        Some(end) => path[..end].rfind('/').map_or("", |slash| &path[..slash]),
        None => path,
    };
    // Clients compare it byte for byte, routes in the normal form.
    if path.starts_with('/') && asked.starts_with(path) { path } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::{NamespacedName, WorkloadName};
    use crate::snapshot::{Backend, Pattern, PeerNode, PortMapping, SessionCarrier};

    const HOUR: Duration = Duration::from_secs(3600);

    fn session(absolute: Option<Duration>, idle: Option<Duration>) -> Session {
        let rule = HttpRule::new(NamespacedName::new("shop", "r"), 0, None, vec![]);
        Session { absolute, idle, ..Session::of(&rule, None, SessionCarrier::Header) }
    }

    /// A rule with these backends: service, port, weight.
    fn rule(backends: &[(&str, u16, u32)]) -> HttpRule {
        let to = |&(name, port, weight): &(&str, u16, u32)| {
            Backend::new(BackendTarget::Service { name: ServiceName::new("shop", name), port }, weight)
        };
        HttpRule::new(NamespacedName::new("shop", "r"), 0, None, backends.iter().map(to).collect())
    }

    fn endpoint(workload: Option<&str>, last: u8, target_port: u16) -> Endpoint {
        Endpoint {
            workload: workload.map(|name| WorkloadName::new("shop", name)),
            node: None,
            address: [10, 0, 0, last].into(),
            ports: vec![PortMapping { service_port: 80, target_port }],
            identity: None,
        }
    }

    #[test]
    fn a_session_ends_when_its_time_is_over() {
        let now = Duration::from_secs(1_800_000_000);
        let held = Held::new(&rule(&[("cart", 80, 1)]), 0, (7, 8080), now).unwrap();
        assert_eq!(Held::from_bytes(&held.to_bytes()), Some(held));
        assert_eq!(Held::from_bytes(&held.to_bytes()[1..]), None);
        assert_eq!(Held::from_bytes(&[held.to_bytes().as_slice(), &[0; 8]].concat()), None);
        let (ever, both) = (session(None, None), session(Some(2 * HOUR), Some(HOUR)));
        assert!(!held.is_over(&ever, now + 10_000 * HOUR));
        assert!(
            !held.is_over(&both, now + HOUR) && held.is_over(&both, now + HOUR + Duration::from_millis(1))
        );
        let used = held.used(now + HOUR);
        assert!(!used.is_over(&both, now + 2 * HOUR));
        assert!(used.used(now + 2 * HOUR).is_over(&both, now + 2 * HOUR + Duration::from_millis(1)));
        assert_eq!(used.rest(&both, now + HOUR), Some(HOUR));
        assert_eq!(used.rest(&ever, now), None);
        assert!(!held.is_due(&both, now + HOUR / 10 - Duration::from_millis(1)));
        assert!(held.is_due(&both, now + HOUR / 10) && !held.is_due(&ever, now + HOUR));
        assert!(!held.is_over(&both, now - HOUR), "by a clock that is behind");
    }

    #[test]
    fn it_is_at_a_backend_of_its_rule_whatever_the_weight() {
        // Of one service two ports, and one of them twice.
        let before = rule(&[("v1", 80, 9), ("v1", 81, 1), ("v2", 80, 1), ("v1", 80, 1)]);
        let at = |after: &HttpRule| {
            [0, 1, 2, 3].map(|backend| {
                let held = Held::new(&before, backend, (7, 8080), HOUR).unwrap();
                held.backend(after).map(|(index, ..)| index)
            })
        };
        assert_eq!(at(&before), [Some(0), Some(1), Some(2), Some(3)]);
        let after = rule(&[("v2", 80, 0), ("v1", 80, 0), ("v1", 80, 0)]);
        assert_eq!(at(&after), [Some(1), None, Some(0), Some(2)]);
        assert_eq!(Held::new(&before, 4, (7, 8080), HOUR), None);
    }

    #[test]
    fn endpoints_are_told_apart() {
        let ids = [
            endpoint(Some("a"), 1, 8080),
            endpoint(Some("b"), 1, 8080),
            endpoint(Some("a"), 2, 8080),
            endpoint(None, 1, 8080),
            Endpoint {
                node: Some(PeerNode { name: "n".into(), link: ([10, 0, 0, 9], 1).into() }),
                ..endpoint(Some("a"), 1, 8080)
            },
        ]
        .map(|endpoint| endpoint_id(&endpoint));
        for (at, id) in ids.iter().enumerate() {
            assert!(!ids[..at].contains(id), "{at}");
        }
        // A workload with another port is the same, and what is none is something else.
        let held = |endpoint: &Endpoint| Held {
            endpoint: endpoint_id(endpoint),
            ..Held::new(&rule(&[("v1", 80, 1)]), 0, (7, 8080), HOUR).unwrap()
        };
        for (workload, expected) in [(Some("a"), true), (None, false)] {
            let endpoint = endpoint(workload, 1, 8080);
            let held = held(&endpoint);
            assert!(held.is_at(&endpoint, endpoint_id(&endpoint), 8080));
            assert_eq!(held.is_at(&endpoint, endpoint_id(&endpoint), 8081), expected);
        }
    }

    #[test]
    fn cookies_have_the_path_of_their_match() {
        let regex = |source: &str| PathMatch::Regex(Pattern::new(source).unwrap());
        for (path, asked, expected) in [
            (PathMatch::Prefix(String::new()), "/x", "/"),
            (PathMatch::Prefix("/cart".into()), "/cart/1", "/cart"),
            (PathMatch::Prefix("/~user".into()), "/%7euser", "/"),
            (PathMatch::Exact("/a/b".into()), "/a/b", "/a/b"),
            (PathMatch::Exact("/a/b;c=1/d".into()), "/a/b;c=1/d", "/a"),
            (PathMatch::Exact("/b;c".into()), "/b;c", "/"),
            (regex("/p1/p2/.*/p3"), "/p1/p2/x/p3", "/p1/p2"),
            (regex("/p1/p2[0-9]+"), "/p1/p21", "/p1"),
            (regex("/only"), "/only", "/only"),
            (regex("/api/?.*"), "/apix", "/"),
            (regex("/a/b?c"), "/a/c", "/a"),
            (regex("/a/b/*"), "/a/b", "/a"),
            (regex(".*"), "/x", "/"),
            (regex("(/a|/b)"), "/a", "/"),
            (regex("/a/b|/c/d"), "/c/d", "/"),
            (regex("/a/[b|c]"), "/a/b", "/"),
        ] {
            assert_eq!(cookie_path(&path, asked), expected, "{path:?}");
        }
    }
}
