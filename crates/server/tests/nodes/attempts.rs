//! What a node that was taken over may try: it sees what its workloads use, and the audit log names what it was refused.

use std::time::Duration;

use serde_json::json;
use tonic::Code;
use tulle_model::registry::KindId;
use tulle_server::audit::{AuditEntry, AuditFilter};
use tulle_wire::type_url::{ENDPOINTS, MESH, SERVICE, WORKLOAD};

use crate::client::{PATIENCE, TestNode, TestServer, service, workload};

/// What a node gets.
#[derive(Debug, PartialEq)]
enum Gets {
    Told,
    /// There is no such thing, as far as it can tell.
    Nothing,
    Refused,
    /// The stream ends: there is no such type.
    NoSuchType,
}
use Gets::{NoSuchType, Nothing, Refused, Told};

async fn subscribe(node: &TestNode, type_url: &str, name: &str) -> Gets {
    let mut stream = node.discover().await;
    stream.subscribe(type_url, &[name], &[]).await;
    let response = match stream.response().await {
        Ok(response) => response,
        Err(status) => {
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
            return NoSuchType;
        }
    };
    match (response.resources.len(), response.removed_resources.len(), response.resource_errors.len()) {
        (1, 0, 0) => Told,
        (0, 1, 0) => Nothing,
        (0, 0, 1) => Refused,
        other => panic!("{other:?}: {response:?}"),
    }
}

/// Waits until the log has an entry about a node.
async fn logged(server: &TestServer, node: &str, verb: &str, object: &str) -> AuditEntry {
    let wanted = AuditFilter {
        denied: true,
        user: Some(format!("system:node:{node}")),
        verb: Some(verb.to_owned()),
        object: Some(object.to_owned()),
        limit: 1,
    };
    let found = async {
        loop {
            let entries = server.server.views().audit().read(wanted.clone()).await.unwrap();
            match entries.into_iter().next() {
                Some(entry) => return entry,
                // It is written when there is time.
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, found)
        .await
        .unwrap_or_else(|_| panic!("{node} {verb} {object} is not logged"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_sees_only_what_its_workloads_use() {
    let server = TestServer::start().await;
    let (owner, other) = (server.node("n1", &["shop/cart"]).await, server.node("n2", &["bank/till"]).await);
    let mut reports = owner.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    reports.reply().await.unwrap();
    server.put(KindId::Service, "shop", service("shop", "cart", 80)).await;
    server.put(KindId::Service, "bank", service("bank", "till", 80)).await;
    let secret = json!({ "metadata": { "name": "key" }, "stringData": { "key": "hunter2" } });
    server.put(KindId::Secret, "shop", secret).await;
    // The workload is compiled.
    let mut own = owner.discover().await;
    own.subscribe(WORKLOAD, &["shop/cart-0"], &[]).await;
    own.next_present().await;
    drop(own);

    let secrets = "type.googleapis.com/tulle.discovery.v1.Secret";
    let roles = "type.googleapis.com/tulle.discovery.v1.ClusterRole";
    for (node, type_url, name, expected) in [
        (&owner, WORKLOAD, "shop/cart-0", Told),
        (&other, WORKLOAD, "shop/cart-0", Refused),
        (&owner, WORKLOAD, "shop/cart-1", Nothing),
        (&owner, SERVICE, "shop/cart", Told),
        // By its name, as its workloads may call it; there is no list of names.
        (&other, SERVICE, "shop/cart", Told),
        (&other, MESH, "default", Told),
        (&other, SERVICE, "*", Nothing),
        (&other, SERVICE, "", Nothing),
        (&other, SERVICE, "shop/*", Nothing),
        (&other, SERVICE, "shop", Nothing),
        (&other, SERVICE, "shop/", Nothing),
        (&other, SERVICE, "../shop/cart", Nothing),
        (&other, SERVICE, "/registry/core/secrets/shop/key", Nothing),
        (&other, ENDPOINTS, "*", Nothing),
        (&other, WORKLOAD, "*", Nothing),
        (&other, WORKLOAD, "shop/*", Nothing),
        (&other, MESH, "*", Nothing),
        (&other, secrets, "shop/key", NoSuchType),
        (&owner, secrets, "shop/key", NoSuchType),
        (&other, roles, "cluster-admin", NoSuchType),
        (&other, "", "shop/cart", NoSuchType),
    ] {
        let at = format!("{} {type_url} {name}", node.name);
        assert_eq!(subscribe(node, type_url, name).await, expected, "{at}");
        if expected == Refused {
            let entry = logged(&server, &node.name, "subscribe", "Workload/shop/cart-0").await;
            assert!(entry.reason.contains("another node"), "{entry:?}");
        }
    }
    for (node, identity, allowed) in [
        (&owner, "ns/shop/sa/cart", true),
        (&owner, "ns/shop/sa/till", false),
        (&owner, "ns/bank/sa/till", false),
        (&other, "ns/shop/sa/cart", false),
        (&other, "ns/bank/sa/till", true),
        (&other, "node/n1", false),
        (&other, "server", false),
    ] {
        let identity = format!("spiffe://mesh.local/{identity}");
        let signed = node.sign(&identity).await;
        match (&signed, allowed) {
            (Ok(_), true) => {}
            (Err(status), false) if status.code() == Code::PermissionDenied => {
                logged(&server, &node.name, "sign", &identity).await;
            }
            // No identity that anybody could have.
            (Err(status), false) if status.code() == Code::InvalidArgument => {}
            _ => panic!("{} {identity}: {signed:?}", node.name),
        }
    }
    // One that is revoked is told nothing any more.
    server.server.views().revoke("n2").await.unwrap();
    let refused = match other.try_discover().await {
        Ok(mut stream) => stream.response().await.unwrap_err(),
        Err(status) => status,
    };
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    logged(&server, "n2", "discover", "discovery").await;
}
