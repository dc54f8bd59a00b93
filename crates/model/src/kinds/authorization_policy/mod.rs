//! AuthorizationPolicy (tulle.dev/v1alpha1): the shape of GEP-3779, with more actions, targets and sources.

pub(crate) mod check;
mod check_external;
mod check_jwt;
mod check_request;
mod columns;
mod external;
pub(crate) mod form;
mod jwt;
mod unmatched;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::http_route::HTTPValueMatch;
use super::id::KindId;
use super::kind::{Kind, TULLE};
use super::meta::{Condition, Specified};
use crate::schema::structural::derived;

pub use crate::name::SYSTEM_NAMESPACE;

pub use self::check_jwt::set_problem;
pub use self::external::{
    ExternalAuthorization, ExternalAuthorizationBody, ExternalAuthorizationGrpc, ExternalAuthorizationHttp,
};
pub use self::jwt::{
    AuthorizationClaim, AuthorizationClaimHeader, AuthorizationIssuer, AuthorizationJwt,
    AuthorizationJwtRule, AuthorizationKeys, AuthorizationTokenHeader,
};
pub use self::unmatched::{InNamespace, unmatched};

/// What the registry lists.
pub(crate) const KIND: Kind = Kind {
    // Without a field that it means to have, a policy would let in more.
    prunes_unknown: false,
    short_names: &["authz"],
    categories: &["tulle"],
    check: |object, errors| drop(check::check(object, errors)),
    ..Kind::new(
        KindId::AuthorizationPolicy,
        TULLE,
        ("AuthorizationPolicy", "AuthorizationPolicyList"),
        ("authorizationpolicies", "authorizationpolicy"),
        "Who may enter workloads, decided by the node that runs them.",
        derived::<AuthorizationPolicy>,
        columns::TABLE,
    )
};

/// Who may enter workloads, decided by the node that runs them.
pub type AuthorizationPolicy = Specified<AuthorizationPolicySpec, AuthorizationPolicyStatus>;

/// What became of a policy (Gateway API, PolicyStatus).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationPolicyStatus {
    /// One entry a target.
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub ancestors: Vec<AuthorizationAncestorStatus>,
}

/// What became of a policy at one of its targets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationAncestorStatus {
    /// The target, as in the spec.
    pub ancestor_ref: AuthorizationTarget,
    /// Who wrote this: `tulle.dev/mesh`.
    pub controller_name: String,
    /// `Accepted`: it reads, and there is something that it says something of. `Programmed`: on how many of the nodes concerned
    /// it is in force. `Enforced`: whether somebody holds everybody to it, whichever way he comes.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Whom it is about, and what becomes of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationPolicySpec {
    /// What it applies to: workloads of its own namespace, by a Service, by their labels or all of them; from namespace
    /// `tulle-system` all workloads of the mesh; or ExternalServices, and then it says who may use them.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub target_refs: Vec<AuthorizationTarget>,
    /// What becomes of whom a rule matches. `Allow`: they may enter, and of all others only whom another policy allows. `Deny`: they may
    /// not, whoever allows it. `Audit`: it is reported, and changes nothing. Not beside `externalAuth`, where another one says what becomes
    /// of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Allow", "Deny", "Audit"]))]
    pub action: Option<String>,
    /// A service that is asked about requests which no policy denies, before those are asked that allow. It is asked about what a rule
    /// matches; where there are no rules, about all. Where it is given, nothing but HTTP enters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_auth: Option<ExternalAuthorization>,
    /// Whose tokens requests may bring (RFC 7519). Where it is given, a token that is there must be valid, whatever the rules say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<AuthorizationJwt>,
    /// Any of them is enough. Without rules, `Allow` allows nobody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "atomic"))]
    pub rules: Vec<AuthorizationRule>,
}

/// What a policy applies to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationTarget {
    /// The group of the kind: `""` for Service and Namespace, `tulle.dev` for Workload, Flow, ExternalService and Mesh.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub group: String,
    /// `Service` (the workloads that it selects, at its ports), `Flow` (who may start it, by its trigger, and read its runs),
    /// `Workload` (those of the selector), `Namespace` (the policy's own),
    /// `Mesh` (all, from namespace `tulle-system`) or `ExternalService` (who leaves the mesh for it, where egress is `Listed`).
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// The name of the Service, Flow or ExternalService. A Workload has a selector in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// Which Workloads, by their labels; `{}` is all of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// Labels that must all be as it says (Kubernetes API, LabelSelector).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct LabelSelector {
    /// Labels with the values that they must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Conditions of other forms.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "atomic"))]
    pub match_expressions: Vec<LabelSelectorRequirement>,
}

