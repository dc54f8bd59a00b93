//! Events: what happened to objects, for `kubectl get events` and `kubectl describe`.
//!
//! One Event a reason, severity and object: what happens again is counted in it, with the latest words. An hour after it
//! happened last it is gone, and where there are too many the oldest go.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tulle_model::fnv::fnv1a;
use tulle_model::kinds::event::last_time;
use tulle_model::registry::{Kind, KindId};

use crate::objects::{DEFAULT_NAMESPACE, DeleteOptions, ObjectError, Objects, WriteOptions};
use crate::timestamp;

/// How long what happens gathers before it is written.
const GATHER: Duration = Duration::from_millis(300);
/// How often events that are over are removed.
const SWEEP: Duration = Duration::from_secs(30);
/// How long an event stays after it happened last, in seconds.
const KEPT: i64 = 3600;
/// How many events there may be.
const LIMIT: usize = 2000;
/// How many may wait to be written; others are only logged.
const WAITING: usize = 1000;
/// Who says so.
const COMPONENT: &str = "tulle-server";

/// Whether an event is a matter of course.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    Normal,
    Warning,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct About {
    kind: &'static Kind,
    /// Empty for cluster-wide kinds.
    namespace: String,
    name: String,
    reason: &'static str,
    severity: Severity,
}

impl About {
    /// The `type` of the Event.
    fn type_(&self) -> &'static str {
        match self.severity {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        }
    }
}

#[derive(Debug)]
struct Happened {
    message: String,
    times: u64,
}

/// Takes what happens, and writes it in a task of its own.
pub struct Events {
    objects: Objects,
    waiting: Mutex<HashMap<About, Happened>>,
    wake: Notify,
}

impl Events {
    pub fn new(objects: Objects) -> Arc<Self> {
        Arc::new(Self { objects, waiting: Mutex::default(), wake: Notify::new() })
    }

