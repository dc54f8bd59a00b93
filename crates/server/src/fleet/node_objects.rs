//! The Node objects: what is known of each node, for people and their tools; and what people want of a node.
//!
//! They are brought up to date when a node comes or goes, and once a second for what time changes; and stay when a node
//! goes, until it is deleted or was not heard for as long as stale workloads are kept.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tulle_model::legible::legible_start;
use tulle_model::name::dns_subdomain_problem;
use tulle_model::registry::{Kind, KindId};
use tulle_wire::node::{RefusedWorkload, Workload};

use super::{EvictError, Fleet, NodeTask};
use crate::events::Severity;
use crate::objects::{DeleteOptions, ObjectError, WriteOptions};
use crate::timestamp;

/// How often the nodes are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Who comes or goes within this time is written at once; so often is one written that does nothing else.
const GATHER: Duration = Duration::from_millis(50);
/// How often objects of nodes that nobody hears of are looked at.
const SWEEP: Duration = Duration::from_secs(60);

/// Why a workload of a drained node is not ready.
pub(super) const DRAINED: &str = "its node is drained";
/// The same of one that is stopped, or whose node drains itself, in the node's words.
const STOPPING: &str = "it is stopping";
/// The same of one whose owner (`tulle run`) ends its process; of one that ended by itself the node says how, too.
const ENDED: &str = "its process is not running";

/// Whether a workload that is not ready for this reason is so because somebody wants it.
pub(crate) fn is_asked_for(why: &str) -> bool {
    [DRAINED, STOPPING, ENDED].contains(&why)
}

fn kind() -> &'static Kind {
    KindId::Node.kind()
}

/// What of a node is shown in its object.
#[derive(Debug, Clone, PartialEq)]
struct Shown {
    ready: &'static str,
    reason: &'static str,
    link_address: String,
    version: String,
    capture_mode: String,
}

type States = HashMap<Arc<str>, (Option<Shown>, Duration)>;

