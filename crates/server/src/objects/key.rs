//! Where objects are in the store: `/registry/<group|core>/<plural>/[<namespace>/]<name>`.

use tulle_model::registry::{self, KINDS, Kind, KindId};

/// The prefix of all objects.
pub(super) const ALL: &str = "/registry/";

/// The prefix of a kind's objects, in one namespace or in all.
pub(super) fn prefix(kind: &Kind, namespace: Option<&str>) -> String {
    // Kept under the one, shown under both.
    let kind = if kind.id == KindId::EventV1 { KindId::Event.kind() } else { kind };
    let group = if kind.group.is_empty() { "core" } else { kind.group };
    match namespace {
        Some(namespace) if kind.namespaced => format!("{ALL}{group}/{}/{namespace}/", kind.plural),
        _ => format!("{ALL}{group}/{}/", kind.plural),
    }
}

/// The prefix of all objects of a group.
pub(super) fn of_group(group: &str) -> String {
    format!("{ALL}{}/", if group.is_empty() { "core" } else { group })
}

/// The key of an object. The namespace of cluster-wide kinds is ignored.
pub(super) fn key(kind: &Kind, namespace: &str, name: &str) -> String {
    format!("{}{name}", prefix(kind, Some(namespace)))
}

/// The prefixes of all that is in a namespace.
pub(super) fn inside(namespace: &str) -> Vec<String> {
    KINDS
        .iter()
        .filter(|kind| kind.namespaced && !kind.is_view())
        .map(|kind| prefix(kind, Some(namespace)))
        .collect()
}

/// The kind, namespace (empty for cluster-wide kinds) and name of the object at a key.
pub(super) fn parse(key: &str) -> Option<(&'static Kind, &str, &str)> {
    let (group, rest) = key.strip_prefix(ALL)?.split_once('/')?;
    let (plural, rest) = rest.split_once('/')?;
    let kind = registry::by_plural(if group == "core" { "" } else { group }, plural)?;
    if kind.namespaced {
        let (namespace, name) = rest.split_once('/')?;
        Some((kind, namespace, name))
    } else {
        Some((kind, "", rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_keys_it_makes() {
        for kind in KINDS.iter().filter(|kind| !kind.is_view()) {
            let key = key(kind, "shop", "cart.v2");
            let namespace = if kind.namespaced { "shop" } else { "" };
            assert_eq!(parse(&key), Some((kind, namespace, "cart.v2")));
        }
        assert_eq!(parse("/registry/core/pods/a/b"), None);
        assert_eq!(parse("/elsewhere/core/services/a/b"), None);
    }
}
