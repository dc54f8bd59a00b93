//! The history of objects: what people made of each, the last [`KEPT`] revisions, with who and when.
//!
//! Revisions are counted from 1 for each name. That of an object that is gone stays, so that it can be put back, for the last
//! [`GONE`] of them, and until another object takes its name or its Namespace is gone: each revision is held against the uids of
//! both, so that nobody has what was another's, whichever way that went. All revisions together have [`BYTES`] at most, and the
//! oldest go of the namespaces that have the most: who may write in one pushes no history out of another. Written after the object itself: a crash in between costs that revision.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Mutex;
use tulle_model::registry::{Kind, KindId};

use crate::audit::diff::content;
use crate::store::{Precondition, Store, StoreError, Stored};
use crate::timestamp::{self, seconds};

/// How many revisions of an object are kept.
pub const KEPT: usize = 20;
/// Of how many objects that are gone they are kept.
const GONE: usize = 1000;
/// How many bytes all revisions have.
const BYTES: u64 = 64 << 20;
/// How many bytes are left when the oldest have gone, in hundredths of that.
const LEFT: u64 = 90;
/// How many revisions are read at once where all are counted, and how many are deleted at once.
const PAGE: usize = 500;
const CONCURRENT: usize = 64;
/// How often a revision is counted anew when somebody else was faster.
const ATTEMPTS: usize = 16;
/// Outside of the API's keys: no API request reaches these. The second are the objects that are gone.
const REVISIONS: &str = "/tulle/history/";
const ENDED: &str = "/tulle/history-ended/";

/// What somebody made of an object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    pub revision: u64,
    /// RFC 3339.
    pub time: String,
    /// Empty where it is not known: it was made before its history was kept, or by the server itself.
    #[serde(default)]
    pub user: String,
    /// `create`, `update`, `patch`, `delete` (then the object is as it was last), `rollback`.
    pub verb: String,
    /// That of the object then.
    #[serde(default)]
    pub uid: String,
    /// That of its Namespace; empty for cluster-wide kinds.
    #[serde(default)]
    pub namespace_uid: String,
    /// The object without its status.
    pub object: Value,
}

/// What there is now of an object that has a history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    /// `None`: it is gone.
    pub uid: Option<String>,
    /// `None`: its kind is cluster-wide.
    pub namespace_uid: Option<String>,
}

impl Present {
    /// Whether a history that ends with this revision is that of the object.
    fn has(&self, last: &Revision) -> bool {
        let is_its_own = self.uid.as_ref().is_none_or(|uid| !uid.is_empty() && *uid == last.uid);
        is_its_own && self.is_in(last)
    }

    /// Whether the revision is of the Namespace that is there now.
    fn is_in(&self, revision: &Revision) -> bool {
        let namespace = self.namespace_uid.as_ref();
        namespace.is_none_or(|uid| !uid.is_empty() && *uid == revision.namespace_uid)
    }
}

/// Of an object, as the API has it.
pub fn uid_of(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

/// That somebody puts an object back: the history of the one that is gone goes on with it.
pub const ROLLBACK: &str = "rollback";

/// The name of an object.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    pub kind: &'static Kind,
    /// Empty for cluster-wide kinds.
    pub namespace: &'a str,
    pub name: &'a str,
}

impl Named<'_> {
    fn path(&self) -> String {
        let namespace = if self.namespace.is_empty() { "-" } else { self.namespace };
        let group = if self.kind.group.is_empty() { "core" } else { self.kind.group };
        format!("{namespace}/{group}/{}/{}", self.kind.plural, self.name)
    }
}

/// Whether the history of a kind is kept: what nodes and the server write is not people's.
pub fn is_kept(kind: &Kind) -> bool {
    !matches!(kind.id, KindId::Event | KindId::EventV1 | KindId::Node | KindId::FlowRun)
}

/// Keeps histories; clones share it.
#[derive(Clone)]
pub struct History {
    store: Store,
    most: u64,
    /// How many bytes all revisions have, at most: what goes with a prefix is not counted. `None`: not known yet.
    bytes: Arc<Mutex<Option<u64>>>,
}

impl History {
    pub fn new(store: Store) -> Self {
        Self::with_most(store, BYTES)
    }

    fn with_most(store: Store, most: u64) -> Self {
        Self { store, most, bytes: Arc::default() }
    }

