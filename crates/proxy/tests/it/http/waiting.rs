//! What bodies and opaque connections take of the memory's bound: what waits, and no more; and who can get no more
//! waits, and loses nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tulle_model::name::WorkloadName;
use tulle_model::snapshot::AppProtocol;
use tulle_proxy::Capture;
use tulle_proxy::budget::{Budget, Payer, Resource};

use super::apps::{full, http1, http2, read_head};
use super::mesh::{Authority, LOOPBACK, Node, Way, eventually, plain, service_name};

const MIB: u64 = 1 << 20;
const SOON: Duration = Duration::from_secs(20);

/// Service `c` for `greedy` and `polite`, from a node with that much memory.
struct Bounded {
    _near: Node,
    _far: Node,
    budgets: [Arc<Budget>; 2],
    greedy: SocketAddr,
    polite: SocketAddr,
}

async fn bounded(way: Way, protocol: AppProtocol, app: SocketAddr, memory: u64) -> Bounded {
    let authority = Authority::new();
    let budgets = [(); 2].map(|()| Budget::new(memory, 20_000));
    let mut near = Node::start_with("near", &authority, budgets[0].clone()).await;
    let mut far = Node::start_with("far", &authority, budgets[1].clone()).await;
    let endpoint = match way {
        Way::Plain => plain(app),
        Way::SameNode => near.add_workload(&authority, "c-0", &[app.port()]),
        Way::Link => far.add_workload(&authority, "c-0", &[app.port()]),
    };
    near.add_service("c", protocol, vec![endpoint]);
    let mut listeners = Vec::new();
    for name in ["greedy", "polite"] {
        near.add_workload(&authority, name, &[]);
        let capture = Capture::Service { service: service_name("c"), port: 80 };
        listeners.push(near.listen_for(name, capture).await);
    }
    Bounded { _near: near, _far: far, budgets, greedy: listeners[0], polite: listeners[1] }
}

impl Bounded {
    fn far_holds(&self) -> u64 {
        self.budgets[1].rows().iter().map(|row| row.memory).sum()
    }

    fn greedy_holds(&self) -> u64 {
        let greedy = Payer::Workload(WorkloadName::new("default", "greedy"));
        let rows = self.budgets[0].rows();
        rows.iter().find(|row| row.payer.as_ref() == Some(&greedy)).map_or(0, |row| row.memory)
    }

    /// Waits until a good part of the near node's memory is taken.
    async fn fills(&self) {
        let bound = self.budgets[0].total(Resource::Memory);
        self.until_held(Self::greedy_holds, bound / 5).await;
    }

    /// Waits until so much is held.
    async fn until_held(&self, held: impl Fn(&Self) -> u64, least: u64) {
        for _ in 0..2000 {
            self.check();
            if held(self) >= least {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?}", self.budgets.each_ref().map(|budget| budget.rows()));
    }

    /// Whether the bound holds for a while, too.
    async fn keeps_to_the_bound(&self) {
        for _ in 0..50 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.check();
        }
    }

    /// Fails if more is held than half of the bound, and one piece that was read before that was known.
    fn check(&self) {
        for budget in &self.budgets {
            let bound = budget.total(Resource::Memory);
            let rows = budget.rows();
            let held: u64 = rows.iter().map(|row| row.memory).sum();
            assert!(held <= bound / 2 + (256 << 10), "{held} of {bound}: {rows:?}");
        }
    }
}

/// A connection of which the kernel keeps little at this end; at the proxy's it may be 4 MiB.
async fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(128 << 10).unwrap();
    socket.connect(address).await.unwrap()
}

/// An application of which the kernel keeps little: what it does with each connection.
async fn script<F, R>(act: F) -> SocketAddr
where
    F: Fn(TcpStream) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(128 << 10).unwrap();
    socket.bind(SocketAddr::new(LOOPBACK, 0)).unwrap();
    let listener = socket.listen(1024).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(act(stream));
        }
    });
    address
}

