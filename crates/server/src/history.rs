//! The history of objects: what people made of each, the last [`KEPT`] revisions, with who and when.
//!
//! Revisions are counted from 1 for each name. That of an object that is gone stays, so that it can be put back, for the last
//! [`GONE`] of them; a Namespace takes the history of what was in it along. Written after the object itself: a crash in
//! between costs that revision.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tulle_model::registry::{Kind, KindId};

use crate::audit::diff::content;
use crate::store::{Precondition, Store, StoreError};
use crate::timestamp::{self, seconds};

/// How many revisions of an object are kept.
pub const KEPT: usize = 20;
/// Of how many objects that are gone they are kept.
const GONE: usize = 1000;
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
    /// The object without its status.
    pub object: Value,
}

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
    !matches!(kind.id, KindId::Event | KindId::EventV1 | KindId::Node)
}

/// Keeps histories; clones share it.
#[derive(Clone)]
pub struct History {
    store: Store,
}

impl History {
    pub fn new(store: Store) -> Self {
        Self { store }
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
    ) -> Result<(), StoreError> {
        let (before, after) = (before.map(content), after.map(content));
        if !is_kept(named.kind) || before == after {
            return Ok(());
        }
        let path = named.path();
        let known = self.numbers(&path).await?;
        let mut last = known.last().copied().unwrap_or_default();
        if let Some(before) = before.as_ref().filter(|_| known.is_empty()) {
            let made = String::new();
            last = self.keep(&path, last, made, "unknown", before).await?;
        }
        if let Some(object) = after.as_ref().or(before.as_ref()) {
            self.keep(&path, last, user.to_owned(), verb, object).await?;
        }
        for number in known.iter().rev().skip(KEPT - 1) {
            self.forget(&key(&path, *number)).await?;
        }
        match after {
            Some(_) => self.forget(&format!("{ENDED}{path}")).await,
            None => self.end(named, &path).await,
        }
    }

