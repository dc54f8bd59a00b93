//! What happens when endpoints fail.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;
use tulle_model::name::NamespacedName;
use tulle_model::snapshot::{
    AppProtocol, Backend, BackendTarget, HttpMatch, HttpRouteEntry, HttpRouteTable, HttpRule, PathMatch,
};
use tulle_proxy::budget::Budget;
use tulle_proxy::{Bounds, Waiting};

use super::apps::{self, app, exchange, full, get, http1, read, read_head};
use super::mesh::{Authority, Node, WAYS, Way, eventually, path, plain, service_name};

async fn status(address: SocketAddr, path: &str) -> (u16, String) {
    let answer = get(address, path).await;
    let reason = answer.headers.get("tulle-reason").map_or("", |r| r.to_str().unwrap()).to_owned();
    (answer.status, reason)
}

#[tokio::test]
async fn reasons_are_given() {
    let mut node = Node::start("near", &Authority::new()).await;
    node.add_service("empty", AppProtocol::Http1, Vec::new());
    assert_eq!(status(node.listen("empty").await, "/").await, (503, "no-endpoints".into()));
    for way in WAYS {
        let (_held, nowhere) = apps::nowhere();
        let path = path(way, AppProtocol::Http1, nowhere).await;
        assert_eq!(status(path.address, "/").await, (503, "connect-failed".into()), "{way:?}");
        let edge = path.near.edge_with("c", 1).await;
        assert_eq!((edge.requests, edge.failures), (1, 1), "{way:?}");
    }
    for way in WAYS {
        let rude = apps::script(|mut stream| async move {
            read_head(&mut stream).await;
        })
        .await;
        let path = path(way, AppProtocol::Http1, rude).await;
        assert_eq!(status(path.address, "/").await, (502, "connection-lost".into()), "{way:?}");
    }
}

/// However many connections rest that it could be sent on.
#[tokio::test]
async fn a_request_that_ends_connections_comes_three_times_at_most() {
    const CONNECTIONS: usize = 8;
    for way in WAYS {
        let (came, all_open) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(CONNECTIONS)));
        let counting = came.clone();
        let app = apps::script(move |mut stream| {
            let (came, all_open) = (counting.clone(), all_open.clone());
            async move {
                loop {
                    let head = read_head(&mut stream).await;
                    if head.is_empty() {
                        return;
                    }
                    if head.starts_with("GET /deadly") {
                        came.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                    all_open.wait().await;
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                }
            }
        })
        .await;
        let path = path(way, AppProtocol::Http1, app).await;
        let all = (0..CONNECTIONS).map(|_| get(path.address, "/"));
        assert!(futures_util::future::join_all(all).await.iter().all(|answer| answer.status == 200));
        assert_eq!(status(path.address, "/deadly").await, (502, "connection-lost".into()), "{way:?}");
        assert_eq!(came.load(Ordering::Relaxed), 3, "{way:?}");
        assert_eq!(path.near.metric("tulle_retries_total", &[]), 2, "{way:?}");
    }
}

#[tokio::test]
async fn routes_decide() {
    let authority = Authority::new();
    let mut node = Node::start("near", &authority).await;
    let (one, two) = (apps::serve(app).await, apps::serve(app).await);
    node.add_service("one", AppProtocol::Http1, vec![plain(one)]);
    node.add_service("two", AppProtocol::Http1, vec![plain(two)]);
    node.add_service("d", AppProtocol::Http1, Vec::new());
    let entry = |prefix: &str, backends: Vec<Backend>| HttpRouteEntry {
        matcher: HttpMatch {
            path: PathMatch::Prefix(prefix.to_owned()),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        },
        rule: Arc::new(HttpRule::new(NamespacedName::new("default", "r"), 0, None, backends)),
    };
    let to = |name: &str, weight| {
        Backend::new(BackendTarget::Service { name: service_name(name), port: 80 }, weight)
    };
    let invalid = Backend::new(BackendTarget::Invalid { reason: "no service x".into() }, 1);
    let routes = HttpRouteTable::new(vec![
        entry("/split", vec![to("one", 9), to("two", 1)]),
        entry("/bad", vec![invalid]),
        entry("/none", Vec::new()),
    ]);
    node.change_port("d", |port| port.http_routes = routes);
    let address = node.listen("d").await;
    assert_eq!(status(address, "/other").await, (404, "no-route".into()));
    assert_eq!(status(address, "/bad").await, (500, "invalid-backend".into()));
    assert_eq!(status(address, "/none").await, (500, "invalid-backend".into()));
    let mut client = http1(address).await;
    for _ in 0..1000 {
        client.ready().await.unwrap();
        let request = Request::get("/split/x").header("host", "d").body(full("")).unwrap();
        read(client.send_request(request).await.unwrap()).await;
    }
    let (one, two) = (node.edge_with("one", 800).await, node.edge_with("two", 50).await);
    assert_eq!((one.requests + two.requests, one.failures + two.failures), (1000, 0));
    assert!((850..950).contains(&one.requests), "{}", one.requests);
}

