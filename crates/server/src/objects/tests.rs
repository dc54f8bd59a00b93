use serde_json::json;
use tulle_model::registry::KindId;

use super::*;

pub(super) async fn objects() -> Objects {
    Objects::open(Store::in_memory()).await.unwrap()
}

pub(super) fn service(name: &str, port: u16) -> Value {
    json!({ "metadata": { "name": name }, "spec": { "ports": [{ "port": port }] } })
}

pub(super) fn options() -> WriteOptions {
    WriteOptions { manager: "test".to_owned(), ..WriteOptions::controller() }
}

#[tokio::test]
async fn an_object_gets_what_the_server_sets() {
    let objects = objects().await;
    let kind = KindId::Service.kind();
    let created = objects.create(kind, "default", service("c", 80), &options()).await.unwrap().object;
    assert_eq!((&created["apiVersion"], &created["kind"]), (&json!("v1"), &json!("Service")));
    assert_eq!(created["metadata"]["generation"], 1);
    assert_eq!(created["metadata"]["namespace"], "default");
    assert!(metadata::text(&created, "uid").is_some());
    assert_eq!(created["metadata"]["resourceVersion"], objects.revision().await.unwrap().to_string());
    assert_eq!(objects.get(kind, "default", "c").await.unwrap(), Some(created.clone()));

    let error = objects.create(kind, "default", service("c", 80), &options()).await.unwrap_err();
    assert_eq!(error.to_string(), "services \"c\" already exists");
    let error = objects.create(kind, "nowhere", service("c", 80), &options()).await.unwrap_err();
    assert_eq!(error.to_string(), "namespaces \"nowhere\" not found");

    let mut generated = service("", 80);
    generated["metadata"] = json!({ "generateName": "c-" });
    let generated = objects.create(kind, "default", generated, &options()).await.unwrap().object;
    assert!(metadata::text(&generated, "name").unwrap().starts_with("c-"));
}

#[tokio::test]
async fn a_stale_version_is_a_conflict_and_the_generation_follows_the_spec() {
    let objects = objects().await;
    let kind = KindId::Service.kind();
    let first = objects.create(kind, "default", service("c", 80), &options()).await.unwrap().object;
    let mut second = first.clone();
    second["spec"]["ports"][0]["port"] = 81.into();
    second["status"] = json!({ "conditions": [] });
    let second = objects.replace(kind, "default", "c", second, &options()).await.unwrap().object;
    assert_eq!(second["metadata"]["generation"], 2);
    assert_eq!(second.get("status"), None);
    let error = objects.replace(kind, "default", "c", first, &options()).await.unwrap_err();
    assert!(error.is_conflict(), "{error}");

    let mut labelled = second.clone();
    labelled["metadata"]["labels"] = json!({ "a": "b" });
    let labelled = objects.replace(kind, "default", "c", labelled, &options()).await.unwrap().object;
    assert_eq!(labelled["metadata"]["generation"], 2);
    let revision = objects.revision().await.unwrap();
    let again = objects.replace(kind, "default", "c", labelled.clone(), &options()).await.unwrap().object;
    assert_eq!((again, objects.revision().await.unwrap()), (labelled, revision));

    let status = objects
        .update_status(kind, "default", "c", &options(), |status| status["loadBalancer"] = json!({}))
        .await
        .unwrap()
        .object;
    assert_eq!(
        (&status["metadata"]["generation"], &status["status"]["loadBalancer"]),
        (&json!(2), &json!({}))
    );
}

#[tokio::test]
async fn a_namespace_goes_with_what_is_in_it() {
    let objects = objects().await;
    let (namespace, kind) = (KindId::Namespace.kind(), KindId::Service.kind());
    objects.ensure_namespace("shop").await.unwrap();
    objects.create(kind, "shop", service("c", 80), &options()).await.unwrap();
    objects.create(kind, "default", service("c", 80), &options()).await.unwrap();
    let none = DeleteOptions::default();
    assert!(objects.delete(namespace, "", "shop", &none).await.unwrap().gone);
    assert_eq!(objects.list(kind, None).await.unwrap().items.len(), 1);
    let error = objects.delete(namespace, "", "default", &none).await.unwrap_err();
    assert!(matches!(error, ObjectError::Forbidden { .. }), "{error}");
}

#[tokio::test]
async fn finalizers_are_waited_for() {
    let objects = objects().await;
    let (namespace, kind) = (KindId::Namespace.kind(), KindId::Service.kind());
    objects.ensure_namespace("shop").await.unwrap();
    let mut held = service("c", 80);
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    objects.create(kind, "shop", held, &options()).await.unwrap();
    let none = DeleteOptions::default();
    assert!(!objects.delete(namespace, "", "shop", &none).await.unwrap().gone);
    let error = objects.create(kind, "shop", service("d", 80), &options()).await.unwrap_err();
    assert!(matches!(error, ObjectError::Forbidden { .. }), "{error}");
    let mut released = objects.require(kind, "shop", "c").await.unwrap();
    assert!(metadata::is_terminating(&released));
    released["metadata"]["finalizers"] = json!([]);
    objects.replace(kind, "shop", "c", released, &options()).await.unwrap();
    assert_eq!(objects.get(kind, "shop", "c").await.unwrap(), None);
    assert_eq!(objects.get(namespace, "", "shop").await.unwrap(), None);
}

