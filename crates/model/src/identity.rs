//! SPIFFE identities (the SPIFFE-ID standard, section 2) and the names by which TLS asks for them.
//!
//! A [`SpiffeId`] is made from a text or from names, and both are checked: there is none of another form.
//! What says it of a certificate is checked by the crate `identity`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::legible::legible_start;
use crate::name::dns_subdomain_problem;

/// In characters (RFC 1035, as it is written).
pub(crate) const LONGEST_DNS_NAME: usize = 253;
/// How many characters the name of a mesh may have: it leaves room for `<service-account>.<namespace>.` in a DNS name.
pub(crate) const LONGEST_TRUST_DOMAIN: usize = 125;

/// A SPIFFE trust domain: the name of a mesh.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The trust domain of that name; it must be a DNS name in lower case. The standard's section 2.1 allows
    /// underscores and two characters more, which no TLS server name can have.
    pub fn new(name: &str) -> Result<Self, InvalidIdentity> {
        match dns_subdomain_problem(name) {
            None => Ok(Self(name.into())),
            Some(problem) => Err(InvalidIdentity(format!("trust domain `{}` {problem}", shown(name)))),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no identity of this mesh's form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidIdentity(String);

/// What workloads run as: a service account of a namespace, which with every trust domain is an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceAccount {
    namespace: Arc<str>,
    name: Arc<str>,
}

impl ServiceAccount {
    /// `None` where the names are none of DNS, as which TLS asks for them.
    pub(crate) fn new(namespace: &str, name: &str) -> Option<Self> {
        let are_names = [namespace, name].iter().all(|text| dns_subdomain_problem(text).is_none());
        are_names.then(|| Self { namespace: namespace.into(), name: name.into() })
    }
}

/// What a SPIFFE ID of this mesh's form stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject<'a> {
    /// `/ns/<namespace>/sa/<service-account>`
    Workload { namespace: &'a str, service_account: &'a str },
    /// `/node/<name>`
    Node(&'a str),
    /// `/server`
    Server,
}

/// A SPIFFE ID: `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>` for workloads,
/// `spiffe://<trust-domain>/node/<name>` for nodes, `spiffe://<trust-domain>/server` for servers.
/// Always one of these; cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId(Arc<str>);

pub(crate) const SCHEME: &str = "spiffe://";
/// In bytes (section 2.3).
const LONGEST: usize = 2048;
/// How much of a text that is refused is repeated: a peer may have chosen it.
const LONGEST_SHOWN: usize = 300;

impl SpiffeId {
    /// The identity of the workloads that run as `service_account` in `namespace`.
    ///
    /// # Errors
    /// Where one of the names cannot be a segment of a path (see [`SpiffeId::from_str`]).
    pub fn workload(
        domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, InvalidIdentity> {
        format!("{SCHEME}{domain}/ns/{namespace}/sa/{service_account}").parse()
    }

    /// The identity of what runs as `account`.
    pub(crate) fn of(domain: &TrustDomain, account: &ServiceAccount) -> Self {
        let ServiceAccount { namespace, name } = account;
        Self(format!("{SCHEME}{domain}/ns/{namespace}/sa/{name}").into())
    }

    /// The identity of a node itself, as which it speaks to the server.
    ///
    /// # Errors
    /// Where the name cannot be a segment of a path (see [`SpiffeId::from_str`]).
    pub fn node(domain: &TrustDomain, name: &str) -> Result<Self, InvalidIdentity> {
        format!("{SCHEME}{domain}/node/{name}").parse()
    }

    /// The identity of the servers of a mesh.
    pub fn server(domain: &TrustDomain) -> Self {
        Self(format!("{SCHEME}{domain}/server").into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The mesh that it is of.
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.parts().0.into())
    }

    /// What the ID stands for.
    pub fn subject(&self) -> Subject<'_> {
        subject(self.parts().1).expect("checked when it was built")
    }

    /// The TLS server name by which a client asks for this identity: `<service-account>.<namespace>`
    /// and the trust domain for workloads. `None` where the result is no valid DNS name (too long).
    pub fn server_name(&self) -> Option<String> {
        let (domain, _) = self.parts();
        let name = match self.subject() {
            Subject::Workload { namespace, service_account } => {
                format!("{service_account}.{namespace}.{domain}")
            }
            Subject::Node(node) => format!("{node}.node.{domain}"),
            Subject::Server => format!("server.{domain}"),
        };
        dns_subdomain_problem(&name).is_none().then_some(name)
    }

    fn parts(&self) -> (&str, &str) {
        self.0[SCHEME.len()..].split_once('/').expect("checked when it was built")
    }
}

fn subject(path: &str) -> Option<Subject<'_>> {
    let mut segments = path.split('/');
    let subject = match (segments.next()?, segments.next(), segments.next(), segments.next()) {
        ("ns", Some(namespace), Some("sa"), Some(service_account)) => {
            Subject::Workload { namespace, service_account }
        }
        ("node", Some(name), None, None) => Subject::Node(name),
        ("server", None, None, None) => Subject::Server,
        _ => return None,
    };
    segments.next().is_none().then_some(subject)
}

