//! Sessions of requests (Gateway API, GEP-1619): the endpoint that a client's token names, and the token that the client gets
//! with its answer.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use http::header::{COOKIE, HeaderName, HeaderValue, SET_COOKIE};
use http::request::Parts;
use tulle_model::routing::session::{Held, cookie_path};
use tulle_model::snapshot::{HttpRouteEntry, HttpRule, Session, SessionCarrier};

use crate::destination::{Destination, Member};
use crate::local::Local;
use crate::reach::Hop;
use crate::token_seal::{TOKEN, TokenSeal};
use crate::view::View;

/// So many tokens of a request are opened: it may bring others of the same name.
const TOKENS_READ: usize = 4;

/// The session of a request whose rule has sessions.
pub(crate) struct RequestSession {
    rule: Arc<HttpRule>,
    /// Of its cookies.
    path: Box<str>,
    seal: Rc<TokenSeal>,
    /// What its client's token says, and where that is.
    held: Option<(Held, SessionPlace)>,
    now: Duration,
}

/// A backend of a rule, and the endpoint there.
struct SessionPlace {
    backend: usize,
    service: Rc<Destination>,
    /// The index of the endpoint.
    endpoint: usize,
}

impl SessionPlace {
    fn member(&self) -> &Rc<Member> {
        &self.service.members[self.endpoint]
    }
}

impl RequestSession {
    /// That of a request with this head, which fits that entry. `None`: its rule has no sessions, or this node does not know yet
    /// what tokens are sealed with.
    #[cold]
    pub fn of(local: &Local, view: &View, entry: &HttpRouteEntry, head: &Parts) -> Option<Box<Self>> {
        let session = entry.rule.session.as_deref()?;
        let seal = view.token_seal()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let tokens = tokens(session, &head.headers).take(TOKENS_READ);
        let held = tokens.filter_map(|token| seal.open(token, &session.scope)).find_map(|held| {
            let place = if held.is_over(session, now) { None } else { place_of(view, &entry.rule, &held) };
            let place = place.filter(|place| local.is_well(&place.service, place.endpoint));
            place.map(|place| (held, place))
        });
        let path = cookie_path(&entry.matcher.path, head.uri.path()).into();
        Some(Box::new(Self { rule: entry.rule.clone(), path, seal, held, now }))
    }

    /// The index of the backend that it stays with.
    pub fn backend(&self) -> Option<usize> {
        self.held.as_ref().map(|(_, place)| place.backend)
    }

    /// The endpoint that it stays with.
    pub fn member(&self) -> Option<&Rc<Member>> {
        self.held.as_ref().map(|(_, place)| place.member())
    }

    /// Tells the client where its session is, if its token does not say that, or not for how long. `backend`: of the rule; `hop`: to the
    /// endpoint that has answered.
    #[cold]
    pub fn mark(&self, local: &Local, headers: &mut HeaderMap, backend: usize, hop: &Hop) {
        let (Some(session), Some(member)) = (self.rule.session.as_deref(), hop.member()) else { return };
        // It is where it was, also if another has answered once.
        let stays =
            |place: &SessionPlace| place.member().is(member) || local.is_well(&place.service, place.endpoint);
        let held = match &self.held {
            Some((held, place)) if stays(place) => {
                held.is_due(session, self.now).then(|| held.used(self.now))
            }
            _ => Held::new(&self.rule, backend, (member.session_id(), hop.address.port()), self.now),
        };
        if let Some(held) = held
            && let Some(token) = self.seal.seal(held, &session.scope)
        {
            self.tell(session, headers, &held, &token);
        }
    }

    fn tell(&self, session: &Session, headers: &mut HeaderMap, held: &Held, token: &str) {
        let name = &session.name;
        match session.carrier {
            SessionCarrier::Header => {
                let name = HeaderName::from_bytes(name.as_bytes());
                if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(token)) {
                    headers.insert(name, value);
                }
            }
            SessionCarrier::Cookie { permanent } => {
                let rest = held.rest(session, self.now).filter(|_| permanent);
                let age = rest.map(|rest| format!("; Max-Age={}", rest.as_secs())).unwrap_or_default();
                // Not `Secure`: within a mesh clients speak plain text to their proxy.
                let cookie = format!("{name}={token}; Path={}; HttpOnly; SameSite=Strict{age}", self.path);
                if let Ok(cookie) = HeaderValue::try_from(cookie) {
                    headers.append(SET_COOKIE, cookie);
                }
            }
        }
    }
}

/// What the client shows under the session's name that may be a token.
fn tokens<'f>(session: &'f Session, fields: &'f HeaderMap) -> impl Iterator<Item = &'f [u8]> {
    let name = session.name.as_bytes();
    let (header, cookies) = match session.carrier {
        SessionCarrier::Header => (Some(fields.get_all(&*session.name)), None),
        SessionCarrier::Cookie { .. } => (None, Some(fields.get_all(COOKIE))),
    };
    let pairs = cookies.into_iter().flatten().flat_map(|line| line.as_bytes().split(|&byte| byte == b';'));
    let of_cookies = pairs.filter_map(move |pair| pair.trim_ascii().strip_prefix(name)?.strip_prefix(b"="));
    let shown = header.into_iter().flatten().map(HeaderValue::as_bytes).chain(of_cookies);
    shown.filter(|token| token.len() == TOKEN)
}

/// Where a token says that a session is, if that is still there.
fn place_of(view: &View, rule: &HttpRule, held: &Held) -> Option<SessionPlace> {
    let (backend, service, port) = held.backend(rule)?;
    let service = view.destination(service)?;
    let is_it = |member: &Rc<Member>| {
        let target = member.endpoint.target_port(port);
        target.is_some_and(|target| held.is_at(&member.endpoint, member.session_id(), target))
    };
    let endpoint = service.members.iter().position(is_it)?;
    Some(SessionPlace { backend, service, endpoint })
}

#[cfg(test)]
mod tests {
    use tulle_model::name::NamespacedName;

    use super::*;

    #[test]
    fn tokens_are_found_wherever_clients_put_them() {
        let rule = HttpRule::new(NamespacedName::new("shop", "r"), 0, None, vec![]);
        let session = |carrier| Session::of(&rule, Some("s".into()), carrier);
        let [one, two, three, four] = ["1", "2", "3", "="].map(|digit| digit.repeat(TOKEN));
        let mut fields = HeaderMap::new();
        let lines = [
            format!("a=1; s={one};s={two}; s=short; s={one}long"),
            format!("xs={one}; s ={one}; S={one}; s; {one}"),
            format!("s={four}"),
        ];
        for line in lines {
            fields.append(COOKIE, HeaderValue::try_from(line).unwrap());
        }
        fields.append("s", HeaderValue::try_from(&three).unwrap());
        let cookies = session(SessionCarrier::Cookie { permanent: false });
        let found: Vec<&[u8]> = tokens(&cookies, &fields).collect();
        assert_eq!(found, [one.as_bytes(), two.as_bytes(), four.as_bytes()]);
        let header = session(SessionCarrier::Header);
        assert_eq!(tokens(&header, &fields).collect::<Vec<_>>(), [three.as_bytes()]);
    }
}
