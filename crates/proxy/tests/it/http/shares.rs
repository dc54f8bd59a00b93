//! What one caller may take while another is there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Barrier, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tulle_model::name::WorkloadName;
use tulle_model::snapshot::AppProtocol;
use tulle_proxy::Capture;
use tulle_proxy::budget::{Budget, Payer, Resource};

use super::apps::{self, Answer, TestBody, full, http1, http2, read};
use super::crowds::read_frame;
use super::mesh::{Authority, Node, eventually, plain, service_name};

const SOON: Duration = Duration::from_secs(10);
const TOGETHER: usize = 30;

/// An application that answers `/hold` when it is told to, `/together` when there are [`TOGETHER`] of them, and
/// all else at once.
struct App {
    address: SocketAddr,
    held: Arc<AtomicUsize>,
    release: watch::Sender<bool>,
}

impl App {
    async fn start() -> Self {
        let (release, released) = watch::channel(false);
        let held = Arc::new(AtomicUsize::new(0));
        let counting = held.clone();
        let together = Arc::new(Barrier::new(TOGETHER));
        let address = apps::serve(move |request: Request<Incoming>| {
            let (mut released, held) = (released.clone(), counting.clone());
            let together = together.clone();
            async move {
                match request.uri().path() {
                    "/hold" => {
                        held.fetch_add(1, Ordering::Relaxed);
                        let _ = released.wait_for(|released| *released).await;
                    }
                    "/together" => {
                        together.wait().await;
                    }
                    _ => {}
                }
                Response::new(full("done"))
            }
        })
        .await;
        Self { address, held, release }
    }
}

/// A node with two callers, `greedy` and `polite`, of one application.
struct Neighbours {
    node: Node,
    greedy: SocketAddr,
    polite: SocketAddr,
}

async fn neighbours(app: &App, budget: Arc<Budget>) -> Neighbours {
    let authority = Authority::new();
    let mut node = Node::start_with("near", &authority, budget).await;
    node.add_service("c", AppProtocol::Http1, vec![plain(app.address)]);
    let mut listeners = Vec::new();
    for name in ["greedy", "polite"] {
        node.add_workload(&authority, name, &[]);
        let capture = Capture::Service { service: service_name("c"), port: 80 };
        listeners.push(node.listen_for(name, capture).await);
    }
    Neighbours { node, greedy: listeners[0], polite: listeners[1] }
}

fn get(path: &str) -> Request<TestBody> {
    Request::get(format!("http://c{path}")).body(full("")).unwrap()
}

async fn polite(address: SocketAddr) -> Answer {
    let request = Request::get("/").header("host", "c").body(full("")).unwrap();
    let answer = async { read(http1(address).await.send_request(request).await.unwrap()).await };
    timeout(SOON, answer).await.expect("an answer")
}

