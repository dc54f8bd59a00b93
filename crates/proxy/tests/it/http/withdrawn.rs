//! What is open to a workload when a change of the configuration no longer lets it in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use tulle_model::name::WorkloadName;
use tulle_model::snapshot::AppProtocol;

use super::apps::{read_head, script};
use super::mesh::{Authority, Node, Way, eventually, path};
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
