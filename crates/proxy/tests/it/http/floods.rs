//! Clients that open requests only to drop them, and what others notice.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tulle_model::snapshot::AppProtocol;

use super::apps::{full, http2, read};
use super::mesh::{Node, WAYS, Way, eventually, path};

const SOON: Duration = Duration::from_secs(20);

/// How an HTTP/2 application saw its connections.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    /// The most streams that were reset on one of them.
    resets: AtomicUsize,
}

/// An application that never answers `/hang`, takes a moment for `/slow`, and closes a connection on which 200
/// streams are reset, as Netty does.
async fn touchy() -> (SocketAddr, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::<Seen>::default();
    let all = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            all.connections.fetch_add(1, Ordering::Relaxed);
            let seen = all.clone();
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                builder.max_concurrent_streams(1000).max_pending_accept_reset_streams(10_000);
                let mut connection = builder.handshake::<_, bytes::Bytes>(stream).await.unwrap();
                let resets = Arc::new(AtomicUsize::new(0));
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let own = resets.clone();
                    if own.load(Ordering::Relaxed) >= 200 {
                        connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
                        continue;
                    }
                    let seen = seen.clone();
                    tokio::spawn(async move {
                        match request.uri().path() {
                            "/hang" => {
                                let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                                let count = own.fetch_add(1, Ordering::Relaxed) + 1;
                                seen.resets.fetch_max(count, Ordering::Relaxed);
                                return;
                            }
                            "/slow" => tokio::time::sleep(Duration::from_secs(3)).await,
                            _ => {}
                        }
                        let _ = respond.send_response(Response::new(()), true);
                    });
                }
            });
        }
    });
    (address, seen)
}

/// Opens `count` requests for `/hang` on connections of its own, a few at a time, and drops each when it may have
/// reached the application. How often it was sent away.
async fn drop_requests(address: SocketAddr, count: usize) -> usize {
    let mut sent_away = 0;
    let mut client = http2(address).await;
    for _ in 0..count / 10 {
        let calls: Vec<_> = (0..10)
            .map(|_| client.send_request(Request::get("http://c/hang").body(full("")).unwrap()))
            .collect();
        let all = futures_util::future::join_all(calls);
        if let Ok(answers) = timeout(Duration::from_millis(10), all).await
            && answers.iter().any(Result::is_err)
        {
            sent_away += 1;
            client = http2(address).await;
        }
    }
    sent_away
}

fn abused(node: &Node) -> bool {
    node.metric("tulle_links_abused_total", &[]) > 0
}

/// Neither the link nor the connection to the application ends for what clients drop, whoever they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_requests_cost_nobody_a_connection() {
    for way in WAYS {
        let (app, seen) = touchy().await;
        let path = path(way, AppProtocol::Http2, app).await;
        let mut polite = http2(path.address).await;
        let slow = polite.send_request(Request::get("http://c/slow").body(full("")).unwrap());
        let slow = tokio::spawn(async move { read(slow.await.unwrap()).await.status });
        let floods: Vec<_> = (0..4).map(|_| tokio::spawn(drop_requests(path.address, 200))).collect();
        for _ in 0..100 {
            let request = Request::get("http://c/").body(full("")).unwrap();
            let answer = timeout(SOON, polite.send_request(request)).await.unwrap().unwrap();
            assert_eq!(answer.status(), 200, "{way:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for flood in floods {
            flood.await.unwrap();
        }
        assert_eq!(slow.await.unwrap(), 200, "{way:?}: what was under way beside them");
        let (resets, connections) =
            (seen.resets.load(Ordering::Relaxed), seen.connections.load(Ordering::Relaxed));
        assert!(resets < 200, "{way:?}: {resets} on one of {connections} connections");
        assert!(connections > 1, "{way:?}");
        assert!(!abused(&path.near) && !abused(&path.far), "{way:?}");
    }
}

/// A client that goes too far loses its own connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abusive_client_is_sent_away_alone() {
    let (app, _) = touchy().await;
    let path = path(Way::Link, AppProtocol::Http2, app).await;
    let mut polite = http2(path.address).await;
    let sent_away = timeout(Duration::from_secs(60), async {
        let mut sent_away = 0;
        while sent_away == 0 {
            sent_away = drop_requests(path.address, 1500).await;
        }
    });
    sent_away.await.expect("it is sent away");
    let count = "tulle_abusive_clients_total";
    eventually(|| {
        path.near.proxy().metrics().lines().any(|l| l.starts_with(count) && !l.ends_with(" 0")).then_some(())
    })
    .await;
    let request = Request::get("http://c/").body(full("")).unwrap();
    assert_eq!(polite.send_request(request).await.unwrap().status(), 200);
    assert!(!abused(&path.near) && !abused(&path.far));
}
