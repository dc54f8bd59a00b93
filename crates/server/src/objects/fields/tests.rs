use serde_json::{Value, json};
use tulle_model::registry::{Kind, KindId};

use super::set::FieldSet;
use crate::objects::{ObjectError, Objects, Part, WriteOptions};
use crate::store::Store;

fn service() -> &'static Kind {
    KindId::Service.kind()
}

fn by(manager: &str) -> WriteOptions {
    WriteOptions { manager: manager.to_owned(), ..WriteOptions::controller() }
}

async fn objects() -> Objects {
    Objects::open(Store::in_memory()).await.unwrap()
}

async fn apply(objects: &Objects, manager: &str, config: Value, force: bool) -> Result<Value, ObjectError> {
    let written = objects.apply(service(), "default", "c", config, &by(manager), force).await?;
    Ok(written.object)
}

fn config(ports: Value, labels: Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": "c", "labels": labels },
        "spec": { "ports": ports, "selector": { "app": "c" } },
    })
}

fn managers(object: &Value) -> Vec<(String, String, Value)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries
        .iter()
        .map(|entry| (text(&entry["manager"]), text(&entry["operation"]), entry["fieldsV1"].clone()))
        .collect()
}

fn ports(object: &Value) -> Vec<i64> {
    object["spec"]["ports"].as_array().unwrap().iter().map(|port| port["port"].as_i64().unwrap()).collect()
}

/// Which of the two is to be cannot be said; Kubernetes refuses it, too.
#[tokio::test]
async fn an_applied_object_says_each_thing_once() {
    let objects = objects().await;
    let port = |name: &str, port: u16| json!({ "name": name, "port": port });
    let twice = config(json!([port("a", 80), port("b", 81), port("c", 80)]), json!({}));
    let once = config(json!([port("a", 80), port("b", 81)]), json!({}));
    for there in [false, true] {
        let refused = apply(&objects, "me", twice.clone(), true).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            ".spec.ports: duplicate entries for key {\"port\":80,\"protocol\":\"TCP\"}",
            "{there}"
        );
        apply(&objects, "me", once.clone(), false).await.unwrap();
    }
    let protocols = json!([
        { "name": "a", "port": 80, "protocol": "TCP" },
        { "name": "b", "port": 80, "protocol": "UDP" },
    ]);
    let other = apply(&objects, "me", config(protocols, json!({})), true).await;
    assert!(!other.is_err_and(|error| error.to_string().contains("duplicate")), "they are two");
}

#[test]
fn field_sets_are_read_back() {
    let json = json!({ "f:spec": { "f:ports": {
        ".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}": { ".": {}, "f:name": {} },
    }, "f:selector": {} } });
    let set = FieldSet::from_json(&json).unwrap();
    assert_eq!(set.to_json(), json);
    assert_eq!(
        set.paths(),
        [
            ".spec.ports",
            ".spec.ports[port=80,protocol=\"TCP\"]",
            ".spec.ports[port=80,protocol=\"TCP\"].name",
            ".spec.selector",
        ]
    );
    let spaced = json!({ "f:ports": { "k:{ \"protocol\": \"TCP\", \"port\": 80 }": {} } });
    assert_eq!(FieldSet::from_json(&spaced).unwrap().paths(), [".ports[port=80,protocol=\"TCP\"]"]);
    for bad in [json!([]), json!({ "x": {} }), json!({ "k:[": {} }), json!({ "f:a": 1 })] {
        assert_eq!(FieldSet::from_json(&bad), None, "{bad}");
    }
}

