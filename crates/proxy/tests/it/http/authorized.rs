//! Who may enter a workload, by AuthorizationPolicies: what a caller is told, what reaches the application, and what becomes of
//! what is open when a policy changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tulle_model::snapshot::{AccessPolicy, AccessRule, Action, AppProtocol, IdentityPattern, Source};

use super::apps::{self, chunks, exchange, full, http1, http2, read};
use super::mesh::{Node, Path, Way, eventually, identity, path};
use crate::mesh::{echo, logged};

const SOON: Duration = Duration::from_secs(5);
const WAYS: [Way; 2] = [Way::SameNode, Way::Link];

/// A policy with one rule, about a service account or anybody.
fn policy(name: &str, action: Action, account: Option<&str>) -> AccessPolicy {
    let id = |account: &str| identity(account).to_string();
    let sources = account.map(|account| vec![Source::Identity(IdentityPattern::new(&id(account)).unwrap())]);
    AccessPolicy {
        name: format!("default/{name}").parse().unwrap(),
        action,
        at: None,
        issuers: Vec::new(),
        rules: vec![AccessRule { index: 0, sources, ports: None, request: None, when: None }],
        external: None,
    }
}

/// The node that runs the application.
fn node(path: &mut Path, way: Way) -> &mut Node {
    if way == Way::Link { &mut path.far } else { &mut path.near }
}

/// An application that counts what reaches it.
async fn counting() -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let came = Arc::new(AtomicUsize::new(0));
    let count = came.clone();
    let app = apps::serve(move |request: Request<Incoming>| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            let _ = request.into_body().collect().await;
            Response::new(full("in"))
        }
    });
    (app.await, came)
}

/// What each set of policies says to the workload `a`; `None`: it is let in.
fn cases() -> Vec<(Vec<AccessPolicy>, Option<&'static str>)> {
    let [allow, deny, audit] = [Action::Allow, Action::Deny, Action::Audit];
    let by_deny = "denied-by=default/no";
    let by_none = "no-allow-policy";
    vec![
        (vec![], None),
        (vec![policy("no", deny, Some("a"))], Some(by_deny)),
        (vec![policy("no", deny, Some("b"))], None),
        (vec![policy("a", allow, Some("a"))], None),
        (vec![policy("b", allow, Some("b"))], Some(by_none)),
        (vec![policy("b", allow, Some("b")), policy("a", allow, Some("a"))], None),
        (vec![policy("all", allow, None), policy("no", deny, None)], Some(by_deny)),
        (vec![policy("watch", audit, None)], None),
        (vec![policy("b", allow, Some("b")), policy("watch", audit, None)], Some(by_none)),
    ]
}

#[tokio::test]
async fn a_request_that_is_denied_is_told_by_which_policy_and_does_not_reach_the_application() {
    for way in WAYS {
        let (app, came) = counting().await;
        let mut path = path(way, AppProtocol::Detect, app).await;
        path.near.change_mesh(|mesh| mesh.access_log = true);
        let mut expected = 0;
        for (policies, denied) in cases() {
            node(&mut path, way).authorize("c-0", policies.clone());
            let mut answers = Vec::new();
            for body in ["", "body"] {
                let request = || Request::post("http://c:80/x").header("host", "c").body(full(body)).unwrap();
                answers.push(read(http1(path.address).await.send_request(request()).await.unwrap()).await);
                answers.push(read(http2(path.address).await.send_request(request()).await.unwrap()).await);
            }
            let call = Request::post("http://c:80/S/M").header("content-type", "application/grpc");
            let call = call.header("te", "trailers").body(full("")).unwrap();
            let call = read(http2(path.address).await.send_request(call).await.unwrap()).await;
            let Some(reason) = denied else {
                expected += 5;
                assert!(
                    answers.iter().all(|answer| answer.status == 200 && answer.body == "in"),
                    "{way:?} {policies:?}"
                );
                assert_eq!(
                    (call.status, call.headers.get("grpc-status")),
                    (200, None),
                    "{way:?} {policies:?}"
                );
                assert_eq!(came.load(Ordering::Relaxed), expected, "{way:?} {policies:?}");
                continue;
            };
            for answer in answers {
                assert_eq!(answer.status, 403, "{way:?} {policies:?} {}", answer.body);
                assert_eq!(answer.headers["tulle-reason"], reason, "{way:?} {policies:?}");
                assert!(answer.body.starts_with("tulle: "), "{}", answer.body);
                assert!(answer.headers.get("tulle-retry").is_none());
            }
            // Trailers-Only (gRPC over HTTP/2).
            assert_eq!((call.status, &call.headers["grpc-status"]), (200, &"7".parse().unwrap()), "{way:?}");
            assert_eq!(call.headers["tulle-reason"], reason);
            assert!(call.body.is_empty() && call.trailers.is_none());
            assert_eq!(came.load(Ordering::Relaxed), expected, "{way:?} {policies:?}");
        }
        let denials = cases().iter().filter(|(_, denied)| denied.is_some()).count() as u64 * 5;
        assert_eq!(
            path.near.metric("tulle_requests_refused_total", &["reason=\"denied\""]),
            denials,
            "{way:?}"
        );
        let by_policy = |labels: &[&str]| {
            let [near, far] = [&path.near, &path.far];
            near.metric("tulle_authorization_total", labels)
                + if way == Way::Link { far.metric("tulle_authorization_total", labels) } else { 0 }
        };
        let of = |which: &str| cases().iter().filter(|(_, denied)| *denied == Some(which)).count() as u64 * 5;
        let denied = ["policy=\"default/no\"", "result=\"denied\"", "workload=\"c-0\""];
        assert_eq!(by_policy(&denied), of("denied-by=default/no"));
        assert_eq!(by_policy(&["policy=\"\"", "result=\"no-allow-policy\""]), of("no-allow-policy"));
        assert_eq!(by_policy(&["policy=\"default/watch\"", "result=\"audited\""]), 10);
        assert_eq!(path.near.metric("tulle_retries_total", &[]), 0, "others would say the same");
        let refused = path.near.metric("tulle_requests_total", &["destination=\"c\"", "result=\"refused\""]);
        assert_eq!(refused, denials, "nobody has failed");
    }
    let by = "AuthorizationPolicy/default/no spec.rules";
    eventually(|| logged(&["destination=default/c ", by, "reason=\"denied\""]).then_some(())).await;
}

