//! What the API serves: groups, versions, resources, in the plain and in the aggregated form.

use serde_json::{Value, json};
use tulle_model::registry::{self, Kind, KindId};

use super::flow_runs::RunAction;

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Of a kind whose objects nobody writes.
const VIEW_VERBS: [&str; 3] = ["get", "list", "watch"];
const RUN_VERBS: [&str; 4] = ["delete", "get", "list", "watch"];
const STATUS_VERBS: [&str; 3] = ["get", "patch", "update"];

/// A kind that can only be created and is answered at once, never stored.
struct ReviewKind {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
}

const REVIEWS: [ReviewKind; 4] = [
    ReviewKind {
        group: "authentication.k8s.io",
        kind: "SelfSubjectReview",
        plural: "selfsubjectreviews",
        singular: "selfsubjectreview",
    },
    ReviewKind {
        group: "authorization.k8s.io",
        kind: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
    },
    ReviewKind {
        group: "authorization.k8s.io",
        kind: "SelfSubjectRulesReview",
        plural: "selfsubjectrulesreviews",
        singular: "selfsubjectrulesreview",
    },
    ReviewKind {
        group: "authorization.k8s.io",
        kind: "SubjectAccessReview",
        plural: "subjectaccessreviews",
        singular: "subjectaccessreview",
    },
];

/// The groups of the API, with their versions, the preferred one first. The core group is first.
fn groups() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    let of_kinds = registry::served().map(|kind| (kind.group, kind.version));
    for (group, version) in of_kinds.chain(REVIEWS.iter().map(|review| (review.group, "v1"))) {
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, versions)) if versions.contains(&version) => {}
            Some((_, versions)) => versions.push(version),
            None => groups.push((group, vec![version])),
        }
    }
    for (_, versions) in &mut groups {
        versions.sort_by_key(|version| (stability(version), std::cmp::Reverse(*version)));
    }
    groups
}

/// The lower, the more stable.
fn stability(version: &str) -> u8 {
    match version {
        version if version.contains("alpha") => 2,
        version if version.contains("beta") => 1,
        _ => 0,
    }
}

/// Each group with each of its versions.
pub(super) fn group_versions() -> Vec<(&'static str, &'static str)> {
    let each = groups().into_iter();
    each.flat_map(|(group, versions)| versions.into_iter().map(move |version| (group, version))).collect()
}

pub(super) fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// `/version`, in the form that kubectl knows: the Kubernetes version whose API this follows.
pub(super) fn version() -> Value {
    json!({
        "major": "1",
        "minor": "32",
        "gitVersion": format!("v1.32.0+tulle-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none (Rust)",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// `/api`
pub(super) fn core_versions() -> Value {
    json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] })
}

/// Nobody defines kinds here. kubectl asks for them before it says that there is no such kind (`no matches for kind`): an
/// answer of 404 would be all that it said instead.
pub(super) fn no_definitions() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinitionList",
        "metadata": { "resourceVersion": "1" },
        "items": [],
    })
}

/// `/apis`
pub(super) fn group_list() -> Value {
    let groups: Vec<Value> = groups()
        .into_iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| describe_group(group, &versions))
        .collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

/// `/apis/<group>`
pub(super) fn group(name: &str) -> Option<Value> {
    let (group, versions) = groups().into_iter().find(|(group, _)| *group == name && !name.is_empty())?;
    let mut found = describe_group(group, &versions);
    found["kind"] = "APIGroup".into();
    found["apiVersion"] = "v1".into();
    Some(found)
}

fn describe_group(group: &str, versions: &[&str]) -> Value {
    let described =
        |version: &&str| json!({ "groupVersion": api_version(group, version), "version": version });
    let versions: Vec<Value> = versions.iter().map(described).collect();
    json!({ "name": group, "versions": versions, "preferredVersion": versions.first() })
}

/// The kinds of a group in a version.
pub(super) fn kinds(group: &str, version: &str) -> impl Iterator<Item = &'static Kind> {
    registry::served().filter(move |kind| kind.group == group && kind.version == version)
}

/// `/api/v1` and `/apis/<group>/<version>`
pub(super) fn resources(group: &str, version: &str) -> Option<Value> {
    if !group_versions().contains(&(group, version)) {
        return None;
    }
    let mut resources = Vec::new();
    for kind in kinds(group, version) {
        resources.push(json!({
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": verbs(kind),
            "shortNames": kind.short_names,
            "categories": kind.categories,
        }));
        if kind.has_status {
            resources.push(json!({
                "name": format!("{}/status", kind.plural),
                "singularName": "",
                "namespaced": kind.namespaced,
                "kind": kind.kind,
                "verbs": STATUS_VERBS,
            }));
        }
        for action in RunAction::of(kind.id).iter().filter(|_| !kind.is_older()) {
            resources.push(json!({
                "name": format!("{}/{}", kind.plural, action.name()),
                "singularName": "",
                "namespaced": kind.namespaced,
                "kind": KindId::FlowRun.kind().kind,
                "verbs": [action.verb()],
            }));
        }
    }
    for review in REVIEWS.iter().filter(|review| review.group == group) {
        resources.push(json!({
            "name": review.plural,
            "singularName": review.singular,
            "namespaced": false,
            "kind": review.kind,
            "verbs": ["create"],
        }));
    }
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": api_version(group, version),
        "resources": resources,
    }))
}

/// `/api` (`core`) or `/apis`, aggregated (apidiscovery.k8s.io, APIGroupDiscoveryList).
pub(super) fn aggregated(core: bool, version: &str) -> Value {
    let items: Vec<Value> = groups()
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<Value> =
                versions.into_iter().map(|version| aggregated_version(group, version)).collect();
            json!({ "metadata": { "name": group, "creationTimestamp": null }, "versions": versions })
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

fn aggregated_version(group: &str, version: &str) -> Value {
    let mut resources: Vec<Value> = kinds(group, version).map(aggregated_resource).collect();
    resources.extend(REVIEWS.iter().filter(|review| review.group == group).map(|review| {
        json!({
            "resource": review.plural,
            "responseKind": { "group": group, "version": version, "kind": review.kind },
            "scope": "Cluster",
            "singularResource": review.singular,
            "verbs": ["create"],
        })
    }));
    json!({ "version": version, "freshness": "Current", "resources": resources })
}

fn verbs(kind: &Kind) -> &'static [&'static str] {
    match kind.id {
        KindId::FlowRun => &RUN_VERBS,
        _ if kind.is_view() => &VIEW_VERBS,
        _ => &VERBS,
    }
}

fn aggregated_resource(kind: &Kind) -> Value {
    let response = json!({ "group": kind.group, "version": kind.version, "kind": kind.kind });
    let mut resource = json!({
        "resource": kind.plural,
        "responseKind": response,
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": verbs(kind),
        "shortNames": kind.short_names,
        "categories": kind.categories,
    });
    let mut subresources = Vec::new();
    if kind.has_status {
        subresources
            .push(json!({ "subresource": "status", "responseKind": response, "verbs": STATUS_VERBS }));
    }
    for action in RunAction::of(kind.id) {
        let run = KindId::FlowRun.kind();
        let response = json!({ "group": run.group, "version": run.version, "kind": run.kind });
        subresources.push(
            json!({ "subresource": action.name(), "responseKind": response, "verbs": [action.verb()] }),
        );
    }
    if !subresources.is_empty() {
        resource["subresources"] = subresources.into();
    }
    resource
}
