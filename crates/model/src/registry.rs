//! The kinds that the API serves, and how people and URLs name them.

use serde_json::Value;

pub use crate::kinds::id::KindId;
pub use crate::kinds::kind::Kind;
use crate::kinds::{
    authorization_policy, backend_tls_policy, config_map, endpoint_slice, event, external_service, flow,
    flow_run, grpc_route, http_route, mesh, namespace, node, reference_grant, role, role_binding, secret,
    service, tcp_route, tls_route, workload,
};

impl KindId {
    /// What is known of the kind.
    pub fn kind(self) -> &'static Kind {
        &KINDS[self as usize]
    }
}

/// All kinds, in the order of [`KindId`] and in their newest versions.
pub static KINDS: &[Kind] = &[
    namespace::KIND,
    service::KIND,
    endpoint_slice::KIND,
    http_route::KIND,
    grpc_route::KIND,
    tls_route::KIND,
    tcp_route::KIND,
    mesh::KIND,
    workload::KIND,
    authorization_policy::KIND,
    reference_grant::KIND,
    node::KIND,
    event::KIND,
    event::KIND_V1,
    secret::KIND,
    role::KIND,
    role::CLUSTER_KIND,
    role_binding::KIND,
    role_binding::CLUSTER_KIND,
    external_service::KIND,
    config_map::KIND,
    backend_tls_policy::KIND,
    flow::KIND,
    flow_run::KIND,
];

/// Kinds in those of their older versions that files in the wild have. Their objects are stored in the newest; what that
/// cannot say is refused, whichever version says it.
pub static OLDER: &[Kind] = &[
    http_route::KIND.in_version("v1beta1"),
    grpc_route::KIND.in_version("v1alpha2"),
    tls_route::KIND.in_version("v1alpha3"),
    tls_route::KIND.in_version("v1alpha2"),
    tcp_route::KIND.in_version("v1alpha2"),
    reference_grant::KIND.in_version("v1beta1"),
    backend_tls_policy::KIND.in_version("v1alpha3"),
];

/// All kinds in all versions that are served.
pub fn served() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().chain(OLDER)
}

/// The kind that a URL names, in the version that it names.
pub fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    served().find(|k| k.group == group && k.version == version && k.plural == plural)
}

/// The kind of that name in a group, in its newest version.
pub fn by_plural(group: &str, plural: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|k| k.group == group && k.plural == plural)
}

/// The kind that an object's `apiVersion` and `kind` name.
pub fn by_api_version(api_version: &str, kind: &str) -> Option<&'static Kind> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    served().find(|k| k.group == group && k.version == version && k.kind == kind)
}

/// The kind of an object, by its `apiVersion` and `kind`.
pub fn of_object(object: &Value) -> Option<&'static Kind> {
    by_api_version(object.get("apiVersion")?.as_str()?, object.get("kind")?.as_str()?)
}

/// The kind that somebody at a terminal means: `svc`, `services`, `Service`,
/// `httproutes.gateway.networking.k8s.io`, `httproute.v1beta1.gateway.networking.k8s.io`. Case does not matter; where no
/// version is named, it is the newest.
pub fn by_name(name: &str) -> Option<&'static Kind> {
    let name = name.to_ascii_lowercase();
    let (resource, rest) = name.split_once('.').unwrap_or((&name, ""));
    served().find(|k| {
        let named = resource == k.plural
            || resource == k.singular
            || resource == k.kind.to_ascii_lowercase()
            || k.short_names.contains(&resource);
        let in_group = rest.is_empty()
            || rest == k.group
            || rest.strip_prefix(k.version).is_some_and(|r| {
                r.strip_prefix('.').unwrap_or(r) == k.group && (r.is_empty() || r.starts_with('.'))
            });
        named && in_group
    })
}

/// The kinds of a category, e.g. `all`.
pub fn by_category(category: &str) -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().filter(move |k| k.categories.contains(&category))
}