/// Section 2.2: letters, digits, dots, dashes and underscores, and nothing that would lead elsewhere in a path.
pub(crate) fn is_segment(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    !matches!(text, "" | "." | "..") && text.bytes().all(allowed)
}

impl FromStr for SpiffeId {
    type Err = InvalidIdentity;

    /// Reads an ID of this mesh's form, as section 2 of the standard has it: the scheme in lower case, a trust
    /// domain, and a path whose segments are letters, digits, `.`, `-` and `_`, none of them empty, `.` or `..`;
    /// no user, port, query, fragment or escape; 2048 bytes at most.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid =
            |why: &str| InvalidIdentity(format!("`{}` is not a SPIFFE ID of a mesh: {why}", shown(text)));
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| invalid("it must start with spiffe://"))?;
        let (domain, path) = rest.split_once('/').ok_or_else(|| invalid("it has no path"))?;
        TrustDomain::new(domain).map_err(|e| invalid(&e.to_string()))?;
        if text.len() > LONGEST {
            return Err(invalid("it has more than 2048 characters"));
        }
        if !path.split('/').all(is_segment) {
            return Err(invalid(
                "what stands between its slashes must be letters, digits, `.`, `-` and `_`, and be neither empty \
                 nor `.` or `..`",
            ));
        }
        subject(path).ok_or_else(|| {
            invalid("the path must be /ns/<namespace>/sa/<service-account>, /node/<name> or /server")
        })?;
        Ok(Self(text.into()))
    }
}

