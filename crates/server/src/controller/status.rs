//! Writes the statuses of routes: `Accepted` and `ResolvedRefs` as the compiler says, `Programmed`
//! counted over the nodes that use the parent. Of other objects it says when they are refused.
//!
//! Changes are gathered for a tenth of a second and written together; a status that is already as it
//! should be is not written, so the writer's own writes end there. Entries of other controllers in a
//! route's status are left as they are.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tulle_model::compile::{InvalidObject, ParentStatus};
use tulle_model::name::{NamespacedName, ServiceName};
use tulle_model::registry::{Kind, KindId};

use crate::metrics::Metrics;
use crate::objects::{ObjectError, Objects, WriteOptions};
use crate::publication::{Progress, Publication};
use crate::timestamp;

/// As routes' statuses name us.
pub const CONTROLLER_NAME: &str = "tulle.dev/mesh";
/// For how long changes are gathered.
const GATHER: Duration = Duration::from_millis(100);
/// How many statuses are written at once.
const CONCURRENT: usize = 16;
/// How long to wait before those are written again that the store did not take, at first and at most.
const LEAST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

type ObjectKey = (KindId, NamespacedName);

/// What an object's status is to say.
#[derive(Debug)]
pub enum Report {
    /// What became of a route, at each of its parents.
    Route(Vec<ParentStatus>),
    /// What is wrong with an object of another kind; nothing (any more) where there is none.
    Accepted(Option<InvalidObject>),
}

/// Takes what statuses should be, and writes them in a task of its own.
pub struct StatusWriter {
    objects: Objects,
    publication: Arc<Publication>,
    metrics: Arc<Metrics>,
    /// New since the task last looked; `None`: the object is gone.
    pending: Mutex<HashMap<ObjectKey, Option<Report>>>,
    wake: Notify,
}

/// What the task knows.
#[derive(Default)]
struct Wanted {
    routes: HashMap<ObjectKey, Vec<ParentStatus>>,
    by_service: HashMap<ServiceName, HashSet<ObjectKey>>,
}

impl StatusWriter {
    pub fn new(objects: Objects, publication: Arc<Publication>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { objects, publication, metrics, pending: Mutex::default(), wake: Notify::new() })
    }

    /// Says what became of an object; `None`: it is gone.
    pub fn set(&self, kind: &'static Kind, name: NamespacedName, report: Option<Report>) {
        self.pending.lock().insert((kind.id, name), report);
        self.wake.notify_one();
    }

    /// Writes until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut wanted = Wanted::default();
        let mut progressed: HashSet<ServiceName> = HashSet::new();
        // What the store did not take, and when it is tried again.
        let mut failed: HashMap<ObjectKey, Change> = HashMap::new();
        let mut retry = LEAST_RETRY;
        let mut retry_at = tokio::time::Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified() => {}
                services = self.publication.progressed() => progressed.extend(services),
                () = tokio::time::sleep_until(retry_at), if !failed.is_empty() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(GATHER) => {}
            }
            let changed = std::mem::take(&mut *self.pending.lock());
            let mut due: HashSet<ObjectKey> = HashSet::new();
            let mut writes: Vec<(ObjectKey, Change)> = Vec::new();
            for (object, report) in changed {
                let parents = match report {
                    Some(Report::Accepted(problem)) => {
                        let change = move |status: &mut Value, now: &str| {
                            merge_problem(status, problem.as_ref(), now);
                        };
                        writes.push((object, Box::new(change)));
                        continue;
                    }
                    Some(Report::Route(parents)) => Some(parents),
                    None => None,
                };
                due.insert(object.clone());
                wanted.set(object, parents);
            }
            for service in progressed.drain() {
                due.extend(wanted.by_service.get(&service).into_iter().flatten().cloned());
            }
            for route in due {
                if let Some(parents) = wanted.routes.get(&route) {
                    let (parents, progress) = (parents.clone(), self.progress(parents));
                    let change = move |status: &mut Value, now: &str| merge(status, &parents, &progress, now);
                    writes.push((route, Box::new(change)));
                }
            }
            // What is new about an object counts.
            for (object, change) in writes.drain(..) {
                failed.insert(object, change);
            }
            // One that waits to be tried again shows that the store takes nothing now.
            if tokio::time::Instant::now() < retry_at {
                continue;
            }
            let mut writing = Vec::with_capacity(failed.len());
            for (object, change) in failed.drain() {
                writing.push(self.write(object, change));
            }
            let left: Vec<_> = stream::iter(writing).buffer_unordered(CONCURRENT).collect().await;
            failed.extend(left.into_iter().flatten());
            if failed.is_empty() {
                retry = LEAST_RETRY;
            } else {
                if retry == LEAST_RETRY {
                    // Once for each outage.
                    tracing::warn!(statuses = failed.len(), "cannot write statuses; trying again later");
                }
                retry_at = tokio::time::Instant::now() + retry;
                retry = (retry * 2).min(LONGEST_RETRY);
            }
        }
    }

    /// How far the nodes are with each parent that takes the route.
    fn progress(&self, parents: &[ParentStatus]) -> Vec<Option<Progress>> {
        let of = |service: &ServiceName| self.publication.progress(std::slice::from_ref(service));
        parents.iter().map(|parent| parent.service.as_ref().map(of)).collect()
    }

    /// Writes a status; gives it back where the store does not take it now.
    async fn write(&self, (id, name): ObjectKey, change: Change) -> Option<(ObjectKey, Change)> {
        let kind = id.kind();
        // Read first: nothing to write is the common case.
        match self.objects.get(kind, &name.namespace, &name.name).await {
            Ok(Some(current)) => {
                let mut status = current.get("status").cloned().unwrap_or_else(|| json!({}));
                let before = status.clone();
                change(&mut status, &timestamp::now());
                if status == before {
                    return None;
                }
            }
            Ok(None) => return None,
            Err(error) => tracing::warn!(kind = kind.kind, object = %name, %error, "cannot read an object"),
        }
        let options = WriteOptions::controller();
        let written = self
            .objects
            .update_status(kind, &name.namespace, &name.name, &options, |status| {
                change(status, &timestamp::now());
            })
            .await;
        match written {
            Ok(_) => self.metrics.statuses_written.add(1),
            Err(ObjectError::NotFound { .. }) => {}
            Err(ObjectError::Store(error)) => {
                tracing::debug!(kind = kind.kind, object = %name, %error, "cannot write a status now");
                return Some(((id, name), change));
            }
            Err(error) => {
                tracing::warn!(kind = kind.kind, object = %name, %error, "cannot write a status");
            }
        }
        None
    }
}

