//! AuthorizationPolicies (GEP-3779), as they apply to a workload. What they decide: [`crate::authorization`].

use std::sync::Arc;

use ipnet::IpNet;

use super::external::ExternalAuth;
use super::{JwtConditions, JwtIssuer, PathMatch, ServerName, ValueMatch};
use crate::condition::CelCondition;
use crate::identity::{SCHEME, SpiffeId, TrustDomain, is_segment};
use crate::name::{NamespacedName, dns_subdomain_problem};

/// What a policy does where a rule of it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Allow,
    Deny,
    /// It is reported, and changes nothing.
    Audit,
    /// Somebody else is asked ([`AccessPolicy::external`]), after what denies and before what allows.
    Ask,
}

impl Action {
    /// Whether somebody may be held off by policies that have it.
    pub(crate) fn holds_off(self) -> bool {
        self != Self::Audit
    }
}

/// A policy, as it applies to one workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessPolicy {
    pub name: NamespacedName,
    pub action: Action,
    /// The ports of the workload that it is about: those that a Service stands for; `None`: all.
    pub at: Option<Vec<u16>>,
    /// Whose tokens its rules may ask for. Where there are any, a token that is there must be valid.
    pub issuers: Vec<Arc<JwtIssuer>>,
    /// Any of them; without rules nothing matches.
    pub rules: Vec<AccessRule>,
    /// Who is asked about what a rule matches; of [`Action::Ask`] alone.
    pub external: Option<Arc<ExternalAuth>>,
}

/// All that is said must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRule {
    /// Its place in the policy.
    pub index: usize,
    /// Any of them; `None`: anybody.
    pub sources: Option<Vec<Source>>,
    /// Any of these ports of the workload; `None`: all.
    pub ports: Option<Vec<u16>>,
    /// What requests must be like; `None`: connections may be of anything.
    pub request: Option<Box<RequestConditions>>,
    /// What must be so besides.
    pub when: Option<CelCondition>,
}

impl AccessRule {
    /// Whether it looks at requests.
    pub(crate) fn reads_requests(&self) -> bool {
        self.request.is_some() || self.when.as_ref().is_some_and(CelCondition::reads_requests)
    }

    pub(crate) fn goes_by_path(&self) -> bool {
        let request = self.request.as_ref();
        request.is_some_and(|request| !request.paths.is_empty() || !request.calls.is_empty())
            || self.when.as_ref().is_some_and(CelCondition::goes_by_path)
    }

    pub(crate) fn asks_for_token(&self) -> bool {
        self.request.as_ref().is_some_and(|request| request.jwt.is_some())
            || self.when.as_ref().is_some_and(CelCondition::asks_for_token)
    }
}

/// What a rule asks of a request: all that is said must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestConditions {
    /// Any of them; where there are none, all.
    pub methods: Vec<String>,
    /// Any of them; where there are none, all.
    pub paths: Vec<PathMatch>,
    /// Calls of gRPC, by their paths: any of them; where there are none, all requests.
    pub calls: Vec<PathMatch>,
    /// Any of them, in lower case and without a port; where there are none, all.
    pub hosts: Vec<ServerName>,
    /// All of them.
    pub headers: Vec<ValueMatch>,
    pub jwt: Option<JwtConditions>,
}

/// Who comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A workload of the mesh.
    Identity(IdentityPattern),
    /// Somebody outside of the mesh, at any of these addresses; anywhere, where there are none.
    Outside(Vec<IpNet>),
}

/// Identities, by the segments of their IDs: `*` is any one, `**` at the end all that follow.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdentityPattern(Arc<str>);

const REST: &str = "**";

impl IdentityPattern {
    /// The pattern of that text: `spiffe://<trust-domain>/<segment>/…`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        let Some(rest) = text.strip_prefix(SCHEME) else { return Err("must begin with `spiffe://`") };
        let Some((domain, path)) = rest.split_once('/') else {
            return Err("must name a trust domain and, after a `/`, who there is meant");
        };
        if domain != "*" && dns_subdomain_problem(domain).is_some() {
            return Err("has no trust domain that could be: a DNS name in lower case, or `*`");
        }
        let mut segments = path.split('/').peekable();
        while let Some(segment) = segments.next() {
            match segment {
                "*" => {}
                REST if segments.peek().is_none() => {}
                "" => return Err("must have no empty segment"),
                // Another than IDs have would match nobody.
                other if is_segment(other) => {}
                other if other.contains('*') => {
                    return Err(
                        "may have `*` for a whole segment, and `**` for all that follow at the end, and no other `*`",
                    );
                }
                _ => return Err("may have letters, digits, `-`, `_` and `.` in its segments, and no others"),
            }
        }
        Ok(Self(text.into()))
    }

    /// What runs as a service account of a mesh; `*` is any of the namespace.
    pub(crate) fn of_account(domain: &TrustDomain, namespace: &str, name: &str) -> Self {
        Self(format!("{SCHEME}{domain}/ns/{namespace}/sa/{name}").into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn text(&self) -> Arc<str> {
        self.0.clone()
    }

    pub fn matches(&self, identity: &SpiffeId) -> bool {
        let mut asked = identity.as_str().split('/');
        let mut wanted = self.0.split('/');
        loop {
            match (wanted.next(), asked.next()) {
                (Some(REST), Some(_)) | (None, None) => return true,
                (Some(wanted), Some(asked)) if wanted == "*" || wanted == asked => {}
                _ => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_go_by_segments() {
        let domain = TrustDomain::new("mesh.test").unwrap();
        let web = SpiffeId::workload(&domain, "shop", "web").unwrap();
        for (text, matches) in [
            ("spiffe://mesh.test/ns/shop/sa/web", true),
            ("spiffe://mesh.test/ns/shop/sa/*", true),
            ("spiffe://mesh.test/ns/*/sa/web", true),
            ("spiffe://*/ns/shop/sa/web", true),
            ("spiffe://mesh.test/**", true),
            ("spiffe://mesh.test/ns/shop/**", true),
            ("spiffe://mesh.test/ns/shop/sa/web/**", false),
            ("spiffe://mesh.test/ns/shop/*", false),
            ("spiffe://mesh.test/*", false),
            ("spiffe://mesh.test/ns/shop/sa/we", false),
            ("spiffe://mesh.test/ns/shop/sa/webs", false),
            ("spiffe://mesh.tes/**", false),
            ("spiffe://other.test/ns/shop/sa/web", false),
        ] {
            assert_eq!(IdentityPattern::new(text).unwrap().matches(&web), matches, "{text}");
        }
        for text in [
            "",
            "mesh.test/ns",
            "spiffe://",
            "spiffe://mesh.test",
            "spiffe://mesh.test/",
            "spiffe:///a",
            "spiffe://m/a//b",
            "spiffe://m/a*",
            "spiffe://m/**/b",
            "spiffe://m*/b",
            "spiffe://**/b",
            "spiffe://m/***",
            "http://m/a",
            "spiffe://M.test/ns/shop/sa/web",
            "spiffe://mesh.test:8443/a",
            "spiffe://mesh.test/sa/web?x",
            "spiffe://mesh.test/./a",
            "spiffe://mesh.test/a ",
        ] {
            assert!(IdentityPattern::new(text).is_err(), "{text}");
        }
    }
}
