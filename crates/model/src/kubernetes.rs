//! Kinds of Kubernetes itself that the API does not serve. Files in the wild hold them beside what a mesh
//! needs: a Service comes with its Deployment.
//!
//! Most mean nothing to a mesh, and may be skipped. Some say where traffic goes or who may send it: to skip
//! them would leave out what their author counts on.

use crate::validate::suggest::closest;

/// What a kind of Kubernetes means to a mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// It is about a cluster.
    Nothing,
    /// It is about traffic, and nothing here heeds it; a sentence says what to do.
    Traffic(&'static str),
}

/// The kinds by group, with the versions that Kubernetes 1.32 knows.
const SKIPPED: &[(&str, &[&str], &[&str])] = &[
    (
        "",
        &["v1"],
        &[
            "Binding",
            "ComponentStatus",
            "LimitRange",
            "Node",
            "PersistentVolume",
            "PersistentVolumeClaim",
            "Pod",
            "PodTemplate",
            "ReplicationController",
            "ResourceQuota",
            "ServiceAccount",
        ],
    ),
    (
        "admissionregistration.k8s.io",
        &["v1", "v1beta1", "v1alpha1"],
        &[
            "MutatingAdmissionPolicy",
            "MutatingAdmissionPolicyBinding",
            "MutatingWebhookConfiguration",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionPolicyBinding",
            "ValidatingWebhookConfiguration",
        ],
    ),
    ("apiextensions.k8s.io", &["v1"], &["CustomResourceDefinition"]),
    ("apiregistration.k8s.io", &["v1"], &["APIService"]),
    ("apps", &["v1"], &["ControllerRevision", "DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"]),
    ("autoscaling", &["v1", "v2"], &["HorizontalPodAutoscaler"]),
    ("batch", &["v1"], &["CronJob", "Job"]),
    ("certificates.k8s.io", &["v1", "v1alpha1"], &["CertificateSigningRequest", "ClusterTrustBundle"]),
    ("coordination.k8s.io", &["v1", "v1alpha2"], &["Lease", "LeaseCandidate"]),
    ("flowcontrol.apiserver.k8s.io", &["v1"], &["FlowSchema", "PriorityLevelConfiguration"]),
    ("networking.k8s.io", &["v1"], &["IngressClass"]),
    ("networking.k8s.io", &["v1beta1"], &["IPAddress", "ServiceCIDR"]),
    ("node.k8s.io", &["v1"], &["RuntimeClass"]),
    ("policy", &["v1"], &["Eviction", "PodDisruptionBudget"]),
    (
        "resource.k8s.io",
        &["v1beta1", "v1alpha3"],
        &["DeviceClass", "ResourceClaim", "ResourceClaimTemplate", "ResourceSlice"],
    ),
    ("scheduling.k8s.io", &["v1"], &["PriorityClass"]),
    (
        "storage.k8s.io",
        &["v1", "v1beta1", "v1alpha1"],
        &[
            "CSIDriver",
            "CSINode",
            "CSIStorageCapacity",
            "StorageClass",
            "VolumeAttachment",
            "VolumeAttributesClass",
        ],
    ),
];

/// Those about traffic, by group, with the versions that files have them in.
const TRAFFIC: &[(&str, &[&str], &str, &str)] = &[
    ("", &["v1"], "Endpoints", "write an EndpointSlice (discovery.k8s.io/v1) in its place"),
    ("networking.k8s.io", &["v1", "v1beta1"], "Ingress", INGRESS),
    ("extensions", &["v1beta1"], "Ingress", INGRESS),
    ("networking.k8s.io", &["v1"], "NetworkPolicy", NETWORK_POLICY),
    ("extensions", &["v1beta1"], "NetworkPolicy", NETWORK_POLICY),
];

const INGRESS: &str = "nothing here takes traffic from outside by it. Where requests to a Service go within the mesh, an HTTPRoute \
                       (gateway.networking.k8s.io/v1) says; take the Ingress out of the files that are applied";
const NETWORK_POLICY: &str = "nothing here would enforce it. Who may enter workloads, an AuthorizationPolicy (tulle.dev/v1alpha1) says; \
                              take the NetworkPolicy out of the files that are applied, if that is no danger";

fn split(api_version: &str) -> (&str, &str) {
    api_version.rsplit_once('/').unwrap_or(("", api_version))
}

