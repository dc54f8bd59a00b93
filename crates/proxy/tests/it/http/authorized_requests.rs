//! Rules of AuthorizationPolicies that look at requests: what they let in, and that nothing comes past them.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tulle_model::snapshot::{
    AccessPolicy, AccessRule, Action, AppProtocol, PathMatch, RequestConditions, ServerName, TextMatch,
    ValueMatch,
};

use super::apps::{self, chunks, exchange, full, http1, http2, read};
use super::mesh::{Node, Path, Way, path};

const SOON: Duration = Duration::from_secs(5);
const WAYS: [Way; 2] = [Way::SameNode, Way::Link];

/// A policy about requests of anybody.
fn policy(name: &str, action: Action, request: RequestConditions) -> AccessPolicy {
    let rule =
        AccessRule { index: 0, sources: None, ports: None, request: Some(Box::new(request)), when: None };
    AccessPolicy {
        name: format!("default/{name}").parse().unwrap(),
        action,
        at: None,
        issuers: Vec::new(),
        rules: vec![rule],
        external: None,
    }
}

fn below(path: &str) -> RequestConditions {
    RequestConditions { paths: vec![PathMatch::Prefix(path.into())], ..Default::default() }
}

/// The node that runs the application.
fn node(path: &mut Path, way: Way) -> &mut Node {
    if way == Way::Link { &mut path.far } else { &mut path.near }
}

/// What has come to an application: method, target as it was written, host.
type Seen = Arc<Mutex<Vec<(String, String, String)>>>;

async fn telling() -> (std::net::SocketAddr, Seen) {
    let seen = Seen::default();
    let told = seen.clone();
    let app = apps::serve(move |request: Request<Incoming>| {
        let host = request.headers().get("host").map(|host| host.to_str().unwrap().to_owned());
        let host = host.or_else(|| request.uri().host().map(str::to_owned)).unwrap_or_default();
        let target = request.uri().path_and_query().map_or("", |target| target.as_str()).to_owned();
        told.lock().push((request.method().to_string(), target, host));
        async move {
            let _ = request.into_body().collect().await;
            Response::new(full("in"))
        }
    });
    (app.await, seen)
}

#[tokio::test]
async fn each_condition_lets_in_and_denies() {
    let method = RequestConditions { methods: vec!["GET".into()], ..Default::default() };
    let host = RequestConditions { hosts: vec![ServerName::new("*.admin")], ..Default::default() };
    let role = ValueMatch { name: "x-role".into(), value: TextMatch::Exact("admin".into()) };
    let header = RequestConditions { headers: vec![role], ..Default::default() };
    let call =
        RequestConditions { calls: vec![PathMatch::Exact("/shop.Cart/Add".into())], ..Default::default() };
    // Conditions; a request that they are about, and one that they are not: method, path, host, x-role.
    let cases = [
        (method, ("GET", "/x", "c", "user"), ("POST", "/x", "c", "user")),
        (below("/a"), ("POST", "/a/b?c", "c", "user"), ("POST", "/ab", "c", "user")),
        (host, ("GET", "/x", "c.admin", "user"), ("GET", "/x", "c", "user")),
        (header, ("GET", "/x", "c", "admin"), ("GET", "/x", "c", "user")),
        (call, ("POST", "/shop.Cart/Add", "c", "user"), ("POST", "/shop.Cart/Remove", "c", "user")),
    ];
    for way in WAYS {
        let (app, seen) = telling().await;
        let mut path = path(way, AppProtocol::Http1, app).await;
        for (conditions, about, other) in &cases {
            for action in [Action::Allow, Action::Deny, Action::Audit] {
                node(&mut path, way).authorize("c-0", vec![policy("p", action, conditions.clone())]);
                for (is_about, (method, target, host, role)) in [(true, about), (false, other)] {
                    let request = |uri: String| {
                        let request = Request::builder().method(*method).uri(uri).header("x-role", *role);
                        request.header("host", *host).body(full("")).unwrap()
                    };
                    let by_http1 = http1(path.address).await.send_request(request((*target).to_owned()));
                    let by_http1 = read(by_http1.await.unwrap()).await;
                    let by_http2 =
                        http2(path.address).await.send_request(request(format!("http://{host}{target}")));
                    let by_http2 = read(by_http2.await.unwrap()).await;
                    let enters = match action {
                        Action::Allow => is_about,
                        Action::Deny => !is_about,
                        Action::Audit | Action::Ask => true,
                    };
                    for answer in [by_http1, by_http2] {
                        let what = format!("{way:?} {action:?} {conditions:?} {method} {target}");
                        let reason =
                            if action == Action::Deny { "denied-by=default/p" } else { "no-allow-policy" };
                        let reason = (!enters).then_some(reason);
                        assert_eq!(answer.status, if enters { 200 } else { 403 }, "{what}");
                        let said = answer.headers.get("tulle-reason").map(|said| said.to_str().unwrap());
                        assert_eq!(said, reason, "{what}");
                    }
                    let came = seen.lock().drain(..).count();
                    assert_eq!(came, if enters { 2 } else { 0 });
                }
            }
        }
    }
}

