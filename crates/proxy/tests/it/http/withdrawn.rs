//! What is open to a workload when a change of the configuration no longer lets it in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use tulle_model::name::WorkloadName;
use tulle_model::snapshot::{AccessPolicy, AccessRule, Action, AppProtocol, PathMatch, RequestConditions};

use super::apps::{self, TestBody, read_head, script};
use super::mesh::{Authority, Node, Path, Way, eventually, path};
use crate::mesh::{echo, logged};

const SOON: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy)]
enum Change {
    Gone,
    PortClosed,
}

/// Has the node of the application make that change.
fn make(node: &mut Node, authority: &Authority, change: Change) {
    node.state.workloads.remove(&WorkloadName::new("default", "c-0"));
    match change {
        Change::Gone => node.publish(),
        Change::PortClosed => drop(node.add_workload(authority, "c-0", &[1])),
    }
}

/// What the client gets until its connection ends, and whether that was a reset.
async fn rest(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut rest = Vec::new();
    let ended = timeout(SOON, stream.read_to_end(&mut rest)).await.expect("it ends");
    (rest, ended.is_err())
}

#[tokio::test]
async fn bytes_are_reset_on_both_sides() {
    for way in [Way::SameNode, Way::Link] {
        for change in [Change::Gone, Change::PortClosed] {
            let ended = Arc::new(Notify::new());
            let told = ended.clone();
            let app = script(move |mut stream| {
                let told = told.clone();
                async move {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).await.is_ok() {
                        stream.write_all(&byte).await.unwrap();
                    }
                    told.notify_one();
                }
            })
            .await;
            let mut path = path(way, AppProtocol::Tcp, app).await;
            let node = if way == Way::Link { &mut path.far } else { &mut path.near };
            let mut stream = TcpStream::connect(path.address).await.unwrap();
            for begin in [0, 1] {
                stream.write_all(&[begin]).await.unwrap();
                assert_eq!(timeout(SOON, stream.read_u8()).await.unwrap().unwrap(), begin, "{way:?}");
                // What is stopping finishes what it has.
                node.drain_workload("c-0");
            }
            assert_eq!(node.proxy().visits().await.len(), 1);
            make(node, &Authority::new(), change);
            assert_eq!(rest(&mut stream).await, (vec![], true), "{way:?} {change:?}");
            timeout(SOON, ended.notified()).await.expect("the application is told");
            assert_eq!(node.proxy().visits().await, [], "{way:?} {change:?}");
        }
    }
}

/// Neither of them reads what the other sends.
#[tokio::test]
async fn who_takes_nothing_is_no_reason_to_stay() {
    for way in [Way::SameNode, Way::Link] {
        let app = script(|mut stream| async move {
            // As much as there is room for.
            let _ = stream.write_all(&vec![0; 64 << 20]).await;
        })
        .await;
        let mut path = path(way, AppProtocol::Tcp, app).await;
        let node = if way == Way::Link { &mut path.far } else { &mut path.near };
        let mut stream = TcpStream::connect(path.address).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.read_u8().await.unwrap();
        make(node, &Authority::new(), Change::PortClosed);
        let name = WorkloadName::new("default", "c-0");
        eventually(|| (node.proxy().in_flight(&name) == 0).then_some(())).await;
    }
}

