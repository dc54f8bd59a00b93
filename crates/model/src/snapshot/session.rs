//! How requests of a rule stay with one endpoint (Gateway API, GEP-1619).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{HttpRouteKind, HttpRule};
use crate::fnv::fnv1a_32;

/// The sessions of a rule. See [`crate::routing::session`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Of the cookie, or of the header, then in lower case.
    pub name: Arc<str>,
    pub carrier: SessionCarrier,
    /// How long one lasts at most.
    pub absolute: Option<Duration>,
    /// How long one lasts without a request.
    pub idle: Option<Duration>,
    /// What its tokens are good for: no other rule takes them.
    pub scope: Arc<str>,
}

impl Session {
    /// The sessions of that rule; without limits of time, and with a name that is made of the rule's where none is given.
    pub fn of(rule: &HttpRule, name: Option<Arc<str>>, carrier: SessionCarrier) -> Self {
        let kind = match rule.kind {
            HttpRouteKind::Http => "HTTPRoute",
            HttpRouteKind::Grpc => "GRPCRoute",
        };
        let rule = match &rule.name {
            Some(name) => format!("{kind}/{} {name}", rule.route),
            None => format!("{kind}/{} [{}]", rule.route, rule.index),
        };
        let name = name.unwrap_or_else(|| format!("session-{:08x}", fnv1a_32([rule.as_bytes()])).into());
        let scope = format!("tulle session 1 {rule} {name}").into();
        Self { name, carrier, absolute: None, idle: None, scope }
    }
}

/// What the token of a session travels in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionCarrier {
    /// `permanent`: clients keep it as long as the session lasts at most, which is said then.
    Cookie {
        permanent: bool,
    },
    Header,
}

/// What the tokens of sessions are sealed with: all nodes have the same, and nobody else has it.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionKey(pub [u8; Self::LENGTH]);

impl SessionKey {
    pub const LENGTH: usize = 32;
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::NamespacedName;

    #[test]
    fn rules_have_their_own_sessions() {
        let session = |kind, route, index, name: Option<&str>| {
            let rule = HttpRule::new(NamespacedName::new("shop", route), index, name.map(Into::into), vec![]);
            Session::of(&HttpRule { kind, ..rule }, None, SessionCarrier::Header)
        };
        let sessions = [
            session(HttpRouteKind::Http, "a", 0, None),
            session(HttpRouteKind::Grpc, "a", 0, None),
            session(HttpRouteKind::Http, "a", 1, None),
            session(HttpRouteKind::Http, "b", 0, None),
            session(HttpRouteKind::Http, "a", 0, Some("x")),
        ];
        for (at, session) in sessions.iter().enumerate() {
            for other in &sessions[..at] {
                assert_ne!(session.scope, other.scope);
                assert_ne!(session.name, other.name);
            }
        }
        let moved = session(HttpRouteKind::Http, "a", 7, Some("x"));
        assert_eq!(moved, sessions[4], "a rule with a name is the same at another place");
        assert!(!format!("{:?}", SessionKey([77; 32])).contains("77"));
    }
}
