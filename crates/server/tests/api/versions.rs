//! Kinds in their older versions: the same objects, stored in the newest.

use http::Method;
use serde_json::{Value, json};
use tulle_model::registry::{OLDER, by_api_version};

use crate::client::{SERVICES, TestApi, service, version};

const GROUP: &str = "gateway.networking.k8s.io";

/// The path of a kind's objects in that version.
fn path(version: &str, plural: &str) -> String {
    format!("/apis/{GROUP}/{version}/namespaces/default/{plural}")
}

fn api_version(version: &str) -> String {
    format!("{GROUP}/{version}")
}

fn parents() -> Value {
    json!([{ "group": "", "kind": "Service", "name": "c" }])
}

/// An object of that kind, which does not say of which version.
fn object(kind: &str) -> Value {
    let backends = json!([{ "name": "c", "port": 80 }]);
    let spec = match kind {
        "ReferenceGrant" => json!({
            "from": [{ "group": GROUP, "kind": "HTTPRoute", "namespace": "shop" }],
            "to": [{ "group": "", "kind": "Service", "name": "c" }],
        }),
        "BackendTLSPolicy" => json!({
            "targetRefs": [{ "group": "tulle.dev", "kind": "ExternalService", "name": "c" }],
            "validation": { "hostname": "c.test", "wellKnownCACertificates": "System" },
        }),
        "TLSRoute" => json!({
            "parentRefs": parents(), "hostnames": ["c.test"], "rules": [{ "backendRefs": backends }],
        }),
        _ => json!({ "parentRefs": parents(), "rules": [{ "backendRefs": backends }] }),
    };
    json!({ "kind": kind, "metadata": { "name": "x" }, "spec": spec })
}

fn versioned(kind: &str, version: &str) -> Value {
    let mut object = object(kind);
    object["apiVersion"] = api_version(version).into();
    object
}

/// What neither the version decides nor the server writes meanwhile.
fn bare(object: &Value) -> Value {
    let metadata = &object["metadata"];
    json!([metadata["uid"], metadata["name"], metadata["labels"], object["kind"], object["spec"]])
}

