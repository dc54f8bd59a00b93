//! FlowRun (tulle.dev/v1alpha1): one execution of a Flow. The server shows its runs as such; nobody writes them.

mod columns;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::id::KindId;
use super::kind::{Kind, TULLE};
use super::meta::Object;
use crate::flow::fault::Fault;
use crate::schema::structural::derived;

/// What the registry lists.
pub(crate) const KIND: Kind = Kind {
    has_status: false,
    short_names: &["fr"],
    ..Kind::new(
        KindId::FlowRun,
        TULLE,
        ("FlowRun", "FlowRunList"),
        ("flowruns", "flowrun"),
        "One execution of a Flow. The server shows them: they begin by requests and by `tulle flow run`, and leave as the Flow's `spec.history` says.",
        derived::<FlowRun>,
        columns::TABLE,
    )
};

/// The label that names the Flow.
pub const FLOW: &str = "tulle.dev/flow";

/// One execution of a Flow.
pub type FlowRun = Object<FlowRunSpec, FlowRunStatus>;

/// What it began with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FlowRunSpec {
    /// The Flow's name.
    pub flow: String,
    /// Who has started it: a SPIFFE ID, or a user's name; none: somebody outside of the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// The service account of its calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// The input, before `input.from`; not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
}

/// Where it has come to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FlowRunStatus {
    /// `Queued`: it begins when others have ended. `Waiting`: until a time. `Suspended`: until somebody resumes it.
    #[schemars(extend("enum" = ["Queued", "Running", "Waiting", "Suspended", "Completed", "Faulted", "Cancelled"]))]
    pub state: String,
    /// When it began (RFC 3339, with milliseconds, as all times here).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it was over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// Until when it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_until: Option<String>,
    /// Who carries it out, or did last: a node, and which of its processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runner: Option<String>,
    /// How many entries its history has.
    pub entries: u32,
    /// What it has made, where it has completed; not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
    /// Why it has faulted; not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<FlowRunError>,
}

/// Problem details (RFC 9457).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FlowRunError {
    /// A URI.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status, as of HTTP.
    pub status: u16,
    /// What kind of error it is, in words.
    pub title: String,
    /// What was wrong here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What has raised it: a JSON pointer into the workflow.
    pub instance: String,
}

impl From<&Fault> for FlowRunError {
    fn from(fault: &Fault) -> Self {
        Self {
            kind: fault.kind.to_string(),
            status: fault.status,
            title: fault.title.to_string(),
            detail: fault.detail.as_deref().map(str::to_owned),
            instance: fault.instance.to_string(),
        }
    }
}
