//! Names of namespaced objects.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The namespace and name of a namespaced object. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamespacedName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// The name of the one Mesh object.
pub const MESH: &str = "default";

/// The namespace of what is for the whole mesh: policies that target it, ExternalServices for all.
pub const SYSTEM_NAMESPACE: &str = "tulle-system";

/// The name of a Service.
pub type ServiceName = NamespacedName;
/// The name of a Workload.
pub type WorkloadName = NamespacedName;

impl NamespacedName {
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// `namespace/name`, as kubectl prints it.
impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not of the form namespace/name")]
pub struct InvalidNamespacedName(String);

impl FromStr for NamespacedName {
    type Err = InvalidNamespacedName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::new(namespace, name))
            }
            _ => Err(InvalidNamespacedName(text.to_owned())),
        }
    }
}

/// What makes `label` no DNS label (RFC 1123, as Kubernetes reads it), or `None` if it is one.
pub fn dns_label_problem(label: &str) -> Option<&'static str> {
    if label.is_empty() {
        return Some("must not be empty");
    }
    if label.len() > 63 {
        return Some("must be at most 63 characters");
    }
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = label.as_bytes();
    let inner = bytes.iter().all(|&b| alphanumeric(b) || b == b'-');
    if !inner || !alphanumeric(bytes[0]) || !alphanumeric(bytes[bytes.len() - 1]) {
        return Some(
            "must consist of lower case letters, digits and '-', and start and end with a letter or digit",
        );
    }
    None
}

/// What makes `name` no DNS subdomain (RFC 1123, as Kubernetes reads it), or `None` if it is one.
pub fn dns_subdomain_problem(name: &str) -> Option<&'static str> {
    if name.len() > 253 {
        return Some("must be at most 253 characters");
    }
    name.split('.').find_map(dns_label_problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_it_prints() {
        let name = NamespacedName::new("shop", "cart");
        assert_eq!(name.to_string().parse::<NamespacedName>().unwrap(), name);
        for bad in ["", "cart", "/cart", "shop/", "a/b/c"] {
            assert!(bad.parse::<NamespacedName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_follow_rfc_1123() {
        assert_eq!(dns_label_problem("a-1"), None);
        for bad in ["", "A", "-a", "a-", "a_b", "a.b", &"a".repeat(64)] {
            assert!(dns_label_problem(bad).is_some(), "{bad}");
        }
        assert_eq!(dns_subdomain_problem("a.b-c.d"), None);
        assert!(dns_subdomain_problem("a..b").is_some());
    }
}
