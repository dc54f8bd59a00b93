//! The kinds that the API serves: their names, their scope, what they look like in a table.

use std::fmt;
use std::hash::{Hash, Hasher};

use serde_json::Value;

use crate::columns::{self, Column};

/// One of the kinds; index into [`KINDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KindId {
    Namespace,
    Service,
    EndpointSlice,
    HttpRoute,
    TcpRoute,
    Mesh,
    Workload,
    Node,
    Event,
    /// The same objects, under the names of events.k8s.io/v1. To be read only.
    EventV1,
}

impl KindId {
    /// What is known of the kind.
    pub fn kind(self) -> &'static Kind {
        &KINDS[self as usize]
    }
}

/// A resource kind, as API discovery describes it.
///
/// There is one value a kind, in [`KINDS`]: pass `&'static Kind` around. Two are equal when their
/// [`KindId`] is.
#[derive(Clone, Copy)]
pub struct Kind {
    pub id: KindId,
    /// The API group; empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    /// As in an object's `kind`, e.g. `HTTPRoute`.
    pub kind: &'static str,
    /// As in a URL, e.g. `httproutes`.
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether there is a `status` subresource.
    pub has_status: bool,
    /// The `kind` of a list of objects, e.g. `HTTPRouteList`.
    pub list_kind: &'static str,
    /// What the kind is, in a sentence.
    pub description: &'static str,
}

const fn kind(
    id: KindId,
    (group, version): (&'static str, &'static str),
    (kind, list_kind): (&'static str, &'static str),
    (plural, singular): (&'static str, &'static str),
    description: &'static str,
) -> Kind {
    Kind {
        id,
        group,
        version,
        kind,
        plural,
        singular,
        short_names: &[],
        categories: &[],
        namespaced: true,
        has_status: true,
        list_kind,
        description,
    }
}

const CORE: (&str, &str) = ("", "v1");
const DISCOVERY: (&str, &str) = ("discovery.k8s.io", "v1");
const GATEWAY: (&str, &str) = ("gateway.networking.k8s.io", "v1");
const TULLE: (&str, &str) = ("tulle.dev", "v1alpha1");

/// All kinds, in the order of [`KindId`].
pub static KINDS: &[Kind] = &[
    Kind {
        short_names: &["ns"],
        namespaced: false,
        ..kind(
            KindId::Namespace,
            CORE,
            ("Namespace", "NamespaceList"),
            ("namespaces", "namespace"),
            "A scope for names: objects of one kind have different names in one namespace.",
        )
    },
    Kind {
        short_names: &["svc"],
        categories: &["all"],
        ..kind(
            KindId::Service,
            CORE,
            ("Service", "ServiceList"),
            ("services", "service"),
            "A name with ports that stands for a set of workloads.",
        )
    },
    Kind {
        has_status: false,
        ..kind(
            KindId::EndpointSlice,
            DISCOVERY,
            ("EndpointSlice", "EndpointSliceList"),
            ("endpointslices", "endpointslice"),
            "Some of the addresses of a service that selects no workloads; the label kubernetes.io/service-name says of which service.",
        )
    },
    Kind {
        categories: &["gateway-api"],
        ..kind(
            KindId::HttpRoute,
            GATEWAY,
            ("HTTPRoute", "HTTPRouteList"),
            ("httproutes", "httproute"),
            "How HTTP requests to a service are routed.",
        )
    },
    Kind {
        categories: &["gateway-api"],
        ..kind(
            KindId::TcpRoute,
            GATEWAY,
            ("TCPRoute", "TCPRouteList"),
            ("tcproutes", "tcproute"),
            "How TCP connections to a service are routed.",
        )
    },
    Kind {
        namespaced: false,
        categories: &["tulle"],
        ..kind(
            KindId::Mesh,
            TULLE,
            ("Mesh", "MeshList"),
            ("meshes", "mesh"),
            "The settings of the whole mesh: one object, named `default`.",
        )
    },
    Kind {
        short_names: &["wl"],
        categories: &["all", "tulle"],
        ..kind(
            KindId::Workload,
            TULLE,
            ("Workload", "WorkloadList"),
            ("workloads", "workload"),
            "One running instance of a service, outside of Kubernetes.",
        )
    },
    Kind {
        namespaced: false,
        short_names: &["no"],
        categories: &["tulle"],
        ..kind(
            KindId::Node,
            TULLE,
            ("Node", "NodeList"),
            ("nodes", "node"),
            "One host's part of the mesh, once it has joined.",
        )
    },
    Kind {
        short_names: &["ev"],
        has_status: false,
        ..kind(
            KindId::Event,
            CORE,
            ("Event", "EventList"),
            ("events", "event"),
            "Something that happened to an object; it is gone an hour after it happened last.",
        )
    },
    Kind {
        short_names: &["ev"],
        has_status: false,
        ..kind(
            KindId::EventV1,
            ("events.k8s.io", "v1"),
            ("Event", "EventList"),
            ("events", "event"),
            "Something that happened to an object; it is gone an hour after it happened last.",
        )
    },
];

impl Kind {
    /// As in an object's `apiVersion`: `v1`, `gateway.networking.k8s.io/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `httproutes.gateway.networking.k8s.io`, or `services` for the core group: how kubectl and
    /// `Status` messages name the resource.
    pub fn qualified_name(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Whether its objects are kept under another kind, and only shown under this one.
    pub fn is_view(&self) -> bool {
        self.id == KindId::EventV1
    }

    /// The columns of a table of objects of this kind, as kubectl shows it.
    pub fn columns(&self) -> &'static [Column] {
        columns::columns(self.id)
    }

    /// The cells of `object`'s row in such a table: as many as there are columns.
    pub fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        columns::row(self.id, object, now)
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Kind {}

impl Hash for Kind {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)
    }
}

/// The kind's name, e.g. `HTTPRoute`.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)
    }
}

/// The kind that a URL names.
pub fn by_plural(group: &str, plural: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|k| k.group == group && k.plural == plural)
}

/// The kind that an object's `apiVersion` and `kind` name.
pub fn by_api_version(api_version: &str, kind: &str) -> Option<&'static Kind> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    KINDS.iter().find(|k| k.group == group && k.version == version && k.kind == kind)
}

/// The kind of an object, by its `apiVersion` and `kind`.
pub fn of_object(object: &Value) -> Option<&'static Kind> {
    by_api_version(object.get("apiVersion")?.as_str()?, object.get("kind")?.as_str()?)
}

/// The kind that somebody at a terminal means: `svc`, `services`, `Service`,
/// `httproutes.gateway.networking.k8s.io`, `httproute.v1.gateway.networking.k8s.io`. Case does not matter.
pub fn by_name(name: &str) -> Option<&'static Kind> {
    let name = name.to_ascii_lowercase();
    let (resource, rest) = name.split_once('.').unwrap_or((&name, ""));
    KINDS.iter().find(|k| {
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
        for name in ["", "pods", "svc.example.com", "services.v2", "httproutes.v1", "httproutes.v1x"] {
            assert_eq!(named(name), None, "{name}");
        }
        assert_eq!(by_category("all").count(), 2);
    }
}
