//! Targets at which there is nothing yet, for whoever writes a policy: its status says the same, later.

use serde_json::Value;

use super::check;
use super::form::TargetForm;
use crate::kinds::flow::FLOW_LABEL;
use crate::kinds::service;
use crate::kinds::service::form::Labels;
use crate::validate::field::{Errors, Field};

/// What there is in a namespace.
#[derive(Debug, Clone, Copy, Default)]
pub struct InNamespace<'a> {
    pub services: &'a [Value],
    pub flows: &'a [Value],
    pub workloads: &'a [Value],
}

/// What is to be told of a policy, where these are of its namespace. Of one that is about the whole mesh, or that cannot be read,
/// nothing is.
pub fn unmatched(policy: &Value, InNamespace { services, flows, workloads }: InNamespace<'_>) -> Vec<String> {
    let Ok(form) = check::check(&Field::root(policy), &mut Errors::default()) else { return Vec::new() };
    let labels: Vec<Labels> = workloads.iter().map(labels_of).collect();
    let namespace = &form.name.namespace;
    let missing = |target: &TargetForm| match target {
        TargetForm::Mesh | TargetForm::External(_) => None,
        TargetForm::Namespace => {
            labels.is_empty().then(|| format!("namespace \"{namespace}\" has no Workload"))
        }
        TargetForm::Workloads(selector) => (!labels.iter().any(|labels| selector.selects(labels)))
            .then(|| format!("no Workload of namespace \"{namespace}\" has these labels")),
        TargetForm::Flow(name) => {
            let named = |flow: &&Value| flow["metadata"]["name"] == *name.name;
            let Some(flow) = flows.iter().find(named) else {
                return Some(format!("there is no Flow \"{}\" in namespace \"{namespace}\"", name.name));
            };
            if flow["spec"]["trigger"]["http"].is_null() {
                return Some(format!("Flow \"{}\" has no `trigger.http`", name.name));
            }
            let carries = |labels: &Labels| labels.get(FLOW_LABEL).is_some_and(|of| **of == *name.name);
            (!labels.iter().any(carries)).then(|| format!("no node carries out Flow \"{}\"", name.name))
        }
        TargetForm::Service(name) => {
            let named = |service: &&Value| service["metadata"]["name"] == *name.name;
            let Some(service) = services.iter().find(named) else {
                return Some(format!("there is no Service \"{}\" in namespace \"{namespace}\"", name.name));
            };
            let form = service::check::check(&Field::root(service), &mut Errors::default()).ok()?;
            let selects = !form.is_alias() && labels.iter().any(|labels| form.has_labels(labels));
            (!selects).then(|| format!("Service \"{}\" selects no Workload", name.name))
        }
    };
    let targets = form.targets.iter().enumerate();
    let unmatched = targets.filter_map(|(index, target)| Some((index, missing(target)?)));
    let told = unmatched.map(|(index, why)| {
        format!("spec.targetRefs[{index}]: {why}: the policy says nothing of anybody there as yet")
    });
    told.collect()
}

fn labels_of(object: &Value) -> Labels {
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
    let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    labels.into_iter().flatten().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_target_does_not_find_is_told() {
        let service = |name: &str, spec: Value| json!({ "metadata": { "namespace": "shop", "name": name }, "spec": spec });
        let selecting = |app: &str| json!({ "selector": { "app": app }, "ports": [{ "port": 80 }] });
        let alias =
            json!({ "type": "ExternalName", "externalName": "x.example", "selector": { "app": "web" } });
        let services =
            [service("web", selecting("web")), service("old", selecting("old")), service("alias", alias)];
        let web = json!({ "metadata": { "namespace": "shop", "name": "web-0", "labels": { "app": "web" } } });
        let flow = |name: &str, trigger: Value| json!({ "metadata": { "name": name }, "spec": { "trigger": trigger } });
        let flows = [
            flow("order", json!({ "http": {} })),
            flow("idle", json!({ "http": {} })),
            flow("by-hand", json!({})),
        ];
        let of = |target: Value, workloads: &[Value]| {
            let policy = json!({
                "metadata": { "namespace": "shop", "name": "p" },
                "spec": { "targetRefs": [target], "action": "Allow" },
            });
            unmatched(&policy, InNamespace { services: &services, flows: &flows, workloads }).join("; ")
        };
        let named = |name: &str| json!({ "kind": "Service", "name": name });
        let labelled = |app: &str| json!({ "group": "tulle.dev", "kind": "Workload", "selector": { "matchLabels": { "app": app } } });
        let carrier = json!({ "metadata": { "name": "order-n1", "labels": { "tulle.dev/flow": "order" } } });
        let all = &[web, carrier][..];
        let flow = |name: &str| json!({ "group": "tulle.dev", "kind": "Flow", "name": name });
        for (target, workloads, expected) in [
            (named("web"), all, ""),
            (named("web"), &[], "Service \"web\" selects no Workload"),
            (named("old"), all, "Service \"old\" selects no Workload"),
            (named("alias"), all, "Service \"alias\" selects no Workload"),
            (named("none"), all, "there is no Service \"none\" in namespace \"shop\""),
            (labelled("web"), all, ""),
            (labelled("old"), all, "no Workload of namespace \"shop\" has these labels"),
            (flow("order"), all, ""),
            (flow("idle"), all, "no node carries out Flow \"idle\""),
            (flow("by-hand"), all, "Flow \"by-hand\" has no `trigger.http`"),
            (flow("none"), all, "there is no Flow \"none\" in namespace \"shop\""),
            (json!({ "kind": "Namespace" }), all, ""),
            (json!({ "kind": "Namespace" }), &[], "namespace \"shop\" has no Workload"),
            (json!({ "kind": "Nonsense" }), &[], ""),
        ] {
            let told = of(target.clone(), workloads);
            assert_eq!(told.is_empty(), expected.is_empty(), "{target}: {told}");
            assert!(told.contains(expected), "{target}: {told}");
        }
    }
}
