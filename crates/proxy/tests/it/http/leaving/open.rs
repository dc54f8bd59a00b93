//! What is open to the outside when a change of the configuration would no longer let it begin.

use http::Request;
use http_body_util::BodyExt;
use tokio::sync::Semaphore;

use super::*;
use crate::http::apps::{call_without_end, full, http2, script};

/// An application that says `ab` and goes on for ever: in a stream under `/stream`, in an answer of known length under `/whole`, in a
/// WebSocket under `/chat`; under `/late` it never answers. It tells when its client has gone.
async fn endless(gone: Arc<Semaphore>) -> SocketAddr {
    script(move |mut stream| {
        let gone = gone.clone();
        async move {
            let head = read_head(&mut stream).await;
            let answer = if head.starts_with("GET /stream ") {
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n"
            } else if head.starts_with("GET /whole ") {
                "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab"
            } else if head.starts_with("GET /chat ") {
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nab"
            } else {
                ""
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
            let _ = stream.read_u8().await;
            gone.add_permits(1);
        }
    })
    .await
}

/// How something is let out before, and what changes then.
#[derive(Debug, Clone, Copy)]
enum Change {
    AllowToDeny,
    AllowToListed,
    ListedToNothing,
    ListedToDenied,
}

const CHANGES: [Change; 4] =
    [Change::AllowToDeny, Change::AllowToListed, Change::ListedToNothing, Change::ListedToDenied];

impl Change {
    fn before(self, node: &mut Node, listed: ExternalConfig) {
        let allowed = matches!(self, Self::AllowToDeny | Self::AllowToListed);
        let egress = if allowed { EgressPolicy::Allow } else { EgressPolicy::Listed };
        node.change_mesh(|mesh| mesh.egress = egress);
        list(node, if allowed { Vec::new() } else { vec![listed] });
    }

    fn make(self, node: &mut Node, listed: ExternalConfig) {
        match self {
            Self::AllowToDeny => node.change_mesh(|mesh| mesh.egress = EgressPolicy::Deny),
            Self::AllowToListed => node.change_mesh(|mesh| mesh.egress = EgressPolicy::Listed),
            Self::ListedToNothing => list(node, Vec::new()),
            Self::ListedToDenied => {
                let policies = vec![policy(Action::Deny, None, None)].into();
                list(node, vec![ExternalConfig { policies, ..listed }]);
            }
        }
    }
}

#[tokio::test]
async fn answers_and_upgrades_end_when_they_may_be_outside_no_longer() {
    let (mut node, proxy) = node().await;
    node.change_mesh(|mesh| mesh.access_log = true);
    for change in CHANGES {
        let gone = Arc::new(Semaphore::new(0));
        let outside = endless(gone.clone()).await;
        let listed = || external(outside.port(), OutsideProtocol::Http, Vec::new());
        change.before(&mut node, listed());
        let open = async |path: &str, more: &str| {
            let mut stream = TcpStream::connect(proxy).await.unwrap();
            let request = format!("GET http://{outside}{path} HTTP/1.1\r\nhost: {outside}\r\n{more}\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            if path != "/late" {
                let head = timeout(SOON, read_head(&mut stream)).await.unwrap();
                let begun = if head.contains("chunked") { "2\r\nab\r\n" } else { "ab" };
                let mut read = vec![0; begun.len()];
                timeout(SOON, stream.read_exact(&mut read)).await.unwrap().unwrap();
                assert_eq!(read, begun.as_bytes(), "{change:?} {path}: {head}");
            }
            stream
        };
        let upgrade = "connection: upgrade\r\nupgrade: websocket\r\n";
        let mut streams = [
            open("/stream", "").await,
            open("/whole", "").await,
            open("/chat", upgrade).await,
            open("/late", "").await,
        ];
        // What changes nothing for them leaves them alone.
        node.change_mesh(|mesh| mesh.access_log = !mesh.access_log);
        for stream in &mut streams[..3] {
            let silent = timeout(Duration::from_millis(50), stream.read_u8()).await;
            assert!(silent.is_err(), "{change:?}: {silent:?}");
        }
        change.make(&mut node, listed());
        let [mut stream, mut whole, mut chat, mut late] = streams;
        assert!(is_over(&mut stream).await && is_over(&mut whole).await && is_over(&mut chat).await);
        let answer = timeout(SOON, read_head(&mut late)).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 403 ") && answer.contains("tulle-reason: withdrawn"),
            "{change:?}: {answer}"
        );
        let all = timeout(SOON, gone.acquire_many(4)).await;
        all.expect("the other side sees that it has ended").unwrap().forget();
    }
}