/// The path as the most lenient server reads it that decodes as often as it can.
fn read_leniently(target: &str) -> String {
    let mut text = target.split(['?', '#']).next().unwrap().as_bytes().to_vec();
    for _ in 0..3 {
        let mut decoded = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let hex = text.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
            match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| text[at] == b'%') {
                Some(byte) => {
                    decoded.push(byte);
                    at += 3;
                }
                None => {
                    decoded.push(text[at]);
                    at += 1;
                }
            }
        }
        text = decoded;
    }
    let text = String::from_utf8_lossy(&text).replace('\\', "/");
    let mut segments: Vec<&str> = Vec::new();
    for segment in text.split('/') {
        match segment.split([';', '?', '#', '\0']).next().unwrap() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    segments.iter().flat_map(|segment| ["/", segment]).collect()
}

const PATHS: [&str; 31] = [
    "/admin",
    "/admin/",
    "/admin/x",
    "/admin?x=1",
    "/%61dmin",
    "/a%64min/x",
    "/%2561dmin",
    "/%25%36%31dmin",
    "//admin",
    "/x//../admin",
    "/./admin",
    "/x/../admin",
    "/x/%2e%2e/admin",
    "/x/%2E./admin",
    "/x%2f..%2fadmin",
    "/%2fadmin",
    "/.%2fadmin",
    "/x/..%5cadmin",
    "/x/..\\admin",
    "/\\admin",
    "/%5cadmin",
    "/x/..;/admin",
    "/admin;x=1",
    "/admin%3bx",
    "/;/admin",
    "/admin%00",
    "/admin%00.html",
    "/admin%23x",
    "/admin%3fx",
    "/admin/.",
    "/x/..;a=b/admin/y",
];

