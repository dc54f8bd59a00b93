//! Writes the statuses of routes and policies: conditions as the compiler says, `Programmed` counted over the nodes
//! that use the parent of a route, or run what a policy says something of. Of other objects it says when they are refused.
//!
//! Changes are gathered for a tenth of a second and written together; a status that is already as it
//! should be is not written, so the writer's own writes end there. Entries of other controllers in a
//! status are left as they are.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tulle_model::compile::{ParentStatus, Refusal, StatusCondition, TargetStatus};
use tulle_model::name::{NamespacedName, ServiceName};
use tulle_model::registry::{Kind, KindId};

use super::entries::{Entries, REFUSES, StatusEntry, merge, merged, programmed};
use super::policies::PolicyProgress;
use crate::metrics::Metrics;
use crate::objects::{ObjectError, Objects, WriteOptions};
use crate::publication::{Key, Publication, ResourceType};
use crate::timestamp;

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
    /// What became of an AuthorizationPolicy or BackendTLSPolicy, at each of its targets.
    Policy(Vec<TargetStatus>),
    /// What became of a Flow.
    Flow(Vec<StatusCondition>),
    /// Why an object of another kind is not in force as it is; nothing (any more) where there is no reason.
    Accepted(Option<Refusal>),
}

/// What is new of an object.
#[derive(Debug, Default)]
struct News {
    /// It was gone meanwhile: what nodes had confirmed was of another one, though that said the same.
    was_gone: bool,
    /// `None`: it is gone.
    report: Option<Report>,
}

impl News {
    fn add(&mut self, report: Option<Report>) {
        self.was_gone |= report.is_none();
        self.report = report;
    }
}

/// Takes what statuses should be, and writes them in a task of its own.
pub struct StatusWriter {
    objects: Objects,
    publication: Arc<Publication>,
    metrics: Arc<Metrics>,
    /// New since the task last looked.
    pending: Mutex<HashMap<ObjectKey, News>>,
    wake: Notify,
}

/// What the task knows.
#[derive(Default)]
struct Wanted {
    known: HashMap<ObjectKey, Attachments>,
    /// Whose status counts what nodes have answered to a resource.
    by_resource: HashMap<Key, HashSet<ObjectKey>>,
}

/// What an object is attached to, which has entries in its status.
enum Attachments {
    Parents(Vec<ParentStatus>),
    Targets(PolicyProgress),
}

impl Attachments {
    /// The resources that nodes are told for it.
    fn resources(&self) -> HashSet<Key> {
        match self {
            Self::Parents(parents) => {
                let services = parents.iter().filter_map(|parent| parent.service.as_ref());
                services.map(|service| Key::new(ResourceType::Service, service.to_string())).collect()
            }
            Self::Targets(policy) => policy.resources(),
        }
    }

    /// The entries of the status, as far as the nodes are now.
    fn entries(&mut self, publication: &Publication) -> Entries {
        match self {
            Self::Parents(parents) => {
                let of = |service: &ServiceName| publication.progress(std::slice::from_ref(service));
                let entry = |parent: &ParentStatus| {
                    let programmed = parent.service.as_ref().map(|service| programmed(&of(service), REFUSES));
                    StatusEntry::new(&parent.parent, &parent.conditions, programmed)
                };
                Entries {
                    list: "parents",
                    reference: "parentRef",
                    entries: parents.iter().map(entry).collect(),
                }
            }
            Self::Targets(policy) => policy.entries(publication),
        }
    }
}

