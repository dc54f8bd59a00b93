//! The objects of the mesh with the semantics of the Kubernetes API, on top of the store: the API
//! and the controllers read and write through here, and nothing else does.
//!
//! Every write goes through one pipeline ([`write`]): metadata of the server's own, defaults,
//! validation, generation, field ownership, then compare-and-put. An object in the store is the JSON
//! of the API without `metadata.resourceVersion`, which is the revision of its last write; and in the newest version of its
//! kind. Whoever asks for a kind in an older one ([`Kind::is_older`]) reads and writes objects of that.

mod checks;
mod delete;
mod error;
pub(crate) mod field_type;
mod fields;
mod key;
mod mesh;
mod metadata;
mod options;
pub mod patch;
mod swept;
#[cfg(test)]
mod tests;
mod write;

use std::sync::Arc;

use serde_json::{Value, json};
use tulle_model::registry::{Kind, KindId};

pub(crate) use delete::check_deletable;
pub use delete::{DeleteOptions, Deleted};
pub use error::{FieldProblem, ManagerConflict, ObjectError};
pub use options::{Part, UnknownFields, WriteCheck, WriteOptions};
pub use write::Written;
#[cfg(any(test, fuzzing))]
pub(crate) use write::fuzzing;

use self::swept::Swept;
use crate::store::{self, Store, Stored};

/// The key of an object in the store.
pub(crate) fn key_of(kind: &Kind, namespace: &str, name: &str) -> String {
    key::key(kind, namespace, name)
}

/// The namespace that is always there.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The objects; clones share them.
#[derive(Clone, Debug)]
pub struct Objects {
    store: Store,
    /// The mesh's, where it is known: no Mesh object can name another.
    trust_domain: Option<Arc<str>>,
    swept: Arc<Swept>,
}

/// Some objects of a kind, in the order of their namespaces and names.
#[derive(Debug, Clone)]
pub struct ObjectList {
    pub items: Vec<Value>,
    /// The revision that the list shows, and from which a watch continues it.
    pub revision: u64,
    /// Where to go on: the position of the last item, if more follow.
    pub next: Option<Position>,
}

/// A place in a list: after the object of that namespace and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Empty for cluster-wide kinds.
    pub namespace: String,
    pub name: String,
}

impl Position {
    /// The place of an object.
    pub fn of(object: &Value) -> Self {
        let text = |field| metadata::text(object, field).unwrap_or_default().to_owned();
        Self { namespace: text("namespace"), name: text("name") }
    }
}

/// A part of a list.
#[derive(Debug, Clone, Default)]
pub struct Page {
    pub after: Option<Position>,
    /// At most so many objects; all if none is given.
    pub limit: Option<usize>,
    /// As of this revision; the latest if none is given.
    pub revision: Option<u64>,
}

/// A change of an object, with its `resourceVersion` set to `revision`; that of one that was deleted, to where a watch goes on
/// after it.
#[derive(Debug, Clone)]
pub struct ObjectEvent {
    pub revision: u64,
    pub kind: &'static Kind,
    /// Empty for cluster-wide kinds.
    pub namespace: String,
    pub name: String,
    /// The object as it is now; none if it was deleted.
    pub object: Option<Arc<Value>>,
    /// The object before; none if it was created.
    pub previous: Option<Arc<Value>>,
}

/// Changes as they come.
#[derive(Debug)]
pub struct ObjectWatch {
    watch: store::Watch,
    /// The kind, and the version of it, in which the objects are shown; each in its own where none is given.
    shown_as: Option<&'static Kind>,
}

impl Objects {
    /// The objects of a store. Makes sure that the namespace `default` is there, where there is room for it.
    pub async fn open(store: Store) -> Result<Self, ObjectError> {
        let objects = Self { store, trust_domain: None, swept: Arc::default() };
        objects.ensure_default_namespace().await?;
        Ok(objects)
    }

    /// Makes the namespace `default`, if it is not there. `false` where there is no room for it now.
    ///
    /// # Errors
    /// Where the store fails otherwise.
    pub async fn ensure_default_namespace(&self) -> Result<bool, ObjectError> {
        match self.ensure_namespace(DEFAULT_NAMESPACE).await {
            // Nodes need the server all the same.
            Err(error) if error.is_for_want_of_room() => {
                tracing::warn!(%error, "the namespace `{DEFAULT_NAMESPACE}` is missing, and cannot be made now");
                Ok(false)
            }
            made => made.map(|()| true),
        }
    }

