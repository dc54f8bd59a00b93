//! ExternalService (tulle.dev/v1alpha1): a destination outside of the mesh.

pub(crate) mod check;
mod columns;
pub(crate) mod form;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::id::KindId;
use super::kind::{Kind, TULLE};
use super::meta::Stateless;
use crate::schema::structural::derived;

/// What the registry lists.
pub(crate) const KIND: Kind = Kind {
    has_status: false,
    // Without a field that it means to have, it may list more.
    prunes_unknown: false,
    short_names: &["extsvc"],
    categories: &["tulle"],
    check: |object, errors| drop(check::check(object, errors)),
    ..Kind::new(
        KindId::ExternalService,
        TULLE,
        ("ExternalService", "ExternalServiceList"),
        ("externalservices", "externalservice"),
        "A destination outside of the mesh: where egress is `Listed`, workloads reach what some list, and nothing else.",
        derived::<ExternalService>,
        columns::TABLE,
    )
};

/// A destination outside of the mesh. It counts where the Mesh's egress policy is `Listed`: there workloads of its own namespace reach
/// what it lists; those of all namespaces, where its own is `tulle-system`. Where a BackendTLSPolicy is about it, what workloads send
/// there goes in TLS, under `Allow`, too.
pub type ExternalService = Stateless<ExternalServiceSpec>;

/// What may be reached: by one of the names or addresses, at one of the ports.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalServiceSpec {
    /// Names that may be resolved, and connected to by the addresses that they have: `api.example.com`, or `*.example.com` for all
    /// below it. What clients name in TLS (SNI) or HTTP (`Host`) has to be the name that was resolved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "set"))]
    pub hosts: Vec<String>,
    /// Addresses, and ranges of them (`192.0.2.0/24`), that may be connected to whatever clients name there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "set"))]
    pub addresses: Vec<String>,
    /// At which ports; at no other.
    #[schemars(
        length(min = 1, max = 100),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["port"])
    )]
    pub ports: Vec<ExternalServicePort>,
}

/// A port of an ExternalService.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalServicePort {
    /// 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Names the port, for people, and for a BackendTLSPolicy that is about it alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub name: Option<String>,
    /// Where what is for the port goes, if that is another: `http://api.example.com` (80) to 443, in the TLS of a BackendTLSPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub target_port: Option<u16>,
    /// What clients speak there, and so what is looked at. `http`, `http2`, `kubernetes.io/h2c` or `grpc`: HTTP in plain, each request by its
    /// host. `https` or `tls`: TLS, by the server that the client names. `tcp`: bytes, by their address alone.
    #[schemars(extend("enum" = ["http", "http2", "kubernetes.io/h2c", "grpc", "https", "tls", "tcp"]))]
    pub app_protocol: String,
}