#[tokio::test]
async fn each_kind_is_written_and_read_in_each_of_its_versions() {
    let api = TestApi::start().await;
    api.post(SERVICES, &service("c")).await.expect(201);
    for older in OLDER {
        let newest = older.id.kind();
        let both = [older, newest];
        for kind in both {
            let here = path(kind.version, kind.plural);
            let of_version = |object: &Value| assert_eq!(object["apiVersion"], kind.api_version());
            // An object need not say its version, and may not say another.
            let made = api.post(&here, &object(kind.kind)).await.expect(201);
            of_version(&made);
            for other in both.into_iter().filter(|other| other.version != kind.version) {
                let wrong = versioned(kind.kind, other.version);
                let refused = api.put(&format!("{here}/x"), &wrong).await.fails(400, "BadRequest");
                assert!(refused["message"].as_str().unwrap().contains("does not match"), "{refused}");
                let there = path(other.version, kind.plural);
                let seen = api.get(&format!("{there}/x")).await.expect(200);
                assert_eq!(seen["apiVersion"], other.api_version());
                assert_eq!(bare(&seen), bare(&made));
                let list = api.get(&there).await.expect(200);
                assert_eq!(
                    (&list["apiVersion"], &list["kind"], &list["items"][0]["apiVersion"]),
                    (&json!(other.api_version()), &json!(kind.list_kind), &json!(other.api_version()))
                );
                assert_eq!(bare(&list["items"][0]), bare(&seen));
                // What was made in one is changed in the other; and the versions of objects are the same in both.
                let mut changed = seen;
                changed["metadata"]["resourceVersion"] = Value::Null;
                changed["metadata"]["labels"] = json!({ "by": other.version });
                let put = api.put(&format!("{there}/x"), &changed).await.expect(200);
                assert_eq!(put["apiVersion"], other.api_version());
                changed["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
                api.put(&format!("{there}/x"), &changed).await.fails(409, "Conflict");
            }
            let patch = json!({ "metadata": { "annotations": { "a": "b" } } });
            let patched = api.patch(&format!("{here}/x"), "merge-patch", &patch).await.expect(200);
            of_version(&patched);
            let test = json!([
                { "op": "test", "path": "/apiVersion", "value": kind.api_version() },
                { "op": "remove", "path": "/metadata/annotations/a" },
            ]);
            of_version(&api.patch(&format!("{here}/x"), "json-patch", &test).await.expect(200));
            // (Of a route, the server writes the status.)
            let again = api.get(&format!("{here}/x")).await.expect(200);
            let same = json!({ "apiVersion": kind.api_version(), "kind": kind.kind });
            let same = api.patch(&format!("{here}/x"), "merge-patch", &same).await.expect(200);
            assert!(kind.has_status || version(&same) == version(&again), "nothing has changed");
            let dry = api.delete(&format!("{here}/x?dryRun=All"), &Value::Null).await.expect(200);
            assert_eq!(dry["status"], "Success");

            let stored = &api.server.objects;
            let stored = stored.require(newest, "default", "x").await.unwrap();
            assert_eq!(stored["apiVersion"], newest.api_version());
            api.delete(&format!("{here}/x"), &Value::Null).await.expect(200);
            let gone = api.get(&path(newest.version, kind.plural)).await.expect(200);
            assert_eq!(gone["items"], json!([]));
        }
    }
}

#[tokio::test]
async fn what_the_newest_version_cannot_say_is_refused_with_its_field() {
    let api = TestApi::start().await;
    let mut several = versioned("TCPRoute", "v1alpha2");
    let rule = several["spec"]["rules"][0].clone();
    several["spec"]["rules"] = json!([rule, rule]);
    let refused = api.post(&path("v1alpha2", "tcproutes"), &several).await.fails(422, "Invalid");
    let cause = &refused["details"]["causes"][0];
    assert_eq!(cause["field"], "spec.rules");
    assert!(cause["message"].as_str().unwrap().contains("at most 1"), "{cause}");
    // Nor is there a version that the kind never had.
    for nowhere in ["v1beta1", "v1alpha3", "v2"] {
        api.post(&path(nowhere, "tcproutes"), &versioned("TCPRoute", nowhere)).await.fails(404, "NotFound");
    }
    let other = versioned("TCPRoute", "v1beta1");
    let refused = api.post(&path("v1", "tcproutes"), &other).await.fails(400, "BadRequest");
    assert!(refused["message"].as_str().unwrap().contains("no matches for kind"), "{refused}");
}

#[tokio::test]
async fn a_watch_shows_its_own_version_whichever_an_object_is_written_in() {
    let api = TestApi::start().await;
    let (new, old) = (path("v1", "referencegrants"), path("v1beta1", "referencegrants"));
    api.post(&old, &versioned("ReferenceGrant", "v1beta1")).await.expect(201);
    let start = api.get(&old).await.expect(200);
    let query =
        "watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    let (mut in_new, mut in_old) =
        (api.watch(&format!("{new}?{query}")).await, api.watch(&format!("{old}?{query}")).await);
    let mut later = api.watch(&format!("{old}?watch=true&resourceVersion={}", version(&start))).await;
    let label = json!({ "metadata": { "labels": { "x": "y" } } });
    let changed = api.patch(&format!("{new}/x"), "merge-patch", &label).await.expect(200);
    api.delete(&format!("{old}/x"), &Value::Null).await.expect(200);
    for expected in ["ADDED", "BOOKMARK", "MODIFIED", "DELETED"] {
        for (watch, shown) in [(&mut in_new, "v1"), (&mut in_old, "v1beta1")] {
            let event = watch.next().await.unwrap();
            assert_eq!(
                (&event["type"], &event["object"]["apiVersion"], &event["object"]["kind"]),
                (&json!(expected), &json!(api_version(shown)), &json!("ReferenceGrant"))
            );
            if expected == "MODIFIED" {
                assert_eq!(bare(&event["object"]), bare(&changed));
            }
        }
    }
    assert_eq!(later.next().await.unwrap()["object"], in_version(changed, "v1beta1"));
}

fn in_version(mut object: Value, version: &str) -> Value {
    object["apiVersion"] = api_version(version).into();
    object
}

#[tokio::test]
async fn managers_are_written_down_with_the_version_that_they_wrote() {
    let api = TestApi::start().await;
    let at =
        |version: &str, query: &str| format!("{}/x?fieldManager={query}", path(version, "referencegrants"));
    let entries = |object: &Value| -> Vec<(String, String, String)> {
        let entries = object["metadata"]["managedFields"].as_array().unwrap().iter();
        let text = |entry: &Value, field: &str| entry[field].as_str().unwrap().to_owned();
        let version = |entry: &Value| text(entry, "apiVersion").replace(&format!("{GROUP}/"), "");
        entries.map(|entry| (text(entry, "manager"), text(entry, "operation"), version(entry))).collect()
    };
    let entry = |manager: &str, operation: &str, version: &str| {
        (manager.to_owned(), operation.to_owned(), version.to_owned())
    };
    let old = versioned("ReferenceGrant", "v1beta1");
    let made = api.patch(&at("v1beta1", "one"), "apply", &old).await.expect(201);
    assert_eq!(made["apiVersion"], api_version("v1beta1"));
    assert_eq!(entries(&made), [entry("one", "Apply", "v1beta1")]);
    let again = api.patch(&at("v1beta1", "one"), "apply", &old).await.expect(200);
    assert_eq!(again, made, "applied again, nothing changes");
    api.patch(&at("v1", "one"), "apply", &old).await.fails(400, "BadRequest");

    // Whoever applies keeps what is theirs in whichever version they go on.
    let mut new = versioned("ReferenceGrant", "v1");
    new["spec"]["to"][0]["name"] = "d".into();
    let conflict = api.patch(&at("v1", "two"), "apply", &new).await.fails(409, "Conflict");
    let message = conflict["details"]["causes"][0]["message"].as_str().unwrap();
    assert_eq!(message, "conflict with \"one\" using gateway.networking.k8s.io/v1beta1");
    let moved = api.patch(&at("v1", "one"), "apply", &new).await.expect(200);
    assert_eq!(entries(&moved), [entry("one", "Apply", "v1")]);
    assert_eq!(moved["spec"]["to"], new["spec"]["to"]);

    // Who updates is another in each version.
    for (version, label) in [("v1beta1", "a"), ("v1", "b"), ("v1beta1", "c")] {
        let label = json!({ "metadata": { "labels": { (label): "x" } } });
        api.patch(&at(version, "three"), "merge-patch", &label).await.expect(200);
    }
    let all = api.get(&format!("{}/x", path("v1beta1", "referencegrants"))).await.expect(200);
    let mut found = entries(&all);
    found.sort();
    let three = |version| entry("three", "Update", version);
    assert_eq!(found, [entry("one", "Apply", "v1"), three("v1"), three("v1beta1")]);
}

/// What kubectl applied from its own side stays as it was applied, in the annotation by which it knows.
#[tokio::test]
async fn the_last_applied_configuration_keeps_its_version() {
    let api = TestApi::start().await;
    const LAST: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let old = versioned("TCPRoute", "v1alpha2");
    let mut annotated = old.clone();
    annotated["metadata"]["annotations"] = json!({ (LAST): format!("{old}\n") });
    let here = path("v1alpha2", "tcproutes");
    api.post(&format!("{here}?fieldManager=kubectl-client-side-apply"), &annotated).await.expect(201);
    let mut changed = old;
    changed["spec"]["rules"][0]["backendRefs"][0]["port"] = 81.into();
    let applied = api.patch(&format!("{here}/x?fieldManager=kubectl"), "apply", &changed).await.expect(200);
    let last = applied["metadata"]["annotations"][LAST].as_str().unwrap();
    let last: Value = serde_json::from_str(last).unwrap();
    assert_eq!(last["apiVersion"], api_version("v1alpha2"));
    assert_eq!(last["spec"]["rules"][0]["backendRefs"][0]["port"], 81);
}

#[tokio::test]
async fn tables_and_metadata_come_in_each_version() {
    let api = TestApi::start().await;
    let (new, old) = (path("v1", "referencegrants"), path("v1beta1", "referencegrants"));
    api.post(&new, &object("ReferenceGrant")).await.expect(201);
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let cells = |table: Value| table["rows"][0]["cells"].as_array().unwrap()[..3].to_vec();
    for path in [&new, &old] {
        let seen = api.get_as(path, table).await.expect(200);
        assert_eq!(cells(seen), ["x", "shop/HTTPRoute", "Service/c"]);
    }
    let whole = api.get_as(&format!("{old}?includeObject=Object"), table).await.expect(200);
    assert_eq!(whole["rows"][0]["object"]["apiVersion"], api_version("v1beta1"));
    let metadata = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let seen = api.get_as(&format!("{old}/x"), metadata).await.expect(200);
    assert_eq!((&seen["kind"], &seen["metadata"]["name"]), (&json!("PartialObjectMetadata"), &json!("x")));
}

#[tokio::test]
async fn a_grant_says_from_where_to_what() {
    let api = TestApi::start().await;
    let here = path("v1", "referencegrants");
    let bad = |field: &str, value: Value| {
        let mut grant = object("ReferenceGrant");
        *grant.pointer_mut(field).unwrap() = value;
        grant
    };
    for (field, value, named) in [
        ("/spec", Value::Null, "spec"),
        ("/spec/from", Value::Null, "spec.from"),
        ("/spec/to", json!([]), "spec.to"),
        ("/spec/from/0/namespace", Value::Null, "spec.from[0].namespace"),
        ("/spec/from/0/namespace", json!("Shop"), "spec.from[0].namespace"),
        ("/spec/from/0/group", Value::Null, "spec.from[0].group"),
        ("/spec/from/0/kind", json!("HTTP Route"), "spec.from[0].kind"),
        ("/spec/to/0/group", json!("core"), "spec.to[0].group"),
        ("/spec/to/0/name", json!(""), "spec.to[0].name"),
        ("/spec/to/0/kind", json!(""), "spec.to[0].kind"),
    ] {
        let refused = api.post(&here, &bad(field, value)).await.fails(422, "Invalid");
        assert_eq!(refused["details"]["causes"][0]["field"], named, "{refused}");
    }
    let mut grant = object("ReferenceGrant");
    grant["spec"]["to"] = json!([{ "group": "", "kind": "Service" }]);
    let made = api.post(&here, &grant).await.expect(201);
    assert_eq!(made["spec"], grant["spec"]);
    let unknown = json!({ "status": {} });
    let strict = format!("{here}/x?fieldValidation=Strict");
    api.patch(&strict, "merge-patch", &unknown).await.fails(400, "BadRequest");
    api.get(&format!("{here}/x/status")).await.fails(404, "NotFound");
}

#[tokio::test]
async fn the_schemas_are_there_in_each_version() {
    let api = TestApi::start().await;
    let second = api.get("/openapi/v2").await.expect(200);
    // An operation has a name of its own in each version.
    let mut versions = std::collections::HashMap::new();
    for item in second["paths"].as_object().unwrap().values() {
        for operation in item.as_object().unwrap().values().filter(|one| one["operationId"].is_string()) {
            let name = operation["operationId"].as_str().unwrap();
            assert_eq!(versions.entry(name).or_insert(&operation["tags"]), &&operation["tags"], "{name}");
        }
    }
    for older in OLDER {
        let document = api.get(&format!("/openapi/v3/apis/{}", older.api_version())).await.expect(200);
        let name = format!("io.k8s.networking.gateway.{}.{}", older.version, older.kind);
        let expected = json!([{ "group": older.group, "version": older.version, "kind": older.kind }]);
        for schemas in [&document["components"]["schemas"], &second["definitions"]] {
            assert_eq!(schemas[&name]["x-kubernetes-group-version-kind"], expected);
            assert!(schemas[&name]["properties"]["spec"]["description"].is_string());
        }
        let all = format!("/apis/{}/{}", older.api_version(), older.plural);
        assert!(document["paths"][&all].is_object(), "{all}");
        assert!(by_api_version(&older.api_version(), older.kind).is_some());
        // All namespaces, as a client that knows no other version asks.
        let list = api.send(Method::GET, &all, &[], String::new()).await.expect(200);
        assert_eq!(list["apiVersion"], older.api_version());
    }
}