/// Ways to ask for a path over HTTP/1.
fn attempts(target: &str) -> Vec<(&'static str, String)> {
    let inner = format!("GET {target} HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n");
    let length = inner.len();
    vec![
        ("origin form", inner.clone()),
        ("absolute form", format!("GET http://c{target} HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n")),
        (
            "another host",
            format!("GET http://public.c{target} HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n"),
        ),
        (
            "a method in small letters",
            format!("get {target} HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n"),
        ),
        ("HTTP/1.0", format!("GET {target} HTTP/1.0\r\nhost: c\r\n\r\n")),
        ("pipelined", format!("GET /public HTTP/1.1\r\nhost: c\r\n\r\n{inner}")),
        ("behind a body", format!("POST /public HTTP/1.1\r\nhost: c\r\ncontent-length: 1\r\n\r\nx{inner}")),
        (
            "in a body",
            format!(
                "POST /public HTTP/1.1\r\nhost: c\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{inner}"
            ),
        ),
        (
            "two lengths",
            format!(
                "POST /public HTTP/1.1\r\nhost: c\r\ncontent-length: {length}\r\ncontent-length: 0\r\n\r\n{inner}"
            ),
        ),
        (
            "a length and chunks",
            format!(
                "POST /public HTTP/1.1\r\nhost: c\r\ncontent-length: {length}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{inner}"
            ),
        ),
        (
            "a coding nobody knows",
            format!(
                "POST /public HTTP/1.1\r\nhost: c\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n{inner}"
            ),
        ),
        (
            "an upgrade",
            format!(
                "GET {target} HTTP/1.1\r\nhost: c\r\nconnection: upgrade, close\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            ),
        ),
        (
            "an upgrade to HTTP/2",
            format!(
                "GET {target} HTTP/1.1\r\nhost: c\r\nconnection: upgrade, http2-settings, close\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n"
            ),
        ),
        ("a tunnel", format!("CONNECT c:80 HTTP/1.1\r\nhost: c:80\r\n\r\n{inner}")),
        (
            "another path in a header",
            format!("GET /public HTTP/1.1\r\nhost: c\r\nconnection: close\r\n x-path: {target}\r\n\r\n"),
        ),
    ]
}

/// Sends bytes, and hears what comes until the end or for a while: not all attempts are worth an answer.
async fn attempt(address: std::net::SocketAddr, bytes: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(bytes.as_bytes()).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("it is answered or closed");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn no_spelling_comes_past_a_rule_about_paths() {
    for way in WAYS {
        // A deny of what is below /admin, and an allow of what is below /public alone.
        for (allows, policies) in [
            (false, vec![policy("no", Action::Deny, below("/admin"))]),
            (true, vec![policy("yes", Action::Allow, below("/public"))]),
        ] {
            let (app, seen) = telling().await;
            let mut path = path(way, AppProtocol::Http1, app).await;
            node(&mut path, way).authorize("c-0", policies);
            let mut tried = 0;
            for target in PATHS {
                assert!(read_leniently(target).starts_with("/admin"), "{target}");
                for (how, bytes) in attempts(target) {
                    tried += 1;
                    let answer = attempt(path.address, &bytes).await;
                    for (method, came, _) in seen.lock().drain(..) {
                        let read = read_leniently(&came);
                        let is_public = read == "/public" || read.starts_with("/public/");
                        let is_admin = read == "/admin" || read.starts_with("/admin/");
                        let harmless = if allows { is_public } else { !is_admin };
                        assert!(
                            harmless,
                            "{way:?} {how} {target}: {method} {came} came to the application: {answer}"
                        );
                    }
                }
                if let Ok(uri) = format!("http://c{target}").parse::<http::Uri>() {
                    tried += 1;
                    let request = Request::get(uri).body(full("")).unwrap();
                    let answer = http2(path.address).await.send_request(request).await;
                    let status = answer.map_or(400, |answer| answer.status().as_u16());
                    assert!([400, 403].contains(&status), "{target}: {status}");
                    assert!(seen.lock().is_empty(), "{target}");
                }
            }
            assert!(tried >= 400, "{tried}");
            // It is not that nothing comes through.
            assert_eq!(apps::get(path.address, "/public").await.status, 200);
        }
    }
}

/// Another Service for the same workload says that its port carries bytes.
#[tokio::test]
async fn a_service_of_bytes_leads_past_no_rule_about_requests() {
    for way in WAYS {
        let (app, seen) = telling().await;
        let mut path = path(way, AppProtocol::Tcp, app).await;
        node(&mut path, way).authorize("c-0", vec![policy("no", Action::Deny, below("/admin"))]);
        let ask = async |target: &str| {
            exchange(path.address, &format!("GET {target} HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n"))
                .await
        };
        let denied = ask("/admin").await;
        assert!(denied.starts_with("HTTP/1.1 403 "), "{way:?} {denied}");
        assert!(denied.contains("tulle-reason: denied-by=default/no\r\n"), "{way:?} {denied}");
        assert!(seen.lock().is_empty());
        let taken = ask("/public").await;
        assert!(taken.starts_with("HTTP/1.1 200 "), "{way:?} {taken}");
        assert_eq!(seen.lock().drain(..).count(), 1);
        // HTTP/2, as its client speaks it: this application does not.
        let noise = attempt(path.address, "\x16\x03\x01 noise that is no HTTP\r\n\r\n").await;
        assert!(!noise.contains(" 200 "), "{noise}");
        assert!(seen.lock().is_empty(), "{way:?}");
    }
}

/// An application that agrees to a tunnel and goes on to read requests: nobody would see them.
#[tokio::test]
async fn no_tunnel_leads_past_rules_about_requests() {
    for (way, protocol) in [
        (Way::SameNode, AppProtocol::Http1),
        (Way::SameNode, AppProtocol::Tcp),
        (Way::Link, AppProtocol::Http1),
        (Way::Link, AppProtocol::Tcp),
    ] {
        let seen = Arc::new(Mutex::new(Vec::<u8>::new()));
        let told = seen.clone();
        let app = apps::script(move |mut stream| {
            let told = told.clone();
            async move {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    told.lock().extend(&buffer[..read]);
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                }
            }
        });
        let mut path = path(way, protocol, app.await).await;
        node(&mut path, way).authorize("c-0", vec![policy("no", Action::Deny, below("/admin"))]);
        let tunnel = "CONNECT c:80 HTTP/1.1\r\nhost: c:80\r\n\r\n";
        let mut stream = TcpStream::connect(path.address).await.unwrap();
        stream.write_all(tunnel.as_bytes()).await.unwrap();
        let head = timeout(SOON, apps::read_head(&mut stream)).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 403 "), "{way:?} {protocol:?} {head}");
        let _ = stream.write_all(b"GET /admin HTTP/1.1\r\nhost: c\r\n\r\n").await;
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut rest)).await.unwrap();
        assert!(seen.lock().is_empty(), "{way:?} {protocol:?} {:?}", String::from_utf8_lossy(&seen.lock()));
    }
}