impl Fleet {
    /// Keeps the Node objects until the server stops.
    pub async fn keep_node_objects(self: Arc<Self>) {
        let mut written: HashMap<Arc<str>, Shown> = HashMap::new();
        let mut swept = Instant::now();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.nodes_changed.notified() => tokio::time::sleep(GATHER).await,
                () = tokio::time::sleep(LOOK) => {}
            }
            // A store that takes nothing is not asked each second.
            if self.objects.trouble().is_some() {
                continue;
            }
            let now = self.shown();
            for (node, (shown, silent)) in &now {
                let Some(shown) = shown.as_ref().filter(|shown| written.get(node) != Some(shown)) else {
                    continue;
                };
                match self.write_object(node, shown, *silent).await {
                    Ok(()) => drop(written.insert(node.clone(), shown.clone())),
                    // It is tried again.
                    Err(error) => tracing::debug!(%node, %error, "cannot write a Node object now"),
                }
            }
            // Of one that is not known any more, the object says what was known last.
            written.retain(|node, _| now.contains_key(node));
            if swept.elapsed() >= SWEEP {
                swept = Instant::now();
                self.sweep_objects(&now).await;
            }
        }
    }

    /// The state of all nodes, and for how long each was silent; none of one that may still be back within its
    /// lease.
    fn shown(&self) -> States {
        let now = Instant::now();
        let nodes = self.nodes.lock();
        let records = nodes.iter().filter_map(|(name, known)| Some((name, known.record.as_ref()?)));
        let shown = records.map(|(name, record)| {
            let silent = now.saturating_duration_since(record.last_heard);
            let state = match record {
                record if record.connected => Some(("True", "Connected")),
                record if record.left => Some(("False", "Left")),
                _ => (silent >= self.leases.lease).then_some(("Unknown", "Silent")),
            };
            let shown = state.map(|(ready, reason)| Shown {
                ready,
                reason,
                link_address: record.info.link_address.clone(),
                version: record.info.version.clone(),
                capture_mode: record.info.capture_mode.clone(),
            });
            (name.clone(), (shown, silent))
        });
        shown.collect()
    }

    async fn write_object(
        &self,
        node: &Arc<str>,
        shown: &Shown,
        silent: Duration,
    ) -> Result<(), ObjectError> {
        let options = WriteOptions::controller();
        if self.objects.get(kind(), "", node).await?.is_none() {
            let has_joined = matches!(self.enrolment.grant(node).await, Ok(Some(_)));
            if shown.ready != "True" || !has_joined {
                return Ok(()); // Removed or revoked, or about to be.
            }
            let object = json!({ "metadata": { "name": &**node } });
            match self.objects.create(kind(), "", object, &options).await {
                Ok(_) | Err(ObjectError::AlreadyExists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let seen = jiff::Timestamp::now().as_second() - i64::try_from(silent.as_secs()).unwrap_or(0);
        let seen = timestamp::at(seen);
        let mut before = None;
        let written = self.objects.update_status(kind(), "", node, &options, |status| {
            before = Some(ready_of(status));
            show(status, shown, &seen);
        });
        match written.await {
            Ok(_) => {
                if before != Some(Some(shown.ready.to_owned())) {
                    self.tell(node, shown, before.flatten().is_none());
                }
                Ok(())
            }
            Err(ObjectError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Says what became of a node.
    fn tell(&self, node: &str, shown: &Shown, new: bool) {
        let about = (kind(), "", node);
        match shown.ready {
            "True" if new => {
                let message = format!("the node has joined, and takes links at {}", shown.link_address);
                self.events.record(Severity::Normal, about, "Joined", &message);
            }
            "True" => self.events.record(Severity::Normal, about, "Connected", message_of("True")),
            "False" => self.events.record(Severity::Normal, about, "Left", message_of("False")),
            silent => self.events.record(Severity::Warning, about, "Lost", message_of(silent)),
        }
    }

    /// Says that a workload is not taken: of the node where the workload's namespace does not exist, as no event could
    /// be in it.
    pub(super) async fn tell_refusal(&self, node: &str, refused: &RefusedWorkload) {
        self.note_refusal(node, refused);
        let message = legible_start(&refused.message, 1000);
        let namespace = self.objects.get(KindId::Namespace.kind(), "", &refused.namespace).await;
        if matches!(namespace, Ok(Some(_))) && dns_subdomain_problem(&refused.name).is_none() {
            let about = (KindId::Workload.kind(), &*refused.namespace, &*refused.name);
            let message = format!("it is not taken from the node `{node}`: {message}");
            return self.events.record(Severity::Warning, about, "Refused", &message);
        }
        let (namespace, name) = (legible_start(&refused.namespace, 253), legible_start(&refused.name, 253));
        let message = format!("its workload {namespace}/{name} is not taken: {message}");
        self.events.record(Severity::Warning, (kind(), "", node), "RefusedWorkload", &message);
    }

    /// Says that a node was removed by somebody.
    pub fn tell_removal(&self, node: &str, revoked: bool) {
        let (severity, reason, message) = match revoked {
            true => (
                Severity::Warning,
                "Revoked",
                "the node was revoked: it may not come back with its certificate",
            ),
            false => (Severity::Normal, "Removed", "the node was removed, with the workloads that it ran"),
        };
        self.events.record(severity, (kind(), "", node), reason, message);
    }

    /// Marks objects of nodes that are not known (the server has started anew), and removes those that were
    /// not heard for too long.
    async fn sweep_objects(&self, known: &States) {
        let Ok(list) = self.objects.list(kind(), None).await else { return };
        let now = jiff::Timestamp::now().as_second();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for object in list.items {
            let name = text(&object["metadata"]["name"]);
            if known.contains_key(name.as_str()) {
                continue;
            }
            let last_seen = text(&object["status"]["lastSeen"]).parse::<jiff::Timestamp>();
            let result = match last_seen {
                Ok(seen) => {
                    let silent = u64::try_from(now - seen.as_second()).unwrap_or(0);
                    if Duration::from_secs(silent) < self.leases.forget_stale {
                        continue;
                    }
                    tracing::info!(
                        node = name,
                        "removing the Node object of a node that was not heard for long"
                    );
                    self.objects.delete(kind(), "", &name, &DeleteOptions::default()).await.map(drop)
                }
                Err(_) => {
                    let options = WriteOptions::controller();
                    let seen = timestamp::now();
                    let unknown = |status: &mut Value| show_silence(status, &seen);
                    self.objects.update_status(kind(), "", &name, &options, unknown).await.map(drop)
                }
            };
            if let Err(error) = result {
                tracing::debug!(node = name, %error, "cannot write a Node object now");
            }
        }
    }

    /// Says what people want of a node: that it takes no traffic.
    pub fn set_drained(&self, node: &str, drained: bool) {
        let mut all = self.drained.lock();
        let changed = if drained { all.insert(node.into()) } else { all.remove(node) };
        drop(all);
        if changed && let Some(known) = self.nodes.lock().get_mut(node) {
            known.lost.rewrite = true;
            known.remind();
        }
    }

    /// The same of all nodes at once.
    pub fn set_all_drained(&self, drained: &HashSet<String>) {
        let before: Vec<_> = self.drained.lock().iter().cloned().collect();
        before
            .iter()
            .filter(|node| !drained.contains(&***node))
            .for_each(|node| self.set_drained(node, false));
        drained.iter().for_each(|node| self.set_drained(node, true));
    }

    pub(super) fn is_drained(&self, node: &str) -> bool {
        self.drained.lock().contains(node)
    }

    /// Whether there is an object of a node; false where that cannot be said.
    pub async fn has_object(&self, node: &str) -> bool {
        matches!(self.objects.get(kind(), "", node).await, Ok(Some(_)))
    }

    /// Deletes the object of a node that was removed.
    pub async fn forget_object(&self, node: &str) -> Result<(), EvictError> {
        match self.objects.delete(kind(), "", node, &DeleteOptions::default()).await {
            Ok(_) | Err(ObjectError::NotFound { .. }) => {
                self.set_drained(node, false);
                Ok(())
            }
            Err(error) => Err(EvictError::Remembered { node: node.to_owned(), error }),
        }
    }
}

impl NodeTask {
    /// A workload as it is written: on a drained node none is ready.
    pub(super) fn to_write(&self, workload: &Workload) -> Workload {
        let mut workload = workload.clone();
        if self.fleet.is_drained(&self.node) {
            workload.ready = false;
            workload.reason = DRAINED.to_owned();
        }
        workload
    }
}

fn message_of(ready: &str) -> &'static str {
    match ready {
        "True" => "the node is connected",
        "False" => "the node has left; it may come back",
        _ => "nothing is heard of the node: it is cut off from the server, or dead",
    }
}

fn ready_of(status: &Value) -> Option<String> {
    let mut conditions = status["conditions"].as_array()?.iter();
    Some(conditions.find(|c| c["type"] == "Ready")?["status"].as_str()?.to_owned())
}

fn show(status: &mut Value, shown: &Shown, seen: &str) {
    let message = message_of(shown.ready);
    // What is not known any more stays as it was.
    for (field, value) in [("version", &shown.version), ("captureMode", &shown.capture_mode)] {
        if !value.is_empty() {
            status[field] = json!(value);
        }
    }
    if !shown.link_address.is_empty() {
        status["addresses"] = json!([{ "type": "Links", "address": shown.link_address }]);
    }
    set_ready(status, shown.ready, shown.reason, message, seen);
}

fn show_silence(status: &mut Value, seen: &str) {
    set_ready(status, "Unknown", "Silent", "nothing was heard of the node since the server started", seen);
}

fn set_ready(status: &mut Value, ready: &str, reason: &str, message: &str, seen: &str) {
    match ready {
        "True" => drop(status.as_object_mut().and_then(|status| status.remove("lastSeen"))),
        _ => status["lastSeen"] = json!(seen),
    }
    let before = status["conditions"].as_array().cloned().unwrap_or_default();
    let (before, mut conditions): (Vec<_>, Vec<_>) = before.into_iter().partition(|c| c["type"] == "Ready");
    let since = match before.first() {
        Some(condition) if condition["status"] == ready => condition["lastTransitionTime"].clone(),
        _ => json!(timestamp::now()),
    };
    conditions.push(json!({
        "type": "Ready", "status": ready, "reason": reason, "message": message, "lastTransitionTime": since,
    }));
    status["conditions"] = Value::Array(conditions);
}