    /// Keeps what was made of an object: none of it where it was deleted.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn record(
        &self,
        named: Named<'_>,
        (user, verb): (&str, &str),
        before: Option<&Value>,
        after: Option<&Value>,
        namespace_uid: Option<String>,
    ) -> Result<(), StoreError> {
        let uid = |object: Option<&Value>| object.map(uid_of);
        let (uid_before, uid_after) = (uid(before), uid(after));
        let (before, after) = (before.map(content), after.map(content));
        if !is_kept(named.kind) || before == after {
            return Ok(());
        }
        let path = named.path();
        let mut known = self.stored(&path).await?;
        let mut last = known.last().map(|(number, _)| *number).unwrap_or_default();
        let mut freed = 0;
        let present = Present { uid: uid_before.clone(), namespace_uid };
        let goes_on = known
            .last()
            .and_then(|(_, stored)| read(stored))
            .is_some_and(|revision| present.has(&revision) && (before.is_some() || verb == ROLLBACK));
        if !goes_on {
            for (number, _) in known.drain(..) {
                freed += self.forget(&key(&path, number)).await?;
            }
        }
        let made = |user: &str, verb: &str, uid: Option<&String>, object: &Value| Revision {
            revision: 0,
            time: timestamp::now(),
            user: user.to_owned(),
            verb: verb.to_owned(),
            uid: uid.cloned().unwrap_or_default(),
            namespace_uid: present.namespace_uid.clone().unwrap_or_default(),
            object: object.clone(),
        };
        let mut kept = 0;
        if let Some(before) = before.as_ref().filter(|_| known.is_empty()) {
            let (number, bytes) =
                self.keep(&path, last, made("", "unknown", uid_before.as_ref(), before)).await?;
            (last, kept) = (number, bytes);
        }
        if let Some(object) = after.as_ref().or(before.as_ref()) {
            let uid = uid_after.as_ref().or(uid_before.as_ref());
            kept += self.keep(&path, last, made(user, verb, uid, object)).await?.1;
        }
        for (number, _) in known.iter().rev().skip(KEPT - 1) {
            freed += self.forget(&key(&path, *number)).await?;
        }
        match after {
            Some(_) => drop(self.forget(&format!("{ENDED}{path}")).await?),
            None => self.end(named, &path).await?,
        }
        self.count(kept, freed).await
    }

    /// Keeps a revision after that of the number `last`; its own number, and how many bytes it has.
    async fn keep(
        &self,
        path: &str,
        mut last: u64,
        mut revision: Revision,
    ) -> Result<(u64, u64), StoreError> {
        for _ in 0..ATTEMPTS {
            revision.revision = last + 1;
            let value = serde_json::to_vec(&revision).map_err(|e| StoreError::Database(e.to_string()))?;
            let bytes = value.len() as u64;
            match self.store.put(&key(path, last + 1), value, Precondition::Absent).await {
                Err(StoreError::AlreadyExists(_)) => {
                    let known = self.stored(path).await?;
                    last = known.last().map_or(last, |(number, _)| *number).max(last + 1);
                }
                result => return result.map(|_| (last + 1, bytes)),
            }
        }
        Err(StoreError::Database(format!("no number is free for a revision of {path}")))
    }

    /// Counts what was kept and what was forgotten, and lets the oldest revisions of all objects go where there are too many.
    async fn count(&self, kept: u64, freed: u64) -> Result<(), StoreError> {
        let mut bytes = self.bytes.lock().await;
        let estimate = bytes.map(|bytes| (bytes + kept).saturating_sub(freed));
        *bytes = estimate;
        if estimate.is_some_and(|bytes| bytes <= self.most) {
            return Ok(());
        }
        // By their age: keys, and how many bytes each has.
        let mut all: Vec<(u64, String, u64)> = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.store.list(REVISIONS, after.as_deref(), PAGE).await?.items;
            let is_last = page.len() < PAGE;
            after = page.last().map(|(key, _)| key.clone());
            all.extend(page.into_iter().map(|(key, of)| (of.revision, key, of.value.len() as u64)));
            if is_last {
                break;
            }
        }
        let mut total: u64 = all.iter().map(|(_, _, bytes)| bytes).sum();
        let mut oldest = Vec::new();
        if total > self.most {
            all.sort_unstable();
            let mut left: HashMap<&str, u64> = HashMap::new();
            for (_, key, bytes) in &all {
                *left.entry(namespace_of(key)).or_default() += bytes;
            }
            let share = largest_share(left.values().copied().collect(), self.most / 100 * LEFT);
            for (_, key, bytes) in &all {
                if let Some(left) = left.get_mut(namespace_of(key)).filter(|left| **left > share) {
                    *left = left.saturating_sub(*bytes);
                    total -= bytes;
                    oldest.push(key.clone());
                }
            }
            tracing::info!(
                revisions = oldest.len(),
                "the oldest revisions of objects go: there is no room for more"
            );
        }
        *bytes = Some(total);
        let going = stream::iter(oldest).map(|key| async move { self.forget(&key).await });
        let gone: Vec<_> = going.buffer_unordered(CONCURRENT).collect().await;
        gone.into_iter().find_map(Result::err).map_or(Ok(()), Err)
    }

    /// Notes that an object is gone, and forgets the one that went first where there are too many.
    async fn end(&self, named: Named<'_>, path: &str) -> Result<(), StoreError> {
        let time = seconds(SystemTime::now()).to_string();
        self.store.put(&format!("{ENDED}{path}"), time, Precondition::Any).await?;
        if named.kind.id == KindId::Namespace {
            let inside = format!("{ENDED}{}/", named.name);
            for (key, _) in self.store.list(&inside, None, usize::MAX).await?.items {
                self.forget(&key).await?;
            }
            let last = format!("{ENDED}{}/all", named.name);
            self.store.put(&last, "", Precondition::Any).await?;
            let prefix = format!("{REVISIONS}{}/", named.name);
            return self.forget_with(&last, vec![prefix]).await.map(drop);
        }
        let mut ended = self.store.list(ENDED, None, usize::MAX).await?.items;
        ended.sort_by_key(|(_, stored)| stored.revision);
        for (key, _) in ended.iter().take(ended.len().saturating_sub(GONE)) {
            let path = key.strip_prefix(ENDED).unwrap_or_default();
            self.forget_with(key, vec![format!("{REVISIONS}{path}/")]).await?;
        }
        Ok(())
    }

    /// The revisions of the object that is there now, or was last, the oldest first.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn revisions(&self, named: Named<'_>, present: &Present) -> Result<Vec<Revision>, StoreError> {
        let stored = self.stored(&named.path()).await?;
        let mut revisions: Vec<Revision> = stored.iter().filter_map(|(_, stored)| read(stored)).collect();
        if !revisions.last().is_some_and(|last| present.has(last)) {
            revisions.clear();
        }
        revisions.retain(|revision| present.is_in(revision));
        Ok(revisions)
    }

    /// One of them.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn revision(
        &self,
        named: Named<'_>,
        present: &Present,
        number: u64,
    ) -> Result<Option<Revision>, StoreError> {
        let revisions = self.revisions(named, present).await?;
        Ok(revisions.into_iter().find(|revision| revision.revision == number))
    }

    /// All that is stored of a name, by their numbers.
    async fn stored(&self, path: &str) -> Result<Vec<(u64, Stored)>, StoreError> {
        let prefix = format!("{REVISIONS}{path}/");
        let list = self.store.list(&prefix, None, usize::MAX).await?;
        let numbered = list.items.into_iter();
        Ok(numbered
            .filter_map(|(key, stored)| Some((key.strip_prefix(&prefix)?.parse().ok()?, stored)))
            .collect())
    }

    /// Forgets a key, if it is there; how many bytes it had.
    async fn forget(&self, key: &str) -> Result<u64, StoreError> {
        self.forget_with(key, Vec::new()).await
    }

    async fn forget_with(&self, key: &str, prefixes: Vec<String>) -> Result<u64, StoreError> {
        match self.store.delete_with(key, Precondition::Any, prefixes).await {
            Ok((_, stored)) => Ok(stored.value.len() as u64),
            Err(StoreError::NotFound(_)) => Ok(0),
            Err(error) => Err(error),
        }
    }
}