    /// Keeps a revision after that of the number `last`; its own number.
    async fn keep(
        &self,
        path: &str,
        mut last: u64,
        user: String,
        verb: &str,
        object: &Value,
    ) -> Result<u64, StoreError> {
        for _ in 0..ATTEMPTS {
            let revision = Revision {
                revision: last + 1,
                time: timestamp::now(),
                user: user.clone(),
                verb: verb.to_owned(),
                object: object.clone(),
            };
            let value = serde_json::to_vec(&revision).map_err(|e| StoreError::Database(e.to_string()))?;
            match self.store.put(&key(path, last + 1), value, Precondition::Absent).await {
                Err(StoreError::AlreadyExists(_)) => {
                    last = self.numbers(path).await?.last().copied().unwrap_or(last).max(last + 1);
                }
                result => return result.map(|_| last + 1),
            }
        }
        Err(StoreError::Database(format!("no number is free for a revision of {path}")))
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
            return self.forget_with(&last, vec![prefix]).await;
        }
        let mut ended = self.store.list(ENDED, None, usize::MAX).await?.items;
        ended.sort_by_key(|(_, stored)| stored.revision);
        for (key, _) in ended.iter().take(ended.len().saturating_sub(GONE)) {
            let path = key.strip_prefix(ENDED).unwrap_or_default();
            self.forget_with(key, vec![format!("{REVISIONS}{path}/")]).await?;
        }
        Ok(())
    }

    /// The revisions of an object, the oldest first.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn revisions(&self, named: Named<'_>) -> Result<Vec<Revision>, StoreError> {
        let prefix = format!("{REVISIONS}{}/", named.path());
        let list = self.store.list(&prefix, None, usize::MAX).await?;
        Ok(list.items.iter().filter_map(|(_, stored)| serde_json::from_slice(&stored.value).ok()).collect())
    }

    /// One of them.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn revision(&self, named: Named<'_>, number: u64) -> Result<Option<Revision>, StoreError> {
        let stored = self.store.get(&key(&named.path(), number)).await?;
        Ok(stored.and_then(|stored| serde_json::from_slice(&stored.value).ok()))
    }

    async fn numbers(&self, path: &str) -> Result<Vec<u64>, StoreError> {
        let prefix = format!("{REVISIONS}{path}/");
        let list = self.store.list(&prefix, None, usize::MAX).await?;
        Ok(list.items.iter().filter_map(|(key, _)| key.strip_prefix(&prefix)?.parse().ok()).collect())
    }

    async fn forget(&self, key: &str) -> Result<(), StoreError> {
        self.forget_with(key, Vec::new()).await
    }

    async fn forget_with(&self, key: &str, prefixes: Vec<String>) -> Result<(), StoreError> {
        match self.store.delete_with(key, Precondition::Any, prefixes).await {
            Ok(_) | Err(StoreError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
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

    fn object(port: usize) -> Value {
        json!({ "metadata": { "name": "c", "resourceVersion": port.to_string() }, "spec": { "port": port }, "status": port })
    }

    #[tokio::test]
    async fn the_last_twenty_revisions_are_kept() {
        let history = History::new(Store::in_memory());
        let c = named("shop", "c");
        history.record(c, ("ann", "create"), None, Some(&object(0))).await.unwrap();
        for port in 1..30 {
            let (before, after) = (object(port - 1), object(port));
            history.record(c, ("ann", "update"), Some(&before), Some(&after)).await.unwrap();
            // Nothing but what the server keeps has changed.
            let mut noted = after.clone();
            noted["status"] = json!("x");
            history.record(c, ("ann", "update"), Some(&after), Some(&noted)).await.unwrap();
        }
        let revisions = history.revisions(c).await.unwrap();
        let numbers: Vec<_> = revisions.iter().map(|r| r.revision).collect();
        assert_eq!(numbers, (11..=30).collect::<Vec<_>>());
        let last = history.revision(c, 30).await.unwrap().unwrap();
        assert_eq!((last.user.as_str(), &last.object["spec"]["port"]), ("ann", &json!(29)));
        assert_eq!((last.object.get("status"), last.object["metadata"].get("resourceVersion")), (None, None));
        assert_eq!(history.revision(c, 10).await.unwrap(), None);
        assert_eq!(history.revisions(named("shop", "cart")).await.unwrap(), []);
    }

    #[tokio::test]
    async fn what_was_there_before_is_the_first_revision() {
        let history = History::new(Store::in_memory());
        let c = named("shop", "c");
        history.record(c, ("ann", "patch"), Some(&object(1)), Some(&object(2))).await.unwrap();
        let revisions = history.revisions(c).await.unwrap();
        let told: Vec<_> =
            revisions.iter().map(|r| (r.user.as_str(), r.object["spec"]["port"].as_u64())).collect();
        assert_eq!(told, [("", Some(1)), ("ann", Some(2))]);
    }

    #[tokio::test]
    async fn what_is_gone_can_be_put_back_until_others_went_or_its_namespace() {
        let history = History::new(Store::in_memory());
        let made = object(1);
        for n in 0..=GONE {
            let name = format!("c{n}");
            history.record(named("shop", &name), ("ann", "delete"), Some(&made), None).await.unwrap();
            if n == 1 {
                // It is there again.
                history.record(named("shop", &name), ("ann", "create"), None, Some(&made)).await.unwrap();
            }
        }
        history.record(named("shop", "last"), ("ann", "delete"), Some(&made), None).await.unwrap();
        let count = async |name: &str| history.revisions(named("shop", name)).await.unwrap().len();
        assert_eq!((count("c0").await, count("c1").await, count("c2").await), (0, 3, 2));
        let shop = Named { kind: KindId::Namespace.kind(), namespace: "", name: "shop" };
        history.record(shop, ("ann", "delete"), Some(&made), None).await.unwrap();
        assert_eq!((count("c1").await, count("last").await), (0, 0));
        assert_eq!(history.revisions(shop).await.unwrap().len(), 2);
    }
}
