//! BackendTLSPolicy (Gateway API v1.6; GEP-1897): in which TLS the nodes speak to what is outside of the mesh.

pub(crate) mod check;
mod columns;
pub(crate) mod form;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::id::KindId;
use super::kind::{GATEWAY, Kind};
use super::meta::{Condition, Specified};
use super::route::ParentReference;
use crate::schema::structural::derived;

/// What the registry lists.
pub(crate) const KIND: Kind = Kind {
    short_names: &["btlspolicy"],
    categories: &["gateway-api"],
    // Without a field that it means to have, it may trust more.
    prunes_unknown: false,
    check: |object, errors| drop(check::check(object, errors)),
    warn: check::warn,
    ..Kind::new(
        KindId::BackendTlsPolicy,
        GATEWAY,
        ("BackendTLSPolicy", "BackendTLSPolicyList"),
        ("backendtlspolicies", "backendtlspolicy"),
        "In which TLS nodes speak to an ExternalService that workloads speak to in plain.",
        derived::<BackendTLSPolicy>,
        columns::TABLE,
    )
};

/// In which TLS nodes speak to an ExternalService that workloads speak to in plain.
pub type BackendTLSPolicy = Specified<BackendTLSPolicySpec, PolicyStatus>;

/// What is spoken to, and whom the other end has to be.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendTLSPolicySpec {
    /// What it is about: ExternalServices of its own namespace, each as a whole or one of its ports. What is about a port counts there,
    /// whatever is about the whole. Of several that are about the same, the oldest counts. Of a Service nothing comes: within the mesh
    /// links are mutual TLS already.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub target_refs: Vec<LocalPolicyTargetReference>,
    /// Whom the other end has to be.
    pub validation: BackendTLSPolicyValidation,
    /// Settings that other implementations have. None is used here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub options: BTreeMap<String, String>,
}

/// An object of the policy's own namespace, or a section of it (Gateway API, LocalPolicyTargetReferenceWithSectionName).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalPolicyTargetReference {
    /// The group of the kind: `tulle.dev` for ExternalService.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub group: String,
    /// `ExternalService`.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// The name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The name of one of its ports; all of them where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
}

/// Whom the other end has to be: by whose certificate, for which names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendTLSPolicyValidation {
    /// Who may have signed the certificate: ConfigMaps or Secrets of the policy's own namespace with certificates in PEM, by the name
    /// `ca.crt`. Nodes are told of the certificates and of nothing else. If any of them is of no use, nothing leaves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub ca_certificate_refs: Vec<LocalObjectReference>,
    /// `System`: whom the host of the node trusts ($SSL_CERT_FILE and $SSL_CERT_DIR of the node, else what its distribution has). In the
    /// place of `caCertificateRefs`.
    #[serde(rename = "wellKnownCACertificates", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub well_known_ca_certificates: Option<String>,
    /// The server that is asked for (SNI), and the name that its certificate has to have, unless `subjectAltNames` says which.
    #[schemars(length(min = 1, max = 253))]
    pub hostname: String,
    /// The certificate has to have one of these names, in the place of `hostname`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5), extend("x-kubernetes-list-type" = "atomic"))]
    pub subject_alt_names: Vec<SubjectAltName>,
}

/// An object of the same namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalObjectReference {
    /// The group of the kind: `""` for ConfigMap and Secret.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub group: String,
    /// `ConfigMap` or `Secret`.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// The name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A name that a certificate may have (RFC 5280, section 4.2.1.6).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubjectAltName {
    /// `Hostname` or `URI`.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["Hostname", "URI"]))]
    pub type_: String,
    /// Of the type `Hostname`: a DNS name; `*.example.com` is any below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub hostname: Option<String>,
    /// Of the type `URI`: e.g. a SPIFFE ID, which is compared as it is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub uri: Option<String>,
}

/// What became of a policy (Gateway API, PolicyStatus).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyStatus {
    /// One entry a target.
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub ancestors: Vec<PolicyAncestorStatus>,
}

/// What became of a policy at one of its targets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyAncestorStatus {
    /// The target, as in the spec.
    pub ancestor_ref: ParentReference,
    /// Who wrote this: `tulle.dev/mesh`.
    pub controller_name: String,
    /// `Accepted`: it counts at the target. `ResolvedRefs`: all of `caCertificateRefs` have certificates.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
