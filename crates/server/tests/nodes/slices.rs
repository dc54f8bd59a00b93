//! EndpointSlices of services that select workloads.

use std::time::Duration;

use serde_json::{Value, json};
use tulle_model::registry::KindId;
use tulle_server::objects::{DeleteOptions, WriteOptions};

use crate::client::{TestServer, service, workload};

/// Waits until the slices of the service `cart` are as `found` likes.
async fn slices(server: &TestServer, what: &str, found: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let wait = async {
        loop {
            let list =
                server.server.objects.list(KindId::EndpointSlice.kind(), Some("shop")).await.unwrap().items;
            let own =
                list.into_iter().filter(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] == "cart");
            let own: Vec<_> = own.collect();
            if found(&own) {
                return own;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("no {what}"))
}

/// Whether there is one slice, with endpoints that are ready or not as `wanted` says. One that takes another's
/// place is there beside it for a moment.
fn is_one(slices: &[Value], wanted: &[bool]) -> bool {
    let [slice] = slices else { return false };
    let endpoints = slice["endpoints"].as_array().unwrap().iter();
    endpoints.map(|endpoint| endpoint["conditions"]["ready"].as_bool().unwrap()).eq(wanted.iter().copied())
}

#[tokio::test(flavor = "multi_thread")]
async fn services_with_selectors_have_slices_that_follow_their_workloads() {
    let server = TestServer::start().await;
    server.put(KindId::Service, "shop", service("shop", "cart", 80)).await;
    let empty = slices(&server, "slice without endpoints", |s| is_one(s, &[])).await;
    let owner = &empty[0]["metadata"]["ownerReferences"][0];
    let cart = server.get(KindId::Service, "shop", "cart").await.unwrap();
    assert_eq!((&owner["kind"], &owner["uid"]), (&json!("Service"), &cart["metadata"]["uid"]));
    let label = &empty[0]["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"];
    assert_eq!(*label, "endpointslice-controller.tulle.dev");

    let node = server.node("n1", &["shop/cart"]).await;
    let reports = node
        .report(vec![workload("shop", "cart-0", "cart", true), workload("shop", "cart-1", "cart", false)])
        .await;
    let full = slices(&server, "endpoints", |s| is_one(s, &[true, false])).await;
    assert_eq!(full[0]["endpoints"][0]["nodeName"], "n1");
    reports.workloads(vec![workload("shop", "cart-1", "cart", true)]).await;
    slices(&server, "change", |s| is_one(s, &[true])).await;

    // What others do to it is undone, and what they make of their own stays.
    let objects = &server.server.objects;
    let slice = KindId::EndpointSlice.kind();
    let name = full[0]["metadata"]["name"].as_str().unwrap();
    objects.delete(slice, "shop", name, &DeleteOptions::default()).await.unwrap();
    slices(&server, "return", |s| is_one(s, &[true])).await;
    // Also where they take away what says that it is ours, or say that it is another service's.
    let change = async |what: &str, change: &dyn Fn(&mut Value)| {
        let options = WriteOptions::controller();
        let changed = objects.modify(slice, "shop", name, &options, |current| {
            let mut object = current.clone();
            object["metadata"].as_object_mut().unwrap().remove("resourceVersion");
            object["endpoints"] = json!([]);
            change(&mut object["metadata"]);
            Ok(object)
        });
        changed.await.unwrap_or_else(|error| panic!("{what}: {error}"));
    };
    let as_it_was = |object: &Value| {
        object["endpoints"][0]["conditions"]["ready"] == true
            && object["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] == *label
            && object["metadata"]["labels"]["kubernetes.io/service-name"] == "cart"
            && object["metadata"]["ownerReferences"].is_array()
    };
    let without = |field: &'static str| move |m: &mut Value| drop(m.as_object_mut().unwrap().remove(field));
    let managed_by = "endpointslice.kubernetes.io/managed-by";
    change("managed-by", &|m| drop(m["labels"].as_object_mut().unwrap().remove(managed_by))).await;
    server.until(KindId::EndpointSlice, "shop", name, as_it_was).await;
    change("another manager", &|m| m["labels"][managed_by] = json!("me")).await;
    server.until(KindId::EndpointSlice, "shop", name, as_it_was).await;
    change("another service", &|m| m["labels"]["kubernetes.io/service-name"] = json!("other")).await;
    server.until(KindId::EndpointSlice, "shop", name, as_it_was).await;
    change("all labels", &without("labels")).await;
    server.until(KindId::EndpointSlice, "shop", name, as_it_was).await;
    change("its owner", &without("ownerReferences")).await;
    server.until(KindId::EndpointSlice, "shop", name, as_it_was).await;
    // What nothing says to be ours is somebody else's; ours has another name.
    change("everything", &|m| {
        without("labels")(m);
        without("ownerReferences")(m);
    })
    .await;
    let other = slices(&server, "one of another name", |s| is_one(s, &[true])).await;
    assert_ne!(other[0]["metadata"]["name"], *name);
    assert_eq!(server.get(KindId::EndpointSlice, "shop", name).await.unwrap()["endpoints"], json!([]));
    objects.delete(slice, "shop", name, &DeleteOptions::default()).await.unwrap();

    let users = json!({
        "metadata": { "name": "users", "namespace": "shop", "labels": { "kubernetes.io/service-name": "cart" } },
        "addressType": "IPv4", "endpoints": [{ "addresses": ["10.0.0.9"] }], "ports": [],
    });
    objects.create(slice, "shop", users, &WriteOptions::controller()).await.unwrap();

    // Without its selector, and without the service, only the user's is left.
    let mut open = server.get(KindId::Service, "shop", "cart").await.unwrap();
    open["spec"]["selector"] = json!({});
    open["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let only_users = |s: &[Value]| s.len() == 1 && s[0]["metadata"]["name"] == "users";
    server.put(KindId::Service, "shop", open).await;
    slices(&server, "end of ours", only_users).await;
    server.put(KindId::Service, "shop", service("shop", "cart", 80)).await;
    slices(&server, "ours again", |s| s.len() == 2).await;
    objects.delete(KindId::Service.kind(), "shop", "cart", &DeleteOptions::default()).await.unwrap();
    slices(&server, "end with the service", only_users).await;
}

/// As where a service went while no server ran.
#[tokio::test(flavor = "multi_thread")]
async fn slices_of_services_that_do_not_exist_are_swept() {
    let server = TestServer::start().await;
    server.put(KindId::Service, "shop", service("shop", "cart", 80)).await;
    let kept = slices(&server, "slice", |s| s.len() == 1).await;
    let mut orphan = kept[0].clone();
    orphan["metadata"]["labels"]["kubernetes.io/service-name"] = json!("gone");
    orphan["metadata"]["name"] = json!("gone-1");
    orphan["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    server
        .server
        .objects
        .create(KindId::EndpointSlice.kind(), "shop", orphan, &WriteOptions::controller())
        .await
        .unwrap();
    server.until(KindId::EndpointSlice, "shop", "gone-1", |o| o.is_null()).await;
}
