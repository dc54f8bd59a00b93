//! The DNS names by which the workloads of a mesh call its services.

use crate::apart;
use crate::name::{ServiceName, dns_label_problem};

/// How many names may stand for another one in a row.
pub const MAX_ALIASES: usize = 8;

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
/// `c.shop.svc.cluster.local`; letter case and a dot at the end don't matter. With a suffix that only the mesh owns it may
/// be an endpoint's (`c-0.c.shop.mesh`, [`crate::apart`]). `None`: it can be no service's name, as with `localhost`
/// (RFC 6761, section 6.3), addresses and longer names.
pub fn mesh_host(host: &str, caller_namespace: &str) -> Option<MeshHost> {
    let host = &*canonical(host)?;
    if let Some(service) = SUFFIXES.iter().find_map(|suffix| endpoint_of(host.strip_suffix(suffix)?)) {
        return Some(MeshHost { service, certain: true });
    }
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

/// The suffixes that only the mesh owns.
const SUFFIXES: [&str; 3] = [".svc.cluster.local", ".svc", ".mesh"];

/// Without the dot at its end, in lower case; `None`: it is longer than a name can be.
fn canonical(host: &str) -> Option<std::borrow::Cow<'_, str>> {
    let host = folded(host);
    (host.len() <= 253).then_some(host)
}

/// Without the dot at its end, in lower case, however long.
pub fn folded(host: &str) -> std::borrow::Cow<'_, str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    match host.bytes().any(|b| b.is_ascii_uppercase()) {
        true => host.to_ascii_lowercase().into(),
        false => host.into(),
    }
}

/// The endpoint `NAME.SERVICE.NAMESPACE`.
fn endpoint_of(labels: &str) -> Option<ServiceName> {
    let mut parts = labels.split('.');
    let (label, name, namespace) = (parts.next()?, parts.next()?, parts.next()?);
    let service = mesh_host(&format!("{name}.{namespace}"), "")?.service;
    (parts.next().is_none() && dns_label_problem(label).is_none()).then(|| apart::name(&service, label))
}

/// The endpoint that a host name without a suffix of the mesh's may stand for, where there is no service of that name:
/// `c-0.c` (in the caller's namespace), `c-0.c.shop`. It may as well be a name of the world outside, unless the service is
/// there and headless: then what stands below it is an endpoint's or nobody's.
pub fn endpoint_host(host: &str, caller_namespace: &str) -> Option<ServiceName> {
    let host = &*canonical(host)?;
    match host.matches('.').count() {
        1 => endpoint_of(&format!("{host}.{caller_namespace}")),
        2 if !is_mesh_only(host) => endpoint_of(host),
        _ => None,
    }
}

/// Reads the name by which the ports of a host are asked for (RFC 2782), `_http._tcp.c.shop.mesh`: the port's name and
/// the host. Without a port (`_tcp.c.shop.mesh`) it is what all of them are below.
pub fn port_host(name: &str) -> Option<(Option<String>, &str)> {
    let (first, rest) = name.strip_prefix('_')?.split_once('.')?;
    if first.eq_ignore_ascii_case("tcp") {
        return Some((None, rest));
    }
    let (protocol, host) = rest.split_once('.')?;
    protocol.eq_ignore_ascii_case("_tcp").then(|| (Some(first.to_ascii_lowercase()), host))
}

/// Whether a name is one of the mesh's own domains or stands below one: nobody outside is asked for it, even where it can be
/// no service's or nothing is known of it. An answer from there that it did not exist would be taken for one about all
/// below it, too (RFC 8020).
pub fn is_mesh_only(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    SUFFIXES.iter().any(|suffix| host.ends_with(suffix) || host == suffix[1..])
}

