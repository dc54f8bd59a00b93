use serde_json::json;

use crate::client::{SERVICES, TestApi, names, service, version};

#[tokio::test]
async fn lists_are_selected_by_labels_and_fields() {
    let api = TestApi::start().await;
    for name in ["a", "b", "c"] {
        api.post(SERVICES, &service(name)).await.expect(201);
    }
    let list = api.get(SERVICES).await.expect(200);
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("ServiceList"), &json!("v1")));
    assert_eq!(names(&list), ["a", "b", "c"]);
    for (query, expected) in [
        ("labelSelector=app%3Da", vec!["a"]),
        ("labelSelector=app%20in%20(a,c)", vec!["a", "c"]),
        ("labelSelector=app!%3Da", vec!["b", "c"]),
        ("labelSelector=!app", vec![]),
        ("fieldSelector=metadata.name%3Db", vec!["b"]),
        ("fieldSelector=metadata.namespace%3Dother", vec![]),
    ] {
        let list = api.get(&format!("/api/v1/services?{query}")).await.expect(200);
        assert_eq!(names(&list), expected, "{query}");
    }
    api.get(&format!("{SERVICES}?labelSelector=a%20b")).await.fails(400, "BadRequest");
    api.get(&format!("{SERVICES}?fieldSelector=spec.type%3Dx")).await.fails(400, "BadRequest");
}

#[tokio::test]
async fn pages_show_one_revision_until_it_is_compacted() {
    let api = TestApi::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        api.post(SERVICES, &service(name)).await.expect(201);
    }
    let first = api.get(&format!("{SERVICES}?limit=2")).await.expect(200);
    assert_eq!(names(&first), ["a", "b"]);
    api.delete(&format!("{SERVICES}/c"), &json!(null)).await.expect(200);
    api.post(SERVICES, &service("ca")).await.expect(201);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let rest = api.get(&format!("{SERVICES}?limit=500&continue={token}")).await.expect(200);
    assert_eq!(names(&rest), ["c", "d", "e"]);
    assert_eq!(version(&rest), version(&first));
    assert!(rest["metadata"].get("continue").is_none());

    let selected = api.get(&format!("{SERVICES}?limit=1&labelSelector=app%3De")).await.expect(200);
    assert_eq!(names(&selected), ["e"]);
    assert!(selected["metadata"].get("continue").is_none());
    let some = format!("{SERVICES}?limit=1&labelSelector=app%20in%20(b,d)");
    let one = api.get(&some).await.expect(200);
    assert_eq!(names(&one), ["b"]);
    let continued = one["metadata"]["continue"].as_str().unwrap();
    assert_eq!(names(&api.get(&format!("{some}&continue={continued}")).await.expect(200)), ["d"]);
    let then = version(&first);
    let exact = format!("{SERVICES}?resourceVersion={then}&resourceVersionMatch=Exact");
    assert_eq!(names(&api.get(&exact).await.expect(200)), ["a", "b", "c", "d", "e"]);
    let newer = format!("{SERVICES}?resourceVersion={then}&resourceVersionMatch=NotOlderThan");
    assert_eq!(names(&api.get(&newer).await.expect(200)), ["a", "b", "ca", "d", "e"]);
    let future = api.get(&format!("{SERVICES}?resourceVersion=999999")).await.fails(504, "Timeout");
    assert_eq!(future["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");

    // A state that the store has forgotten can be neither listed nor watched from.
    let latest = api.server.objects.revision().await.unwrap();
    api.server.objects.compact(latest - 1).await.unwrap();
    api.get(&format!("{SERVICES}?limit=500&continue={token}")).await.fails(410, "Expired");
    let mut watch = api.watch(&format!("{SERVICES}?watch=true&resourceVersion={then}")).await;
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(event["object"]["reason"], "Expired");
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn tables_and_metadata_can_be_had_instead() {
    let api = TestApi::start().await;
    api.post(SERVICES, &service("c")).await.expect(201);
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    for path in [SERVICES.to_owned(), format!("{SERVICES}/c")] {
        let list = api.get_as(&path, table).await.expect(200);
        assert_eq!(list["kind"], "Table");
        assert_eq!(list["columnDefinitions"][0]["name"], "Name");
        assert_eq!(list["rows"][0]["cells"][0], "c");
        assert_eq!(list["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        let list = api.get_as(&format!("{path}?includeObject=Object"), table).await.expect(200);
        assert_eq!(list["rows"][0]["object"]["kind"], "Service");
    }
    let metadata = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let list = api.get_as(SERVICES, metadata).await.expect(200);
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!((names(&list), &list["items"][0]["spec"]), (vec!["c"], &json!(null)));
}
