//! The DNS names by which the workloads of a mesh call its services.

use crate::name::{ServiceName, dns_label_problem};

/// The service that a host name may stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshHost {
    pub service: ServiceName,
    /// The name ends in a suffix that only the mesh owns (`.mesh`, `.svc`, `.svc.cluster.local`):
    /// where there is no such service, nobody else knows the name either. Without such a suffix
    /// (`c`, `c.shop`) it may as well be a name of the world outside.
    pub certain: bool,
}

/// Reads a host name (no port) as a service's name, as a workload in `caller_namespace` means it:
/// `c` (in the caller's namespace), `c.shop`, `c.shop.mesh`, `c.shop.svc`,
/// `c.shop.svc.cluster.local`; letter case and a dot at the end don't matter. `None`: it can be no
/// service's name, as with `localhost` (RFC 6761, section 6.3), addresses and longer names.
pub fn mesh_host(host: &str, caller_namespace: &str) -> Option<MeshHost> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.len() > 253 {
        return None;
    }
    let lower;
    let host = if host.bytes().any(|b| b.is_ascii_uppercase()) {
        lower = host.to_ascii_lowercase();
        lower.as_str()
    } else {
        host
    };
    let mut labels = host.split('.');
    let name = labels.next()?;
    let namespace = labels.next();
    let certain = match (labels.next(), labels.next(), labels.next()) {
        (None, ..) => false,
        (Some("mesh" | "svc"), None, _) => true,
        (Some("svc"), Some("cluster"), Some("local")) => true,
        _ => return None,
    };
    if labels.next().is_some() || name == "localhost" || namespace == Some("localhost") {
        return None;
    }
    let namespace = namespace.unwrap_or(caller_namespace);
    // A Service's name starts with a letter (RFC 1035), which tells it from an address.
    let letter_first = name.starts_with(|c: char| c.is_ascii_lowercase());
    if !letter_first || dns_label_problem(name).is_some() || dns_label_problem(namespace).is_some() {
        return None;
    }
    Some(MeshHost { service: ServiceName::new(namespace, name), certain })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_names_the_service() {
        for (host, namespace, certain) in [
            ("c", "default", false),
            ("C.", "default", false),
            ("c.shop", "shop", false),
            ("c.shop.mesh", "shop", true),
            ("c.shop.svc", "shop", true),
            ("c.Shop.svc.cluster.local.", "shop", true),
        ] {
            let expected = MeshHost { service: ServiceName::new(namespace, "c"), certain };
            assert_eq!(mesh_host(host, "default"), Some(expected), "{host}");
        }
    }

    #[test]
    fn other_names_are_none() {
        for host in [
            "",
            ".",
            "localhost",
            "a.localhost",
            "127.0.0.1",
            "1.2",
            "::1",
            "www.example.com",
            "c.shop.svc.cluster",
            "c.shop.svc.cluster.local.x",
            "c.shop.mesh.x",
            "a_b",
            "c..mesh",
            "-c.shop",
        ] {
            assert_eq!(mesh_host(host, "default"), None, "{host}");
        }
    }
}
