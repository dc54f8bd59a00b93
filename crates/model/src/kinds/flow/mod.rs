//! Flow (tulle.dev/v1alpha1): a workflow whose tasks are calls of services.

pub mod account;
pub(crate) mod check;
mod columns;
pub(crate) mod form;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::id::KindId;
use super::kind::{Kind, TULLE};
use super::meta::{Condition, Specified};
use crate::schema::structural::derived;
use crate::validate::syntax::dns_1035_label_problem;

/// The label of the workloads that carry a Flow out, with its name: nodes that run Flows of the namespace write them, as the Flow's
/// service account. Workloads of other accounts that have it are none of the Flow's.
pub const FLOW_LABEL: &str = "tulle.dev/flow";
/// The name of such a workload's port at which the HTTP trigger is served.
pub const TRIGGER_PORT: &str = "trigger";
/// The port of a Flow's name in the mesh, where it says none.
pub const DEFAULT_PORT: u16 = 80;

/// What the registry lists.
pub(crate) const KIND: Kind = Kind {
    // Without a field that it means to have, it may start more runs, or keep fewer.
    prunes_unknown: false,
    categories: &["tulle"],
    // Its trigger makes it a name of the mesh, as a Service's is.
    name_problem: dns_1035_label_problem,
    check: |object, errors| drop(check::check(object, errors)),
    ..Kind::new(
        KindId::Flow,
        TULLE,
        ("Flow", "FlowList"),
        ("flows", "flow"),
        "A workflow whose tasks are calls of services: a document of the Serverless Workflow DSL, what starts it, and as whom it calls.",
        derived::<Flow>,
        columns::TABLE,
    )
};

/// A workflow whose tasks are calls of services.
pub type Flow = Specified<FlowSpec, FlowStatus>;

/// What became of a Flow.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FlowStatus {
    /// `Accepted`: it reads, and has the name by which its trigger is called. `Programmed`: nodes carry it out.
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["type"],
        "x-kubernetes-patch-strategy" = "merge",
        "x-kubernetes-patch-merge-key" = "type"
    ))]
    pub conditions: Vec<Condition>,
}

/// What runs, as whom, and what starts it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FlowSpec {
    /// A document of the Serverless Workflow DSL, versions 1.0.0 to 1.0.3, as it is. Its `document.namespace` and `document.name` are
    /// whatever they are, so that one that was written elsewhere fits: the Flow is named by its own metadata.
    pub workflow: Value,
    /// The service account of its calls' identity, `spiffe://<trust domain>/ns/<namespace>/sa/<serviceAccount>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "default"))]
    pub service_account: Option<String>,
    /// What starts runs, beside people who do so by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<FlowTrigger>,
    /// How many runs go on at once; any number where it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<FlowConcurrency>,
    /// What is kept of runs that have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<FlowHistory>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FlowTrigger {
    /// Requests to the Flow: it has a name in the mesh, as a Service does, and services call it by that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<FlowHttpTrigger>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FlowHttpTrigger {
    /// At which port of its name, 1 to 65535.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535), extend("x-default" = 80))]
    pub port: Option<u16>,
    /// What the workflow's input is. `body`: what the request brings, as JSON. `request`: its method, path, query and body, and
    /// the headers that `headers` names.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["body", "request"], "x-default" = "body"))]
    pub input: Option<String>,
    /// The headers that are part of the input, if that is the request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "set"))]
    pub headers: Vec<String>,
    /// How long a request waits for the run to end, e.g. `10s`; 1h at most. It is told where the run is to be looked at then (202).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "25s"))]
    pub wait: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FlowConcurrency {
    /// How many runs go on at once.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub limit: u32,
    /// What becomes of one more. `Queue`: it is accepted and waits. `Refuse`: it is not accepted (429).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Queue", "Refuse"], "x-default" = "Queue"))]
    pub overflow: Option<String>,
}

/// What ends sooner: both hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FlowHistory {
    /// How many are kept, the youngest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000), extend("x-default" = 1_000))]
    pub runs: Option<u32>,
    /// How long each is kept after its end, e.g. `168h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "168h"))]
    pub age: Option<String>,
}