/// Brings a status up to date, at a time.
type Change = Box<dyn Fn(&mut Value, &str) + Send + Sync>;

impl Wanted {
    fn set(&mut self, route: ObjectKey, parents: Option<Vec<ParentStatus>>) {
        if let Some(before) = self.routes.remove(&route) {
            for service in before.iter().filter_map(|parent| parent.service.as_ref()) {
                if let Some(routes) = self.by_service.get_mut(service) {
                    routes.remove(&route);
                    if routes.is_empty() {
                        self.by_service.remove(service);
                    }
                }
            }
        }
        let Some(parents) = parents else { return };
        for service in parents.iter().filter_map(|parent| parent.service.as_ref()) {
            self.by_service.entry(service.clone()).or_default().insert(route.clone());
        }
        self.routes.insert(route, parents);
    }
}

/// Brings our entries in a route's status up to date. Times change only with the condition's status.
fn merge(status: &mut Value, parents: &[ParentStatus], progress: &[Option<Progress>], now: &str) {
    let before = status["parents"].as_array().cloned().unwrap_or_default();
    let (ours, mut entries): (Vec<_>, Vec<_>) =
        before.into_iter().partition(|entry| entry["controllerName"] == CONTROLLER_NAME);
    for (parent, progress) in parents.iter().zip(progress) {
        let reference = serde_json::to_value(&parent.parent).unwrap_or_default();
        let old = ours.iter().find(|entry| entry["parentRef"] == reference);
        let old = old.and_then(|entry| entry["conditions"].as_array());
        let mut conditions: Vec<_> = parent
            .conditions
            .iter()
            .map(|condition| {
                let status = if condition.status { "True" } else { "False" };
                (
                    condition.kind,
                    status,
                    condition.reason,
                    condition.message.clone(),
                    condition.observed_generation,
                )
            })
            .collect();
        if let Some(progress) = progress {
            let generation = parent.conditions.first().and_then(|c| c.observed_generation);
            let (status, reason, message) = programmed(progress);
            conditions.push(("Programmed", status, reason, message, generation));
        }
        let conditions: Vec<_> = conditions
            .into_iter()
            .map(|(kind, status, reason, message, generation)| {
                let same = |c: &&Value| c["type"] == kind && c["status"] == status;
                let since = old.and_then(|conditions| conditions.iter().find(same));
                let since = since.map_or_else(|| json!(now), |c| c["lastTransitionTime"].clone());
                let mut condition = json!({
                    "type": kind,
                    "status": status,
                    "reason": reason,
                    "message": message,
                    "lastTransitionTime": since,
                });
                if let Some(generation) = generation {
                    condition["observedGeneration"] = json!(generation);
                }
                condition
            })
            .collect();
        entries.push(json!({
            "parentRef": reference,
            "controllerName": CONTROLLER_NAME,
            "conditions": conditions,
        }));
    }
    status["parents"] = Value::Array(entries);
}