#[tokio::test]
async fn an_apply_creates_merges_and_drops() {
    let objects = objects().await;
    let first =
        config(json!([{ "port": 80, "name": "a" }, { "port": 81, "name": "b" }]), json!({ "x": "1" }));
    let created = apply(&objects, "one", first.clone(), false).await.unwrap();
    assert_eq!(
        managers(&created),
        [(
            "one".to_owned(),
            "Apply".to_owned(),
            json!({
                "f:metadata": { "f:labels": { "f:x": {} } },
                "f:spec": {
                    "f:ports": {
                        "k:{\"port\":80,\"protocol\":\"TCP\"}": { ".": {}, "f:name": {}, "f:port": {} },
                        "k:{\"port\":81,\"protocol\":\"TCP\"}": { ".": {}, "f:name": {}, "f:port": {} },
                    },
                    "f:selector": {},
                },
            })
        )]
    );
    let again = apply(&objects, "one", first, false).await.unwrap();
    assert_eq!(again["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);

    // Another adds a port and a label of its own; what the first no longer applies goes.
    let other = json!({
        "metadata": { "labels": { "y": "1" } }, "spec": { "ports": [{ "port": 82, "name": "c" }] },
    });
    let merged = apply(&objects, "two", other, false).await.unwrap();
    assert_eq!(ports(&merged), [80, 81, 82]);
    let dropped = config(json!([{ "port": 81, "name": "b" }]), json!({}));
    let merged = apply(&objects, "one", dropped, false).await.unwrap();
    assert_eq!(ports(&merged), [81, 82]);
    assert_eq!(merged["metadata"]["labels"], json!({ "y": "1" }));
    assert_eq!(merged["spec"]["type"], "ClusterIP");
}

/// Also where what stood between its items goes with the first time.
#[tokio::test]
async fn what_is_applied_again_stays_in_its_order() {
    let objects = objects().await;
    let port = |port: u16| json!({ "port": port, "name": format!("p{port}") });
    let list = |numbers: &[u16]| config(numbers.iter().map(|number| port(*number)).collect(), json!({}));
    apply(&objects, "one", list(&[80, 82, 84]), false).await.unwrap();
    let others = json!({ "spec": { "ports": [port(90)] } });
    apply(&objects, "two", others, false).await.unwrap();
    for (wanted, expected) in [
        (&[79, 80][..], &[79, 80, 90][..]),
        (&[80, 79], &[80, 90, 79]),
        (&[79, 80], &[79, 80, 90]),
        (&[80, 90], &[80, 90]),
        (&[90, 80], &[90, 80]),
    ] {
        let applied = apply(&objects, "one", list(wanted), false).await.unwrap();
        assert_eq!(ports(&applied), expected, "{wanted:?}");
        assert_eq!(apply(&objects, "one", list(wanted), false).await.unwrap(), applied, "{wanted:?}");
    }
}

#[tokio::test]
async fn a_field_of_another_manager_is_a_conflict_until_forced() {
    let objects = objects().await;
    let mine = config(json!([{ "port": 80, "name": "a" }]), json!({ "x": "1" }));
    apply(&objects, "one", mine.clone(), false).await.unwrap();
    let same = json!({ "metadata": { "labels": { "x": "1" } } });
    apply(&objects, "two", same, false).await.unwrap();
    let theirs = json!({
        "metadata": { "labels": { "x": "2" } }, "spec": { "ports": [{ "port": 80, "name": "b" }] },
    });
    let error = apply(&objects, "two", theirs.clone(), false).await.unwrap_err();
    let ObjectError::ApplyConflict { conflicts, .. } = &error else { panic!("{error}") };
    assert_eq!(conflicts.len(), 2, "{error}");
    assert_eq!(conflicts[0].field, ".metadata.labels.x");
    assert_eq!(conflicts[1].manager, "\"one\" using v1");
    assert!(error.to_string().starts_with("Apply failed with 2 conflicts: conflicts with \"one\" using v1"));

    let forced = apply(&objects, "two", theirs, true).await.unwrap();
    assert_eq!(forced["metadata"]["labels"]["x"], "2");
    let one = managers(&forced).into_iter().find(|(manager, ..)| manager == "one").unwrap();
    assert_eq!(one.2["f:metadata"], Value::Null, "{}", one.2);
    assert!(apply(&objects, "one", mine, false).await.is_err());
}

#[tokio::test]
async fn updates_take_over_what_they_change() {
    let objects = objects().await;
    let created = objects
        .create(service(), "default", config(json!([{ "port": 80 }]), json!({ "x": "1" })), &by("edit"))
        .await
        .unwrap()
        .object;
    assert_eq!(managers(&created)[0].1, "Update");
    let fields = &managers(&created)[0].2;
    assert_eq!(fields["f:metadata"]["f:labels"], json!({ ".": {}, "f:x": {} }));
    let port = &fields["f:spec"]["f:ports"]["k:{\"port\":80,\"protocol\":\"TCP\"}"];
    assert_eq!(*port, json!({ ".": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {} }));

    apply(&objects, "one", config(json!([{ "port": 80 }]), json!({ "x": "1", "y": "1" })), false)
        .await
        .unwrap();
    let mut changed = objects.require(service(), "default", "c").await.unwrap();
    changed["metadata"]["labels"]["y"] = "2".into();
    let changed = objects.replace(service(), "default", "c", changed, &by("other")).await.unwrap().object;
    let owner = |label: &str| -> Vec<String> {
        let pointer = format!("/f:metadata/f:labels/f:{label}");
        let owning =
            managers(&changed).into_iter().filter(|(_, _, fields)| fields.pointer(&pointer).is_some());
        owning.map(|(manager, ..)| manager).collect()
    };
    assert_eq!(owner("y"), ["other"]);
    assert_eq!(owner("x"), ["one", "edit"]);

    // What nobody has any more is in nobody's set.
    let mut emptied = changed.clone();
    emptied["metadata"]["labels"] = json!({});
    let emptied = objects.replace(service(), "default", "c", emptied, &by("edit")).await.unwrap().object;
    let text = emptied["metadata"]["managedFields"].to_string();
    assert!(!text.contains("f:x") && !text.contains("f:y"), "{text}");
}

#[tokio::test]
async fn the_status_has_managers_of_its_own() {
    let objects = objects().await;
    apply(&objects, "one", config(json!([{ "port": 80 }]), json!({})), false).await.unwrap();
    let written = objects
        .update_status(service(), "default", "c", &by("tulle"), |status| {
            *status = json!({ "loadBalancer": {} });
        })
        .await
        .unwrap();
    let entries = written.object["metadata"]["managedFields"].as_array().unwrap();
    let status = entries.iter().find(|entry| entry["manager"] == "tulle").unwrap();
    assert_eq!(status["subresource"], "status");
    assert_eq!(status["fieldsV1"], json!({ "f:status": { "f:loadBalancer": {} } }));

    let options = by("two").with_part(Part::Status);
    let config = json!({ "status": { "loadBalancer": { "ingress": [] } } });
    let applied = objects.apply(service(), "default", "c", config, &options, true).await.unwrap().object;
    assert_eq!(applied["spec"], written.object["spec"]);
    assert_eq!(applied["status"]["loadBalancer"], json!({ "ingress": [] }));
}

#[tokio::test]
async fn managers_can_be_replaced_and_forgotten() {
    let objects = objects().await;
    let created = objects
        .create(service(), "default", config(json!([{ "port": 80 }]), json!({})), &by("kubectl-client-side"))
        .await
        .unwrap()
        .object;
    // As kubectl does when a client-side apply is followed by a server-side one.
    let mut migrated = created.clone();
    migrated["metadata"]["managedFields"][0]["manager"] = "kubectl".into();
    migrated["metadata"]["managedFields"][0]["operation"] = "Apply".into();
    let migrated = objects.replace(service(), "default", "c", migrated, &by("kubectl")).await.unwrap().object;
    assert_eq!(managers(&migrated)[0].0, "kubectl");
    assert_eq!(managers(&migrated)[0].1, "Apply");
    let mut forgotten = migrated.clone();
    forgotten["metadata"]["managedFields"] = json!([{}]);
    let forgotten =
        objects.replace(service(), "default", "c", forgotten, &by("kubectl")).await.unwrap().object;
    assert_eq!(managers(&forgotten), []);
}

#[tokio::test]
async fn the_number_of_updating_managers_is_bounded() {
    let objects = objects().await;
    objects
        .create(service(), "default", config(json!([{ "port": 80 }]), json!({})), &by("first"))
        .await
        .unwrap();
    let mut last = Value::Null;
    for n in 0..20 {
        let mut object = objects.require(service(), "default", "c").await.unwrap();
        object["metadata"]["labels"][format!("label-{n}")] = "x".into();
        let options = by(&format!("manager-{n}"));
        last = objects.replace(service(), "default", "c", object, &options).await.unwrap().object;
    }
    assert_eq!(managers(&last).len(), 10);
    assert!(managers(&last).iter().any(|(manager, ..)| manager == "ancient-changes"));
}

#[tokio::test]
async fn kubectl_takes_over_from_its_client_side_apply() {
    let objects = objects().await;
    let annotation = "kubectl.kubernetes.io/last-applied-configuration";
    let applied = config(json!([{ "port": 80, "name": "a" }]), json!({ "x": "1" }));
    let mut created = applied.clone();
    created["metadata"]["annotations"] = json!({ annotation: applied.to_string() });
    let client_side = by("kubectl-client-side-apply");
    objects.create(service(), "default", created, &client_side).await.unwrap();

    let mut wanted = applied.clone();
    wanted["metadata"]["labels"]["x"] = "2".into();
    assert!(apply(&objects, "other", wanted.clone(), false).await.is_err());
    let taken = apply(&objects, "kubectl", wanted.clone(), false).await.unwrap();
    assert_eq!(taken["metadata"]["labels"]["x"], "2");
    let remembered = taken["metadata"]["annotations"][annotation].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(remembered).unwrap()["metadata"]["labels"]["x"], "2");

    // What it applied before and no longer does goes.
    let moved = config(json!([{ "port": 81, "name": "a" }]), json!({ "x": "2" }));
    let taken = apply(&objects, "kubectl", moved.clone(), false).await.unwrap();
    assert_eq!(ports(&taken), [81]);

    // What somebody has changed since is not kubectl's to take.
    let mut edited = taken.clone();
    edited["metadata"]["labels"]["x"] = "3".into();
    objects.replace(service(), "default", "c", edited, &by("kubectl-edit")).await.unwrap();
    let error = apply(&objects, "kubectl", moved, false).await.unwrap_err();
    assert!(matches!(error, ObjectError::ApplyConflict { .. }), "{error}");
}

#[tokio::test]
async fn a_first_server_side_apply_drops_what_the_client_side_one_had() {
    let objects = objects().await;
    let annotation = "kubectl.kubernetes.io/last-applied-configuration";
    let applied = config(json!([{ "port": 80, "name": "a" }]), json!({ "x": "1", "y": "1" }));
    let mut created = applied.clone();
    created["metadata"]["annotations"] = json!({ annotation: applied.to_string() });
    objects.create(service(), "default", created, &by("kubectl-client-side-apply")).await.unwrap();
    let label = json!({ "metadata": { "labels": { "z": "1" } } });
    let mut labelled = objects.require(service(), "default", "c").await.unwrap();
    json_patch::merge(&mut labelled, &label);
    objects.replace(service(), "default", "c", labelled, &by("kubectl-label")).await.unwrap();

    let moved = config(json!([{ "port": 81, "name": "a" }]), json!({ "x": "1" }));
    let taken = apply(&objects, "kubectl", moved, false).await.unwrap();
    assert_eq!(ports(&taken), [81]);
    assert_eq!(taken["metadata"]["labels"], json!({ "x": "1", "z": "1" }));
    assert!(taken["metadata"]["annotations"][annotation].is_string());
}
