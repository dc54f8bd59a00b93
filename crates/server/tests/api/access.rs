use http::Method;
use serde_json::json;

use crate::client::{SERVICES, TestApi, send, service};

#[tokio::test]
async fn without_a_certificate_there_is_only_health() {
    let api = TestApi::start().await;
    let anonymous = api.anonymous().await;
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        let answer = send(anonymous.clone(), Method::GET, path, &[], String::new()).await;
        assert_eq!(answer.status, 200, "{path}");
    }
    for path in [SERVICES, "/api", "/metrics", "/tulle/v1alpha1/edges", "/nowhere"] {
        let answer = send(anonymous.clone(), Method::GET, path, &[], String::new()).await;
        answer.fails(401, "Unauthorized");
    }
    let body = service("c").to_string();
    send(anonymous, Method::POST, SERVICES, &[], body).await.fails(401, "Unauthorized");
}

/// Silent clients, before and after their handshake, keep out neither others without a certificate nor admins.
#[tokio::test]
async fn silent_clients_keep_nobody_out() {
    let api = TestApi::start().await;
    let (first, mut silent) = (api.anonymous().await, Vec::new());
    for _ in 0..1100 {
        silent.push(tokio::net::TcpStream::connect(api.server.api_address).await.unwrap());
    }
    let anonymous = api.anonymous().await;
    assert_eq!(send(anonymous, Method::GET, "/healthz", &[], String::new()).await.status, 200);
    api.get(SERVICES).await.expect(200);
    tokio::time::timeout(std::time::Duration::from_secs(10), async {
        while !first.is_closed() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the oldest makes way");
    assert_eq!(silent.len(), 1100);
}

#[tokio::test]
async fn requests_that_cannot_be_served_say_why() {
    let api = TestApi::start().await;
    api.get("/api/v1/namespaces/default/pods").await.fails(404, "NotFound");
    api.get("/apis/example.com/v1/things").await.fails(404, "NotFound");
    api.send(Method::PUT, SERVICES, &[], String::new()).await.fails(405, "MethodNotAllowed");
    api.post("/api/v1/services", &service("c")).await.fails(405, "MethodNotAllowed");
    api.get_as(SERVICES, "text/html").await.fails(406, "NotAcceptable");
    api.send(Method::POST, SERVICES, &[("content-type", "text/plain")], "x".to_owned())
        .await
        .fails(415, "UnsupportedMediaType");
    api.post(SERVICES, &json!([])).await.fails(400, "BadRequest");
    api.send(Method::POST, SERVICES, &[], "{".to_owned()).await.fails(400, "BadRequest");
    let yaml = "metadata: {name: c}\nspec: {ports: [{port: 80}]}\n".to_owned();
    api.send(Method::POST, SERVICES, &[("content-type", "application/yaml")], yaml).await.expect(201);
    let large = " ".repeat(4 << 20);
    api.send(Method::POST, SERVICES, &[], large).await.fails(413, "RequestEntityTooLarge");
}

#[tokio::test]
async fn views_and_reviews_are_served() {
    let api = TestApi::start().await;
    assert_eq!(api.get("/tulle/v1alpha1/edges").await.expect(200)["edges"], json!([]));
    assert_eq!(api.get("/tulle/v1alpha1/nodes").await.expect(200)["nodes"], json!([]));
    let wanted = json!({ "identities": ["*"], "ttlSeconds": 60 });
    let token = api.post("/tulle/v1alpha1/tokens", &wanted).await.expect(201);
    assert_eq!(token["token"].as_str().unwrap().split('.').count(), 3);
    api.post("/tulle/v1alpha1/tokens", &json!({ "identity": "*" })).await.fails(400, "BadRequest");
    let metrics = api.get_as("/metrics", "*/*").await.expect(200);
    assert!(metrics.as_str().unwrap().contains("tulle_server_store_revision"), "{metrics}");
    let review = json!({ "spec": { "resourceAttributes": { "verb": "create", "resource": "services" } } });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(api.post(path, &review).await.expect(201)["status"]["allowed"], true);
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let user = api.post(path, &json!({})).await.expect(201);
    assert_eq!(user["status"]["userInfo"]["groups"], json!(["system:masters"]));
}