/// As much of a text as a message has room for, on one line.
fn shown(text: &str) -> std::borrow::Cow<'_, str> {
    legible_start(text, LONGEST_SHOWN)
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain() -> TrustDomain {
        TrustDomain::new("mesh.local").unwrap()
    }

    #[test]
    fn identities_survive_a_round_trip() {
        let id = SpiffeId::workload(&domain(), "shop", "cart").unwrap();
        assert_eq!(id.as_str(), "spiffe://mesh.local/ns/shop/sa/cart");
        assert_eq!(id.as_str().parse::<SpiffeId>().unwrap(), id);
        assert_eq!(id.subject(), Subject::Workload { namespace: "shop", service_account: "cart" });
        assert_eq!(id.server_name().unwrap(), "cart.shop.mesh.local");
        assert_eq!(SpiffeId::node(&domain(), "n1").unwrap().subject(), Subject::Node("n1"));
    }

    #[test]
    fn each_kind_has_a_form_and_a_name_of_its_own() {
        let domain = domain();
        let node = SpiffeId::node(&domain, "n1").unwrap();
        let server = SpiffeId::server(&domain);
        assert_eq!((server.as_str(), server.subject()), ("spiffe://mesh.local/server", Subject::Server));
        assert_eq!(node.as_str(), "spiffe://mesh.local/node/n1");
        for id in [&node, &server] {
            assert_eq!(id.as_str().parse::<SpiffeId>().unwrap(), *id);
            assert_eq!(id.trust_domain(), domain);
            assert_eq!((id.to_string(), format!("{id:?}")), (id.as_str().to_owned(), id.as_str().to_owned()));
        }
        assert_eq!(node.server_name().unwrap(), "n1.node.mesh.local");
        assert_eq!(server.server_name().unwrap(), "server.mesh.local");
        assert_eq!((domain.as_str(), domain.to_string()), ("mesh.local", "mesh.local".to_owned()));
        let long = SpiffeId::workload(&domain, &"n".repeat(63), &"s".repeat(200)).unwrap();
        assert_eq!(long.server_name(), None);
    }

    #[test]
    fn texts_of_other_forms_are_refused() {
        for (bad, why) in [
            // The scheme and the trust domain (section 2.1; RFC 3986, section 3).
            ("", "start with spiffe://"),
            ("https://mesh/ns/a/sa/b", "start with spiffe://"),
            ("SPIFFE://mesh/ns/a/sa/b", "start with spiffe://"),
            ("spiffe:/mesh/ns/a/sa/b", "start with spiffe://"),
            (" spiffe://mesh/ns/a/sa/b", "start with spiffe://"),
            ("spiffe://mesh", "no path"),
            ("spiffe:///ns/a/sa/b", "trust domain"),
            ("spiffe://MESH/ns/a/sa/b", "trust domain"),
            ("spiffe://user@mesh/ns/a/sa/b", "trust domain"),
            ("spiffe://mesh:443/ns/a/sa/b", "trust domain"),
            ("spiffe://mesh?x/ns/a/sa/b", "trust domain"),
            // Its path (section 2.2).
            ("spiffe://mesh/", "between its slashes"),
            ("spiffe://mesh//ns/a/sa/b", "between its slashes"),
            ("spiffe://mesh/ns//sa/b", "between its slashes"),
            ("spiffe://mesh/ns/a/sa/", "between its slashes"),
            ("spiffe://mesh/ns/a/sa/b/", "between its slashes"),
            ("spiffe://mesh/node/", "between its slashes"),
            ("spiffe://mesh/server/", "between its slashes"),
            ("spiffe://mesh/ns/./sa/b", "between its slashes"),
            ("spiffe://mesh/ns/a/sa/..", "between its slashes"),
            ("spiffe://mesh/node/..", "between its slashes"),
            ("spiffe://mesh/ns/a/sa/b%20", "between its slashes"),
            ("spiffe://mesh/ns/a/sa/b?c", "between its slashes"),
            ("spiffe://mesh/ns/a/sa/b#c", "between its slashes"),
            ("spiffe://mesh/ns/a/sa/b:c", "between its slashes"),
            ("spiffe://mesh/ns/a/sa/b ", "between its slashes"),
            ("spiffe://mesh/ns/a/sa/b\0", "between its slashes"),
            ("spiffe://mesh/ns/a/sa/\u{e9}", "between its slashes"),
            // What it stands for.
            ("spiffe://mesh/other", "the path must be"),
            ("spiffe://mesh/ns/a/sa", "the path must be"),
            ("spiffe://mesh/ns/a/b/c", "the path must be"),
            ("spiffe://mesh/ns/a/sa/b/c", "the path must be"),
            ("spiffe://mesh/x/a/sa/b", "the path must be"),
            ("spiffe://mesh/node", "the path must be"),
            ("spiffe://mesh/node/a/b", "the path must be"),
            ("spiffe://mesh/server/a", "the path must be"),
        ] {
            let found = bad.parse::<SpiffeId>().map_err(|error| error.to_string());
            assert!(found.as_ref().is_err_and(|found| found.contains(why)), "{bad}: {found:?}");
        }
        for good in ["spiffe://mesh/ns/a.b-c_D/sa/...", "spiffe://mesh/node/.a", "spiffe://mesh/node/a..b"] {
            assert_eq!(good.parse::<SpiffeId>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn names_that_make_no_identity_make_none() {
        let domain = domain();
        for bad in ["", ".", "..", "a/b", "a/sa/b", "/", "a b", "a\n", "a%2fb", "a?", "a#", "a@b", "\u{e9}"] {
            assert!(SpiffeId::workload(&domain, bad, "cart").is_err(), "{bad:?}");
            assert!(SpiffeId::workload(&domain, "shop", bad).is_err(), "{bad:?}");
            assert!(SpiffeId::node(&domain, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_service_account_is_an_identity_with_every_trust_domain() {
        for domain in
            ["mesh.local", &format!("{0}.{0}", "a".repeat(62))].map(|name| TrustDomain::new(name).unwrap())
        {
            for (namespace, name) in [("shop", "cart"), ("a-1", "b.c"), (&*"n".repeat(63), &*"s".repeat(63))]
            {
                let account = ServiceAccount::new(namespace, name).unwrap();
                assert_eq!(
                    SpiffeId::of(&domain, &account),
                    SpiffeId::workload(&domain, namespace, name).unwrap()
                );
            }
        }
        for (namespace, name) in
            [("", "a"), ("a", ""), ("a/b", "c"), ("a", "b/c"), ("A", "b"), ("a", "B"), ("a", "..")]
        {
            assert_eq!(ServiceAccount::new(namespace, name), None, "{namespace}/{name}");
        }
    }

    #[test]
    fn no_identity_is_longer_than_2048_bytes() {
        let start = "spiffe://mesh/ns/a/sa/";
        let of = |length: usize| format!("{start}{}", "b".repeat(length - start.len()));
        assert!(of(2048).parse::<SpiffeId>().is_ok());
        let error = of(2049).parse::<SpiffeId>().unwrap_err().to_string();
        assert!(error.contains("more than 2048"), "{error}");
        let mesh = TrustDomain::new("mesh").unwrap();
        let names = |length: usize| SpiffeId::workload(&mesh, "a", &"b".repeat(length - start.len()));
        assert!(names(2048).is_ok() && names(2049).is_err());
        // The longest trust domain leaves room.
        let domain = TrustDomain::new(&format!("{}a", "a.".repeat(126))).unwrap();
        let server = SpiffeId::server(&domain);
        assert_eq!(server.as_str().parse::<SpiffeId>().unwrap(), server);
    }

    #[test]
    fn what_is_refused_is_repeated_on_one_short_line() {
        let text = format!("spiffe://mesh/\x1b[31m\n{}", "x".repeat(10_000));
        for error in [text.parse::<SpiffeId>().unwrap_err(), TrustDomain::new(&text).unwrap_err()] {
            let error = error.to_string();
            assert!(error.len() < 700 && !error.contains(['\x1b', '\n']), "{error}");
        }
    }
}
