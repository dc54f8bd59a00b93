//! Create, replace, modify: the one pipeline that every write of an object takes.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;

use bytes::Bytes;
use serde_json::{Value, json};
use tulle_model::registry::{Kind, KindId};

use super::fields::{self, ManagerOperation};
use super::{ObjectError, Objects, Part, WriteOptions, checks, decode_at, key, metadata, present};
use crate::store::{Precondition, StoreError};

/// How often a write is tried again when somebody else was faster.
const ATTEMPTS: usize = 64;
/// How often a generated name may turn out to be taken.
const NAME_ATTEMPTS: usize = 8;

/// What a write left behind.
#[derive(Debug, Clone)]
pub struct Written {
    pub object: Value,
    /// Whether the object is new.
    pub created: bool,
    /// What the caller should know, a sentence each.
    pub warnings: Vec<String>,
}

impl Objects {
    /// Creates an object, with a generated name if it has only `metadata.generateName`.
    pub async fn create(
        &self,
        kind: &'static Kind,
        namespace: &str,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<Written, ObjectError> {
        metadata::check_type(kind, &mut object)?;
        metadata::check_namespace(kind, namespace, &mut object)?;
        if metadata::text(&object, "resourceVersion").is_some() {
            return Err(ObjectError::BadRequest(
                "resourceVersion should not be set on objects to be created".to_owned(),
            ));
        }
        if metadata::text(&object, "name").is_some() {
            return self.create_named(kind, namespace, object, options, ManagerOperation::Update).await;
        }
        let Some(prefix) = metadata::text(&object, "generateName").map(str::to_owned) else {
            return Err(ObjectError::Invalid {
                kind,
                name: String::new(),
                problems: vec![super::FieldProblem {
                    field: "metadata.name".to_owned(),
                    reason: "FieldValueRequired",
                    message: "Required value: name or generateName is required".to_owned(),
                }],
            });
        };
        let names = std::iter::repeat_with(|| metadata::generate_name(&prefix)).take(NAME_ATTEMPTS);
        self.create_under_one_of(names, kind, namespace, &object, options).await
    }

    /// Creates an object under the first of the names that is free.
    async fn create_under_one_of(
        &self,
        names: impl IntoIterator<Item = String>,
        kind: &'static Kind,
        namespace: &str,
        object: &Value,
        options: &WriteOptions,
    ) -> Result<Written, ObjectError> {
        let mut taken = String::new();
        for name in names {
            let mut named = object.clone();
            metadata::of(&mut named).insert("name".to_owned(), name.clone().into());
            match self.create_named(kind, namespace, named, options, ManagerOperation::Update).await {
                Err(ObjectError::AlreadyExists { .. }) => taken = name,
                result => return result,
            }
        }
        Err(ObjectError::AlreadyExists { kind, name: taken })
    }

    async fn create_named(
        &self,
        kind: &'static Kind,
        namespace: &str,
        mut object: Value,
        options: &WriteOptions,
        operation: ManagerOperation<'_>,
    ) -> Result<Written, ObjectError> {
        let name = metadata::text(&object, "name").unwrap_or_default().to_owned();
        if kind.has_status && options.part == Part::Object {
            remove(&mut object, "status");
        }
        metadata::initialize(kind, &mut object);
        self.check_trust_domain(kind, &mut object)?;
        let warnings = checks::admit(kind, None, &mut object, options.part, options.unknown_fields)?;
        fields::forget_managers(&mut object);
        fields::track(kind, None, &mut object, &options.manager, options.part, operation)?;
        options.admit(None, &object)?;
        let revision = self.store_new(kind, namespace, &name, encode(kind, &object), options.dry_run).await?;
        metadata::set_resource_version(&mut object, revision);
        if options.dry_run {
            metadata::of(&mut object).remove("resourceVersion");
        }
        Ok(Written { object, created: true, warnings })
    }

    /// Stores a new object, in a namespace that is not about to go; returns the revision.
    async fn store_new(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        object: Bytes,
        dry_run: bool,
    ) -> Result<u64, ObjectError> {
        let key = key::key(kind, namespace, name);
        let taken = || ObjectError::AlreadyExists { kind, name: name.to_owned() };
        for _ in 0..ATTEMPTS {
            let open = if kind.namespaced { Some(self.check_open(namespace).await?) } else { None };
            if dry_run {
                return if self.store.get(&key).await?.is_some() {
                    Err(taken())
                } else {
                    Ok(self.store.revision().await?)
                };
            }
            let required = open.as_ref().map(|(key, revision)| (key.as_str(), *revision));
            match self.store.put_requiring(&key, object.clone(), Precondition::Absent, required).await {
                Ok(written) => return Ok(written.revision),
                Err(StoreError::AlreadyExists(_)) => return Err(taken()),
                // The namespace has changed meanwhile: maybe it is about to go.
                Err(StoreError::RequirementChanged(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(modified(KindId::Namespace.kind(), namespace))
    }

    /// Checks that objects can be created in a namespace; returns the namespace's key and revision.
    async fn check_open(&self, namespace: &str) -> Result<(String, u64), ObjectError> {
        let kind = KindId::Namespace.kind();
        let key = key::key(kind, "", namespace);
        let stored = self.store.get(&key).await?;
        let stored = stored.ok_or_else(|| ObjectError::NotFound { kind, name: namespace.to_owned() })?;
        if metadata::is_terminating(&decode_at(&stored.value, stored.revision)?) {
            return Err(ObjectError::Forbidden {
                kind,
                name: namespace.to_owned(),
                message: format!(
                    "unable to create new content in namespace {namespace} because it is being terminated"
                ),
            });
        }
        Ok((key, stored.revision))
    }

    /// Replaces an object that must be there; at the version that `object` names, if it names one.
    pub async fn replace(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Written, ObjectError> {
        self.modify(kind, namespace, name, options, |_| Ok(object.clone())).await
    }

    /// Creates an object or replaces the one that is there, whatever its version.
    pub async fn put(
        &self,
        kind: &'static Kind,
        namespace: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Written, ObjectError> {
        let name = metadata::text(&object, "name").unwrap_or_default().to_owned();
        let mut desired = object.clone();
        metadata::of(&mut desired).remove("resourceVersion");
        loop {
            match self.replace(kind, namespace, &name, desired.clone(), options).await {
                Err(ObjectError::NotFound { .. }) => {}
                result => return result,
            }
            match self.create(kind, namespace, desired.clone(), options).await {
                Err(ObjectError::AlreadyExists { .. }) => {}
                result => return result,
            }
        }
    }

    /// Server-side apply: creates the object, or merges `config` into it. The manager then has the
    /// fields of `config`, and those that it applied before and no longer does are gone.
    ///
    /// Fails with [`ObjectError::ApplyConflict`] where others have set a field to something else;
    /// with `force` it takes the field over.
    pub async fn apply(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        mut config: Value,
        options: &WriteOptions,
        force: bool,
    ) -> Result<Written, ObjectError> {
        metadata::check_type(kind, &mut config)?;
        metadata::check_namespace(kind, namespace, &mut config)?;
        metadata::check_name(name, &mut config)?;
        if !config["metadata"]["managedFields"].is_null() {
            return Err(ObjectError::BadRequest("metadata.managedFields must be nil".to_owned()));
        }
        let dropped = checks::prune(kind, &mut config, options.unknown_fields)?;
        if let Some(repeated) = fields::repeated(kind, &config) {
            return Err(ObjectError::BadRequest(repeated));
        }
        let operation = ManagerOperation::Apply { config: &config, force };
        let change = |current: &Value| {
            let mut object = fields::merge_config(kind, current, &config, &options.manager, options.part);
            match metadata::text(&config, "resourceVersion") {
                Some(_) => {}
                None => drop(metadata::of(&mut object).remove("resourceVersion")),
            }
            Ok(object)
        };
        loop {
            let mut result = self.modify_as(kind, namespace, name, options, operation, change).await;
            let versioned = metadata::text(&config, "resourceVersion").is_some();
            if matches!(&result, Err(error) if error.is_not_found()) && options.part != Part::Status {
                if versioned {
                    return Err(modified(kind, name));
                }
                result = self.create_named(kind, namespace, config.clone(), options, operation).await;
                if matches!(&result, Err(ObjectError::AlreadyExists { .. })) {
                    continue;
                }
            }
            return result.map(|mut written| {
                written.warnings.extend(dropped.iter().cloned());
                written
            });
        }
    }

    /// Changes the status of an object that must be there. `change` may run more than once.
    pub async fn update_status(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        options: &WriteOptions,
        mut change: impl FnMut(&mut Value),
    ) -> Result<Written, ObjectError> {
        let options = options.clone().with_part(Part::Status);
        self.modify(kind, namespace, name, &options, |current| {
            let mut object = current.clone();
            metadata::of(&mut object).remove("resourceVersion");
            if let Value::Object(fields) = &mut object {
                change(fields.entry("status").or_insert_with(|| json!({})));
            }
            Ok(object)
        })
        .await
    }

    /// Writes what `change` makes of the current object. If somebody else writes meanwhile, it
    /// runs again, on what they left; unless its result names a `resourceVersion`, then that is a conflict.
    pub async fn modify(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        options: &WriteOptions,
        change: impl FnMut(&Value) -> Result<Value, ObjectError>,
    ) -> Result<Written, ObjectError> {
        self.modify_as(kind, namespace, name, options, ManagerOperation::Update, change).await
    }

    async fn modify_as(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        options: &WriteOptions,
        operation: ManagerOperation<'_>,
        mut change: impl FnMut(&Value) -> Result<Value, ObjectError>,
    ) -> Result<Written, ObjectError> {
        let key = key::key(kind, namespace, name);
        for _ in 0..ATTEMPTS {
            let not_found = || ObjectError::NotFound { kind, name: name.to_owned() };
            let stored = self.store.get(&key).await?.ok_or_else(not_found)?;
            let current = present(kind, decode_at(&stored.value, stored.revision)?);
            let mut desired = change(&current)?;
            metadata::check_type(kind, &mut desired)?;
            let expected = metadata::resource_version(&desired)?;
            if expected.is_some_and(|expected| expected != stored.revision) {
                return Err(modified(kind, name));
            }
            let (mut object, warnings) = self.prepare(kind, namespace, name, &current, desired, options)?;
            fields::track(kind, Some(&current), &mut object, &options.manager, options.part, operation)?;
            if without_version(&current) == object {
                return Ok(Written { object: current, created: false, warnings });
            }
            options.admit(Some(&current), &object)?;
            match self.store_update(kind, &key, object, stored.revision, options).await {
                Ok(object) => return Ok(Written { object, created: false, warnings }),
                Err(StoreError::Conflict { .. }) => {}
                Err(StoreError::NotFound(_)) => return Err(not_found()),
                Err(error) => return Err(error.into()),
            }
        }
        Err(modified(kind, name))
    }

    /// The object as it is to be stored, from what is there and what is wanted, of which
    /// [`metadata::check_type`] holds.
    fn prepare(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        current: &Value,
        desired: Value,
        options: &WriteOptions,
    ) -> Result<(Value, Vec<String>), ObjectError> {
        let mut desired = desired;
        metadata::check_namespace(kind, namespace, &mut desired)?;
        metadata::check_name(name, &mut desired)?;
        if let (Some(given), Some(uid)) = (metadata::text(&desired, "uid"), metadata::text(current, "uid"))
            && given != uid
        {
            return Err(ObjectError::Conflict {
                kind,
                name: name.to_owned(),
                message: format!(
                    "Precondition failed: UID in precondition: {given}, UID in object meta: {uid}"
                ),
            });
        }
        let mut object = match options.part {
            Part::Status => {
                let mut object = current.clone();
                copy(&desired, &mut object, "status");
                object
            }
            Part::Object if kind.has_status => {
                copy(current, &mut desired, "status");
                desired
            }
            Part::Object | Part::Whole => desired,
        };
        metadata::keep(current, &mut object);
        check_finalizers(kind, name, current, &object)?;
        if options.part != Part::Status {
            self.check_trust_domain(kind, &mut object)?;
        }
        let warnings = checks::admit(kind, Some(current), &mut object, options.part, options.unknown_fields)?;
        if spec_differs(current, &object)
            && let Some(generation) = current["metadata"]["generation"].as_i64()
        {
            metadata::of(&mut object).insert("generation".to_owned(), (generation + 1).into());
        }
        Ok((object, warnings))
    }

    /// Stores an update; an object whose last finalizer went while it waits for that is deleted instead.
    async fn store_update(
        &self,
        kind: &'static Kind,
        key: &str,
        mut object: Value,
        revision: u64,
        options: &WriteOptions,
    ) -> Result<Value, StoreError> {
        let precondition = Precondition::Revision(revision);
        let ends = metadata::is_terminating(&object) && !metadata::has_finalizers(&object);
        let is_namespace = kind.id == KindId::Namespace;
        let written = if options.dry_run {
            revision
        } else if ends && !is_namespace {
            let (revision, _) = self.store.delete(key, precondition).await?;
            self.finish_namespace(metadata::text(&object, "namespace")).await?;
            revision
        } else {
            let stored = encode(kind, &object);
            let revision = self.store.put_requiring(key, stored, precondition, None).await?.revision;
            if is_namespace {
                self.finish_namespace(metadata::text(&object, "name")).await?;
            }
            revision
        };
        metadata::set_resource_version(&mut object, written);
        Ok(object)
    }
}

/// Whoever deletes an object waits for those that hold it now, and for nobody else.
fn check_finalizers(
    kind: &'static Kind,
    name: &str,
    current: &Value,
    object: &Value,
) -> Result<(), ObjectError> {
    let more = metadata::new_finalizers(current, object);
    if more.is_empty() || !metadata::is_terminating(current) {
        return Ok(());
    }
    Err(ObjectError::Invalid {
        kind,
        name: name.to_owned(),
        problems: vec![super::FieldProblem {
            field: "metadata.finalizers".to_owned(),
            reason: "FieldValueForbidden",
            message: format!(
                "Forbidden: no new finalizers can be added if the object is being deleted, found new \
                 finalizers {more:?}"
            ),
        }],
    })
}

pub(super) fn modified(kind: &'static Kind, name: &str) -> ObjectError {
    ObjectError::Conflict {
        kind,
        name: name.to_owned(),
        message:
            "the object has been modified; please apply your changes to the latest version and try again"
                .to_owned(),
    }
}

/// The bytes of an object in the store, where all are in the newest version of their kind.
pub(super) fn encode(kind: &Kind, object: &Value) -> Bytes {
    if kind.is_older() {
        let mut newest = object.clone();
        newest["apiVersion"] = kind.id.kind().api_version().into();
        return Bytes::from(newest.to_string());
    }
    Bytes::from(object.to_string())
}

/// The object as it is in the store.
pub(super) fn without_version(object: &Value) -> Value {
    let mut object = object.clone();
    metadata::of(&mut object).remove("resourceVersion");
    object
}

fn remove(object: &mut Value, field: &str) {
    if let Value::Object(fields) = object {
        fields.remove(field);
    }
}

/// Makes a top-level field of `to` what it is in `from`.
fn copy(from: &Value, to: &mut Value, field: &str) {
    if let Value::Object(fields) = to {
        match from.get(field) {
            Some(value) => fields.insert(field.to_owned(), value.clone()),
            None => fields.remove(field),
        };
    }
}

/// Whether anything but metadata and status differs.
fn spec_differs(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return true };
    let counts = |field: &str| field != "metadata" && field != "status";
    let covered = |a: &serde_json::Map<String, Value>, b: &serde_json::Map<String, Value>| {
        a.iter().filter(|(field, _)| counts(field)).all(|(field, value)| b.get(field) == Some(value))
    };
    !(covered(a, b) && covered(b, a))
}

#[cfg(test)]
mod tests {
    use tulle_model::identity::TrustDomain;

    use super::super::UnknownFields;
    use super::super::tests::{objects, options, service};
    use super::*;

    #[tokio::test]
    async fn a_generated_name_that_is_taken_is_not_the_last() {
        let objects = objects().await;
        let kind = KindId::Service.kind();
        let create = async |names: &[&str]| {
            let names = names.iter().map(|&name| name.to_owned());
            let object = service("", 80);
            let created = objects.create_under_one_of(names, kind, "default", &object, &options()).await;
            created.map(|written| metadata::text(&written.object, "name").unwrap_or_default().to_owned())
        };
        assert_eq!(create(&["c-1", "c-2"]).await.unwrap(), "c-1");
        assert_eq!(create(&["c-1", "c-2", "c-3"]).await.unwrap(), "c-2");
        let taken = create(&["c-1", "c-2"]).await.unwrap_err();
        assert_eq!(taken.to_string(), "services \"c-2\" already exists");
        // Another failure is not tried again.
        let (names, object) = (["a".to_owned()], service("", 80));
        let unknown = objects.create_under_one_of(names, kind, "nowhere", &object, &options()).await;
        assert!(unknown.unwrap_err().is_not_found());
    }

    #[tokio::test]
    async fn who_creates_an_object_says_nothing_of_its_status() {
        let objects = objects().await;
        let kind = KindId::Service.kind();
        let mut object = service("c", 80);
        object["status"] = json!({ "loadBalancer": {} });
        let created = objects.create(kind, "default", object.clone(), &options()).await.unwrap().object;
        assert_eq!(created.get("status"), None);
        object["metadata"]["name"] = json!("d");
        let whole = options().with_part(Part::Whole);
        let created = objects.create(kind, "default", object, &whole).await.unwrap().object;
        assert_eq!(created["status"], json!({ "loadBalancer": {} }));
    }

    #[tokio::test]
    async fn a_kind_without_a_status_has_an_unknown_field_of_that_name() {
        let objects = objects().await;
        let kind = KindId::EndpointSlice.kind();
        let slice = json!({ "metadata": { "name": "c" }, "addressType": "IPv4", "endpoints": [] });
        let mut with_status = slice.clone();
        with_status["status"] = json!({});
        let strict = WriteOptions { unknown_fields: UnknownFields::Strict, ..options() };
        let error = objects.create(kind, "default", with_status.clone(), &strict).await.unwrap_err();
        assert!(error.to_string().contains("status"), "{error}");
        objects.create(kind, "default", slice, &strict).await.unwrap();
        let error = objects.replace(kind, "default", "c", with_status, &strict).await.unwrap_err();
        assert!(error.to_string().contains("status"), "{error}");
    }

    #[tokio::test]
    async fn the_trust_domain_of_a_mesh_is_no_field_to_change() {
        let objects = objects().await.of_mesh(&TrustDomain::new("shop.example").unwrap());
        objects.ensure_mesh().await.unwrap();
        let kind = KindId::Mesh.kind();
        let mesh = objects.require(kind, "", "default").await.unwrap();
        let mut other = mesh.clone();
        other["spec"]["trustDomain"] = json!("other.local");
        for part in [Part::Object, Part::Whole] {
            let error = objects.replace(kind, "", "default", other.clone(), &options().with_part(part)).await;
            let error = error.unwrap_err().to_string();
            assert!(error.contains("spec.trustDomain: cannot change"), "{part:?}: {error}");
        }
        // One that is left out is the mesh's again.
        let mut none = mesh.clone();
        none["spec"] = json!({});
        let kept = objects.replace(kind, "", "default", none, &options()).await.unwrap().object;
        assert_eq!(kept["spec"]["trustDomain"], "shop.example");
    }

    #[test]
    fn a_field_that_comes_or_goes_is_another_generation() {
        let object = |spec: Value| json!({ "metadata": { "name": "c" }, "spec": spec, "status": { "a": 1 } });
        let (one, two) = (object(json!({ "a": 1 })), object(json!({ "a": 2 })));
        let mut more = one.clone();
        more["data"] = json!({});
        let mut noted = one.clone();
        noted["metadata"]["labels"] = json!({});
        noted["status"] = json!({ "a": 2 });
        for (a, b, differ) in [
            (&one, &one, false),
            (&one, &noted, false),
            (&one, &two, true),
            (&one, &more, true),
            (&more, &one, true),
        ] {
            assert_eq!(spec_differs(a, b), differ, "{a} {b}");
        }
    }
}
