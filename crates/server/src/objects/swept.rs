//! What went with its namespace a moment ago.
//!
//! In Kubernetes a namespace takes seconds to go, and what is in it can be deleted meanwhile: `kubectl delete -f` and `-k` do so
//! where a file begins with its namespace. Here it goes at once, so such deletions are told that they have succeeded.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tulle_model::registry::Kind;

/// As long as Kubernetes waits before it empties a namespace, and some time for a slow client.
const REMEMBERED: Duration = Duration::from_secs(10);
/// At most so many objects, the latest.
const MOST: usize = 10_000;

/// Objects that went with their namespaces.
#[derive(Debug, Default)]
pub(super) struct Swept(Mutex<VecDeque<(Instant, Value)>>);

impl Swept {
    pub(super) fn remember(&self, objects: impl Iterator<Item = Value>, now: Instant) {
        let mut swept = self.0.lock();
        for object in objects {
            // Enough to say what was deleted.
            let field = |name: &str| object["metadata"][name].clone();
            let metadata =
                json!({ "name": field("name"), "namespace": field("namespace"), "uid": field("uid") });
            let rest =
                json!({ "apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": metadata });
            swept.push_back((now, rest));
        }
        let surplus = swept.len().saturating_sub(MOST);
        swept.drain(..surplus);
    }

    /// The object of that name, once; `uid`: only if it is that one.
    pub(super) fn take(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
        now: Instant,
    ) -> Option<Value> {
        let mut swept = self.0.lock();
        while swept.front().is_some_and(|(then, _)| now.duration_since(*then) > REMEMBERED) {
            swept.pop_front();
        }
        let found = swept.iter().position(|(_, object)| {
            let metadata = &object["metadata"];
            object["kind"] == kind.kind
                && metadata["namespace"] == namespace
                && metadata["name"] == name
                && uid.is_none_or(|uid| metadata["uid"] == uid)
        });
        swept.remove(found?).map(|(_, object)| object)
    }
}

#[cfg(test)]
mod tests {
    use tulle_model::registry::KindId;

    use super::*;

    #[test]
    fn what_went_with_its_namespace_is_deleted_once_and_for_a_while() {
        let (swept, now, kind) = (Swept::default(), Instant::now(), KindId::Service.kind());
        let service = |name: &str| json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "n", "uid": name } });
        swept.remember(["a", "b", "c"].map(service).into_iter(), now);
        assert!(swept.take(kind, "n", "a", Some("other"), now).is_none());
        assert_eq!(swept.take(kind, "n", "a", Some("a"), now), Some(service("a")));
        assert!(swept.take(kind, "n", "a", None, now).is_none());
        assert!(swept.take(kind, "m", "b", None, now).is_none());
        assert!(swept.take(KindId::Workload.kind(), "n", "b", None, now).is_none());
        assert!(swept.take(kind, "n", "b", None, now + REMEMBERED).is_some());
        assert!(swept.take(kind, "n", "c", None, now + REMEMBERED * 2).is_none());
        swept.remember((0..=MOST).map(|i| service(&i.to_string())), now);
        assert!(swept.take(kind, "n", "0", None, now).is_none());
        assert!(swept.take(kind, "n", "1", None, now).is_some());
    }
}
