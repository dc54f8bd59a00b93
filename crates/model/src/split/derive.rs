//! A Service that is missing, as its parent has it.

use serde_json::{Map, Value, json};

use super::overlap::Part;
use super::{MeshObject, name_of, namespace_of};
use crate::kinds::service::form::Labels;
use crate::name::ServiceName;
use crate::registry::KindId;

/// A Service that is not there, and one that would do.
#[derive(Debug, Clone, PartialEq)]
pub struct Missing {
    pub name: ServiceName,
    pub service: Value,
    /// Whether a Workload has the labels that it selects.
    pub selects: bool,
}

/// What Services have by default, or get from the server.
const COPIED: [&str; 5] = ["name", "port", "targetPort", "protocol", "appProtocol"];

/// The Service of that name that would do beside `parent`: with its ports, for those Workloads of it that are of that
/// version, or for others where `sides` select these already.
pub(super) fn missing(parent: &Value, name: ServiceName, objects: &[MeshObject], sides: &[Part]) -> Missing {
    let port = |port: &Value| {
        let fields =
            COPIED.into_iter().filter_map(|field| Some((field.to_owned(), port.get(field)?.clone())));
        let mut fields: Map<String, Value> = fields.collect();
        fields.retain(|field, value| match field.as_str() {
            "protocol" => *value != "TCP",
            "targetPort" => *value != port["port"],
            _ => true,
        });
        Value::Object(fields)
    };
    let ports: Vec<_> = parent["spec"]["ports"].as_array().into_iter().flatten().map(port).collect();
    let (selector, selects) = selector(parent, &name, objects, sides);
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": &*name.name, "namespace": &*name.namespace },
        "spec": { "selector": selector, "ports": ports },
    });
    // What is said there of ports holds for the Service whose endpoints take a request.
    let annotations = parent["metadata"]["annotations"].as_object().into_iter().flatten();
    let own: Map<_, _> = annotations
        .filter(|(key, _)| key.starts_with("tulle.dev/"))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if !own.is_empty() {
        service["metadata"]["annotations"] = Value::Object(own);
    }
    Missing { name, service, selects }
}

/// What it selects: the parent's Workloads with a label that says the version, as they have it, or else the Workloads that are
/// called so, or else what the former would be; the first of these that no other side selects. Whether there is such a
/// Workload.
fn selector(
    parent: &Value,
    name: &ServiceName,
    objects: &[MeshObject],
    sides: &[Part],
) -> (Map<String, Value>, bool) {
    let of_parent = parent["spec"]["selector"].as_object().cloned().unwrap_or_default();
    let prefix = format!("{}-", name_of(parent).name);
    let version = name.name.strip_prefix(&prefix).unwrap_or(&name.name);
    let mut workloads: Vec<_> = objects
        .iter()
        .filter(|(kind, object)| kind.id == KindId::Workload && namespace_of(object) == &*name.namespace)
        .filter_map(|(_, object)| object["metadata"]["labels"].as_object())
        .collect();
    let selects = |labels: &&&Map<String, Value>| {
        !of_parent.is_empty() && of_parent.iter().all(|(key, value)| labels.get(key) == Some(value))
    };
    let says = |labels: &&Map<String, Value>| {
        let mut keys =
            labels.iter().filter(|(key, value)| **value == version && !of_parent.contains_key(*key));
        keys.next().map(|(key, _)| key.clone())
    };
    let with = |key: &str| {
        let mut selector = of_parent.clone();
        selector.insert(key.to_owned(), version.into());
        selector
    };
    workloads.sort_by_key(|labels| labels.get("version").is_none());
    let labelled = workloads.iter().filter(selects).find_map(says).map(|key| (with(&key), true));
    let called = Map::from_iter([("app".to_owned(), Value::from(&*name.name))]);
    let is_there = workloads.iter().any(|labels| labels.get("app") == called.get("app"));
    let imagined = (!of_parent.is_empty()).then(|| (with("version"), false));
    let candidates: Vec<_> = labelled
        .into_iter()
        .chain(is_there.then(|| (called.clone(), true)))
        .chain(imagined)
        .chain([(called.clone(), is_there)])
        .collect();
    let free = candidates.iter().find(|(selector, _)| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let labels: Labels = selector.iter().map(|(key, value)| (key.clone(), text(value))).collect();
        sides.iter().all(|side| !side.covers(&labels) && !side.is_within(&labels))
    });
    free.or(candidates.first()).cloned().unwrap_or((called, is_there))
}