/// `-` of cluster-wide kinds.
fn namespace_of(key: &str) -> &str {
    key.strip_prefix(REVISIONS).and_then(|path| path.split('/').next()).unwrap_or_default()
}

/// How much each may have, so that all together have `most`: who has less leaves the rest to the others.
fn largest_share(mut all: Vec<u64>, most: u64) -> u64 {
    all.sort_unstable();
    let mut left = most;
    for (at, has) in all.iter().enumerate() {
        let share = left / (all.len() - at) as u64;
        if *has > share {
            return share;
        }
        left -= has;
    }
    u64::MAX
}

/// None where it is of a version that wrote something else.
fn read(stored: &Stored) -> Option<Revision> {
    serde_json::from_slice(&stored.value).ok()
}

fn key(path: &str, number: u64) -> String {
    format!("{REVISIONS}{path}/{number:012}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn named<'a>(namespace: &'a str, name: &'a str) -> Named<'a> {
        Named { kind: KindId::Service.kind(), namespace, name }
    }

    fn object(uid: &str, port: usize) -> Value {
        json!({
            "metadata": { "name": "c", "uid": uid, "resourceVersion": port.to_string() },
            "spec": { "port": port },
            "status": port,
        })
    }

    /// In a Namespace of that uid.
    async fn record(
        history: &History,
        of: Named<'_>,
        verb: &str,
        change: [Option<&Value>; 2],
        namespace: &str,
    ) {
        let [before, after] = change;
        let namespace = (!of.namespace.is_empty()).then(|| namespace.to_owned());
        history.record(of, ("ann", verb), before, after, namespace).await.unwrap();
    }

    fn present(uid: Option<&str>, namespace: &str) -> Present {
        Present { uid: uid.map(str::to_owned), namespace_uid: Some(namespace.to_owned()) }
    }

    #[tokio::test]
    async fn the_last_twenty_revisions_are_kept() {
        let history = History::new(Store::in_memory());
        let c = named("shop", "c");
        record(&history, c, "create", [None, Some(&object("u", 0))], "ns").await;
        for port in 1..30 {
            let (before, after) = (object("u", port - 1), object("u", port));
            record(&history, c, "update", [Some(&before), Some(&after)], "ns").await;
            // Nothing but what the server keeps has changed.
            let mut noted = after.clone();
            noted["status"] = json!("x");
            record(&history, c, "update", [Some(&after), Some(&noted)], "ns").await;
        }
        let there = present(Some("u"), "ns");
        let revisions = history.revisions(c, &there).await.unwrap();
        let numbers: Vec<_> = revisions.iter().map(|r| r.revision).collect();
        assert_eq!(numbers, (11..=30).collect::<Vec<_>>());
        let last = history.revision(c, &there, 30).await.unwrap().unwrap();
        assert_eq!((last.user.as_str(), &last.object["spec"]["port"]), ("ann", &json!(29)));
        assert_eq!((last.object.get("status"), last.object["metadata"].get("resourceVersion")), (None, None));
        assert_eq!(history.revision(c, &there, 10).await.unwrap(), None);
        assert_eq!(history.revisions(named("shop", "cart"), &there).await.unwrap(), []);
    }

    #[tokio::test]
    async fn what_was_there_before_is_the_first_revision() {
        let history = History::new(Store::in_memory());
        let c = named("shop", "c");
        record(&history, c, "patch", [Some(&object("u", 1)), Some(&object("u", 2))], "ns").await;
        let revisions = history.revisions(c, &present(Some("u"), "ns")).await.unwrap();
        let told: Vec<_> =
            revisions.iter().map(|r| (r.user.as_str(), r.object["spec"]["port"].as_u64())).collect();
        assert_eq!(told, [("", Some(1)), ("ann", Some(2))]);
    }

    #[tokio::test]
    async fn what_is_gone_can_be_put_back_until_others_went_or_its_namespace() {
        let history = History::new(Store::in_memory());
        let made = object("u", 1);
        for n in 0..=GONE {
            let name = format!("c{n}");
            record(&history, named("shop", &name), "delete", [Some(&made), None], "ns").await;
            if n == 1 {
                // It is there again.
                record(&history, named("shop", &name), ROLLBACK, [None, Some(&object("v", 1))], "ns").await;
            }
        }
        record(&history, named("shop", "last"), "delete", [Some(&made), None], "ns").await;
        let count = async |name: &str, uid: Option<&str>| {
            history.revisions(named("shop", name), &present(uid, "ns")).await.unwrap().len()
        };
        assert_eq!(
            (count("c0", None).await, count("c1", Some("v")).await, count("c2", None).await),
            (0, 3, 2)
        );
        let shop = Named { kind: KindId::Namespace.kind(), namespace: "", name: "shop" };
        record(&history, shop, "delete", [Some(&made), None], "").await;
        assert_eq!((count("c1", Some("v")).await, count("last", None).await), (0, 0));
        assert_eq!(history.revisions(shop, &Present::default()).await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_history_is_of_one_object_in_one_namespace() {
        let history = History::new(Store::in_memory());
        let c = named("shop", "c");
        let (first, second, other) = (object("u", 1), object("u", 2), object("v", 3));
        record(&history, c, "create", [None, Some(&first)], "ns").await;
        record(&history, c, "update", [Some(&first), Some(&second)], "ns").await;
        let count = async |uid: Option<&str>, namespace: &str| {
            history.revisions(c, &present(uid, namespace)).await.unwrap().len()
        };
        assert_eq!((count(Some("u"), "ns").await, count(None, "ns").await), (2, 2));
        // Nothing was written down of how it went, or its Namespace: something of that name is there anew.
        assert_eq!((count(Some("v"), "ns").await, count(None, "new").await), (0, 0));
        assert_eq!((count(Some("u"), "new").await, count(None, "").await), (0, 0));
        // Nor are the revisions before the other's that somebody changes then.
        record(&history, c, "update", [Some(&other), Some(&object("v", 4))], "ns").await;
        assert_eq!(count(Some("v"), "ns").await, 2);
        // One that takes the name ends the history of the one before.
        record(&history, c, "delete", [Some(&other), None], "ns").await;
        record(&history, c, "create", [None, Some(&object("w", 5))], "ns").await;
        let revisions = history.revisions(c, &present(Some("w"), "ns")).await.unwrap();
        let told: Vec<_> = revisions.iter().map(|r| (r.revision, r.verb.as_str())).collect();
        assert_eq!(told, [(6, "create")], "numbers are not used again");
    }

    #[tokio::test]
    async fn the_oldest_go_where_all_have_too_many_bytes() {
        let most = 200_000;
        let history = History::with_most(Store::in_memory(), most);
        let padded = |n: usize| {
            let mut object = object("u", n);
            object["spec"]["text"] = json!("x".repeat(2_000));
            object
        };
        for n in 0..150 {
            record(&history, named("shop", &format!("c{n}")), "create", [None, Some(&padded(n))], "ns").await;
        }
        let count = async |name: &str| {
            history.revisions(named("shop", name), &present(Some("u"), "ns")).await.unwrap().len()
        };
        assert_eq!((count("c0").await, count("c40").await, count("c149").await), (0, 0, 1));
        let all = history.store.list(REVISIONS, None, usize::MAX).await.unwrap().items;
        let bytes: u64 = all.iter().map(|(_, stored)| stored.value.len() as u64).sum();
        assert!(bytes <= most && bytes > most / 2, "{bytes} in {}", all.len());
        assert!(history.bytes.lock().await.is_some_and(|known| known >= bytes && known <= most));
        // Where each write pushes one of its own out, nothing else goes.
        let (c, mut before) = (named("shop", "c149"), padded(149));
        for n in 0..100 {
            let after = padded(n);
            record(&history, c, "update", [Some(&before), Some(&after)], "ns").await;
            before = after;
        }
        assert_eq!(count("c149").await, KEPT);
        assert_eq!(count("c148").await, 1);
    }

    #[tokio::test]
    async fn who_fills_a_namespace_pushes_no_history_out_of_another() {
        let history = History::with_most(Store::in_memory(), 200_000);
        let padded = |n: usize| {
            let mut object = object("u", n);
            object["spec"]["text"] = json!("x".repeat(2_000));
            object
        };
        let make = async |namespace: &str, n: usize| {
            let of = format!("c{n}");
            record(&history, named(namespace, &of), "create", [None, Some(&padded(n))], "ns").await;
        };
        for n in 0..10 {
            make("shop", n).await;
        }
        for n in 0..300 {
            make("crowd", n).await;
        }
        let count = async |namespace: &str, name: &str| {
            history.revisions(named(namespace, name), &present(Some("u"), "ns")).await.unwrap().len()
        };
        for n in 0..10 {
            assert_eq!(count("shop", &format!("c{n}")).await, 1, "the oldest of all, and of who has few");
        }
        assert_eq!((count("crowd", "c0").await, count("crowd", "c299").await), (0, 1));
        for (all, most, share) in [
            (vec![], 10, u64::MAX),
            (vec![3, 4], 10, u64::MAX),
            (vec![9, 9, 3], 15, 6),
            (vec![20, 1, 1], 10, 8),
            (vec![5], 0, 0),
        ] {
            assert_eq!(largest_share(all.clone(), most), share, "{all:?} {most}");
        }
    }
}