/// What a kind of Kubernetes itself means here; `None` where it is none of those, or one that is served.
pub fn meaning(api_version: &str, kind: &str) -> Option<Meaning> {
    let (group, version) = split(api_version);
    let named = |(g, versions, k, _): &&(&str, &[&str], &str, &str)| {
        (*g, *k) == (group, kind) && versions.contains(&version)
    };
    if let Some((.., advice)) = TRAFFIC.iter().find(named) {
        return Some(Meaning::Traffic(advice));
    }
    let skipped = |(of_group, versions, kinds): &(&str, &[&str], &[&str])| {
        *of_group == group && versions.contains(&version) && kinds.contains(&kind)
    };
    SKIPPED.iter().any(skipped).then_some(Meaning::Nothing)
}

/// The kind and version, of Kubernetes or served, that somebody probably meant: `Deployment in apps/v1`.
pub fn probably_meant(api_version: &str, kind: &str) -> Option<String> {
    let (group, _) = split(api_version);
    // Of a list, what its items are.
    let kind = kind.strip_suffix("List").filter(|kind| !kind.is_empty()).unwrap_or(kind);
    let api_version = |group: &str, version: &str| match group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    };
    let skipped = SKIPPED
        .iter()
        .flat_map(|(group, versions, kinds)| kinds.iter().map(move |kind| (*group, versions[0], *kind)));
    let traffic = TRAFFIC.iter().map(|(group, versions, kind, _)| (*group, versions[0], *kind));
    let served = crate::registry::KINDS.iter().map(|k| (k.group, k.version, k.kind));
    let all: Vec<_> = served.chain(skipped).chain(traffic).collect();
    let named = |found: &(&str, &str, &str)| format!("{} in {}", found.2, api_version(found.0, found.1));
    // The kind is right, and the group or version is not.
    if let Some(found) = all.iter().find(|(_, _, k)| *k == kind) {
        return Some(named(found));
    }
    let in_group = all.iter().filter(|(g, ..)| *g == group).map(|(_, _, k)| *k);
    let meant = closest(kind, in_group).or_else(|| closest(kind, all.iter().map(|(_, _, k)| *k)))?;
    let mut candidates = all.iter().filter(|(_, _, k)| *k == meant);
    candidates.clone().find(|(g, ..)| *g == group).or_else(|| candidates.next()).map(named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::by_api_version;

    #[test]
    fn what_is_served_is_not_skipped() {
        for (group, versions, kinds) in SKIPPED {
            for version in *versions {
                let version =
                    if group.is_empty() { (*version).to_owned() } else { format!("{group}/{version}") };
                for kind in *kinds {
                    assert!(by_api_version(&version, kind).is_none(), "{kind} in {version}");
                    assert_eq!(meaning(&version, kind), Some(Meaning::Nothing));
                }
            }
        }
    }

    #[test]
    fn only_kinds_of_kubernetes_itself_are_known() {
        for (version, kind) in [
            ("v1", "Service"),
            ("v1", "Deployment"),
            ("apps/v1", "deployment"),
            ("apps/v2", "Deployment"),
            ("apps/v1", "Deploymnet"),
            ("networking.istio.io/v1", "VirtualService"),
            ("tulle.dev/v1alpha1", "TrafficPolicy"),
            ("gateway.networking.k8s.io/v1", "GRPCRoute"),
            ("", ""),
        ] {
            assert_eq!(meaning(version, kind), None, "{kind} in {version}");
        }
        for (version, kind) in [
            ("networking.k8s.io/v1", "Ingress"),
            ("extensions/v1beta1", "Ingress"),
            ("networking.k8s.io/v1", "NetworkPolicy"),
            ("v1", "Endpoints"),
        ] {
            assert!(matches!(meaning(version, kind), Some(Meaning::Traffic(_))), "{kind}");
        }
    }

    #[test]
    fn misspellings_are_seen() {
        let meant = |version: &str, kind: &str| probably_meant(version, kind);
        assert_eq!(meant("apps/v1", "Deploymnet").as_deref(), Some("Deployment in apps/v1"));
        assert_eq!(meant("v1", "Deployment").as_deref(), Some("Deployment in apps/v1"));
        assert_eq!(meant("v1", "service").as_deref(), Some("Service in v1"));
        assert_eq!(
            meant("gateway.networking.k8s.io/v1alpha2", "HTTPRoute").as_deref(),
            Some("HTTPRoute in gateway.networking.k8s.io/v1")
        );
        assert_eq!(meant("networking.istio.io/v1", "VirtualService"), None);
    }
}
