//! Undeclared ports whose servers send HTTP/2's SETTINGS as soon as they accept, as gRPC's do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tulle_model::snapshot::AppProtocol;

use super::apps::{app, full, read};
use super::mesh::{WAYS, eventually, path, plain};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

/// An HTTP/2 server whose SETTINGS leave before it reads, in pieces that are `pause` apart.
async fn server(pause: Duration, connections: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            connections.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let (near, mut far) = tokio::io::duplex(64 << 10);
                let service =
                    service_fn(|request| async { Ok::<_, std::convert::Infallible>(app(request).await) });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(near), service));
                for _ in 0..6 {
                    let mut piece = [0; 2];
                    far.read_exact(&mut piece).await?;
                    stream.write_all(&piece).await?;
                    tokio::time::sleep(pause).await;
                }
                tokio::io::copy_bidirectional(&mut stream, &mut far).await
            });
        }
    });
    address
}

async fn ask(address: SocketAddr, delay: Duration) -> String {
    let stream = TcpStream::connect(address).await.unwrap();
    tokio::time::sleep(delay).await;
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://c/x").body(full("")).unwrap();
    read(client.send_request(request).await.unwrap()).await.body
}

#[tokio::test]
async fn a_late_preface_is_routed_as_http2() {
    for way in WAYS {
        for pause in [0, 30] {
            let address = server(Duration::from_millis(pause), Arc::default()).await;
            let path = path(way, AppProtocol::Detect, address).await;
            for delay in [100, 0, 5, 40, 0, 300] {
                let answer = ask(path.address, Duration::from_millis(delay)).await;
                assert!(
                    answer.starts_with("GET http://c/x HTTP/2.0\n"),
                    "{way:?}, {pause}, {delay}: {answer}"
                );
            }
            let counted = |protocol| {
                let edges = path.near.proxy().edges();
                edges.iter().filter(|edge| edge.protocol == protocol).map(|edge| edge.requests).sum::<u64>()
            };
            eventually(|| (counted("http") == 6).then_some(())).await;
            assert_eq!(counted("tcp"), 0, "{way:?}: nothing passes as bytes");
        }
    }
}

/// The connection that was made to find out what the server speaks is not kept for a client that is silent;
/// once that is known, none is made.
#[tokio::test]
async fn a_silent_client_holds_no_connection_to_the_server() {
    for way in WAYS {
        let (accepted, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (accepting, opening) = (accepted.clone(), open.clone());
        let server = super::apps::script(move |mut stream| {
            accepting.fetch_add(1, Ordering::SeqCst);
            opening.fetch_add(1, Ordering::SeqCst);
            let open = opening.clone();
            async move {
                let mut received = Vec::new();
                if stream.write_all(SETTINGS).await.is_ok() {
                    while let Ok(1..) = stream.read_buf(&mut received).await {
                        if received.ends_with(b"\n") {
                            let _ = stream.write_all(b"heard\n").await;
                        }
                    }
                }
                open.fetch_sub(1, Ordering::SeqCst);
            }
        })
        .await;
        let path = path(way, AppProtocol::Detect, server).await;
        let mut silent = TcpStream::connect(path.address).await.unwrap();
        let dropped = || accepted.load(Ordering::SeqCst) == 1 && open.load(Ordering::SeqCst) == 0;
        eventually(|| dropped().then_some(())).await;
        let mut other = TcpStream::connect(path.address).await.unwrap();
        let heard = tokio::time::timeout(Duration::from_millis(200), other.read_u8()).await;
        assert!(heard.is_err(), "{way:?}: {heard:?}");
        assert_eq!(accepted.load(Ordering::SeqCst), 1, "{way:?}: what is known is not asked again");

        // Both are what they turn out to be.
        silent.write_all(b"*1 other\n").await.unwrap();
        let mut answer = [0; 15];
        tokio::time::timeout(Duration::from_secs(5), silent.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer[..9], SETTINGS, "{way:?}");
        assert_eq!(&answer[9..], b"heard\n", "{way:?}");
        for piece in PREFACE.chunks(5) {
            other.write_all(piece).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut settings = [0; 9];
        tokio::time::timeout(Duration::from_secs(5), other.read_exact(&mut settings)).await.unwrap().unwrap();
        assert_eq!((settings[3], settings[4]), (4, 0), "{way:?}");
        assert_ne!(&settings, SETTINGS, "{way:?}: these are the server's own");
    }
}

/// Bytes that only begin like SETTINGS are what the server of another protocol says.
#[tokio::test]
async fn a_server_that_stops_within_its_settings_is_opaque() {
    for way in WAYS {
        for said in [&SETTINGS[..5], b"\0\0\x06\x04\0\0\0\0\x01", b"\x4a\0\0\0\x0a8.0.36\0"] {
            let server = super::apps::script(move |mut stream| async move {
                stream.write_all(said).await.unwrap();
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            })
            .await;
            let path = path(way, AppProtocol::Detect, server).await;
            for _ in 0..2 {
                let mut client = TcpStream::connect(path.address).await.unwrap();
                let mut heard = vec![0; said.len() + PREFACE.len()];
                let (greeting, echo) = heard.split_at_mut(said.len());
                let limit = Duration::from_secs(5);
                tokio::time::timeout(limit, client.read_exact(greeting)).await.unwrap().unwrap();
                assert_eq!(greeting, said, "{way:?}");
                client.write_all(PREFACE).await.unwrap();
                tokio::time::timeout(limit, client.read_exact(echo)).await.unwrap().unwrap();
                assert_eq!(echo, PREFACE, "{way:?}");
            }
        }
    }
}

/// What was learned holds for the endpoints that it was learned of, and no longer.
#[tokio::test]
async fn new_endpoints_are_asked_anew() {
    let connections = Arc::new(AtomicUsize::new(0));
    let address = server(Duration::ZERO, connections.clone()).await;
    let mut path = path(super::mesh::Way::Plain, AppProtocol::Detect, address).await;
    for _ in 0..3 {
        ask(path.address, Duration::from_millis(50)).await;
    }
    // One to learn from, and one in the pool.
    assert_eq!(connections.load(Ordering::SeqCst), 2);
    let banner = super::apps::script(|mut stream| async move {
        let _ = stream.write_all(b"220 hello\r\n").await;
        let _ = stream.read_u8().await;
    })
    .await;
    path.near.add_service("c", AppProtocol::Detect, vec![plain(banner)]);
    eventually(|| path.near.edge("c")).await;
    let mut client = TcpStream::connect(path.address).await.unwrap();
    let mut heard = [0; 11];
    tokio::time::timeout(Duration::from_secs(5), client.read_exact(&mut heard)).await.unwrap().unwrap();
    assert_eq!(&heard, b"220 hello\r\n");
}
