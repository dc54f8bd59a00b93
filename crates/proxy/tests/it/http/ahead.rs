//! Clients of HTTP/1 that send more than what is answered: it is kept for them, charged, and in nobody's way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tulle_model::name::WorkloadName;
use tulle_model::snapshot::AppProtocol;
use tulle_proxy::budget::{Budget, Payer, Resource};
use tulle_proxy::{Bounds, Capture, Deadlines};

use super::apps::{self, full, read_head, read_to_end};
use super::mesh::{Authority, Node, WAYS, bounded_path, eventually, plain, service_name};

const SHORT: Duration = Duration::from_millis(400);
const LATE: &str = "GET /late HTTP/1.1\r\nhost: c\r\n\r\n";

/// A request of some size: what is many of them is quickly served.
fn get() -> String {
    format!("GET /y HTTP/1.1\r\nhost: c\r\nx-a: {}\r\n\r\n", "a".repeat(2000))
}

/// Bounds of which what is watched is looked at often.
fn bounds() -> Bounds {
    let deadlines = Deadlines { head: SHORT, body: SHORT, write: 100 * SHORT };
    Bounds { deadlines, ..Bounds::default() }
}

fn held(budget: &Budget, name: &str) -> usize {
    let name = Payer::Workload(WorkloadName::new("default", name));
    budget.rows().iter().find(|row| row.payer.as_ref() == Some(&name)).map_or(0, |row| row.memory) as usize
}

/// A node with a caller `greedy` of an application that never answers; requests that it has.
async fn never(budget: Arc<Budget>) -> (Node, std::net::SocketAddr, Arc<AtomicUsize>) {
    let open = Arc::new(AtomicUsize::new(0));
    let counting = open.clone();
    let app = apps::script(move |mut io| {
        let open = counting.clone();
        async move {
            read_head(&mut io).await;
            open.fetch_add(1, Ordering::Relaxed);
            while io.read(&mut [0; 4096]).await.is_ok_and(|count| count > 0) {}
            open.fetch_sub(1, Ordering::Relaxed);
        }
    })
    .await;
    let authority = Authority::new();
    let mut node = Node::start_with("near", &authority, budget).await;
    node.add_service("c", AppProtocol::Http1, vec![plain(app)]);
    node.add_workload(&authority, "greedy", &[]);
    let capture = Capture::Service { service: service_name("c"), port: 80 };
    let address = node.listen_for("greedy", capture).await;
    (node, address, open)
}

#[tokio::test]
async fn what_is_sent_ahead_is_charged() {
    let budget = Budget::new(256 << 20, 10_000);
    let (_node, address, open) = never(budget.clone()).await;
    let mut clients = Vec::new();
    const CLIENTS: usize = 40;
    const AHEAD: usize = 50 << 10;
    for _ in 0..CLIENTS {
        let mut client = TcpStream::connect(address).await.unwrap();
        // In one piece with the head of what is answered.
        let bytes = LATE.to_owned() + &get().repeat(AHEAD / get().len());
        client.write_all(bytes.as_bytes()).await.unwrap();
        clients.push(client);
    }
    eventually(|| (open.load(Ordering::Relaxed) == CLIENTS).then_some(())).await;
    let least = CLIENTS * (AHEAD + (16 << 10));
    eventually(|| (held(&budget, "greedy") >= least).then_some(())).await;
    for client in clients {
        client.set_zero_linger().unwrap();
    }
    eventually(|| (held(&budget, "greedy") < 1 << 20).then_some(())).await;
}

/// A client's departure is seen behind what it has sent and nobody reads: what it sent ahead is as much as is
/// taken, or there is no memory for more.
#[tokio::test]
async fn who_goes_behind_what_it_sent_ahead_is_missed() {
    for memory in [u64::MAX, 100 << 10] {
        let (_node, address, open) = never(Budget::new(memory, 10_000)).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(LATE.as_bytes()).await.unwrap();
        eventually(|| (open.load(Ordering::Relaxed) == 1).then_some(())).await;
        let ahead = get().repeat(1 << 14);
        let all = timeout(SHORT, client.write_all(ahead.as_bytes())).await;
        assert!(all.is_err(), "there is an end to what is taken");
        assert_eq!(open.load(Ordering::Relaxed), 1, "{memory}");
        client.set_zero_linger().unwrap();
        drop(client);
        eventually(|| (open.load(Ordering::Relaxed) == 0).then_some(())).await;
    }
}

/// A client that has closed its side behind that gets all of its answers.
#[tokio::test]
async fn who_only_sends_no_more_is_answered_to_the_end() {
    for way in WAYS {
        let app = apps::serve(|request: Request<Incoming>| async move {
            if request.uri().path() == "/late" {
                sleep(2 * SHORT).await;
            }
            Response::new(full("done"))
        })
        .await;
        let path = bounded_path(way, AppProtocol::Http1, app, bounds()).await;
        let mut client = TcpStream::connect(path.address).await.unwrap();
        // More than is read ahead, and less than what the kernel takes beside.
        let count = (80 << 10) / get().len();
        client.write_all((LATE.to_owned() + &get().repeat(count)).as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let answers = read_to_end(&mut client).await;
        assert_eq!(answers.matches("HTTP/1.1 200 ").count(), count + 1, "{way:?}");
    }
}

/// Trailers are kept until they are whole: those that there is no memory for are refused.
#[tokio::test]
async fn trailers_that_do_not_end_are_refused_where_memory_is_short() {
    const CLIENTS: usize = 40;
    let budget = Budget::new(4 << 20, 10_000);
    let (node, address, open) = never(budget.clone()).await;
    for section in
        [format!("x-a: {}", "t".repeat(50_000)), format!("x-a: {}\r\n", "t".repeat(300)).repeat(150)]
    {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let mut client = TcpStream::connect(address).await.unwrap();
            let head = "POST / HTTP/1.1\r\nhost: c\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n";
            client.write_all(head.as_bytes()).await.unwrap();
            clients.push(client);
        }
        // None is refused at the door, where one without memory gets no answer.
        eventually(|| (open.load(Ordering::Relaxed) == CLIENTS).then_some(())).await;
        for client in &mut clients {
            // Who is refused may be so before all is sent.
            let _ = client.write_all(section.as_bytes()).await;
        }
        let mut refused = 0;
        for client in &mut clients {
            let mut answer = [0; 1024];
            // Others wait.
            let Ok(answered) = timeout(SHORT / 4, client.read(&mut answer)).await else { continue };
            let answer = String::from_utf8_lossy(&answer[..answered.unwrap()]);
            assert!(
                answer.starts_with("HTTP/1.1 503 ") && answer.contains("tulle-reason: memory"),
                "{answer}"
            );
            refused += 1;
        }
        let most = budget.total(Resource::Memory) as usize / 2 + (64 << 10);
        assert!(held(&budget, "greedy") <= most, "{}", held(&budget, "greedy"));
        assert!((CLIENTS / 4..CLIENTS).contains(&refused), "{refused}");
        drop(clients);
        eventually(|| (open.load(Ordering::Relaxed) == 0).then_some(())).await;
        eventually(|| (held(&budget, "greedy") < 1 << 20).then_some(())).await;
    }
    assert_eq!(node.metric("tulle_retries_total", &[]), 0);
}
