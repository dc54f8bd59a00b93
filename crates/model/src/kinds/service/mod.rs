//! Service (core/v1).

pub(crate) mod check;
mod columns;
pub(crate) mod form;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::id::KindId;
use super::kind::{CORE, Kind};
use super::meta::{Condition, Object};
use crate::schema::structural::derived;
use crate::validate::syntax::dns_1035_label_problem;

/// What the registry lists.
pub(crate) const KIND: Kind = Kind {
    short_names: &["svc"],
    categories: &["all"],
    name_problem: dns_1035_label_problem,
    check: |object, errors| drop(check::check(object, errors)),
    warn: check::warn,
    fill_defaults: check::fill_defaults,
    ..Kind::new(
        KindId::Service,
        CORE,
        ("Service", "ServiceList"),
        ("services", "service"),
        "A name with ports that stands for a set of workloads.",
        derived::<Service>,
        columns::TABLE,
    )
};

/// A name with ports that stands for a set of workloads.
pub type Service = Object<ServiceSpec, ServiceStatus>;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// The ports that the service offers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["port", "protocol"],
        "x-kubernetes-patch-strategy" = "merge",
        "x-kubernetes-patch-merge-key" = "port"
    ))]
    pub ports: Vec<ServicePort>,
    /// Labels of the workloads that answer for the service; without it, its EndpointSlices say who does.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub selector: BTreeMap<String, String>,
    /// `ClusterIP` (default) or `ExternalName`; the others are not supported.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "enum" = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"],
        "x-default" = "ClusterIP"
    ))]
    pub type_: Option<String>,
    /// `None` for a headless service: each of its endpoints has a name and an address. Every node gives a service an
    /// address of its own, so that no other one is supported.
    #[serde(rename = "clusterIP", skip_serializing_if = "Option::is_none")]
    pub cluster_ip: Option<String>,
    /// As `clusterIP`.
    #[serde(rename = "clusterIPs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2), extend("x-kubernetes-list-type" = "atomic"))]
    pub cluster_ips: Vec<String>,
    /// Addresses outside of the cluster that lead to the service; not supported.
    #[serde(rename = "externalIPs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub external_ips: Vec<String>,
    /// The DNS name that a service of type `ExternalName` stands for: DNS says so (CNAME).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_name: Option<String>,
    /// `Cluster` (the same as nothing) or `Local`, which is not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Cluster", "Local"]))]
    pub external_traffic_policy: Option<String>,
    /// `Cluster` (default) or `Local`, which is not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Cluster", "Local"], "x-default" = "Cluster"))]
    pub internal_traffic_policy: Option<String>,
    /// Address families of the service: `IPv4`; `IPv6` is not supported.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 2),
        extend(
            "items" = { "type": "string", "enum": ["IPv4", "IPv6"] },
            "x-kubernetes-list-type" = "atomic"
        )
    )]
    pub ip_families: Vec<String>,
    /// `SingleStack`, `PreferDualStack` (the same) or `RequireDualStack`, which is not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["SingleStack", "PreferDualStack", "RequireDualStack"]))]
    pub ip_family_policy: Option<String>,
    /// Whether workloads that are not ready are endpoints too; not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish_not_ready_addresses: Option<bool>,
    /// `None` (default) or `ClientIP`, which is not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["None", "ClientIP"], "x-default" = "None"))]
    pub session_affinity: Option<String>,
    /// Settings of the session affinity; not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_affinity_config: Option<Value>,
    /// For type `LoadBalancer`; not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocate_load_balancer_node_ports: Option<bool>,
    /// For type `LoadBalancer`; not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check_node_port: Option<i64>,
    /// For type `LoadBalancer`; not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer_class: Option<String>,
    /// For type `LoadBalancer`; not supported.
    #[serde(rename = "loadBalancerIP", skip_serializing_if = "Option::is_none")]
    pub load_balancer_ip: Option<String>,
    /// For type `LoadBalancer`; not supported.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub load_balancer_source_ranges: Vec<String>,
    /// Where traffic should go by preference; not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["port"]))]
pub struct ServicePort {
    /// Names the port; required where a service has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The port that clients connect to, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i64,
    /// The workloads' port, by number or by name; the same as `port` where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<IntOrString>")]
    pub target_port: Option<IntOrString>,
    /// `TCP` (default); the others are not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["TCP", "UDP", "SCTP"], "x-default" = "TCP"))]
    pub protocol: Option<String>,
    /// What the port speaks: `http`, `http2`, `kubernetes.io/h2c`, `grpc`, `tcp`, `tls`, …; found out
    /// from the first bytes where nothing is declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
    /// A port of every node of a cluster; not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub node_port: Option<i64>,
}

/// A number or a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IntOrString {
    Int(i64),
    String(String),
}

/// As Kubernetes describes it: kubectl and client generators know the extension.
impl JsonSchema for IntOrString {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "IntOrString".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "x-kubernetes-int-or-string": true })
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// Aspects of the object's state.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["type"],
        "x-kubernetes-patch-strategy" = "merge",
        "x-kubernetes-patch-merge-key" = "type"
    ))]
    pub conditions: Vec<Condition>,
    /// What a load balancer of a cluster offers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<Value>,
}
