//! The Workload objects that nodes hold. An annotation names the node; what lacks it was written by
//! hand and is never touched.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use serde_json::{Map, Value, json};
use tulle_model::kinds::workload::STALE;
use tulle_model::legible::legible_start;
use tulle_model::name::WorkloadName;
use tulle_model::registry::{Kind, KindId};
use tulle_wire::node::{RefusedWorkload, Workload};

use crate::objects::{ObjectError, Objects, Part, WriteOptions};

/// The annotation that names the node.
pub const NODE_ANNOTATION: &str = "tulle.dev/node";
/// How many writes of one node are under way at once.
const CONCURRENT: usize = 32;
/// How often a write is tried again when the object comes and goes meanwhile.
const ATTEMPTS: usize = 5;

/// The node that holds a workload.
pub(super) struct HoldingNode<'a> {
    pub node: &'a str,
    pub link_address: &'a str,
    /// Whether a node is connected: what it holds is not taken over.
    pub connected: &'a (dyn Fn(&str) -> bool + Send + Sync),
}

fn kind() -> &'static Kind {
    KindId::Workload.kind()
}

/// What is stored of a node's workloads.
#[derive(Debug, Default)]
pub(super) struct HeldWorkloads {
    pub link_address: String,
    pub workloads: Vec<Workload>,
    /// Since when those that are stale are, in seconds since the epoch.
    pub stale: HashMap<WorkloadName, i64>,
}

impl HeldWorkloads {
    pub(super) fn names(&self) -> impl Iterator<Item = WorkloadName> {
        self.workloads.iter().map(|w| WorkloadName::new(w.namespace.as_str(), w.name.as_str()))
    }
}

/// What somebody else may have deleted of a node's Workload objects.
#[derive(Debug, Default)]
pub(super) struct Lost {
    pub(super) names: HashSet<WorkloadName>,
    /// Not known: all of them have to be looked at.
    pub(super) any: bool,
    /// They are to say something else: whether the node is drained.
    pub(super) rewrite: bool,
}

/// All workloads that are held by nodes.
pub(super) async fn held(objects: &Objects) -> Result<HashMap<Arc<str>, HeldWorkloads>, ObjectError> {
    let mut held: HashMap<Arc<str>, HeldWorkloads> = HashMap::new();
    for object in objects.list(kind(), None).await?.items {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let Some(node) = holder(&object) else { continue };
        let held = held.entry(node.into()).or_default();
        held.link_address = text(&object["spec"]["node"]["linkAddress"]);
        if let Some(since) = tulle_model::kinds::workload::stale_since(&object) {
            let metadata = &object["metadata"];
            let (namespace, name) = (text(&metadata["namespace"]), text(&metadata["name"]));
            held.stale.insert(WorkloadName::new(namespace.as_str(), name.as_str()), since);
        }
        let ready = condition(&object, "Ready");
        held.workloads.push(Workload {
            namespace: text(&object["metadata"]["namespace"]),
            name: text(&object["metadata"]["name"]),
            ready: ready.is_some_and(|c| c["status"] == "True"),
            reason: ready.map(|c| text(&c["message"])).unwrap_or_default(),
            ..Workload::default()
        });
    }
    Ok(held)
}

fn condition<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == name)
}

/// Marks workloads of a node as stale since times (RFC 3339); those that are already keep their time.
pub(super) async fn mark_stale(
    objects: &Objects,
    node: &str,
    since: &[(WorkloadName, String)],
) -> Vec<(WorkloadName, Result<(), ObjectError>)> {
    let mut marks = Vec::with_capacity(since.len());
    for (name, since) in since {
        marks.push(async move { (name.clone(), mark(objects, node, name, since).await) });
    }
    stream::iter(marks).buffer_unordered(CONCURRENT).collect().await
}

async fn mark(objects: &Objects, node: &str, name: &WorkloadName, since: &str) -> Result<(), ObjectError> {
    let options = WriteOptions::controller().with_part(Part::Whole);
    let marked = objects.modify(kind(), &name.namespace, &name.name, &options, |current| {
        let mut object = current.clone();
        if holder(current) != Some(node) || condition(current, STALE).is_some() {
            return Ok(object);
        }
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("resourceVersion");
        }
        let mut conditions = current["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.push(json!({
            "type": STALE,
            "status": "True",
            "reason": "NodeSilent",
            "message": format!(
                "nothing is heard of the node `{node}`: it is cut off from the server, or dead; `tulle delete \
                 node {node}` removes what it ran"
            ),
            "lastTransitionTime": since,
        }));
        object["status"]["conditions"] = Value::Array(conditions);
        Ok(object)
    });
    match marked.await {
        // Somebody has deleted it.
        Err(ObjectError::NotFound { .. }) => Ok(()),
        result => result.map(drop),
    }
}

/// Writes workloads; an error says for the node's operator why one is not taken.
pub(super) async fn write_all(
    objects: &Objects,
    holding: &HoldingNode<'_>,
    workloads: Vec<(WorkloadName, Workload)>,
) -> Vec<(WorkloadName, Workload, Result<(), String>)> {
    let mut writes = Vec::with_capacity(workloads.len());
    for (name, workload) in workloads {
        writes.push(async move {
            let result = write(objects, holding, &name, &workload).await;
            (name, workload, result.map_err(|error| error.to_string()))
        });
    }
    stream::iter(writes).buffer_unordered(CONCURRENT).collect().await
}