    /// Says what happened to an object. `reason` is one word; the namespace of cluster-wide kinds is empty.
    pub fn record(
        &self,
        severity: Severity,
        (kind, namespace, name): (&'static Kind, &str, &str),
        reason: &'static str,
        message: &str,
    ) {
        let about = About { kind, namespace: namespace.to_owned(), name: name.to_owned(), reason, severity };
        // As in Kubernetes.
        let message: String = message.chars().take(1024).collect();
        let mut waiting = self.waiting.lock();
        if let Some(happened) = waiting.get_mut(&about) {
            *happened = Happened { message, times: happened.times + 1 };
        } else if waiting.len() < WAITING {
            waiting.insert(about, Happened { message, times: 1 });
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// Writes until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = sweep.tick() => {
                    self.sweep().await;
                    continue;
                }
                () = self.wake.notified() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(GATHER) => {}
            }
            let waiting = std::mem::take(&mut *self.waiting.lock());
            for (about, happened) in waiting {
                // What the store does not take now is lost: it is in the log.
                if let Err(error) = self.write(&about, &happened).await {
                    tracing::debug!(object = about.name, reason = about.reason, %error, "an event is not kept");
                }
            }
        }
    }

    async fn write(&self, about: &About, happened: &Happened) -> Result<(), ObjectError> {
        let kind = KindId::Event.kind();
        let namespace = if about.kind.namespaced { about.namespace.as_str() } else { DEFAULT_NAMESPACE };
        let name = name_of(about);
        let now = timestamp::now();
        let options = WriteOptions::controller();
        let again = self.objects.modify(kind, namespace, &name, &options, |current| {
            let mut event = current.clone();
            if let Some(metadata) = event["metadata"].as_object_mut() {
                metadata.remove("resourceVersion");
            }
            event["count"] = json!(current["count"].as_u64().unwrap_or(1) + happened.times);
            event["lastTimestamp"] = json!(now);
            event["message"] = json!(happened.message);
            Ok(event)
        });
        match again.await {
            Err(ObjectError::NotFound { .. }) => {}
            result => return result.map(drop),
        }
        let uid = self.objects.get(about.kind, &about.namespace, &about.name).await?;
        let uid = uid.map(|object| object["metadata"]["uid"].clone());
        let mut involved = json!({
            "apiVersion": about.kind.api_version(),
            "kind": about.kind.kind,
            "name": about.name,
        });
        if about.kind.namespaced {
            involved["namespace"] = json!(about.namespace);
        }
        if let Some(uid) = uid {
            involved["uid"] = uid;
        }
        let event = json!({
            "metadata": { "name": name, "namespace": namespace },
            "involvedObject": involved,
            "reason": about.reason,
            "message": happened.message,
            "type": about.type_(),
            "count": happened.times,
            "firstTimestamp": now,
            "lastTimestamp": now,
            // In microseconds; clients of events.k8s.io/v1 want one.
            "eventTime": format!("{}.000000Z", now.trim_end_matches('Z')),
            "source": { "component": COMPONENT },
            "reportingComponent": COMPONENT,
        });
        match self.objects.create(kind, namespace, event, &options).await {
            // The namespace goes, or another has written it.
            Err(
                ObjectError::AlreadyExists { .. }
                | ObjectError::NotFound { .. }
                | ObjectError::Forbidden { .. },
            ) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Removes what is over, and the oldest of too many.
    async fn sweep(&self) {
        let kind = KindId::Event.kind();
        let Ok(list) = self.objects.list(kind, None).await else { return };
        for event in over(list.items, jiff::Timestamp::now().as_second()) {
            let text = |field: &str| event["metadata"][field].as_str().unwrap_or_default().to_owned();
            let (namespace, name) = (text("namespace"), text("name"));
            let version = event["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok());
            let options = DeleteOptions { resource_version: version, ..DeleteOptions::default() };
            // One that has just happened again stays.
            if let Err(error) = self.objects.delete(kind, &namespace, &name, &options).await {
                tracing::debug!(name, %error, "an event that is over is not removed now");
            }
        }
    }
}

/// Of events, those that have to go.
fn over(events: Vec<Value>, now: i64) -> Vec<Value> {
    let time = |event: &Value| {
        let time = last_time(event).and_then(|time| time.parse::<jiff::Timestamp>().ok());
        time.map_or(0, jiff::Timestamp::as_second)
    };
    let (mut over, mut left): (Vec<_>, Vec<_>) =
        events.into_iter().partition(|event| now - time(event) > KEPT);
    if left.len() > LIMIT {
        left.sort_by_key(|event| std::cmp::Reverse(time(event)));
        over.extend(left.split_off(LIMIT));
    }
    over
}

/// The object's name and a hash, as Kubernetes' clients name events.
fn name_of(about: &About) -> String {
    let hash =
        fnv1a([about.kind.kind.as_bytes(), &[0], about.reason.as_bytes(), &[0], about.type_().as_bytes()]);
    let name: String = about.name.chars().take(200).collect();
    format!("{name}.{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_goes_and_the_oldest_of_too_many() {
        let at = |seconds: i64| json!({ "lastTimestamp": jiff::Timestamp::from_second(seconds).unwrap().to_string() });
        let now = 1_800_000_000;
        assert_eq!(over(vec![at(now - KEPT - 1), at(now - KEPT), at(now)], now), [at(now - KEPT - 1)]);
        // One without any time is as old as can be.
        assert_eq!(over(vec![json!({})], now).len(), 1);
        let many = (0..LIMIT as i64 + 2).map(|i| at(now - i)).collect();
        assert_eq!(over(many, now), [at(now - LIMIT as i64), at(now - LIMIT as i64 - 1)]);
    }

    #[tokio::test]
    async fn what_happens_again_is_counted() {
        let objects = Objects::open(crate::store::Store::in_memory()).await.unwrap();
        let events = Events::new(objects.clone());
        let of = |reason, severity| About {
            kind: KindId::Workload.kind(),
            namespace: "default".to_owned(),
            name: "w".to_owned(),
            reason,
            severity,
        };
        let about = |reason| of(reason, Severity::Warning);
        let happened = |message: &str| Happened { message: message.to_owned(), times: 2 };
        events.write(&about("Unready"), &happened("a")).await.unwrap();
        events.write(&about("Unready"), &happened("b")).await.unwrap();
        events.write(&about("Other"), &happened("c")).await.unwrap();
        let list = objects.list(KindId::Event.kind(), None).await.unwrap().items;
        assert_eq!(list.len(), 2);
        let unready = list.iter().find(|event| event["reason"] == "Unready").unwrap();
        assert_eq!((&unready["count"], &unready["message"]), (&json!(4), &json!("b")));
        // The other group shows the same.
        let views = objects.list(KindId::EventV1.kind(), Some("default")).await.unwrap().items;
        let view = views.iter().find(|event| event["reason"] == "Unready").unwrap();
        assert_eq!((&view["note"], &view["deprecatedCount"]), (&json!("b"), &json!(4)));
        assert_eq!(
            (&view["regarding"]["kind"], &view["apiVersion"]),
            (&json!("Workload"), &json!("events.k8s.io/v1"))
        );
        // What is a matter of course does not hide what is none.
        events.write(&of("Unready", Severity::Normal), &happened("d")).await.unwrap();
        let list = objects.list(KindId::Event.kind(), None).await.unwrap().items;
        let mut told: Vec<_> = list
            .iter()
            .filter(|event| event["reason"] == "Unready")
            .map(|event| (event["type"].as_str().unwrap(), event["message"].as_str().unwrap()))
            .collect();
        told.sort_unstable();
        assert_eq!(told, [("Normal", "d"), ("Warning", "b")]);
    }
}
