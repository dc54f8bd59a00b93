//! Peers that go away after each request, and leave its stream open.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustls::sign::SingleCertAndKey;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tulle_model::snapshot::AppProtocol;
use tulle_proxy::budget::Budget;

use super::apps::{self, full, http2};
use super::crowds::{frame, read_frame, read_preface, settings};
use super::mesh::{Authority, Node, eventually, identity, plain};

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// Connections to a process, or of a link, as the other end counts them.
#[derive(Clone, Default)]
struct Open(Arc<AtomicUsize>);

impl Open {
    fn count(&self) -> usize {
        self.0.load(Relaxed)
    }

    /// Begins to answer the first request, says that it goes away, and waits for the connection's end.
    async fn serve(self, mut io: impl AsyncRead + AsyncWrite + Unpin) {
        self.0.fetch_add(1, Relaxed);
        let _ = Self::go_away(&mut io).await;
        self.0.fetch_sub(1, Relaxed);
    }

    async fn go_away(io: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> std::io::Result<()> {
        read_preface(io).await;
        io.write_all(&settings(100)).await?;
        while let Some((kind, flags, stream, payload)) = read_frame(io).await {
            let out = match kind {
                SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => frame(PING, ACK, 0, &payload),
                HEADERS => {
                    let mut last = stream.to_be_bytes().to_vec();
                    last.extend([0; 4]);
                    // `:status: 200`, of the static table.
                    let head = frame(HEADERS, END_HEADERS, stream, &[0x88]);
                    [head, frame(GOAWAY, 0, 0, &last)].concat()
                }
                _ => continue,
            };
            io.write_all(&out).await?;
        }
        Ok(())
    }
}

/// A node whose workload `a` calls an application that goes away again and again.
struct Calls {
    _node: Node,
    address: SocketAddr,
    open: Open,
}

async fn to_application(budget: Arc<Budget>) -> Calls {
    let open = Open::default();
    let serving = open.clone();
    let app = apps::script(move |io| serving.clone().serve(io)).await;
    let mut node = Node::start_with("near", &Authority::new(), budget).await;
    node.add_service("c", AppProtocol::Http2, vec![plain(app)]);
    Calls { address: node.listen("c").await, _node: node, open }
}

/// What takes links as a node that runs `c`, whoever opens them.
pub fn acceptor(authority: &Authority) -> TlsAcceptor {
    let certificate = authority.certificate(&identity("c"));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.svid().key().clone())));
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// The same behind a node that does.
async fn over_links(budget: Arc<Budget>) -> Calls {
    let open = Open::default();
    let authority = Authority::new();
    let acceptor = acceptor(&authority);
    let serving = open.clone();
    let link = apps::script(move |io: TcpStream| {
        let (acceptor, serving) = (acceptor.clone(), serving.clone());
        async move {
            if let Ok(io) = acceptor.accept(io).await {
                serving.serve(io).await;
            }
        }
    })
    .await;
    let mut node = Node::start_with("near", &authority, budget).await;
    let mut far = Node::start("far", &authority).await;
    let mut endpoint = far.add_workload(&authority, "c-0", &[80]);
    endpoint.node.as_mut().unwrap().link = link;
    node.add_service("c", AppProtocol::Http2, vec![endpoint]);
    Calls { address: node.listen("c").await, _node: node, open }
}

impl Calls {
    /// So many calls, one after the other, whose answers stay open.
    async fn make(&self, count: usize) -> Vec<Response<Incoming>> {
        let mut client = http2(self.address).await;
        let mut answers = Vec::new();
        for _ in 0..count {
            let request = Request::get("http://c/").body(full("")).unwrap();
            answers.push(client.send_request(request).await.unwrap());
        }
        answers
    }
}

fn descriptors(budget: &Budget) -> u64 {
    budget.rows().iter().map(|row| row.descriptors).sum()
}

async fn at_most(calls: Calls, most: usize) {
    let mut answers = calls.make(most + 20).await;
    assert!(answers.iter().all(|answer| answer.status() == 200));
    eventually(|| (calls.open.count() <= most).then_some(())).await;
    // Those that are there longest are ended, and no others.
    let mut last = answers.pop().unwrap();
    assert!(answers[0].frame().await.unwrap().is_err());
    let going_on = tokio::time::timeout(Duration::from_millis(300), last.frame());
    assert!(going_on.await.is_err(), "the last one goes on");
    assert!(calls.open.count() >= most - 2, "{} of {most} are open", calls.open.count());
}

#[tokio::test]
async fn connections_that_are_left_with_streams_are_bounded() {
    at_most(to_application(Budget::unlimited()).await, 64 + 1).await;
    at_most(over_links(Budget::unlimited()).await, 128 + 1).await;
}

/// A connection is a descriptor until it is closed, whether it is given out or not.
#[tokio::test]
async fn connections_that_are_left_with_streams_are_paid_for() {
    let budget = Budget::new(u64::MAX, 80);
    let calls = to_application(budget.clone()).await;
    let answers = calls.make(60).await;
    let served = answers.iter().filter(|answer| answer.status() == 200).count();
    assert!((30..40).contains(&served), "{served} were answered");
    let refused = answers.iter().filter(|answer| answer.status() == 503);
    refused.for_each(|answer| assert_eq!(answer.headers()["tulle-reason"], "descriptors"));
    assert!(descriptors(&budget) >= served as u64);
    drop(answers);
    eventually(|| (descriptors(&budget) < 8).then_some(())).await;
}

/// A workload that has no descriptors left for links goes on with those that it has: the oldest make way.
#[tokio::test]
async fn links_that_are_left_with_streams_make_way() {
    let budget = Budget::new(u64::MAX, 80);
    let calls = over_links(budget.clone()).await;
    let answers = calls.make(60).await;
    assert!(answers.iter().all(|answer| answer.status() == 200));
    eventually(|| (descriptors(&budget) <= 42).then_some(())).await;
    assert!((16..42).contains(&calls.open.count()), "{} are open", calls.open.count());
}