#[tokio::test]
async fn a_request_to_leave_http_is_denied_like_any_other() {
    for way in WAYS {
        let (app, came) = counting().await;
        let mut path = path(way, AppProtocol::Http1, app).await;
        node(&mut path, way).authorize("c-0", vec![policy("no", Action::Deny, None)]);
        let asked = "GET /chat HTTP/1.1\r\nhost: c\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\
                     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let answer = exchange(path.address, asked).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{way:?} {answer}");
        assert!(answer.contains("tulle-reason: denied-by=default/no\r\n"), "{way:?} {answer}");
        assert_eq!(came.load(Ordering::Relaxed), 0, "{way:?}");
    }
}

#[tokio::test]
async fn a_connection_that_is_denied_is_reset_and_does_not_reach_the_application() {
    for way in WAYS {
        let app = echo().await;
        let mut path = path(way, AppProtocol::Tcp, app).await;
        for (policies, denied) in cases() {
            node(&mut path, way).authorize("c-0", policies.clone());
            // The reset may be there before the connection, and before anything is said.
            let answer = async {
                let mut stream = TcpStream::connect(path.address).await?;
                stream.write_all(b"x").await?;
                stream.read_u8().await
            };
            let answer = timeout(SOON, answer).await.unwrap();
            match denied {
                None => assert_eq!(answer.unwrap(), b'x', "{way:?} {policies:?}"),
                Some(_) => {
                    let error = answer.unwrap_err();
                    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{way:?} {policies:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn what_is_open_ends_when_a_policy_no_longer_lets_it_in() {
    for way in WAYS {
        // Bytes.
        let mut bytes = path(way, AppProtocol::Tcp, echo().await).await;
        node(&mut bytes, way).authorize("c-0", vec![policy("a", Action::Allow, Some("a"))]);
        let mut stream = TcpStream::connect(bytes.address).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        assert_eq!(timeout(SOON, stream.read_u8()).await.unwrap().unwrap(), b'x');
        // Another that lets it in changes nothing.
        node(&mut bytes, way).authorize("c-0", vec![policy("all", Action::Allow, None)]);
        stream.write_all(b"y").await.unwrap();
        assert_eq!(timeout(SOON, stream.read_u8()).await.unwrap().unwrap(), b'y');
        node(&mut bytes, way).authorize("c-0", vec![policy("b", Action::Allow, Some("b"))]);
        let error = timeout(SOON, stream.read_u8()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{way:?}");

        // A call whose answers go on.
        let app = apps::serve(|_| async {
            let answers = futures_util::StreamExt::chain(
                futures_util::stream::once(async {
                    Ok(http_body::Frame::data(bytes::Bytes::from_static(b"\0\0\0\0\x01x")))
                }),
                futures_util::stream::pending(),
            );
            let answer = Response::builder().header("content-type", "application/grpc");
            answer.body(BodyExt::boxed(StreamBody::new(answers))).unwrap()
        });
        let mut calls = path(way, AppProtocol::Http2, app.await).await;
        let call = Request::post("http://c:80/S/M").header("content-type", "application/grpc");
        let call = call.header("te", "trailers").body(chunks(vec![], None)).unwrap();
        let mut answer = http2(calls.address).await.send_request(call).await.unwrap().into_body();
        let first = timeout(SOON, answer.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(first.into_data().unwrap().len(), 6);
        node(&mut calls, way).authorize("c-0", vec![policy("no", Action::Deny, None)]);
        let last = timeout(SOON, answer.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(last.into_trailers().unwrap()["grpc-status"], "7", "{way:?}");
    }
}