#[tokio::test]
async fn a_stream_ends_by_what_it_asked_for() {
    for way in WAYS {
        let app = apps::serve(apps::call_without_end);
        let mut calls = path(way, AppProtocol::Http2, app.await).await;
        let call = RequestConditions { calls: vec![PathMatch::Exact("/S/M".into())], ..Default::default() };
        let other = RequestConditions { calls: vec![PathMatch::Exact("/S/N".into())], ..Default::default() };
        let mut watch = async |before: Vec<AccessPolicy>,
                               after: Vec<AccessPolicy>,
                               and_then: Vec<AccessPolicy>| {
            node(&mut calls, way).authorize("c-0", before);
            let call = Request::post("http://c:80/S/M").header("content-type", "application/grpc");
            let call = call.header("te", "trailers").body(chunks(vec![], None)).unwrap();
            let mut answer = http2(calls.address).await.send_request(call).await.unwrap().into_body();
            let first = timeout(SOON, answer.frame()).await.unwrap().unwrap().unwrap();
            assert_eq!(first.into_data().unwrap().len(), 6);
            node(&mut calls, way).authorize("c-0", after);
            let early = timeout(Duration::from_millis(200), answer.frame()).await.is_ok();
            node(&mut calls, way).authorize("c-0", and_then);
            let last = timeout(SOON, answer.frame()).await.unwrap().unwrap();
            let status = last.ok().and_then(|last| Some(last.into_trailers().ok()?["grpc-status"].clone()));
            (early, status)
        };
        let (allow, deny) = (
            |what: &RequestConditions| vec![policy("a", Action::Allow, what.clone())],
            |what: &RequestConditions| vec![policy("d", Action::Deny, what.clone())],
        );
        // One that is about others changes nothing.
        let denied = Some("7".parse().unwrap());
        assert_eq!(watch(allow(&call), deny(&other), deny(&call)).await, (false, denied.clone()), "{way:?}");
        assert_eq!(
            watch(deny(&other), allow(&call), allow(&other)).await,
            (false, denied.clone()),
            "{way:?}"
        );
        // What it asked for was not kept where nobody looked at requests.
        let last_policy_is_about_anybody = vec![policy("d", Action::Deny, RequestConditions::default())];
        assert_eq!(watch(vec![], vec![], last_policy_is_about_anybody).await, (false, denied), "{way:?}");
    }
}
