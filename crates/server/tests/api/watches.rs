use serde_json::json;

use crate::client::{SERVICES, TestApi, service, version};

fn event(type_: &str, name: &str) -> (String, String) {
    (type_.to_owned(), name.to_owned())
}

#[tokio::test]
async fn a_watch_goes_on_where_a_list_ended() {
    let api = TestApi::start().await;
    api.post(SERVICES, &service("a")).await.expect(201);
    let list = api.get(SERVICES).await.expect(200);
    let mut watch = api.watch(&format!("{SERVICES}?watch=true&resourceVersion={}", version(&list))).await;
    let created = api.post(SERVICES, &service("b")).await.expect(201);
    let label = json!({ "metadata": { "labels": { "x": "y" } } });
    api.patch(&format!("{SERVICES}/a"), "merge-patch", &label).await.expect(200);
    api.delete(&format!("{SERVICES}/b"), &json!(null)).await.expect(200);
    let added = watch.next().await.unwrap();
    assert_eq!((&added["type"], &added["object"]), (&json!("ADDED"), &created));
    assert_eq!(watch.next_name().await, event("MODIFIED", "a"));
    let deleted = watch.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    let number = |object: &serde_json::Value| version(object).parse::<u64>().unwrap();
    assert!(number(&deleted["object"]) > number(&created));
}

#[tokio::test]
async fn a_watch_without_a_version_starts_with_what_is_there() {
    let api = TestApi::start().await;
    for name in ["a", "b"] {
        api.post(SERVICES, &service(name)).await.expect(201);
    }
    let mut watch = api.watch("/api/v1/services?watch=1&labelSelector=app%3Db").await;
    assert_eq!(watch.next_name().await, event("ADDED", "b"));
    // What the selector no longer matches is deleted for this client, and the other way around.
    let label = |app: &str| json!({ "metadata": { "labels": { "app": app } } });
    api.patch(&format!("{SERVICES}/b"), "merge-patch", &label("x")).await.expect(200);
    assert_eq!(watch.next_name().await, event("DELETED", "b"));
    api.patch(&format!("{SERVICES}/a"), "merge-patch", &label("b")).await.expect(200);
    assert_eq!(watch.next_name().await, event("ADDED", "a"));

    let mut one = api.watch(&format!("{SERVICES}/a?watch=true")).await;
    assert_eq!(one.next_name().await, event("ADDED", "a"));
    api.delete(&format!("{SERVICES}/b"), &json!(null)).await.expect(200);
    api.delete(&format!("{SERVICES}/a"), &json!(null)).await.expect(200);
    assert_eq!(one.next_name().await, event("DELETED", "a"));
}

#[tokio::test]
async fn initial_events_can_be_asked_for() {
    let api = TestApi::start().await;
    api.post(SERVICES, &service("a")).await.expect(201);
    let query =
        "watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let mut watch = api.watch(&format!("{SERVICES}?{query}")).await;
    assert_eq!(watch.next_name().await, event("ADDED", "a"));
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "Service");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    api.post(SERVICES, &service("b")).await.expect(201);
    assert_eq!(watch.next_name().await, event("ADDED", "b"));
    api.get(&format!("{SERVICES}?watch=true&sendInitialEvents=true")).await.fails(400, "BadRequest");
}

#[tokio::test]
async fn a_watch_ends_with_its_timeout() {
    let api = TestApi::start().await;
    let mut watch = api.watch(&format!("{SERVICES}?watch=true&timeoutSeconds=1")).await;
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_watch_of_tables_says_its_columns_once() {
    let api = TestApi::start().await;
    api.post(SERVICES, &service("a")).await.expect(201);
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let mut watch = api.watch_as(&format!("{SERVICES}?watch=true"), table).await;
    api.post(SERVICES, &service("b")).await.expect(201);
    let first = watch.next().await.unwrap();
    assert!(!first["object"]["columnDefinitions"].as_array().unwrap().is_empty());
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    let second = watch.next().await.unwrap();
    assert_eq!(second["object"]["columnDefinitions"], json!([]));
    assert_eq!(second["object"]["rows"][0]["cells"][0], "b");
}

#[tokio::test]
async fn watches_end_when_the_server_stops() {
    let api = TestApi::start().await;
    let mut watch = api.watch(&format!("{SERVICES}?watch=true")).await;
    let TestApi { server, .. } = api;
    let (ended, ()) = tokio::join!(watch.next(), server.shutdown());
    assert!(ended.is_none());
}
