//! Deleting objects, with finalizers, and namespaces with all that is in them.

use std::time::Instant;

use serde_json::{Value, json};
use tulle_model::kinds::mesh::MESH;
use tulle_model::registry::{KINDS, Kind, KindId};

use super::write::{encode, modified, without_version};
use super::{DEFAULT_NAMESPACE, ObjectError, Objects, decode_at, key, metadata, present};
use crate::store::{Precondition, StoreError};
use crate::timestamp;

/// On what condition to delete, and how.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Only the object with this uid.
    pub uid: Option<String>,
    /// Only at this version.
    pub resource_version: Option<u64>,
    /// Do everything but delete it.
    pub dry_run: bool,
}

/// What a deletion left behind.
#[derive(Debug, Clone)]
pub struct Deleted {
    /// The object as it was last.
    pub object: Value,
    /// Whether it is gone; otherwise its finalizers are waited for.
    pub gone: bool,
}

/// How often a deletion is tried again when somebody else was faster.
const ATTEMPTS: usize = 64;

impl Objects {
    /// Deletes an object. A namespace goes with all that is in it.
    pub async fn delete(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, ObjectError> {
        check_deletable(kind, name)?;
        let check = |object: &Value, revision| check_preconditions(kind, name, object, revision, options);
        match self.delete_checked(kind, namespace, name, options.dry_run, check).await {
            Err(ObjectError::NotFound { .. }) if options.resource_version.is_none() && !options.dry_run => {
                let swept = self.swept.take(kind, namespace, name, options.uid.as_deref(), Instant::now());
                let not_found = || ObjectError::NotFound { kind, name: name.to_owned() };
                swept.map(|object| Deleted { object, gone: true }).ok_or_else(not_found)
            }
            result => result,
        }
    }

    /// Deletes an object of which `wanted` holds then, whoever writes it meanwhile.
    ///
    /// # Errors
    /// [`ObjectError::NotFound`] where there is none, or none of which it holds.
    pub async fn delete_where(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Deleted, ObjectError> {
        let not_found = || ObjectError::NotFound { kind, name: name.to_owned() };
        let check = |object: &Value, _| wanted(object).then_some(()).ok_or_else(not_found);
        self.delete_checked(kind, namespace, name, false, check).await
    }

    async fn delete_checked(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        dry_run: bool,
        check: impl Fn(&Value, u64) -> Result<(), ObjectError>,
    ) -> Result<Deleted, ObjectError> {
        let key = key::key(kind, namespace, name);
        for _ in 0..ATTEMPTS {
            let not_found = || ObjectError::NotFound { kind, name: name.to_owned() };
            let stored = self.store.get(&key).await?.ok_or_else(not_found)?;
            // One that cannot be read goes all the same.
            let object = decode_at(&stored.value, stored.revision).unwrap_or_else(|_| {
                let metadata = json!({ "name": name, "namespace": namespace });
                json!({ "apiVersion": kind.api_version(), "kind": kind.kind, "metadata": metadata })
            });
            let object = present(kind, object);
            check(&object, stored.revision)?;
            let is_namespace = kind.id == KindId::Namespace;
            let inside = if is_namespace { self.objects_inside(name).await? } else { Vec::new() };
            let waits = [&object].into_iter().chain(&inside).any(metadata::has_finalizers);
            if dry_run || (waits && metadata::is_terminating(&object)) {
                return Ok(Deleted { object, gone: !waits });
            }
            let precondition = Precondition::Revision(stored.revision);
            let result = if waits {
                self.mark(kind, name, &key, &object, precondition).await
            } else if is_namespace {
                let deleted = self.store.delete_with(&key, precondition, key::inside(name)).await;
                deleted.map(|(revision, _)| {
                    self.swept.remember(inside.into_iter(), Instant::now());
                    (object, revision)
                })
            } else {
                self.store.delete(&key, precondition).await.map(|(revision, _)| (object, revision))
            };
            match result {
                Ok((mut object, revision)) => {
                    metadata::set_resource_version(&mut object, revision);
                    self.finish_namespace(Some(namespace)).await?;
                    return Ok(Deleted { object, gone: !waits });
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(StoreError::NotFound(_)) => return Err(not_found()),
                Err(error) => return Err(error.into()),
            }
        }
        Err(modified(kind, name))
    }

    /// Marks an object as about to be deleted. What is in a namespace goes at once, but for what has finalizers.
    async fn mark(
        &self,
        kind: &'static Kind,
        name: &str,
        key: &str,
        object: &Value,
        precondition: Precondition,
    ) -> Result<(Value, u64), StoreError> {
        let mut marked = without_version(object);
        let fields = metadata::of(&mut marked);
        fields.insert("deletionTimestamp".to_owned(), timestamp::now().into());
        fields.insert("deletionGracePeriodSeconds".to_owned(), 0.into());
        if kind.id == KindId::Namespace {
            marked["status"]["phase"] = json!("Terminating");
        }
        let revision = self.store.put(key, encode(kind, &marked), precondition).await?;
        if kind.id == KindId::Namespace {
            for (kind, inside) in self.inside(name).await? {
                let options = DeleteOptions::default();
                match Box::pin(self.delete(kind, name, &inside, &options)).await {
                    Ok(_) | Err(ObjectError::NotFound { .. }) => {}
                    Err(ObjectError::Store(error)) => return Err(error),
                    Err(error) => return Err(StoreError::Database(error.to_string())),
                }
            }
        }
        Ok((marked, revision))
    }

    /// The objects in a namespace, by kind and name.
    async fn inside(&self, namespace: &str) -> Result<Vec<(&'static Kind, String)>, StoreError> {
        let mut found = Vec::new();
        for kind in KINDS.iter().filter(|kind| kind.namespaced && !kind.is_view()) {
            let list = self.store.list(&key::prefix(kind, Some(namespace)), None, usize::MAX).await?;
            let names = list.items.iter().filter_map(|(key, _)| key::parse(key));
            found.extend(names.map(|(kind, _, name)| (kind, name.to_owned())));
        }
        Ok(found)
    }

    /// The objects in a namespace themselves, as far as they can be read.
    async fn objects_inside(&self, namespace: &str) -> Result<Vec<Value>, StoreError> {
        let mut found = Vec::new();
        for kind in KINDS.iter().filter(|kind| kind.namespaced && !kind.is_view()) {
            let list = self.store.list(&key::prefix(kind, Some(namespace)), None, usize::MAX).await?;
            found.extend(list.items.iter().filter_map(|(_, stored)| decode_at(&stored.value, 0).ok()));
        }
        Ok(found)
    }

    /// Deletes a namespace that was to go, with what is left in it, once no finalizer holds it any more.
    pub(super) async fn finish_namespace(&self, namespace: Option<&str>) -> Result<(), StoreError> {
        let Some(namespace) = namespace else { return Ok(()) };
        let key = key::key(KindId::Namespace.kind(), "", namespace);
        let Some(stored) = self.store.get(&key).await? else { return Ok(()) };
        let ends = decode_at(&stored.value, stored.revision)
            .is_ok_and(|object| metadata::is_terminating(&object) && !metadata::has_finalizers(&object));
        if ends && !self.objects_inside(namespace).await?.iter().any(metadata::has_finalizers) {
            let inside = key::inside(namespace);
            match self.store.delete_with(&key, Precondition::Revision(stored.revision), inside).await {
                Ok(_) | Err(StoreError::NotFound(_) | StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Refuses what always stays.
pub(crate) fn check_deletable(kind: &'static Kind, name: &str) -> Result<(), ObjectError> {
    let message = match kind.id {
        KindId::Namespace if name == DEFAULT_NAMESPACE => "this namespace may not be deleted",
        KindId::Mesh if name == MESH => {
            "a mesh always has its settings; change them instead, or remove a field to have its default back"
        }
        _ => return Ok(()),
    };
    Err(ObjectError::Forbidden { kind, name: name.to_owned(), message: message.to_owned() })
}

fn check_preconditions(
    kind: &'static Kind,
    name: &str,
    object: &Value,
    revision: u64,
    options: &DeleteOptions,
) -> Result<(), ObjectError> {
    let conflict = |message: String| ObjectError::Conflict { kind, name: name.to_owned(), message };
    if let Some(wanted) = &options.uid {
        let found = metadata::text(object, "uid").unwrap_or_default();
        if wanted != found {
            return Err(conflict(format!(
                "the UID in the precondition ({wanted}) does not match the UID in record ({found}). The object \
                 might have been deleted and then recreated"
            )));
        }
    }
    if let Some(wanted) = options.resource_version
        && wanted != revision
    {
        return Err(conflict(format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record \
             ({revision}). The object might have been modified"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{objects, options, service};
    use super::*;

    #[test]
    fn the_default_namespace_and_the_mesh_always_stay() {
        for (kind, name, deletable) in [
            (KindId::Namespace, "default", false),
            (KindId::Namespace, "shop", true),
            (KindId::Mesh, "default", false),
            (KindId::Mesh, "other", true),
            (KindId::Service, "default", true),
        ] {
            assert_eq!(check_deletable(kind.kind(), name).is_ok(), deletable, "{kind:?} {name}");
        }
    }

    #[tokio::test]
    async fn what_must_hold_for_a_deletion_is_looked_at() {
        let objects = objects().await;
        let kind = KindId::Service.kind();
        let made = objects.create(kind, "default", service("c", 80), &options()).await.unwrap().object;
        let uid = metadata::text(&made, "uid").map(str::to_owned);
        let version = Some(objects.revision().await.unwrap());
        let other = || Some("0e4f8a55-0000-4000-8000-000000000000".to_owned());
        for (uid, resource_version, deleted) in [
            (other(), None, false),
            (other(), version, false),
            (None, Some(1), false),
            (uid.clone(), Some(1), false),
            (uid, version, true),
        ] {
            let options = DeleteOptions { uid, resource_version, dry_run: true };
            let result = objects.delete(kind, "default", "c", &options).await;
            match &result {
                Ok(deleted) => assert!(deleted.gone),
                Err(error) => assert!(error.is_conflict(), "{error}"),
            }
            assert_eq!(result.is_ok(), deleted, "{options:?}");
            assert_eq!(
                objects.get(kind, "default", "c").await.unwrap().as_ref(),
                Some(&made),
                "nothing is done"
            );
            if deleted {
                let options = DeleteOptions { dry_run: false, ..options };
                assert!(objects.delete(kind, "default", "c", &options).await.unwrap().gone);
                assert_eq!(objects.get(kind, "default", "c").await.unwrap(), None);
            }
        }
    }

    #[tokio::test]
    async fn what_waits_for_a_finalizer_is_marked_once() {
        let objects = objects().await;
        let kind = KindId::Service.kind();
        let mut held = service("c", 80);
        held["metadata"]["finalizers"] = json!(["example.com/hold"]);
        objects.create(kind, "default", held, &options()).await.unwrap();
        let dry = DeleteOptions { dry_run: true, ..DeleteOptions::default() };
        let result = objects.delete(kind, "default", "c", &dry).await.unwrap();
        assert!(
            !result.gone && !metadata::is_terminating(&objects.require(kind, "default", "c").await.unwrap())
        );
        let none = DeleteOptions::default();
        let first = objects.delete(kind, "default", "c", &none).await.unwrap();
        assert!(!first.gone && metadata::is_terminating(&first.object));
        assert_eq!(first.object.get("status"), None);
        let revision = objects.revision().await.unwrap();
        let again = objects.delete(kind, "default", "c", &none).await.unwrap();
        assert_eq!(
            (again.object, again.gone, objects.revision().await.unwrap()),
            (first.object, false, revision)
        );
    }

    #[tokio::test]
    async fn a_namespace_that_is_held_says_that_it_goes_and_others_finalizers_do_not_hold_it() {
        let objects = objects().await;
        let (namespace, kind) = (KindId::Namespace.kind(), KindId::Service.kind());
        let hold = json!(["example.com/hold"]);
        let other = json!({ "metadata": { "name": "other", "finalizers": hold } });
        objects.create(namespace, "", other, &options()).await.unwrap();
        for name in ["shop", "bank"] {
            objects.ensure_namespace(name).await.unwrap();
        }
        let mut held = service("c", 80);
        held["metadata"]["finalizers"] = hold;
        objects.create(kind, "bank", held, &options()).await.unwrap();
        let none = DeleteOptions::default();
        assert!(objects.delete(namespace, "", "shop", &none).await.unwrap().gone);
        let waits = objects.delete(namespace, "", "bank", &none).await.unwrap();
        assert!(!waits.gone);
        assert_eq!(waits.object["status"]["phase"], "Terminating");
        assert_eq!(objects.require(namespace, "", "bank").await.unwrap()["status"]["phase"], "Terminating");
        // The last that was held goes without its finalizer being taken away first.
        let key = key::key(kind, "bank", "c");
        let released = service("c", 80).to_string();
        objects.store.put(&key, released, Precondition::Any).await.unwrap();
        assert!(objects.delete(kind, "bank", "c", &none).await.unwrap().gone);
        assert_eq!(objects.get(namespace, "", "bank").await.unwrap(), None);
    }
}