impl StatusWriter {
    pub fn new(objects: Objects, publication: Arc<Publication>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { objects, publication, metrics, pending: Mutex::default(), wake: Notify::new() })
    }

    /// Says what became of an object; `None`: it is gone.
    pub fn set(&self, kind: &'static Kind, name: NamespacedName, report: Option<Report>) {
        self.pending.lock().entry((kind.id, name)).or_default().add(report);
        self.wake.notify_one();
    }

    /// Writes until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut wanted = Wanted::default();
        let mut progressed: HashSet<Key> = HashSet::new();
        // What the store did not take, and when it is tried again.
        let mut failed: HashMap<ObjectKey, Change> = HashMap::new();
        let mut retry = LEAST_RETRY;
        let mut retry_at = tokio::time::Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified() => {}
                resources = self.publication.progressed() => progressed.extend(resources),
                () = tokio::time::sleep_until(retry_at), if !failed.is_empty() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(GATHER) => {}
            }
            let changed = std::mem::take(&mut *self.pending.lock());
            let mut due: HashSet<ObjectKey> = HashSet::new();
            let mut writes: Vec<(ObjectKey, Change)> = Vec::new();
            for (object, News { was_gone, report }) in changed {
                if was_gone {
                    wanted.set(object.clone(), None);
                }
                let attachments = match report {
                    Some(Report::Accepted(refusal)) => {
                        let change = move |status: &mut Value, now: &str| {
                            merge_refusal(status, refusal.as_ref(), now);
                        };
                        writes.push((object, Box::new(change)));
                        continue;
                    }
                    Some(Report::Flow(conditions)) => {
                        let change = move |status: &mut Value, now: &str| {
                            let before = status["conditions"].as_array();
                            status["conditions"] = merged(before, &conditions, now);
                        };
                        writes.push((object, Box::new(change)));
                        continue;
                    }
                    Some(Report::Route(parents)) => Some(Attachments::Parents(parents)),
                    Some(Report::Policy(targets)) => Some(Attachments::Targets(PolicyProgress::new(targets))),
                    None => None,
                };
                due.insert(object.clone());
                wanted.set(object, attachments);
            }
            for resource in progressed.drain() {
                due.extend(wanted.by_resource.get(&resource).into_iter().flatten().cloned());
            }
            for object in due {
                if let Some(attachments) = wanted.known.get_mut(&object) {
                    let entries = attachments.entries(&self.publication);
                    let change = move |status: &mut Value, now: &str| merge(status, &entries, now);
                    writes.push((object, Box::new(change)));
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
    fn set(&mut self, object: ObjectKey, attachments: Option<Attachments>) {
        // Each write of ours brings the object again: what nodes have confirmed of it stays confirmed.
        if let Some(Attachments::Targets(now)) = &attachments
            && let Some(Attachments::Targets(before)) = self.known.get(&object)
            && before.is_the_same(now)
        {
            return;
        }
        if let Some(before) = self.known.remove(&object) {
            for resource in before.resources() {
                if let Some(objects) = self.by_resource.get_mut(&resource) {
                    objects.remove(&object);
                    if objects.is_empty() {
                        self.by_resource.remove(&resource);
                    }
                }
            }
        }
        let Some(attachments) = attachments else { return };
        for resource in attachments.resources() {
            self.by_resource.entry(resource).or_default().insert(object.clone());
        }
        self.known.insert(object, attachments);
    }
}

/// Whether a status says that its object is refused.
pub(super) fn is_refused(object: &Value) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| c["type"] == "Accepted" && c["status"] == "False")
}

/// Says that an object is refused, or is so no longer. One that never was has no such condition.
fn merge_refusal(status: &mut Value, refusal: Option<&Refusal>, now: &str) {
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let before = conditions.iter_mut().find(|condition| condition["type"] == "Accepted");
    let (state, reason, message) = match refusal {
        Some(refusal) => ("False", refusal.reason, refusal.message.as_str()),
        None if before.is_none() => return,
        None => ("True", "Accepted", "the object is in force"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_gone_for_a_moment_is_another_one() {
        let policy = || Some(Report::Policy(Vec::new()));
        for (reports, was_gone, is_there) in [
            (vec![policy(), policy()], false, true),
            (vec![policy(), None, policy()], true, true),
            (vec![policy(), None], true, false),
        ] {
            let mut news = News::default();
            reports.into_iter().for_each(|report| news.add(report));
            assert_eq!((news.was_gone, news.report.is_some()), (was_gone, is_there));
        }
        // And has nothing from the one before.
        let mut wanted = Wanted::default();
        let object = (KindId::AuthorizationPolicy, NamespacedName::new("shop", "p"));
        let targets = || Some(Attachments::Targets(PolicyProgress::new(Vec::new())));
        wanted.set(object.clone(), targets());
        wanted.set(object.clone(), None);
        assert!(wanted.known.is_empty());
        wanted.set(object, targets());
        assert_eq!(wanted.known.len(), 1);
    }

    #[test]
    fn refused_objects_say_so_until_they_are_in_force() {
        let problem = |text: &str| Refusal { reason: "Invalid", message: format!("spec.address: {text}") };
        let ready = json!({ "type": "Ready", "status": "True" });
        let mut status = json!({ "conditions": [ready] });
        merge_refusal(&mut status, None, "t0");
        assert_eq!(status, json!({ "conditions": [ready] }));
        merge_refusal(&mut status, Some(&problem("is no address")), "t1");
        merge_refusal(&mut status, Some(&problem("is none either")), "t2");
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
        merge_refusal(&mut status, None, "t3");
        assert_eq!(status["conditions"][1]["lastTransitionTime"], "t3");
        assert!(!is_refused(&json!({ "status": status })));
    }
}