/// Whether a status says that its object is refused.
pub(super) fn is_refused(object: &Value) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| c["type"] == "Accepted" && c["status"] == "False")
}

/// Says that an object is refused, or is so no longer. One that never was has no such condition.
fn merge_problem(status: &mut Value, problem: Option<&InvalidObject>, now: &str) {
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let before = conditions.iter_mut().find(|condition| condition["type"] == "Accepted");
    let (state, reason, message) = match problem {
        Some(problem) => ("False", "Invalid", problem.to_string()),
        None if before.is_none() => return,
        None => ("True", "Accepted", "the object is in force".to_owned()),
    };
    let since = match &before {
        Some(condition) if condition["status"] == state => condition["lastTransitionTime"].clone(),
        _ => json!(now),
    };
    let condition = json!({
        "type": "Accepted",
        "status": state,
        "reason": reason,
        "message": message,
        "lastTransitionTime": since,
    });
    match before {
        Some(before) => *before = condition,
        None => conditions.push(condition),
    }
    status["conditions"] = Value::Array(conditions);
}

fn programmed(progress: &Progress) -> (&'static str, &'static str, String) {
    let Progress { nodes, confirmed, refused } = progress;
    let count = format!("Programmed on {confirmed} of {nodes} nodes");
    if let Some((node, why)) = refused.first() {
        let more =
            if refused.len() > 1 { format!(" (and {} more)", refused.len() - 1) } else { String::new() };
        return ("False", "Refused", format!("{count}; the node {node} refuses it: {why}{more}"));
    }
    match (*nodes, *confirmed) {
        // Every node that uses the service has it; who waits for the condition must not wait for traffic.
        (0, _) => ("True", "Programmed", format!("{count}: no node uses the service yet")),
        (nodes, confirmed) if confirmed == nodes => ("True", "Programmed", count),
        _ => ("False", "Pending", count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tulle_model::compile::RouteCondition;
    use tulle_model::kinds::route::ParentReference;

    #[test]
    fn refused_objects_say_so_until_they_are_in_force() {
        let problem =
            |text: &str| InvalidObject { field: "spec.address".to_owned(), problem: text.to_owned() };
        let ready = json!({ "type": "Ready", "status": "True" });
        let mut status = json!({ "conditions": [ready] });
        merge_problem(&mut status, None, "t0");
        assert_eq!(status, json!({ "conditions": [ready] }));
        merge_problem(&mut status, Some(&problem("is no address")), "t1");
        merge_problem(&mut status, Some(&problem("is none either")), "t2");
        assert_eq!(status["conditions"][0], ready);
        assert_eq!(
            status["conditions"][1],
            json!({
                "type": "Accepted",
                "status": "False",
                "reason": "Invalid",
                "message": "spec.address: is none either",
                "lastTransitionTime": "t1",
            })
        );
        assert!(is_refused(&json!({ "status": status })));
        merge_problem(&mut status, None, "t3");
        assert_eq!(status["conditions"][1]["lastTransitionTime"], "t3");
        assert!(!is_refused(&json!({ "status": status })));
    }

    #[test]
    fn times_change_with_the_status_only_and_others_entries_stay() {
        let parent = ParentStatus {
            parent: ParentReference {
                group: Some(String::new()),
                kind: Some("Service".to_owned()),
                name: "cart".to_owned(),
                ..Default::default()
            },
            service: Some("shop/cart".parse().unwrap()),
            conditions: vec![RouteCondition {
                kind: "Accepted",
                status: true,
                reason: "Accepted",
                message: "ok".to_owned(),
                observed_generation: Some(2),
            }],
        };
        let foreign = json!({ "controllerName": "example.com/other", "parentRef": { "name": "gw" } });
        let mut status = json!({ "parents": [foreign] });
        let progress = |nodes, confirmed| vec![Some(Progress { nodes, confirmed, refused: vec![] })];
        let parents = [parent];
        merge(&mut status, &parents, &progress(2, 1), "t1");
        assert_eq!(status["parents"][0], foreign);
        let condition = |status: &Value, i: usize| status["parents"][1]["conditions"][i].clone();
        assert_eq!(condition(&status, 1)["message"], "Programmed on 1 of 2 nodes");
        assert_eq!(condition(&status, 1)["observedGeneration"], 2);

        let before = status.clone();
        merge(&mut status, &parents, &progress(2, 1), "t2");
        assert_eq!(status, before, "nothing to write");
        merge(&mut status, &parents, &progress(2, 2), "t3");
        assert_eq!(condition(&status, 0)["lastTransitionTime"], "t1");
        assert_eq!(condition(&status, 1)["lastTransitionTime"], "t3");
        assert_eq!(condition(&status, 1)["status"], "True");
    }
}