#[tokio::test]
async fn a_namespace_waits_for_its_own_finalizers_and_leaves_nothing() {
    let objects = objects().await;
    let (namespace, kind) = (KindId::Namespace.kind(), KindId::Service.kind());
    let held = json!({ "metadata": { "name": "shop", "finalizers": ["example.com/hold"] } });
    objects.create(namespace, "", held, &options()).await.unwrap();
    objects.create(kind, "shop", service("c", 80), &options()).await.unwrap();
    assert!(!objects.delete(namespace, "", "shop", &DeleteOptions::default()).await.unwrap().gone);
    assert_eq!(objects.get(kind, "shop", "c").await.unwrap(), None);
    // As if it had been created just before.
    let key = key::key(kind, "shop", "late");
    let late = service("late", 80).to_string();
    objects.store.put(&key, late, crate::store::Precondition::Absent).await.unwrap();
    let release = |current: &Value| {
        let mut object = current.clone();
        metadata::of(&mut object).remove("finalizers");
        Ok(object)
    };
    objects.modify(namespace, "", "shop", &options(), release).await.unwrap();
    assert_eq!(objects.get(namespace, "", "shop").await.unwrap(), None);
    assert_eq!(objects.store.get(&key).await.unwrap(), None);
}

#[tokio::test]
async fn nothing_is_created_in_a_namespace_that_goes_at_the_same_time() {
    let objects = objects().await;
    let (namespace, kind) = (KindId::Namespace.kind(), KindId::Service.kind());
    for round in 0..20 {
        let name = format!("shop-{round}");
        objects.ensure_namespace(&name).await.unwrap();
        let mut held = service("held", 80);
        held["metadata"]["finalizers"] = json!(["example.com/hold"]);
        objects.create(kind, &name, held, &options()).await.unwrap();
        let (other, none, options) = (objects.clone(), DeleteOptions::default(), options());
        let creates = async {
            for i in 0..5 {
                let _ = objects.create(kind, &name, service(&format!("c{i}"), 80), &options).await;
            }
        };
        tokio::join!(creates, async { other.delete(namespace, "", &name, &none).await.unwrap() });
        assert_eq!(objects.list(kind, Some(&name)).await.unwrap().items.len(), 1, "only what is held stays");
    }
}

#[tokio::test]
async fn a_watch_shows_objects_before_and_after() {
    let objects = objects().await;
    let kind = KindId::Service.kind();
    let mut watch = objects.watch(kind, Some("default"), objects.revision().await.unwrap()).await.unwrap();
    objects.create(kind, "default", service("c", 80), &options()).await.unwrap();
    objects.delete(kind, "default", "c", &DeleteOptions::default()).await.unwrap();
    let created = watch.next().await.unwrap();
    assert_eq!((created.namespace.as_str(), created.name.as_str()), ("default", "c"));
    assert!(created.previous.is_none());
    let deleted = watch.next().await.unwrap();
    assert!(deleted.object.is_none());
    let previous = deleted.previous.unwrap();
    assert_eq!(metadata::text(&previous, "resourceVersion").unwrap(), deleted.revision.to_string());
}

#[tokio::test]
async fn who_goes_on_within_a_transaction_misses_nothing_of_it() {
    let objects = objects().await;
    let kind = KindId::Service.kind();
    objects.ensure_namespace("shop").await.unwrap();
    for name in ["a", "b", "c"] {
        objects.create(kind, "shop", service(name, 80), &options()).await.unwrap();
    }
    let begin = objects.revision().await.unwrap();
    objects.delete(KindId::Namespace.kind(), "", "shop", &DeleteOptions::default()).await.unwrap();
    let mut watch = objects.watch(kind, None, begin).await.unwrap();
    let mut unseen: Vec<_> = ["a", "b", "c"].into();
    while !unseen.is_empty() {
        let gone = watch.next().await.unwrap();
        unseen.retain(|name| *name != gone.name);
        let version = metadata::resource_version(&gone.previous.unwrap()).unwrap().unwrap();
        let mut again = objects.watch(kind, None, version).await.unwrap();
        let mut missed = unseen.clone();
        while !missed.is_empty() {
            let next = tokio::time::timeout(std::time::Duration::from_secs(20), again.next()).await;
            let gone = next.unwrap_or_else(|_| panic!("{missed:?} after {version}")).unwrap();
            missed.retain(|name| *name != gone.name);
        }
    }
    assert_eq!(watch.position(), objects.revision().await.unwrap());
}

