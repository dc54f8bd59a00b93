use std::time::Duration;

use futures_util::StreamExt;
use http::Method;
use http_body_util::BodyExt;
use serde_json::json;

use crate::client::{SERVICES, TestApi, send, service};

#[tokio::test]
async fn without_a_certificate_there_is_only_health() {
    let api = TestApi::start().await;
    let anonymous = api.anonymous().await;
    for path in ["/healthz", "/livez", "/readyz", "/version", "/version/"] {
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
    tokio::time::timeout(Duration::from_secs(10), async {
        while !first.is_closed() {
            tokio::time::sleep(Duration::from_millis(10)).await;
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
    let unknown = json!({ "apiVersion": "networking.istio.io/v1", "kind": "VirtualService" });
    let refused = api.post(SERVICES, &unknown).await.fails(400, "BadRequest");
    let expected = "no matches for kind \"VirtualService\" in version \"networking.istio.io/v1\"";
    assert!(refused["message"].as_str().unwrap().starts_with(expected), "{refused}");
    for (method, path) in [
        (Method::POST, SERVICES),
        (Method::PUT, "/api/v1/namespaces/default/services/c"),
        (Method::PATCH, "/api/v1/namespaces/default/services/c"),
        (Method::DELETE, "/api/v1/namespaces/default/services/c"),
        (Method::POST, "/tulle/v1alpha1/tokens"),
        (Method::POST, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"),
    ] {
        for type_ in ["text/plain", "application/x-www-form-urlencoded", "json", "\u{fc}/x"] {
            let answer = api.send(method.clone(), path, &[("content-type", type_)], "{}".to_owned()).await;
            answer.fails(415, "UnsupportedMediaType");
        }
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_at_once() {
    let api = TestApi::start().await;
    let large = " ".repeat(4 << 20);
    api.send(Method::POST, SERVICES, &[], large).await.fails(413, "RequestEntityTooLarge");
    // Of one that is announced nothing more has to come; of another, as much as is too much.
    for (announced, sent) in [(true, 1), (false, (3 << 20) + 1)] {
        let mut requests = api.connect().await;
        let first = bytes::Bytes::from(vec![b' '; sent]);
        let first = futures_util::stream::iter([Ok::<_, std::io::Error>(http_body::Frame::data(first))]);
        let body = first.chain(futures_util::stream::pending());
        let mut request = http::Request::post(format!("https://localhost{SERVICES}"));
        if announced {
            request = request.header("content-length", 4 << 20);
        }
        let request = request.body(http_body_util::StreamBody::new(Box::pin(body))).unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(10), requests.send_request(request));
        let answer = answer.await.unwrap().unwrap();
        assert_eq!(answer.status(), 413, "announced: {announced}");
        // It comes whole: the stream is not reset while the client still sends.
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(text.windows(21).any(|part| part == b"RequestEntityTooLarge"), "{text:?}");
    }
}

#[tokio::test]
async fn whatever_get_has_head_has_without_its_body() {
    let api = TestApi::start().await;
    let service = format!("{SERVICES}/c");
    api.post(SERVICES, &self::service("c")).await.expect(201);
    let watch = format!("{SERVICES}?watch=true");
    for path in [
        "/",
        "/healthz",
        "/version",
        "/api",
        "/apis/tulle.dev",
        "/openapi/v2",
        "/openapi/v3",
        "/metrics",
        "/tulle/v1alpha1/nodes",
        SERVICES,
        &service,
        "/nowhere",
    ] {
        let got = api.get(path).await;
        let head = api.send(Method::HEAD, path, &[], String::new()).await;
        assert_eq!((head.status, &head.body), (got.status, &json!("")), "{path}");
        assert_eq!(head.headers["content-type"], got.headers["content-type"], "{path}");
        assert!(head.headers["content-length"].to_str().unwrap().parse::<u64>().unwrap() > 0, "{path}");
    }
    assert_eq!(api.send(Method::HEAD, &watch, &[], String::new()).await.status, 200);
    let tokens =
        api.send(Method::HEAD, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &[], String::new());
    assert_eq!(tokens.await.status, 405);
}

#[tokio::test]
async fn views_and_reviews_are_served() {
    let api = TestApi::start().await;
    assert_eq!(api.get("/tulle/v1alpha1/edges").await.expect(200)["edges"], json!([]));
    assert_eq!(api.get("/tulle/v1alpha1/destinations").await.expect(200)["destinations"], json!([]));
    assert_eq!(api.get("/tulle/v1alpha1/nodes").await.expect(200)["nodes"], json!([]));
    let wanted = json!({ "identities": ["*"], "ttlSeconds": 60 });
    let token = api.post("/tulle/v1alpha1/tokens", &wanted).await.expect(201);
    assert_eq!(token["token"].as_str().unwrap().split('.').count(), 3);
    api.post("/tulle/v1alpha1/tokens", &json!({ "identity": "*" })).await.fails(400, "BadRequest");
    let tokens = api.get("/tulle/v1alpha1/tokens").await.expect(200);
    assert_eq!((&tokens["tokens"][0]["identities"], tokens["tokens"][0].get("token")), (&json!(["*"]), None));
    let path = format!("/tulle/v1alpha1/tokens/{}", token["id"].as_str().unwrap());
    api.delete(&path, &json!({})).await.expect(200);
    api.delete(&path, &json!({})).await.fails(404, "NotFound");
    assert_eq!(api.get("/tulle/v1alpha1/tokens").await.expect(200)["tokens"], json!([]));
    let metrics = api.get_as("/metrics", "*/*").await.expect(200);
    assert!(metrics.as_str().unwrap().contains("tulle_server_store_revision"), "{metrics}");
    let review = json!({ "spec": { "resourceAttributes": { "verb": "create", "resource": "services" } } });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(api.post(path, &review).await.expect(201)["status"]["allowed"], true);
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let user = api.post(path, &json!({})).await.expect(201);
    let groups = &user["status"]["userInfo"]["groups"];
    assert_eq!(*groups, json!(["system:masters", "system:authenticated"]));
}