/// Removes workloads of a node. One that is gone already, or now another's, counts as removed.
pub(super) async fn delete_all(
    objects: &Objects,
    node: &str,
    names: &[WorkloadName],
) -> Vec<(WorkloadName, Result<(), ObjectError>)> {
    let mut deletes = Vec::with_capacity(names.len());
    for name in names {
        deletes.push(async move { (name.clone(), delete(objects, node, name).await) });
    }
    stream::iter(deletes).buffer_unordered(CONCURRENT).collect().await
}

async fn write(
    objects: &Objects,
    holding: &HoldingNode<'_>,
    name: &WorkloadName,
    workload: &Workload,
) -> Result<(), ObjectError> {
    let options = WriteOptions::controller().with_part(Part::Whole);
    for _ in 0..ATTEMPTS {
        let changed = objects
            .modify(kind(), &name.namespace, &name.name, &options, |current| {
                match holder(current) {
                    Some(node) if node == holding.node || !(holding.connected)(node) => {}
                    Some(node) => return Err(taken(name, format!("the node `{node}` runs it"))),
                    None => return Err(taken(name, "it was written by hand".to_owned())),
                }
                Ok(object(holding, name, workload, Some(current)))
            })
            .await;
        match changed {
            Err(ObjectError::NotFound { .. }) => {}
            result => return result.map(drop),
        }
        objects.ensure_namespace(&name.namespace).await?;
        let fresh = object(holding, name, workload, None);
        match objects.create(kind(), &name.namespace, fresh, &options).await {
            Err(ObjectError::AlreadyExists { .. }) => {}
            result => return result.map(drop),
        }
    }
    Err(taken(name, "others write and delete it all the time".to_owned()))
}

async fn delete(objects: &Objects, node: &str, name: &WorkloadName) -> Result<(), ObjectError> {
    let own = |object: &Value| holder(object) == Some(node);
    match objects.delete_where(kind(), &name.namespace, &name.name, own).await {
        Err(ObjectError::NotFound { .. }) => Ok(()),
        result => result.map(drop),
    }
}

/// Whether there is no such workload; false where that cannot be said.
pub(super) async fn is_gone(objects: &Objects, name: &WorkloadName) -> bool {
    matches!(objects.get(kind(), &name.namespace, &name.name).await, Ok(None))
}

fn taken(name: &WorkloadName, why: String) -> ObjectError {
    ObjectError::Conflict {
        kind: kind(),
        name: name.name.to_string(),
        message: format!(
            "there is a workload of this name already, and {why}; use another name (labels decide of which service it is)"
        ),
    }
}

/// The node that holds a workload; none for one that was written by hand.
pub(super) fn holder(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"][NODE_ANNOTATION].as_str()
}

/// The object for a reported workload; what others have added to the metadata of `current` stays.
fn object(
    holding: &HoldingNode<'_>,
    name: &WorkloadName,
    workload: &Workload,
    current: Option<&Value>,
) -> Value {
    let mut object = current.cloned().unwrap_or_else(|| json!({ "metadata": {} }));
    let metadata = &mut object["metadata"];
    metadata["name"] = json!(&*name.name);
    metadata["namespace"] = json!(&*name.namespace);
    metadata["labels"] = json!(workload.labels);
    if !metadata["annotations"].is_object() {
        metadata["annotations"] = json!({});
    }
    metadata["annotations"][NODE_ANNOTATION] = json!(holding.node);
    if let Some(metadata) = metadata.as_object_mut() {
        // Our own write is not tied to a version: it runs again on what others left.
        metadata.remove("resourceVersion");
    }
    object["apiVersion"] = json!(kind().api_version());
    object["kind"] = json!(kind().kind);
    object["spec"] = json!({
        "address": workload.address,
        "serviceAccount": workload.service_account,
        "node": { "name": holding.node, "linkAddress": holding.link_address },
        "ports": workload.ports.iter().map(|port| {
            let mut fields = Map::new();
            if !port.name.is_empty() {
                fields.insert("name".to_owned(), json!(port.name));
            }
            fields.insert("port".to_owned(), json!(port.port));
            if port.target_port != 0 && port.target_port != port.port {
                fields.insert("targetPort".to_owned(), json!(port.target_port));
            }
            Value::Object(fields)
        }).collect::<Vec<_>>(),
    });
    let (status, reason) = if workload.ready { ("True", "Ready") } else { ("False", "NotReady") };
    let message = if workload.ready || !workload.reason.is_empty() {
        legible_start(&workload.reason, 1000).into_owned()
    } else {
        "the node says that it is not ready".to_owned()
    };
    let before = current.and_then(|c| c["status"]["conditions"].as_array()).cloned().unwrap_or_default();
    let (before, others): (Vec<_>, Vec<_>) =
        before.into_iter().partition(|condition| condition["type"] == "Ready");
    let since = match before.first() {
        Some(condition) if condition["status"] == status => condition["lastTransitionTime"].clone(),
        _ => json!(crate::timestamp::now()),
    };
    let mut conditions = vec![json!({
        "type": "Ready",
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": since,
    })];
    conditions.extend(others.into_iter().filter(|condition| condition["type"] != STALE));
    object["status"] = json!({ "conditions": conditions });
    object
}

pub(super) fn refusal(name: &WorkloadName, message: String) -> RefusedWorkload {
    RefusedWorkload { namespace: name.namespace.to_string(), name: name.name.to_string(), message }
}

/// Whether two reports give the same object.
pub(super) fn same(a: &Workload, b: &Workload) -> bool {
    let comparable = |w: &Workload| Workload { certificate_not_after: 0, ..w.clone() };
    comparable(a) == comparable(b)
}

#[cfg(test)]
mod tests;
