//! What is kept of a request that goes on for long, so that policies can be asked about it again when they change.

use std::sync::Arc;

use http::header::HeaderName;
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use tulle_model::authorization::{RequestSeen, Traffic};
use tulle_model::snapshot::{AccessPolicies, Token};

use super::tokens::KeptTokens;

/// How much of a head is kept, in bytes. A request whose head is larger ends when policies change that look at requests, unless
/// they let it stay whatever it is.
const MOST: usize = 2 << 10;

/// What policies ask for.
pub(crate) struct KeptHead {
    method: String,
    path: String,
    authority: String,
    /// Those of the names below that the request has.
    headers: HeaderMap,
    names: Arc<[HeaderName]>,
    /// What became of its tokens.
    tokens: KeptTokens,
}

impl KeptHead {
    /// `names`: of the headers that policies ask for. `None` where it is too large.
    pub fn new(head: &Parts, names: Arc<[HeaderName]>, tokens: &KeptTokens) -> Option<Self> {
        let RequestSeen { method, path, authority, .. } = request_of(head, &[]);
        let of_name = |name: &HeaderName| {
            head.headers.get_all(name).iter().map(|value| name.as_str().len() + value.len()).sum::<usize>()
        };
        let of_headers: usize = names.iter().map(of_name).sum();
        let of_tokens: usize = tokens.headers().map(of_name).sum();
        if method.len() + path.len() + authority.len() + of_headers + of_tokens > MOST {
            return None;
        }
        let mut headers = HeaderMap::new();
        for name in &*names {
            for value in head.headers.get_all(name) {
                // A copy: values are parts of the whole head, which would be kept with them.
                headers.append(name, HeaderValue::from_bytes(value.as_bytes()).ok()?);
            }
        }
        let [method, path, authority] = [method, path, authority].map(str::to_owned);
        Some(Self { method, path, authority, headers, names, tokens: tokens.clone() })
    }

    /// As policies see it that ask for no header, and for tokens of no issuer, which was not kept. The tokens are put into
    /// `tokens`: they stay valid, though they may have expired, and their keys may be gone.
    pub fn seen<'s>(&'s self, policies: &AccessPolicies, tokens: &'s mut Vec<Token>) -> Traffic<'s> {
        if !policies.headers().iter().all(|name| self.names.contains(name)) {
            return Traffic::Forgotten;
        }
        let Some(now) = self.tokens.under(policies) else { return Traffic::Forgotten };
        *tokens = now;
        let Self { method, path, authority, headers, .. } = self;
        Traffic::Request(RequestSeen { method, path, authority, headers, tokens })
    }
}

/// A request as policies see it. It has the inner form.
pub(super) fn request_of<'r>(head: &'r Parts, tokens: &'r [Token]) -> RequestSeen<'r> {
    RequestSeen {
        method: head.method.as_str(),
        path: head.uri.path(),
        authority: head.uri.authority().map_or("", |authority| authority.as_str()),
        headers: &head.headers,
        tokens,
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use tulle_model::snapshot::{AccessPolicy, AccessRule, Action, RequestConditions, TextMatch, ValueMatch};

    use super::*;

    fn asking_for(header: &str) -> AccessPolicies {
        let value = TextMatch::Exact("1".to_owned());
        let headers = vec![ValueMatch { name: header.to_owned(), value }];
        let request = Some(Box::new(RequestConditions { headers, ..Default::default() }));
        let rules = vec![AccessRule { index: 0, sources: None, ports: None, request, when: None }];
        let name = "shop/p".parse().unwrap();
        vec![AccessPolicy {
            name,
            action: Action::Deny,
            at: None,
            issuers: Vec::new(),
            rules,
            external: None,
        }]
        .into()
    }

    #[test]
    fn what_policies_ask_for_is_kept_if_it_is_small() {
        let (a, b) = (asking_for("x-a"), asking_for("x-b"));
        let head = |value: String| {
            let request = Request::get("http://c.shop/x").header("x-a", value).header("x-b", "2");
            request.body(()).unwrap().into_parts().0
        };
        let kept = KeptHead::new(&head("1".to_owned()), a.headers().clone(), &KeptTokens::default()).unwrap();
        let mut tokens = Vec::new();
        let Traffic::Request(seen) = kept.seen(&a, &mut tokens) else { panic!("it is forgotten") };
        assert_eq!((seen.method, seen.path, seen.authority), ("GET", "/x", "c.shop"));
        assert_eq!((&seen.headers["x-a"], seen.headers.len()), (&"1".parse().unwrap(), 1));
        assert!(matches!(kept.seen(&b, &mut tokens), Traffic::Forgotten));
        assert!(matches!(kept.seen(&AccessPolicies::default(), &mut tokens), Traffic::Request(_)));
        assert!(
            KeptHead::new(&head("v".repeat(MOST)), a.headers().clone(), &KeptTokens::default()).is_none()
        );
        assert!(
            KeptHead::new(&head("v".repeat(MOST)), b.headers().clone(), &KeptTokens::default()).is_some()
        );
    }
}