/// Whether a name has none of anything itself, but stands above names of services (RFC 8020: that it did not exist would
/// mean that they do not).
pub fn is_between(host: &str) -> bool {
    let Some(host) = canonical(host) else { return false };
    let is_namespace =
        |suffix| host.strip_suffix(suffix).is_some_and(|name| dns_label_problem(name).is_none());
    matches!(&*host, "mesh" | "svc" | "cluster.local" | "svc.cluster.local")
        || SUFFIXES.iter().any(is_namespace)
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
    fn endpoints_have_names_below_their_service() {
        let db = ServiceName::new("shop", "db-0.db");
        for host in ["db-0.db.shop.mesh", "DB-0.db.shop.svc.", "db-0.db.shop.svc.cluster.local"] {
            let expected = MeshHost { service: db.clone(), certain: true };
            assert_eq!(mesh_host(host, "default"), Some(expected), "{host}");
        }
        for (host, namespace) in
            [("db-0.db", "shop"), ("DB-0.Db.", "shop"), ("db-0.db.shop", "x"), ("db-0.DB.shop.", "x")]
        {
            assert_eq!(endpoint_host(host, namespace).as_ref(), Some(&db), "{host}");
        }
        for address in ["10-0-0-1", "2001-db8-0-0-0-0-0-1", "fd00-0-0-0-0-0-0-1"] {
            let expected = Some(apart::name(&ServiceName::new("shop", "db"), address));
            for host in [format!("{address}.db"), format!("{address}.db.shop")] {
                assert_eq!(endpoint_host(&host, "shop"), expected, "{host}");
            }
        }
        let by_address = mesh_host("10-0-0-1.db.shop.mesh", "default").unwrap();
        assert_eq!(&*by_address.service.name, "10-0-0-1.db");
        for host in ["db-0.db", "db-0.db.shop", "a.db-0.db.shop.mesh", "_a.db.shop.mesh", "x.1.shop.mesh"] {
            let found = mesh_host(host, "default");
            assert!(found.is_none_or(|found| !found.service.name.contains('.')), "{host}");
        }
        for host in [
            "db",
            "a.b.c.d",
            "a.b.mesh",
            "a.b.svc",
            "127.0.0.1",
            "1.2",
            "1.2.3",
            "a.localhost",
            "_a.b",
            "a.b_c",
        ] {
            assert_eq!(endpoint_host(host, "shop"), None, "{host}");
        }
    }

    #[test]
    fn ports_are_asked_for_by_name() {
        let http = Some("http".to_owned());
        assert_eq!(port_host("_HTTP._tcp.c.shop.mesh."), Some((http.clone(), "c.shop.mesh.")));
        assert_eq!(port_host("_http._TCP.c-0.c"), Some((http, "c-0.c")));
        assert_eq!(port_host("_tcp.c"), Some((None, "c")));
        for name in ["_http._udp.c", "_http.c", "http._tcp.c", "_http._tcp", "_udp.c", "c", ""] {
            assert!(port_host(name).is_none(), "{name}");
        }
    }

    #[test]
    fn the_domains_of_the_mesh_are_nobody_elses() {
        for host in [
            "mesh",
            "Svc.",
            "foo.mesh",
            "x.SVC",
            "a_b.c.mesh.",
            "svc.cluster.local",
            "a.b.c.d.svc.cluster.local.",
        ] {
            assert!(is_mesh_only(host), "{host}");
        }
        for host in [
            "",
            ".",
            "c",
            "c.shop",
            "amesh",
            "mesh.example.com",
            "example.mesh.x",
            "cluster.local",
            "xsvc.cluster.local",
        ] {
            assert!(!is_mesh_only(host), "{host}");
        }
    }

    #[test]
    fn what_stands_above_services_is_between() {
        for host in [
            "mesh",
            "svc.",
            "Cluster.Local",
            "svc.cluster.local",
            "shop.mesh",
            "shop.svc",
            "shop.svc.cluster.local",
        ] {
            assert!(is_between(host), "{host}");
        }
        for host in ["", "c", "c.shop.mesh", "local", "a_b.mesh", "example.com"] {
            assert!(!is_between(host), "{host}");
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