/// An application that goes on for ever under `/stream`, sends the rest of a whole answer when it is told to under `/whole`, and
/// leaves HTTP otherwise.
async fn app(go_on: Arc<Notify>) -> SocketAddr {
    script(move |mut stream| {
        let go_on = go_on.clone();
        async move {
            let head = read_head(&mut stream).await;
            let answer = if head.starts_with("GET /stream ") {
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n"
            } else if head.starts_with("GET /whole ") {
                "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab"
            } else {
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nab"
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
            go_on.notified().await;
            let _ = stream.write_all(b"cd").await;
            let _ = stream.read_u8().await;
        }
    })
    .await
}

#[tokio::test]
async fn upgrades_and_streams_end_and_a_whole_answer_comes_to_its_end() {
    for way in [Way::SameNode, Way::Link] {
        let go_on = Arc::new(Notify::new());
        let mut path = path(way, AppProtocol::Http1, app(go_on.clone()).await).await;
        let node = if way == Way::Link { &mut path.far } else { &mut path.near };
        let open = async |request: &str| {
            let mut stream = TcpStream::connect(path.address).await.unwrap();
            stream.write_all(format!("GET {request}\r\nhost: c\r\n").as_bytes()).await.unwrap();
            stream.write_all(b"\r\n").await.unwrap();
            let head = timeout(SOON, read_head(&mut stream)).await.unwrap();
            let length = if head.contains("chunked") { "2\r\nab\r\n".len() } else { 2 };
            let mut begun = vec![0; length];
            timeout(SOON, stream.read_exact(&mut begun)).await.unwrap().unwrap();
            assert!(begun.windows(2).any(|pair| pair == b"ab"), "{way:?} {request} {head}");
            stream
        };
        let mut stream = open("/stream HTTP/1.1\r\nconnection: close").await;
        let mut whole = open("/whole HTTP/1.1\r\nconnection: close").await;
        let mut upgraded = open("/chat HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket").await;
        assert_eq!(node.proxy().visits().await.len(), 3, "{way:?}");
        make(node, &Authority::new(), Change::PortClosed);
        let (more, _) = rest(&mut stream).await;
        assert_eq!(more, b"", "{way:?}: no last chunk");
        let (more, reset) = rest(&mut upgraded).await;
        assert!(more.is_empty() && reset, "{way:?} {more:?}");
        go_on.notify_waiters();
        assert_eq!(rest(&mut whole).await, (b"cd".to_vec(), false), "{way:?}");
        assert_eq!(node.proxy().visits().await, [], "{way:?}");
    }
}

fn denying(what: &str) -> Vec<AccessPolicy> {
    let paths = vec![PathMatch::Prefix(what.into())];
    let request = Some(Box::new(RequestConditions { paths, ..Default::default() }));
    vec![AccessPolicy {
        name: "default/d".parse().unwrap(),
        action: Action::Deny,
        at: None,
        issuers: Vec::new(),
        rules: vec![AccessRule { index: 0, sources: None, ports: None, request, when: None }],
        external: None,
    }]
}

/// A request without an answer, as an upload, and a download of known length: whatever policies there were before.
#[tokio::test]
async fn a_policy_ends_requests_without_an_answer_and_answers_of_known_length() {
    for way in [Way::SameNode, Way::Link] {
        for protocol in [AppProtocol::Http1, AppProtocol::Http2] {
            for before in [vec![], denying("/else")] {
                let case = format!("{way:?} {protocol:?} {}", before.len());
                let mut path = path(way, protocol, apps::serve(slow).await).await;
                let authorize = |path: &mut Path, policies| match way {
                    Way::Link => path.far.authorize("c-0", policies),
                    _ => path.near.authorize("c-0", policies),
                };
                authorize(&mut path, before);
                let address = path.address;
                let open = async |line: &str, fields: &str| {
                    let mut stream = TcpStream::connect(address).await.unwrap();
                    let head = format!("{line} HTTP/1.1\r\nhost: c\r\n{fields}\r\n");
                    stream.write_all(head.as_bytes()).await.unwrap();
                    stream
                };
                let mut asked = open("GET /a/silent", "").await;
                let mut upload = open("POST /a/silent", "content-length: 100\r\n").await;
                let mut other = open("GET /b/silent", "").await;
                let mut download = open("GET /a/begun", "").await;
                let head = timeout(SOON, read_head(&mut download)).await.unwrap();
                assert!(head.contains("content-length: 100"), "{case} {head}");
                let node = if way == Way::Link { &path.far } else { &path.near };
                let name = WorkloadName::new("default", "c-0");
                eventually(|| (node.proxy().in_flight(&name) == 4).then_some(())).await;
                // About others.
                authorize(&mut path, denying("/else"));
                let early = timeout(Duration::from_millis(300), asked.read_u8()).await;
                assert!(early.is_err(), "{case} {early:?}");
                authorize(&mut path, denying("/a"));
                for stream in [&mut asked, &mut upload] {
                    let head = timeout(SOON, read_head(stream)).await.unwrap();
                    assert!(head.starts_with("HTTP/1.1 403 "), "{case} {head}");
                    assert!(head.contains("\r\ntulle-reason: denied-by=default/d\r\n"), "{case} {head}");
                }
                let (more, _) = rest(&mut download).await;
                assert!(more.len() < 100, "{case} {more:?}");
                let still = timeout(Duration::from_millis(300), other.read_u8()).await;
                assert!(still.is_err(), "{case} {still:?}");
            }
        }
    }
}

/// Says nothing under `…/silent`, and has no end elsewhere.
async fn slow(request: Request<Incoming>) -> Response<TestBody> {
    if request.uri().path().ends_with("/silent") {
        return std::future::pending().await;
    }
    let mut answer = apps::call_without_end(request).await;
    *answer.headers_mut() = HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from_static("100"))]);
    answer
}

#[tokio::test]
async fn the_line_of_the_log_says_why() {
    const GENERATION: u64 = 90_411;
    let mut path = path(Way::Link, AppProtocol::Tcp, echo().await).await;
    Arc::make_mut(&mut path.far.state.snapshot).generation = GENERATION;
    path.far.change_mesh(|mesh| mesh.access_log = true);
    let mut stream = TcpStream::connect(path.address).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    stream.read_u8().await.unwrap();
    make(&mut path.far, &Authority::new(), Change::PortClosed);
    rest(&mut stream).await;
    let generation = format!("generation={GENERATION} ");
    let line = [
        "direction=\"inbound\"",
        &generation,
        "end=\"broken\"",
        "reason=\"withdrawn\"",
        "the workload no longer offers this port to the mesh",
    ];
    eventually(|| logged(&line).then_some(())).await;
}