#[tokio::test]
async fn what_is_stored_can_be_read_back_however_deep() {
    let objects = objects().await;
    let kind = KindId::EndpointSlice.kind();
    let nested = |levels: usize| {
        let value = (0..levels).fold(json!(1), |value, _| json!({ "a": value }));
        json!({
            "apiVersion": kind.api_version(), "kind": kind.kind, "metadata": { "name": "c" }, "addressType": "IPv4",
            "endpoints": [{ "addresses": ["10.0.0.1"], "hints": value }],
        })
    };
    let error = objects.create(kind, "default", nested(62), &options()).await.unwrap_err();
    assert!(error.to_string().contains("at most 64 levels"), "{error}");
    objects.create(kind, "default", nested(61), &options()).await.unwrap();
    assert_eq!(objects.list(kind, None).await.unwrap().items.len(), 1);
    let label = |object: &mut Value| object["metadata"]["labels"] = json!({ "a": "b" });
    let labelled = objects
        .modify(kind, "default", "c", &options(), |current| {
            let mut object = current.clone();
            label(&mut object);
            Ok(object)
        })
        .await
        .unwrap();
    assert_eq!(labelled.object["metadata"]["labels"]["a"], "b");
    assert!(objects.get(kind, "default", "c").await.unwrap().is_some());
}

#[tokio::test]
async fn an_object_that_cannot_be_read_hides_no_other_and_can_be_deleted() {
    let objects = objects().await;
    let kind = KindId::Service.kind();
    objects.create(kind, "default", service("good", 80), &options()).await.unwrap();
    let bad = key::key(kind, "default", "bad");
    objects.store.put(&bad, "{", crate::store::Precondition::Absent).await.unwrap();
    assert_eq!(objects.list(kind, None).await.unwrap().items.len(), 1);
    assert!(objects.get(kind, "default", "bad").await.is_err());
    let deleted = objects.delete(kind, "default", "bad", &DeleteOptions::default()).await.unwrap();
    assert!(deleted.gone);
    assert_eq!(objects.get(kind, "default", "bad").await.unwrap(), None);
}

/// An object of a time when more was taken can be labelled, and mended; nothing more comes in.
#[tokio::test]
async fn what_was_allowed_once_may_stay() {
    let objects = objects().await;
    let kind = KindId::Service.kind();
    let stored = objects.create(kind, "default", service("c", 80), &options()).await.unwrap().object;
    let mut old = write::without_version(&stored);
    old["spec"]["type"] = json!("NodePort");
    old["spec"]["sessionAffinity"] = json!("ClientIP");
    let key = key::key(kind, "default", "c");
    objects.store.put(&key, write::encode(kind, &old), crate::store::Precondition::Any).await.unwrap();

    old["metadata"]["labels"] = json!({ "a": "b" });
    let labelled = objects.replace(kind, "default", "c", old.clone(), &options()).await.unwrap().object;
    assert_eq!(
        (&labelled["metadata"]["labels"]["a"], &labelled["spec"]["type"]),
        (&json!("b"), &json!("NodePort"))
    );
    let mut worse = old.clone();
    worse["spec"]["type"] = json!("LoadBalancer");
    let error = objects.replace(kind, "default", "c", worse, &options()).await.unwrap_err();
    assert!(
        error.to_string().contains("spec.type") && !error.to_string().contains("sessionAffinity"),
        "{error}"
    );
    old["spec"]["type"] = json!("ClusterIP");
    objects.replace(kind, "default", "c", old.clone(), &options()).await.unwrap();
    old["spec"]["type"] = json!("NodePort");
    assert!(objects.replace(kind, "default", "c", old, &options()).await.is_err(), "it does not come back");
}

#[tokio::test]
async fn what_is_being_deleted_gets_no_new_finalizers() {
    let objects = objects().await;
    let kind = KindId::Service.kind();
    let mut held = service("c", 80);
    held["metadata"]["finalizers"] = json!(["example.com/a", "example.com/b"]);
    objects.create(kind, "default", held, &options()).await.unwrap();
    let set = async |finalizers: &[&str]| {
        let change = |current: &Value| {
            let mut object = current.clone();
            metadata::of(&mut object).insert("finalizers".to_owned(), json!(finalizers));
            Ok(object)
        };
        objects.modify(kind, "default", "c", &options(), change).await
    };
    set(&["example.com/a", "example.com/b", "example.com/c"]).await.unwrap();
    assert!(!objects.delete(kind, "default", "c", &DeleteOptions::default()).await.unwrap().gone);
    let more = set(&["example.com/a", "example.com/d"]).await.unwrap_err();
    assert!(
        matches!(
            &more,
            ObjectError::Invalid { problems, .. }
                if problems[0].field == "metadata.finalizers"
                    && problems[0].reason == "FieldValueForbidden"
                    && problems[0].message.contains("example.com/d")
        ),
        "{more}"
    );
    // Those that are there may change their order, and go.
    set(&["example.com/c", "example.com/a"]).await.unwrap();
    set(&["example.com/b", "example.com/a"]).await.unwrap_err();
    set(&[]).await.unwrap();
    assert_eq!(objects.get(kind, "default", "c").await.unwrap(), None);
}