/// What one may say to [`by_name`], for messages: the plural names.
pub fn names() -> impl Iterator<Item = &'static str> {
    KINDS.iter().filter(|k| !k.is_view()).map(|k| k.plural)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_is_where_its_id_says() {
        for (index, kind) in KINDS.iter().enumerate() {
            assert_eq!(kind.id as usize, index);
            assert_eq!(kind.list_kind, format!("{}List", kind.kind));
            assert_eq!(by_plural(kind.group, kind.plural), Some(kind));
            assert_eq!(by_api_version(&kind.api_version(), kind.kind), Some(kind));
            assert_eq!(by_name(&kind.qualified_name()), Some(kind));
            assert!(!kind.columns().is_empty());
        }
    }

    #[test]
    fn older_versions_are_of_a_kind_that_is_there() {
        for older in OLDER {
            let newest = older.id.kind();
            assert!(older.is_older() && !newest.is_older(), "{older} {}", older.version);
            assert_eq!((older, older.group, older.plural), (newest, newest.group, newest.plural));
            assert_eq!(by_plural(older.group, older.plural).map(|k| k.version), Some(newest.version));
            for found in [
                by_api_version(&older.api_version(), older.kind),
                by_resource(older.group, older.version, older.plural),
            ] {
                assert_eq!(found.map(|k| (k.id, k.version)), Some((older.id, older.version)));
            }
        }
        let versions: std::collections::HashSet<_> = served().map(|k| (k.id, k.version)).collect();
        assert_eq!(versions.len(), KINDS.len() + OLDER.len(), "each once");
    }

    #[test]
    fn kinds_have_the_names_that_kubectl_users_type() {
        let named = |name: &str| by_name(name).map(|k| k.kind);
        for name in ["svc", "service", "Services", "services.v1", "services.v1."] {
            assert_eq!(named(name), Some("Service"), "{name}");
        }
        for name in ["httproute", "HTTPRoute", "httproutes.gateway.networking.k8s.io"] {
            assert_eq!(named(name), Some("HTTPRoute"), "{name}");
        }
        assert_eq!(named("httproute.v1.gateway.networking.k8s.io"), Some("HTTPRoute"));
        assert_eq!(named("wl"), Some("Workload"));
        let version = |name: &str| by_name(name).map(|k| k.version);
        for (name, expected) in [
            ("httproute", Some("v1")),
            ("httproute.v1beta1.gateway.networking.k8s.io", Some("v1beta1")),
            ("tcproutes.v1alpha2.gateway.networking.k8s.io", Some("v1alpha2")),
            ("refgrant", Some("v1")),
            ("tcproutes.v1beta1.gateway.networking.k8s.io", None),
            ("services.v1beta1", None),
        ] {
            assert_eq!(version(name), expected, "{name}");
        }
        for name in ["", "pods", "svc.example.com", "services.v2", "httproutes.v1", "httproutes.v1x"] {
            assert_eq!(named(name), None, "{name}");
        }
        assert_eq!(by_category("all").count(), 2);
    }

    fn cells(kind: KindId, object: &Value) -> Vec<String> {
        let now = "2026-01-01T00:10:00Z".parse().unwrap();
        let cells = kind.kind().row(object, now);
        assert_eq!(cells.len(), kind.kind().columns().len());
        cells.into_iter().map(|c| c.as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn rows_have_a_cell_for_every_column_whatever_the_object() {
        for kind in KINDS {
            for object in [
                json!(null),
                json!({}),
                json!({ "metadata": 1, "spec": { "ports": [1], "parentRefs": "x" } }),
            ] {
                cells(kind.id, &object);
            }
        }
    }

    #[test]
    fn a_service_looks_as_in_kubectl() {
        let service = json!({
            "metadata": { "name": "c", "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "selector": { "app": "c" }, "ports": [{ "port": 80 }, { "port": 53, "protocol": "UDP" }] }
        });
        assert_eq!(
            cells(KindId::Service, &service),
            ["c", "ClusterIP", "<none>", "<none>", "80/TCP,53/UDP", "10m", "app=c"]
        );
    }

    #[test]
    fn a_route_shows_its_parents_and_the_worst_of_its_conditions() {
        let condition =
            |status: &str, reason: &str| json!({ "type": "Accepted", "status": status, "reason": reason });
        let route = json!({
            "metadata": { "name": "r", "namespace": "shop" },
            "spec": { "parentRefs": [
                { "kind": "Service", "group": "", "name": "d", "namespace": "shop" },
                { "kind": "Service", "group": "", "name": "d", "namespace": "other", "port": 80 },
            ] },
            "status": { "parents": [
                { "conditions": [condition("False", "NoMatchingParent")] }, { "conditions": [condition("True", "Accepted")] },
            ] }
        });
        assert_eq!(
            cells(KindId::HttpRoute, &route),
            [
                "r",
                "",
                "Service/d,Service/other/d:80",
                "<unknown>",
                "False (NoMatchingParent)",
                "Unknown",
                "Unknown"
            ]
        );
    }

    #[test]
    fn a_node_says_when_it_was_heard_and_whether_it_takes_traffic() {
        let node = |status: &str, seen: &str, drained: bool| {
            json!({
                "metadata": { "name": "n1", "creationTimestamp": "2026-01-01T00:00:00Z" },
                "spec": { "drained": drained },
                "status": {
                    "addresses": [{ "type": "Links", "address": "10.0.0.7:15008" }],
                    "version": "0.1.0", "captureMode": "host", "lastSeen": seen,
                    "conditions": [{ "type": "Ready", "status": status, "message": "m" }],
                },
            })
        };
        assert_eq!(
            cells(KindId::Node, &node("True", "", true)),
            ["n1", "Ready,Drained", "now", "10.0.0.7:15008", "0.1.0", "10m", "host", "m"]
        );
        assert_eq!(
            cells(KindId::Node, &node("Unknown", "2026-01-01T00:09:00Z", false))[1..3],
            ["Unknown", "60s ago"]
        );
    }
}