/// A condition of a label.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelectorRequirement {
    /// The key of the label.
    pub key: String,
    /// `In`, `NotIn` (of `values`; also where there is no such label), `Exists` or `DoesNotExist`.
    #[schemars(extend("enum" = ["In", "NotIn", "Exists", "DoesNotExist"]))]
    pub operator: String,
    /// Of `In` and `NotIn`: at least one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "atomic"))]
    pub values: Vec<String>,
}

/// Whom a policy is about: all that it says must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationRule {
    /// Who comes: any of them. Left out it is anybody; an empty list is nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "atomic"))]
    pub sources: Option<Vec<AuthorizationSource>>,
    /// Where they come to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_attributes: Option<AuthorizationNetworkAttributes>,
    /// What their requests are like. Where a rule says so, nothing but HTTP enters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<AuthorizationHttp>,
    /// Which calls of gRPC they make. Where a rule says so, nothing but HTTP enters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<AuthorizationGrpc>,
    /// Which token they bring, of the issuers in `spec.jwt`; `{}` is any of these. Where a rule says so, nothing but HTTP enters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt: Option<AuthorizationJwtRule>,
    /// A condition in CEL, over `request.method`, `request.path`, `request.host`, `request.headers['name']`, `source.principal`,
    /// `source.namespace`, `source.serviceAccount`, `source.trustDomain`, `source.address`, `destination.port`, `jwt.issuer` and
    /// `jwt.claims`, e.g. `request.headers['x-team'] == source.namespace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub when: Option<String>,
}

/// What requests are like: all that it says must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationHttp {
    /// Any of these methods, e.g. `GET`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub methods: Option<Vec<String>>,
    /// Any of these paths, without the query.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100), extend("x-kubernetes-list-type" = "atomic"))]
    pub paths: Option<Vec<AuthorizationPath>>,
    /// Any of these hosts, whatever the port, e.g. `shop.example.com` or `*.example.com`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100), extend("x-kubernetes-list-type" = "atomic"))]
    pub hosts: Option<Vec<String>>,
    /// All of these headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub headers: Option<Vec<HTTPValueMatch>>,
}

/// A path, or all below one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationPath {
    /// `Exact`, `PathPrefix` (default): the path itself and all below it, or `Template`: with `{name}` for any one segment and, at the
    /// end, `{name=**}` for all that follow.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Exact", "PathPrefix", "Template"], "x-default" = "PathPrefix"))]
    pub type_: Option<String>,
    /// E.g. `/items`, as a template `/items/{id}/reviews` or `/items/{rest=**}`.
    #[schemars(length(min = 1, max = 1024))]
    pub value: String,
}

/// Which calls of gRPC.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationGrpc {
    /// Any of these.
    #[schemars(length(min = 1, max = 100), extend("x-kubernetes-list-type" = "atomic"))]
    pub methods: Vec<AuthorizationGrpcMethod>,
}

/// A method of gRPC, or all of a service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationGrpcMethod {
    /// The service with its package, as in `shop.v1.Cart`; any where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub service: Option<String>,
    /// The method; any where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub method: Option<String>,
}

/// Who comes. `type` says which of the others is given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationSource {
    /// `ServiceAccount`, `SPIFFE`, `Namespace`, `TrustDomain`, or `External`: who is not in the mesh.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["ServiceAccount", "SPIFFE", "Namespace", "TrustDomain", "External"]))]
    pub type_: String,
    /// Workloads that run as it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<AuthorizationServiceAccount>,
    /// An identity, e.g. `spiffe://mesh.local/ns/shop/sa/web`; `*` is any segment, `**` at the end all that follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub spiffe: Option<String>,
    /// All workloads of the namespace of that name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// All workloads of the mesh with that trust domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub trust_domain: Option<String>,
    /// Who is not in the mesh; left out, from anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<AuthorizationExternal>,
}

/// A service account of this mesh.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationServiceAccount {
    /// Its namespace; the policy's where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Its name; `*` for all of the namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Who is not in the mesh.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationExternal {
    /// Ranges of addresses, e.g. `192.0.2.0/24`: any of them. `0.0.0.0/0` is all of IPv4, `::/0` all of IPv6.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 100), extend("x-kubernetes-list-type" = "atomic"))]
    pub cidrs: Vec<String>,
}

/// Where callers come to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationNetworkAttributes {
    /// Any of these ports: of a Service that is the target its own, else those at which the workloads listen. Left out, all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "atomic"))]
    pub ports: Option<Vec<u16>>,
}