#[tokio::test]
async fn streams_of_http2_end_when_they_may_be_outside_no_longer() {
    let (mut node, proxy) = node().await;
    for change in CHANGES {
        let outside = apps::serve(call_without_end).await;
        let listed = || external(outside.port(), OutsideProtocol::Http, Vec::new());
        change.before(&mut node, listed());
        let mut client = http2(proxy).await;
        let request = Request::post(format!("http://{outside}/a/b")).header("te", "trailers");
        let answer = client.send_request(request.body(full("")).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body();
        assert!(timeout(SOON, body.frame()).await.unwrap().unwrap().unwrap().is_data());
        change.make(&mut node, listed());
        let ended = timeout(SOON, body.frame()).await.unwrap();
        assert!(ended.is_none_or(|frame| frame.map_or(true, |frame| frame.is_trailers())), "{change:?}");
    }
}

#[tokio::test]
async fn tunnels_end_that_began_when_all_might_leave() {
    let echo = crate::mesh::echo().await;
    let (mut node, proxy) = node().await;
    let protocols = [OutsideProtocol::Bytes, OutsideProtocol::Http, OutsideProtocol::Tls];
    let outcomes = protocols.map(|protocol| (EgressPolicy::Listed, Some(protocol), false));
    let nothing_listed = [(EgressPolicy::Deny, None, true), (EgressPolicy::Listed, None, true)];
    for (egress, protocol, ends) in outcomes.into_iter().chain(nothing_listed) {
        node.change_mesh(|mesh| mesh.egress = EgressPolicy::Allow);
        let listed = protocol.map(|protocol| external(echo.port(), protocol, Vec::new()));
        list(&mut node, listed.into_iter().collect());
        let (mut stream, _) = tunnel(proxy, &echo.to_string()).await;
        let mut back = [0; 4];
        stream.write_all(b"ping").await.unwrap();
        timeout(SOON, stream.read_exact(&mut back)).await.unwrap().unwrap();
        node.change_mesh(|mesh| mesh.egress = egress);
        if ends {
            assert!(is_over(&mut stream).await, "{egress:?} {protocol:?}");
            continue;
        }
        // By its address, whatever is spoken there.
        stream.write_all(b"pong").await.unwrap();
        timeout(SOON, stream.read_exact(&mut back)).await.unwrap().unwrap();
        assert_eq!(&back, b"pong", "{protocol:?}");
    }
}

/// What is kept of a request is what policies look at.
#[tokio::test]
async fn an_answer_stays_that_a_changed_policy_is_not_about() {
    let outside = endless(Arc::new(Semaphore::new(0))).await;
    let (mut node, proxy) = node().await;
    let deny = |path: &str| {
        let policies = vec![policy(Action::Deny, None, Some(path))];
        vec![external(outside.port(), OutsideProtocol::Http, policies)]
    };
    list(&mut node, deny("/admin"));
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let request = format!("GET http://{outside}/stream HTTP/1.1\r\nhost: {outside}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    timeout(SOON, read_head(&mut stream)).await.unwrap();
    let mut begun = [0; 7];
    timeout(SOON, stream.read_exact(&mut begun)).await.unwrap().unwrap();
    list(&mut node, deny("/other"));
    assert!(timeout(Duration::from_millis(100), stream.read_u8()).await.is_err(), "it goes on");
    list(&mut node, deny("/stream"));
    assert!(is_over(&mut stream).await);
}