/// An application that answers each request with the head of an event stream, and says more when it is told to.
async fn events() -> (SocketAddr, watch::Sender<usize>) {
    let (say, said) = watch::channel(0);
    let app = script(move |mut stream| {
        let mut said = said.clone();
        async move {
            read_head(&mut stream).await;
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            while said.changed().await.is_ok() {
                let event = "x".repeat(*said.borrow());
                let chunk = format!("{:x}\r\n{event}\r\n", event.len());
                if stream.write_all(chunk.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (app, say)
}

#[tokio::test]
async fn idle_streams_cost_little_before_and_after_they_were_busy() {
    const STREAMS: usize = 400;
    const EVENT: usize = 100 << 10;
    let (app, say) = events().await;
    let mesh = bounded(Way::Plain, AppProtocol::Http1, app, 32 * MIB).await;
    let client = http2(mesh.greedy).await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let request = http::Request::get("http://c/").body(full("")).unwrap();
        let mut client = client.clone();
        let answer = timeout(SOON, client.send_request(request)).await.expect("an answer").unwrap();
        assert_eq!(answer.status(), 200);
        streams.push(answer.into_body());
    }
    let idle = mesh.greedy_holds() / STREAMS as u64;
    assert!(idle < 40 << 10, "each takes {idle} bytes");
    // As much at once as would be four times the share.
    say.send_replace(EVENT);
    mesh.fills().await;
    let mut taken = JoinSet::new();
    for mut stream in streams {
        taken.spawn(async move {
            let mut seen = 0;
            while seen < EVENT {
                seen += stream.frame().await.unwrap().unwrap().into_data().unwrap().len();
            }
            stream
        });
    }
    let mut streams = Vec::new();
    while let Some(stream) = timeout(SOON, taken.join_next()).await.expect("more comes") {
        mesh.check();
        streams.push(stream.unwrap());
    }
    eventually(|| (mesh.greedy_holds() / STREAMS as u64 <= idle + 4096).then_some(())).await;
}

#[tokio::test]
async fn answers_that_nobody_takes_wait_within_the_bound_and_go_on() {
    const CLIENTS: usize = 30;
    const LENGTH: usize = 6 << 20;
    let app = script(|mut stream| async move {
        let head = read_head(&mut stream).await;
        let length = if head.starts_with("GET /small") { 1 } else { LENGTH };
        let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let _ = stream.write_all(&vec![b'x'; length]).await;
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    for way in [Way::Plain, Way::SameNode] {
        let mesh = bounded(way, AppProtocol::Http1, app, 7 * MIB / 2).await;
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let mut client = connect(mesh.greedy).await;
            client.write_all(b"GET / HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n").await.unwrap();
            clients.push(client);
        }
        mesh.fills().await;
        let request = http::Request::get("/small").header("host", "c").body(full("")).unwrap();
        let answer = timeout(SOON, async { http1(mesh.polite).await.send_request(request).await.unwrap() });
        assert_eq!(answer.await.expect("an answer").status(), 200, "{way:?}");
        let mut taken = JoinSet::new();
        for mut client in clients {
            taken.spawn(async move {
                let head = read_head(&mut client).await;
                let mut body = Vec::new();
                client.read_to_end(&mut body).await.map(|_| (head[..12].to_owned(), body.len()))
            });
        }
        while let Some(outcome) = timeout(SOON, taken.join_next()).await.expect("all are answered") {
            mesh.check();
            assert_eq!(outcome.unwrap().unwrap(), ("HTTP/1.1 200".to_owned(), LENGTH), "{way:?}");
        }
    }
}

#[tokio::test]
async fn bodies_that_nobody_takes_wait_within_the_bound_and_go_on() {
    const CLIENTS: usize = 30;
    const LENGTH: usize = 6 << 20;
    let (go, went) = watch::channel(false);
    let app = script(move |mut stream| {
        let mut went = went.clone();
        async move {
            read_head(&mut stream).await;
            let _ = went.wait_for(|went| *went).await;
            let mut body = vec![0; LENGTH];
            stream.read_exact(&mut body).await.unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await.unwrap();
        }
    })
    .await;
    for way in [Way::Plain, Way::SameNode] {
        go.send_replace(false);
        let mesh = bounded(way, AppProtocol::Http1, app, 6 * MIB).await;
        let mut sent = JoinSet::new();
        for _ in 0..CLIENTS {
            let mut client = connect(mesh.greedy).await;
            sent.spawn(async move {
                let head = format!("POST / HTTP/1.1\r\nhost: c\r\ncontent-length: {LENGTH}\r\n\r\n");
                client.write_all(head.as_bytes()).await.unwrap();
                client.write_all(&vec![b'x'; LENGTH]).await.unwrap();
                read_head(&mut client).await
            });
        }
        mesh.fills().await;
        go.send_replace(true);
        while let Some(answer) = timeout(SOON, sent.join_next()).await.expect("all are answered") {
            mesh.check();
            let answer = answer.unwrap();
            assert!(answer.starts_with("HTTP/1.1 204"), "{way:?}: {answer}");
        }
    }
}

/// What comes on links was asked for by windows, which are taken back. A link's, 8 MiB, has a place between what is spared and a
/// share.
#[tokio::test]
async fn opaque_bytes_wait_at_the_other_end_of_a_link_too() {
    const CLIENTS: usize = 24;
    const LENGTH: usize = 6 << 20;
    let (go, went) = watch::channel(false);
    let app = script(move |mut stream| {
        let mut went = went.clone();
        async move {
            let _ = went.wait_for(|went| *went).await;
            let count = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap();
            stream.write_all(count.to_string().as_bytes()).await.unwrap();
        }
    })
    .await;
    let mesh = bounded(Way::Link, AppProtocol::Tcp, app, 56 * MIB).await;
    let mut sent = JoinSet::new();
    for _ in 0..CLIENTS {
        let mut client = connect(mesh.greedy).await;
        sent.spawn(async move {
            client.write_all(&vec![b'x'; LENGTH]).await?;
            client.shutdown().await?;
            let mut count = String::new();
            client.read_to_string(&mut count).await.map(|_| count)
        });
    }
    mesh.until_held(Bounded::far_holds, 16 * MIB).await;
    mesh.keeps_to_the_bound().await;
    go.send_replace(true);
    while let Some(count) = timeout(SOON, sent.join_next()).await.expect("all go on") {
        mesh.check();
        assert_eq!(count.unwrap().unwrap(), LENGTH.to_string());
    }
}

/// The same of a client of HTTP/2, again and again on one connection. All that it may have under way then, 4 MiB, has
/// a place between what is spared for it and its share.
#[tokio::test]
async fn bodies_of_http2_wait_with_their_client() {
    const STREAMS: usize = 16;
    const LENGTH: usize = 6 << 20;
    let (go, went) = watch::channel(false);
    let body = Bytes::from((0..LENGTH >> 9).flat_map(|place| [place as u8; 512]).collect::<Vec<u8>>());
    let expected = body.clone();
    let app = script(move |mut stream| {
        let (mut went, expected) = (went.clone(), expected.clone());
        async move {
            read_head(&mut stream).await;
            let _ = went.wait_for(|went| *went).await;
            let mut body = vec![0; LENGTH];
            stream.read_exact(&mut body).await.unwrap();
            assert!(body == expected);
            stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let mesh = bounded(Way::Plain, AppProtocol::Http1, app, 32 * MIB).await;
    let client = http2(mesh.greedy).await;
    for round in 0..2 {
        go.send_replace(false);
        let mut sent = JoinSet::new();
        for _ in 0..STREAMS {
            let request = http::Request::post("http://c/").body(full(body.clone())).unwrap();
            let mut client = client.clone();
            sent.spawn(async move { client.send_request(request).await.map(|answer| answer.status()) });
        }
        mesh.until_held(Bounded::greedy_holds, 9 * MIB).await;
        mesh.keeps_to_the_bound().await;
        go.send_replace(true);
        while let Some(status) = timeout(SOON, sent.join_next()).await.expect("all are answered") {
            mesh.check();
            assert_eq!(status.unwrap().unwrap(), 204, "round {round}");
        }
        // Long enough that windows may be as large as before.
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
}

#[tokio::test]
async fn opaque_bytes_that_nobody_takes_wait_within_the_bound_and_go_on() {
    const CLIENTS: usize = 20;
    const LENGTH: usize = 6 << 20;
    let (go, went) = watch::channel(false);
    let app = script(move |mut stream| {
        let mut went = went.clone();
        async move {
            let _ = went.wait_for(|went| *went).await;
            let count = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap();
            stream.write_all(count.to_string().as_bytes()).await.unwrap();
        }
    })
    .await;
    for way in [Way::Plain, Way::SameNode] {
        go.send_replace(false);
        let mesh = bounded(way, AppProtocol::Tcp, app, 2 * MIB).await;
        let mut sent = JoinSet::new();
        for _ in 0..CLIENTS {
            let mut client = connect(mesh.greedy).await;
            sent.spawn(async move {
                client.write_all(&vec![b'x'; LENGTH]).await?;
                client.shutdown().await?;
                let mut count = String::new();
                client.read_to_string(&mut count).await.map(|_| count)
            });
        }
        mesh.fills().await;
        go.send_replace(true);
        while let Some(count) = timeout(SOON, sent.join_next()).await.expect("all go on") {
            mesh.check();
            assert_eq!(count.unwrap().unwrap(), LENGTH.to_string(), "{way:?}");
        }
    }
}
