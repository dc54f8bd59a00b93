//! Nodes that are revoked: what stands with their certificates ends, on both sides of a link, and nothing new begins.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tulle_model::snapshot::{AppProtocol, MeshSettings, Snapshot};
use tulle_model::stamp::{Revoked, Stamp};

use crate::mesh::{Node, Pair, app, echo, expect_echo, expect_reset};

/// What would be refused if it began now has ended by then.
const LIMIT: Duration = Duration::from_secs(1);
const NEAR: Stamp = Stamp(1);
const FAR: Stamp = Stamp(2);

/// The nodes of a pair with certificates that can be told apart.
async fn pair(application: std::net::SocketAddr, protocol: AppProtocol) -> Pair {
    let mut pair = Pair::new(application, protocol).await;
    let (client, server) = (pair.ca.identity("client"), pair.ca.identity("server"));
    pair.near.run("client", &[], pair.ca.issue_to(NEAR, &client));
    pair.far.run("server", &[application.port()], pair.ca.issue_to(FAR, &server));
    pair
}

/// Tells a node which others are revoked.
fn tell(node: &mut Node, stamps: &[Stamp]) {
    let revoked = Arc::new(Revoked::of(stamps.iter().copied()));
    node.edit(|state| {
        let mut snapshot = Snapshot::clone(&state.snapshot);
        snapshot.mesh = Arc::new(MeshSettings { revoked, ..MeshSettings::clone(&snapshot.mesh) });
        state.snapshot = Arc::new(snapshot);
    });
}

async fn ends(stream: &mut TcpStream) {
    let ended = timeout(LIMIT, stream.read(&mut [0])).await.expect("it goes on");
    assert!(ended.is_err() || ended.is_ok_and(|count| count == 0));
}

#[tokio::test]
async fn links_end_on_both_sides_and_no_new_ones_are_opened() {
    for (at_near, at_far, side) in [(&[FAR][..], &[][..], "client"), (&[][..], &[NEAR][..], "server")] {
        let mut pair = pair(echo().await, AppProtocol::Tcp).await;
        let mut stream = TcpStream::connect(pair.entry).await.unwrap();
        expect_echo(&mut stream, b"before").await;
        // Somebody else's revocation is nothing to them.
        tell(&mut pair.near, &[Stamp(3)]);
        tell(&mut pair.far, &[Stamp(3)]);
        expect_echo(&mut stream, b"still").await;

        tell(&mut pair.near, at_near);
        tell(&mut pair.far, at_far);
        ends(&mut stream).await;
        expect_reset(pair.entry).await;
        let node = if side == "client" { &pair.near } else { &pair.far };
        let labels = [&*format!("side=\"{side}\""), "result=\"revoked\""];
        node.metric_reaches("tulle_tls_handshakes_total", &labels, 1.0).await;

        // With a certificate of another joining it goes on.
        let (client, server) = (pair.ca.identity("client"), pair.ca.identity("server"));
        let ports = pair.far.state.load().workloads[&pair.server].ports.clone();
        pair.near.run("client", &[], pair.ca.issue_to(Stamp(4), &client));
        pair.far.run("server", &ports, pair.ca.issue_to(Stamp(5), &server));
        let again = async {
            loop {
                let mut stream = TcpStream::connect(pair.entry).await.unwrap();
                let mut back = [0; 5];
                if stream.write_all(b"again").await.is_ok() && stream.read_exact(&mut back).await.is_ok() {
                    return back;
                }
                // The last failure is remembered for a moment.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert_eq!(&timeout(Duration::from_secs(10), again).await.expect("nobody answers"), b"again");
    }
}

#[tokio::test]
async fn a_request_in_flight_fails_and_says_why() {
    for (at_near, at_far) in [(&[FAR][..], &[][..]), (&[][..], &[NEAR][..])] {
        let (arrived, mut arrivals) = tokio::sync::mpsc::channel(1);
        // It gets the request, and does not answer.
        let application = app(move |mut stream| {
            let arrived = arrived.clone();
            async move {
                while stream.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {
                    let _ = arrived.send(()).await;
                }
            }
        });
        let mut pair = pair(application.await, AppProtocol::Http1).await;
        let mut stream = TcpStream::connect(pair.entry).await.unwrap();
        // No method that is tried again by itself.
        stream.write_all(b"POST / HTTP/1.1\r\nhost: server\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        arrivals.recv().await.unwrap();
        tell(&mut pair.near, at_near);
        tell(&mut pair.far, at_far);
        let mut answer = vec![0; 4096];
        let count = timeout(LIMIT, stream.read(&mut answer)).await.expect("it waits on").unwrap();
        let answer = String::from_utf8_lossy(&answer[..count]).to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 502 ") || answer.starts_with("http/1.1 503 "), "{answer}");
        assert!(answer.contains("tulle-reason: connection-lost"), "{answer}");
    }
}