#[tokio::test]
async fn who_takes_all_memory_is_refused_while_others_are_served() {
    let app = App::start().await;
    let budget = Budget::new(8 << 20, 10_000);
    let mesh = neighbours(&app, budget.clone()).await;
    let client = http2(mesh.greedy).await;
    let mut waiting = JoinSet::new();
    let refused = Arc::new(AtomicUsize::new(0));
    for _ in 0..900 {
        let (mut client, refused) = (client.clone(), refused.clone());
        waiting.spawn(async move {
            let answer = client.send_request(get("/hold")).await.unwrap();
            if answer.status() == 503 {
                assert_eq!(answer.headers()["tulle-reason"], "memory");
                refused.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    eventually(|| (refused.load(Ordering::Relaxed) > 100).then_some(())).await;
    assert_eq!(polite(mesh.polite).await.status, 200);
    // A call of gRPC is told in its own way, and all that was refused is recorded.
    let call = Request::post("http://c/hold").header("content-type", "application/grpc");
    let call = call.body(full("a message that is sent with the head")).unwrap();
    let answer = read(client.clone().send_request(call).await.unwrap()).await;
    let reason = ["tulle-reason", "grpc-status"].map(|name| answer.headers[name].to_str().unwrap());
    assert_eq!((answer.status, reason), (200, ["memory", "14"]));
    let failed = |labels: &[&str]| mesh.node.metric("tulle_requests_total", labels);
    let code = "code=\"5xx\"";
    assert!(failed(&["source=\"greedy\"", code]) > 100, "{}", mesh.node.proxy().metrics());
    assert_eq!(failed(&["source=\"greedy\"", "protocol=\"grpc\"", "result=\"refused\""]), 1);
    assert_eq!(failed(&["source=\"polite\"", code]), 0);
    let held = |name: &str| {
        let rows = budget.rows();
        let name = Payer::Workload(WorkloadName::new("default", name));
        rows.iter().find(|row| row.payer.as_ref() == Some(&name)).map_or(0, |row| row.memory)
    };
    assert!(held("greedy") <= budget.total(Resource::Memory) / 2);
    assert!(held("greedy") >= budget.total(Resource::Memory) / 3, "{}", held("greedy"));
    waiting.shutdown().await;
    drop(client);
    app.release.send_replace(true);
    eventually(|| (held("greedy") < 1 << 20).then_some(())).await;
    assert_eq!(polite(mesh.greedy).await.status, 200);
}

#[tokio::test]
async fn who_takes_all_connections_to_an_application_waits_for_its_own() {
    let app = App::start().await;
    // A quarter of them may be to one application, and there is one worker.
    let mesh = neighbours(&app, Budget::new(u64::MAX, 4 * 128)).await;
    let client = http2(mesh.greedy).await;
    let mut waiting = JoinSet::new();
    for _ in 0..300 {
        let mut client = client.clone();
        waiting.spawn(async move { read(client.send_request(get("/hold")).await.unwrap()).await.status });
    }
    eventually(|| (app.held.load(Ordering::Relaxed) >= 64).then_some(())).await;
    assert_eq!(polite(mesh.polite).await.status, 200);
    assert_eq!(app.held.load(Ordering::Relaxed), 64, "half of them are left to others");
    app.release.send_replace(true);
    while let Some(status) = timeout(SOON, waiting.join_next()).await.expect("all are answered") {
        assert_eq!(status.unwrap(), 200);
    }
}

/// Who opens one more connection than there is memory, or a descriptor, for is told so in HTTP/2's way.
#[tokio::test]
async fn a_connection_that_is_not_served_ends_with_goaway() {
    for (budget, what) in [
        // For a connection, and not for what HTTP/2 takes more.
        (Budget::new(160 << 10, 1000), "memory"),
        (Budget::new(100 << 10, 1000), "memory"),
        (Budget::new(u64::MAX, 20), "descriptors"),
    ] {
        let app = App::start().await;
        let mesh = neighbours(&app, budget).await;
        let label = format!("reason=\"{what}\"");
        let rejected = || mesh.node.metric("tulle_connections_rejected_total", &[&label]);
        let mut kept = Vec::new();
        let (last, reason) = loop {
            let mut client = TcpStream::connect(mesh.greedy).await.unwrap();
            client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
            let goaway = async {
                loop {
                    match read_frame(&mut client).await.expect("no bare close") {
                        (7, _, _, payload) => return payload,
                        (4, 1, ..) => std::future::pending().await,
                        _ => {}
                    }
                }
            };
            if let Ok(payload) = timeout(Duration::from_millis(300), goaway).await {
                let (last, rest) = payload.split_at(4);
                break (last.to_vec(), rest[..4].to_vec());
            }
            assert_eq!(rejected(), 0, "{what}");
            kept.push(client);
            assert!(kept.len() < 20, "{what}");
        };
        assert_eq!((last, reason), (vec![0; 4], vec![0, 0, 0, 11]), "{what}");
        assert_eq!(rejected(), 1, "{what}");
    }
}

/// The same of a link, of whose peer there is a share, too.
#[tokio::test]
async fn a_link_that_is_not_served_ends_with_goaway() {
    let authority = Authority::new();
    let mut near = Node::start("near", &authority).await;
    // For a handshake, and not for a link.
    let mut far = Node::start_with("far", &authority, Budget::new(150 << 10, 1000)).await;
    let endpoint = far.add_workload(&authority, "c-0", &[80]);
    near.add_service("c", AppProtocol::Http1, vec![endpoint]);
    let answer = polite(near.listen("c").await).await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("ENHANCE_YOUR_CALM"), "{}", answer.body);
    assert!(far.metric("tulle_connections_rejected_total", &["reason=\"memory\""]) > 0);
}

/// A connection is counted for who uses it, not for who opened it.
#[tokio::test]
async fn idle_connections_of_one_are_no_share_of_another() {
    let app = App::start().await;
    let mesh = neighbours(&app, Budget::new(u64::MAX, 4 * 128)).await;
    let (greedy, polite) = (http2(mesh.greedy).await, http2(mesh.polite).await);
    let send = |client: &apps::Http2, path: &'static str, count: usize| {
        let mut answers = JoinSet::new();
        for _ in 0..count {
            let mut client = client.clone();
            answers.spawn(async move { read(client.send_request(get(path)).await.unwrap()).await.status });
        }
        answers
    };
    let all_are_answered = async |mut answers: JoinSet<u16>| {
        while let Some(status) = timeout(SOON, answers.join_next()).await.expect("all are answered") {
            assert_eq!(status.unwrap(), 200);
        }
    };
    all_are_answered(send(&polite, "/together", TOGETHER)).await;
    let held = send(&greedy, "/hold", 300);
    eventually(|| (app.held.load(Ordering::Relaxed) >= 64).then_some(())).await;
    all_are_answered(send(&polite, "/together", TOGETHER)).await;
    assert_eq!(app.held.load(Ordering::Relaxed), 64, "half of them are left to others");
    app.release.send_replace(true);
    all_are_answered(held).await;
}

#[tokio::test]
async fn who_takes_all_descriptors_leaves_some_to_others() {
    let app = App::start().await;
    let budget = Budget::new(u64::MAX, 100);
    let mesh = neighbours(&app, budget.clone()).await;
    let mut open = Vec::new();
    for _ in 0..80 {
        // What is refused may be reset before the call has returned.
        open.extend(TcpStream::connect(mesh.greedy).await);
    }
    eventually(|| budget.sheds().find(|(why, count)| *why == "descriptors" && *count >= 20)).await;
    assert_eq!(polite(mesh.polite).await.status, 200);
    drop(open);
    eventually(|| budget.rows().iter().all(|row| row.descriptors < 10).then_some(())).await;
    assert_eq!(polite(mesh.greedy).await.status, 200);
}
