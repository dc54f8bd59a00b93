//! Which workloads a node may run.

use tulle_model::name::NamespacedName;
use tulle_wire::node::Workload;

use crate::enrolment::Grant;
use crate::flows::KnownFlows;

/// Of a workload that stands for a Flow, which it names.
const FLOW_LABEL: &str = "tulle.dev/flow";

/// Why a node may not run a workload. One that stands for a Flow takes its requests, as whom it calls.
pub(super) fn problem(node: &str, grant: &Grant, workload: &Workload, flows: &KnownFlows) -> Option<String> {
    let Workload { namespace, service_account, .. } = workload;
    let Some(flow) = workload.labels.get(FLOW_LABEL) else {
        return (!grant.permits(namespace, service_account)).then(|| {
            format!(
                "the node `{node}` may not run workloads as {namespace}/{service_account}; it may run {}",
                grant.describe()
            )
        });
    };
    if !grant.runs_flows_of(namespace) {
        return Some(format!(
            "the node `{node}` may not stand for Flows of the namespace {namespace}, as the label `{FLOW_LABEL}` has it do: it \
             would have to join with a token of `tulle token create --flows {namespace}`"
        ));
    }
    let name = NamespacedName::new(namespace.as_str(), flow.as_str());
    match flows.get(&name) {
        None => Some(format!("there is no Flow {name}, which the label `{FLOW_LABEL}` names")),
        Some(known) if *known.account != **service_account => Some(format!(
            "the Flow {name} calls as the service account {}, and not as {service_account}",
            known.account
        )),
        Some(_) => None,
    }
}