#[tokio::test]
async fn a_dead_endpoint_is_passed_over() {
    let authority = Authority::new();
    let mut near = Node::start("near", &authority).await;
    let mut far = Node::start("far", &authority).await;
    let live = apps::serve(app).await;
    let (_held, nowhere) = apps::nowhere();
    let endpoints = vec![
        near.add_workload(&authority, "c-0", &[nowhere.port()]),
        far.add_workload(&authority, "c-1", &[nowhere.port()]),
        far.add_workload(&authority, "c-2", &[live.port()]),
    ];
    near.add_service("c", AppProtocol::Http1, endpoints);
    let address = near.listen("c").await;
    for n in 0..50 {
        let request = Request::post("/").header("host", "c").body(full("hello")).unwrap();
        let answer = read(http1(address).await.send_request(request).await.unwrap()).await;
        assert_eq!(answer.status, 200, "{n}: {}", answer.body);
        assert!(answer.body.ends_with("hello"), "{n}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_stopping_workload_fails_nobody() {
    for far_away in [false, true] {
        let authority = Authority::new();
        let mut near = Node::start("near", &authority).await;
        let mut far = Node::start("far", &authority).await;
        let mut endpoints = Vec::new();
        for name in ["c-0", "c-1", "c-2"] {
            let app = apps::serve(app).await;
            let node = if far_away { &mut far } else { &mut near };
            endpoints.push(node.add_workload(&authority, name, &[app.port()]));
        }
        near.add_service("c", AppProtocol::Detect, endpoints);
        let address = near.listen("c").await;
        let [stop, answered] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let mut load = tokio::task::JoinSet::new();
        for worker in 0..8 {
            let (stop, answered) = (stop.clone(), answered.clone());
            load.spawn(async move {
                let mut client = http1(address).await;
                while stop.load(Ordering::Relaxed) == 0 {
                    client.ready().await.unwrap();
                    let request = match worker % 2 {
                        0 => Request::get("/sized").header("host", "c").body(full("")).unwrap(),
                        _ => Request::post("/echo").header("host", "c").body(full("hello")).unwrap(),
                    };
                    let answer = read(client.send_request(request).await.unwrap()).await;
                    assert_eq!(answer.status, 200, "{:?}", answer.headers.get("tulle-reason"));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let until = async |count| {
            super::mesh::eventually(|| (answered.load(Ordering::Relaxed) >= count).then_some(())).await;
        };
        until(100).await;
        let node = if far_away { &mut far } else { &mut near };
        node.drain_workload("c-1");
        let stopping = NamespacedName::new("default", "c-1");
        super::mesh::eventually(|| (node.proxy().in_flight(&stopping) == 0).then_some(())).await;
        until(answered.load(Ordering::Relaxed) + 100).await;
        stop.store(1, Ordering::Relaxed);
        load.join_all().await;
        assert_eq!(near.edge("c").unwrap().failures, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_application_fails_only_what_was_in_flight_on_it() {
    for far_away in [false, true] {
        let authority = Authority::new();
        let mut near = Node::start("near", &authority).await;
        let mut far = Node::start("far", &authority).await;
        let mut endpoints = Vec::new();
        let mut servers = Vec::new();
        for name in ["c-0", "c-1", "c-2"] {
            let (app, server) = apps::serve_until_aborted(app).await;
            servers.push(server);
            let node = if far_away { &mut far } else { &mut near };
            endpoints.push(node.add_workload(&authority, name, &[app.port()]));
        }
        near.add_service("c", AppProtocol::Http1, endpoints);
        let address = near.listen("c").await;
        let clients = 12;
        let stop = Arc::new(AtomicUsize::new(0));
        let mut load = tokio::task::JoinSet::new();
        for client in 0..clients {
            let stop = stop.clone();
            load.spawn(async move {
                let mut connection = http1(address).await;
                while stop.load(Ordering::Relaxed) == 0 {
                    connection.ready().await.unwrap();
                    let request = match client % 2 {
                        0 => Request::get("/sized").header("host", "c").body(full("")).unwrap(),
                        _ => Request::post("/echo").header("host", "c").body(full("hello")).unwrap(),
                    };
                    let answer = connection.send_request(request).await.unwrap();
                    let whole = http_body_util::BodyExt::collect(answer.into_body()).await;
                    // What is in flight may also break in the middle.
                    let Ok(_) = whole else {
                        connection = http1(address).await;
                        continue;
                    };
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        servers.remove(1).abort();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let soon = near.edge("c").unwrap();
        assert!(soon.failures <= clients, "{}", soon.failures);
        near.edge_with("c", soon.requests + 500).await;
        stop.store(1, Ordering::Relaxed);
        load.join_all().await;
        assert_eq!(near.edge("c").unwrap().failures, soon.failures, "no failure later than a second");
    }
}

/// An application that closes its connection right after each answer, though it promised to keep it.
async fn closes_after_each() -> (SocketAddr, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let app = apps::script(move |mut stream| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    (app, connections)
}

#[tokio::test]
async fn a_dead_idle_connection_fails_no_request() {
    for way in WAYS {
        let (app, connections) = closes_after_each().await;
        let path = path(way, AppProtocol::Http1, app).await;
        let mut client = http1(path.address).await;
        for n in 0..100 {
            client.ready().await.unwrap();
            let request = Request::get("/").header("host", "c").body(full("")).unwrap();
            let answer = read(client.send_request(request).await.unwrap()).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "ok"), "{way:?} {n}");
        }
        assert!(connections.load(Ordering::Relaxed) >= 100);
    }
}

/// What cannot be repeated does not go out on a connection that may be closing.
#[tokio::test]
async fn an_application_that_closes_after_each_answer_fails_no_post() {
    for way in WAYS {
        let (app, _) = closes_after_each().await;
        let path = path(way, AppProtocol::Http1, app).await;
        let mut client = http1(path.address).await;
        for n in 0..100 {
            client.ready().await.unwrap();
            let request = Request::post("/").header("host", "c").body(full("")).unwrap();
            let answer = read(client.send_request(request).await.unwrap()).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "ok"), "{way:?} {n}");
        }
    }
}

/// Nagle's algorithm there and delayed acknowledgements here must not wait for each other.
#[tokio::test]
async fn a_body_written_after_its_head_does_not_wait() {
    for way in WAYS {
        let app = apps::script(move |mut stream| async move {
            stream.set_nodelay(false).unwrap();
            while !read_head(&mut stream).await.is_empty() {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").await.unwrap();
                stream.write_all(b"ok").await.unwrap();
            }
        })
        .await;
        let path = path(way, AppProtocol::Http1, app).await;
        let mut took = Vec::new();
        for _ in 0..50 {
            let began = std::time::Instant::now();
            assert_eq!(get(path.address, "/").await.body, "ok");
            took.push(began.elapsed());
        }
        took.sort_unstable();
        // Otherwise all take 40 ms but the first ones on a connection, which the kernel acknowledges at once.
        assert!(took[25] < std::time::Duration::from_millis(35), "{way:?}: {took:?}");
    }
}

/// Idle connections do not keep an application busy that serves one after the other.
#[tokio::test]
async fn an_application_that_serves_one_connection_at_a_time_starves_nobody() {
    for way in WAYS {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                while !read_head(&mut stream).await.is_empty() {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                }
            }
        });
        let path = path(way, AppProtocol::Http1, app).await;
        let began = std::time::Instant::now();
        let gets: tokio::task::JoinSet<_> = (0..6).map(|_| get(path.address, "/")).collect();
        assert!(gets.join_all().await.iter().all(|answer| answer.body == "ok"), "{way:?}");
        assert!(began.elapsed() < std::time::Duration::from_secs(3), "{way:?}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn connections_to_the_application_are_reused() {
    for way in WAYS {
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let app = apps::script(move |mut stream| {
            counted.fetch_add(1, Ordering::Relaxed);
            async move {
                while !read_head(&mut stream).await.is_empty() {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                }
            }
        })
        .await;
        let path = path(way, AppProtocol::Http1, app).await;
        for _ in 0..20 {
            assert_eq!(get(path.address, "/").await.body, "ok");
        }
        assert!(connections.load(Ordering::Relaxed) <= 3, "{way:?}: {connections:?}");
    }
}

#[tokio::test]
async fn what_may_have_been_done_is_not_done_twice() {
    for way in WAYS {
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = requests.clone();
        let app = apps::script(move |mut stream| {
            let counted = counted.clone();
            async move {
                let head = read_head(&mut stream).await;
                if counted.fetch_add(1, Ordering::Relaxed) > 0 && head.starts_with("GET") {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                } else {
                    let mut body = [0; 5];
                    let _ = stream.read(&mut body).await;
                }
            }
        })
        .await;
        let path = path(way, AppProtocol::Http1, app).await;
        let text = "POST / HTTP/1.1\r\nhost: c\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello";
        let answer = exchange(path.address, text).await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{way:?}: {answer}");
        assert!(answer.contains("tulle-reason: connection-lost") && !answer.contains("tulle-retry"));
        assert_eq!(requests.load(Ordering::Relaxed), 1, "{way:?}");
        // A GET may be repeated, and is.
        assert_eq!(get(path.address, "/").await.body, "ok", "{way:?}");
    }
}

#[tokio::test]
async fn a_broken_answer_is_broken_for_the_client_too() {
    for way in WAYS {
        let app = apps::script(|mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await.unwrap();
        })
        .await;
        let path = path(way, AppProtocol::Http1, app).await;
        let answer = exchange(path.address, "GET / HTTP/1.1\r\nhost: c\r\n\r\n").await;
        // A link's reset may overtake what came before it, at the one end or at the other.
        let broken = answer.is_empty() || answer.ends_with("half") || answer.starts_with("HTTP/1.1 502 ");
        assert!(broken, "{way:?}: {answer}");
        assert_eq!(path.near.edge_with("c", 1).await.failures, 1, "{way:?}");
    }
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_flight() {
    for way in WAYS {
        let (app, came) = apps::serve_telling().await;
        let path = path(way, AppProtocol::Http1, app).await;
        let mut client = http1(path.address).await;
        let request = Request::get("/slow").header("host", "c").body(full("")).unwrap();
        let pending = tokio::spawn(async move { read(client.send_request(request).await.unwrap()).await });
        came.notified().await;
        let begin = std::time::Instant::now();
        path.near.proxy.drain(Duration::from_secs(5)).await;
        assert!(begin.elapsed() < Duration::from_secs(3), "{way:?}: {:?}", begin.elapsed());
        assert_eq!(pending.await.unwrap().body, "slow", "{way:?}");
    }
}

/// A client that gives up one request after the other must not use up the ports towards the application.
#[tokio::test]
async fn a_request_that_is_given_up_ends_with_a_reset() {
    const HALF: &str = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";
    const WHOLE: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc";
    for way in WAYS {
        for (said, end) in [("", "reset"), (HALF, "reset"), (WHOLE, "end")] {
            let seen = Arc::new(Mutex::new(Vec::new()));
            let events = seen.clone();
            let app = apps::script(move |mut stream| {
                let events = events.clone();
                async move {
                    read_head(&mut stream).await;
                    stream.write_all(said.as_bytes()).await.unwrap();
                    events.lock().unwrap().push("request");
                    let end = stream.read(&mut [0]).await.map_or("reset", |_| "end");
                    events.lock().unwrap().push(end);
                }
            })
            .await;
            let path = path(way, AppProtocol::Http1, app).await;
            let mut client = TcpStream::connect(path.address).await.unwrap();
            client.write_all(b"GET / HTTP/1.1\r\nhost: c\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            while !said.is_empty() && !answer.ends_with(b"abc") {
                assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0, "{way:?} {said}");
            }
            let seen = &seen;
            let saw = |event| eventually(move || seen.lock().unwrap().contains(&event).then_some(()));
            saw("request").await;
            // After an orderly end it would still be answered.
            client.set_zero_linger().unwrap();
            drop(client);
            saw(end).await;
            assert_eq!(*seen.lock().unwrap(), ["request", end], "{way:?} {said}");
        }
    }
}

/// Connections of bytes are tried again out of the same budget as requests: a fifth of what is asked for, and a hundred in
/// ten seconds.
#[tokio::test]
async fn retries_of_connections_are_bounded_as_those_of_requests_are() {
    const ASKED: u64 = 500;
    for protocol in [AppProtocol::Tcp, AppProtocol::Http1] {
        let held: Vec<_> = (0..3).map(|_| apps::nowhere()).collect();
        let mut node = Node::start("near", &Authority::new()).await;
        node.add_service("c", protocol, held.iter().map(|(_, address)| plain(*address)).collect());
        let address = node.listen("c").await;
        let began = tokio::time::Instant::now();
        for _ in 0..ASKED {
            // A connection of bytes is reset, as early as it likes.
            let Ok(mut stream) = TcpStream::connect(address).await else { continue };
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n").await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        let edge = node.edge_with("c", ASKED).await;
        assert_eq!((edge.requests, edge.failures), (ASKED, ASKED), "{protocol:?}");
        let retries = node.metric("tulle_retries_total", &[]);
        // More where it took longer than the ten seconds.
        let floor = 100 + 10 * began.elapsed().as_secs();
        assert!((100..=ASKED / 5 + floor).contains(&retries), "{protocol:?}: {retries}");
    }
}

/// What failed at the application is said alike on its own node and over a link.
#[tokio::test]
async fn a_failure_is_named_alike_on_every_way() {
    for (what, reason) in
        [("refuses", "connect-failed"), ("ends", "connection-lost"), ("babbles", "bad-answer")]
    {
        let (held, nowhere) = apps::nowhere();
        let app = match what {
            "refuses" => nowhere,
            "ends" => apps::script(|mut stream| async move { drop(read_head(&mut stream).await) }).await,
            _ => {
                apps::script(|mut stream| async move {
                    read_head(&mut stream).await;
                    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n";
                    stream.write_all(answer.as_bytes()).await.unwrap();
                })
                .await
            }
        };
        let mut said = Vec::new();
        for way in [Way::SameNode, Way::Link] {
            let path = path(way, AppProtocol::Http1, app).await;
            let answer = exchange(
                path.address,
                "POST / HTTP/1.1\r\nhost: c\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            )
            .await;
            assert!(answer.contains(&format!("\r\ntulle-reason: {reason}\r\n")), "{way:?} {what}: {answer}");
            said.push(
                answer.lines().filter(|line| !line.starts_with("date: ")).collect::<Vec<_>>().join("\n"),
            );
            let label = format!("reason=\"{reason}\"");
            assert_eq!(path.near.metric("tulle_requests_refused_total", &[&label]), 1, "{way:?} {what}");
        }
        assert_eq!(said[0], said[1], "{what}");
        drop(held);
    }
}

/// One that has no room for more has none a moment later: where there is no other, nobody waits for it again.
#[tokio::test]
async fn one_crowded_application_is_not_asked_again() {
    const ASKED: u64 = 90;
    // A caller has half of the connections that an application gets at least.
    const SERVED: u64 = 64;
    let silent = apps::script(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    for local in [false, true] {
        let authority = Authority::new();
        let waiting = Waiting { most: 10, patience: Duration::from_millis(300) };
        let bounds = Bounds { waiting, ..Bounds::default() };
        let mut node = Node::with("near", &authority, Budget::new(u64::MAX, 512), bounds).await;
        let endpoint = match local {
            true => node.add_workload(&authority, "c-0", &[silent.port()]),
            false => plain(silent),
        };
        node.add_service("c", AppProtocol::Http1, vec![endpoint]);
        let address = node.listen("c").await;
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..ASKED {
            clients.spawn(exchange(address, "GET / HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n"));
        }
        let refused = || node.metric("tulle_requests_refused_total", &["reason=\"application-connections\""]);
        eventually(|| (refused() == ASKED - SERVED).then_some(())).await;
        assert_eq!(node.metric("tulle_retries_total", &[]), 0, "{local}");
        assert_eq!(node.metric("tulle_shed_total", &["reason=\"application-connections\""]), ASKED - SERVED);
        clients.abort_all();
    }
}
