//! SPIFFE identities (the SPIFFE-ID standard, section 2) and the names by which TLS asks for them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::name::dns_subdomain_problem;

/// A SPIFFE trust domain: the name of a mesh.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The trust domain of that name; it must be a DNS name in lower case.
    pub fn new(name: &str) -> Result<Self, InvalidIdentity> {
        match dns_subdomain_problem(name) {
            None => Ok(Self(name.into())),
            Some(problem) => Err(InvalidIdentity(format!("trust domain `{name}` {problem}"))),
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

const SCHEME: &str = "spiffe://";

impl SpiffeId {
    /// The identity of the workloads that run as `service_account` in `namespace`.
    pub fn workload(domain: &TrustDomain, namespace: &str, service_account: &str) -> Self {
        Self(format!("{SCHEME}{domain}/ns/{namespace}/sa/{service_account}").into())
    }

    /// The identity of a node itself, as which it speaks to the server.
    pub fn node(domain: &TrustDomain, name: &str) -> Self {
        Self(format!("{SCHEME}{domain}/node/{name}").into())
    }

    /// The identity of the servers of a mesh.
    pub fn server(domain: &TrustDomain) -> Self {
        Self(format!("{SCHEME}{domain}/server").into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the trust domain.
    pub fn trust_domain(&self) -> &str {
        self.parts().0
    }

    /// What the ID stands for.
    pub fn subject(&self) -> Subject<'_> {
        subject(self.parts().1).expect("checked when it was built")
    }

    /// The TLS server name by which a client asks for this identity: `<service-account>.<namespace>`
    /// and the trust domain for workloads. `None` where the result is no valid DNS name (too long).
    pub fn server_name(&self) -> Option<String> {
        let name = match self.subject() {
            Subject::Workload { namespace, service_account } => {
                format!("{service_account}.{namespace}.{}", self.trust_domain())
            }
            Subject::Node(node) => format!("{node}.node.{}", self.trust_domain()),
            Subject::Server => format!("server.{}", self.trust_domain()),
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
        ("ns", Some(namespace), Some("sa"), Some(service_account))
            if !namespace.is_empty() && !service_account.is_empty() =>
        {
            Subject::Workload { namespace, service_account }
        }
        ("node", Some(name), None, None) if !name.is_empty() => Subject::Node(name),
        ("server", None, None, None) => Subject::Server,
        _ => return None,
    };
    segments.next().is_none().then_some(subject)
}

impl FromStr for SpiffeId {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |why: &str| InvalidIdentity(format!("`{text}` is not a SPIFFE ID of a mesh: {why}"));
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| invalid("it must start with spiffe://"))?;
        let (domain, path) = rest.split_once('/').ok_or_else(|| invalid("it has no path"))?;
        TrustDomain::new(domain).map_err(|e| invalid(&e.to_string()))?;
        // SPIFFE-ID section 2.2: letters, digits, dots, dashes and underscores only.
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"./-_".contains(&b);
        if text.len() > 2048 || !path.bytes().all(allowed) {
            return Err(invalid("it has a character that is not allowed, or more than 2048"));
        }
        subject(path).ok_or_else(|| {
            invalid("the path must be /ns/<namespace>/sa/<service-account>, /node/<name> or /server")
        })?;
        Ok(Self(text.into()))
    }
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

    #[test]
    fn identities_survive_a_round_trip() {
        let domain = TrustDomain::new("mesh.local").unwrap();
        let id = SpiffeId::workload(&domain, "shop", "cart");
        assert_eq!(id.as_str(), "spiffe://mesh.local/ns/shop/sa/cart");
        assert_eq!(id.as_str().parse::<SpiffeId>().unwrap(), id);
        assert_eq!(id.subject(), Subject::Workload { namespace: "shop", service_account: "cart" });
        assert_eq!(id.server_name().unwrap(), "cart.shop.mesh.local");
        assert_eq!(SpiffeId::node(&domain, "n1").subject(), Subject::Node("n1"));
    }

    #[test]
    fn foreign_forms_are_refused() {
        for bad in [
            "https://mesh/ns/a/sa/b",
            "spiffe://mesh",
            "spiffe:///ns/a/sa/b",
            "spiffe://mesh/ns/a/sa/",
            "spiffe://mesh/ns/a/sa/b/c",
            "spiffe://mesh/ns/a/sa/b%20",
            "spiffe://MESH/ns/a/sa/b",
            "spiffe://mesh/other",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn each_kind_has_a_form_and_a_name_of_its_own() {
        let domain = TrustDomain::new("mesh.local").unwrap();
        let node = SpiffeId::node(&domain, "n1");
        let server = SpiffeId::server(&domain);
        assert_eq!((server.as_str(), server.subject()), ("spiffe://mesh.local/server", Subject::Server));
        assert_eq!(node.as_str(), "spiffe://mesh.local/node/n1");
        for id in [&node, &server] {
            assert_eq!(id.as_str().parse::<SpiffeId>().unwrap(), *id);
            assert_eq!(id.trust_domain(), "mesh.local");
            assert_eq!((id.to_string(), format!("{id:?}")), (id.as_str().to_owned(), id.as_str().to_owned()));
        }
        assert_eq!(node.server_name().unwrap(), "n1.node.mesh.local");
        assert_eq!(server.server_name().unwrap(), "server.mesh.local");
        assert_eq!((domain.as_str(), domain.to_string()), ("mesh.local", "mesh.local".to_owned()));
        assert_eq!(SpiffeId::workload(&domain, &"n".repeat(63), &"s".repeat(200)).server_name(), None);
    }

    #[test]
    fn what_says_too_much_or_too_little_is_none() {
        for bad in [
            "spiffe://mesh/ns//sa/b",
            "spiffe://mesh/ns/a/sa",
            "spiffe://mesh/ns/a/b/c",
            "spiffe://mesh/x/a/sa/b",
            "spiffe://mesh/node/",
            "spiffe://mesh/node/a/b",
            "spiffe://mesh/node",
            "spiffe://mesh/server/",
            "spiffe://mesh/server/a",
            "spiffe://mesh/",
            "spiffe://mesh/ns/a/sa/\u{e9}",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
        // At most 2048 bytes (SPIFFE-ID section 2.3).
        let start = "spiffe://mesh/ns/a/sa/";
        let of = |length: usize| format!("{start}{}", "b".repeat(length - start.len()));
        assert!(of(2048).parse::<SpiffeId>().is_ok() && of(2049).parse::<SpiffeId>().is_err());
    }
}