    /// Creates a namespace if it is not there.
    pub async fn ensure_namespace(&self, name: &str) -> Result<(), ObjectError> {
        let kind = KindId::Namespace.kind();
        if self.store.get(&key::key(kind, "", name)).await?.is_some() {
            return Ok(());
        }
        let namespace = json!({ "metadata": { "name": name } });
        match self.create(kind, "", namespace, &WriteOptions::controller()).await {
            Ok(_) | Err(ObjectError::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The revision of the latest write.
    pub async fn revision(&self) -> Result<u64, ObjectError> {
        Ok(self.store.revision().await?)
    }

    /// Why what adds is not written at present: the disk is full, or can only be read.
    pub fn trouble(&self) -> Option<store::StoreError> {
        self.store.trouble()
    }

    /// Forgets what was before a revision: it is the earliest that can still be listed, and watched from. The
    /// store does so by itself, for all but its last writes.
    pub async fn compact(&self, revision: u64) -> Result<(), ObjectError> {
        Ok(self.store.compact(revision).await?)
    }

    /// An object, or none. The namespace of cluster-wide kinds is ignored.
    pub async fn get(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, ObjectError> {
        let stored = self.store.get(&key::key(kind, namespace, name)).await?;
        Ok(stored.map(|stored| decode(&stored)).transpose()?.map(|object| present(kind, object)))
    }

    /// An object that must be there.
    pub async fn require(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Value, ObjectError> {
        self.get(kind, namespace, name)
            .await?
            .ok_or_else(|| ObjectError::NotFound { kind, name: name.to_owned() })
    }

    /// All objects of a kind, in a namespace or in all.
    pub async fn list(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
    ) -> Result<ObjectList, ObjectError> {
        self.list_page(kind, namespace, &Page::default()).await
    }

    /// A part of the objects of a kind. Fails with [`ObjectError::Expired`] when the revision asked for is gone.
    pub async fn list_page(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        page: &Page,
    ) -> Result<ObjectList, ObjectError> {
        let prefix = key::prefix(kind, namespace);
        let after = page.after.as_ref().map(|after| key::key(kind, &after.namespace, &after.name));
        let limit = page.limit.unwrap_or(usize::MAX);
        let list = match page.revision {
            Some(revision) => self.store.list_at(&prefix, after.as_deref(), limit, revision).await?,
            None => self.store.list(&prefix, after.as_deref(), limit).await?,
        };
        let next = match list.items.last() {
            Some((last, _)) if list.more => key::parse(last).map(|(_, namespace, name)| Position {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            }),
            _ => None,
        };
        // One that cannot be read must not hide the others.
        let readable = |(key, stored): &(String, Stored)| {
            let object = decode(stored);
            object.inspect_err(|error| tracing::error!(key, %error, "left an object out of a list")).ok()
        };
        let items = list.items.iter().filter_map(readable).map(|object| present(kind, object)).collect();
        Ok(ObjectList { items, revision: list.revision, next })
    }

    /// The changes of a kind's objects after `revision`, in a namespace or in all.
    pub async fn watch(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        revision: u64,
    ) -> Result<ObjectWatch, ObjectError> {
        let watch = self.store.watch(&key::prefix(kind, namespace), revision).await?;
        Ok(ObjectWatch { watch, shown_as: Some(kind) })
    }

    /// The changes of all objects of a kind's group after `revision`.
    pub async fn watch_group(&self, kind: &'static Kind, revision: u64) -> Result<ObjectWatch, ObjectError> {
        let watch = self.store.watch(&key::of_group(kind.group), revision).await?;
        Ok(ObjectWatch { watch, shown_as: None })
    }

    /// The changes of all objects after `revision`.
    pub async fn watch_all(&self, revision: u64) -> Result<ObjectWatch, ObjectError> {
        Ok(ObjectWatch { watch: self.store.watch(key::ALL, revision).await?, shown_as: None })
    }
}

impl ObjectWatch {
    /// The next change. Cancelling the future loses nothing. [`ObjectError::Expired`] means that the
    /// reader was too slow: it must list again.
    pub async fn next(&mut self) -> Result<ObjectEvent, ObjectError> {
        loop {
            let event = self.watch.next().await?;
            // Whoever goes on from a deletion must not miss what else its transaction has deleted.
            let gone_at = event.revision.min(self.watch.position());
            if let Some(event) = decode_event(&event, gone_at, self.shown_as)? {
                return Ok(event);
            }
        }
    }

    /// The next change, and those behind it that are there already: at most so many. As [`ObjectWatch::next`]
    /// otherwise.
    pub async fn next_batch(&mut self, most: usize) -> Result<Vec<ObjectEvent>, ObjectError> {
        loop {
            let batch = self.watch.next_batch(most).await?;
            let decode =
                |event: &store::Event| decode_event(event, event.revision, self.shown_as).transpose();
            let decoded = batch.iter().filter_map(decode);
            let decoded: Vec<_> = decoded.collect::<Result<_, _>>()?;
            if !decoded.is_empty() {
                return Ok(decoded);
            }
        }
    }

    /// The revision up to which all changes have been returned.
    pub fn position(&self) -> u64 {
        self.watch.position()
    }
}

/// What was there before is shown at the version `before_at`.
fn decode_event(
    event: &store::Event,
    before_at: u64,
    shown_as: Option<&'static Kind>,
) -> Result<Option<ObjectEvent>, ObjectError> {
    let Some((kind, namespace, name)) = key::parse(&event.key) else { return Ok(None) };
    let kind = shown_as.unwrap_or(kind);
    let object = |bytes: &Option<bytes::Bytes>, at: u64| -> Result<Option<Arc<Value>>, ObjectError> {
        let decoded = bytes.as_ref().map(|bytes| decode_at(bytes, at)).transpose()?;
        Ok(decoded.map(|object| Arc::new(present(kind, object))))
    };
    Ok(Some(ObjectEvent {
        revision: event.revision,
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        object: object(&event.value, event.revision)?,
        previous: object(&event.previous, before_at)?,
    }))
}

/// A stored object as its kind shows it, in the kind's version.
fn present(kind: &Kind, mut object: Value) -> Value {
    if kind.id == KindId::EventV1 {
        return tulle_model::kinds::event::as_events_v1(object);
    }
    if kind.is_older() {
        object["apiVersion"] = kind.api_version().into();
    }
    object
}

fn decode(stored: &Stored) -> Result<Value, ObjectError> {
    decode_at(&stored.value, stored.revision)
}

fn decode_at(bytes: &[u8], revision: u64) -> Result<Value, ObjectError> {
    let mut object: Value = serde_json::from_slice(bytes).map_err(|error| {
        ObjectError::Store(store::StoreError::Database(format!("a stored object cannot be read: {error}")))
    })?;
    metadata::set_resource_version(&mut object, revision);
    Ok(object)
}
