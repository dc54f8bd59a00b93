//! HTTP/2 with prior knowledge, and gRPC's four kinds of calls as it sees them.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::sync::mpsc;
use tulle_model::snapshot::AppProtocol;

use super::apps::{self, TestBody, app, chunks, full, http1, http2, read};
use super::mesh::{WAYS, Way, path};

#[tokio::test]
async fn the_application_is_spoken_to_as_the_client_speaks() {
    for way in WAYS {
        let path = path(way, AppProtocol::Detect, apps::serve(app).await).await;
        let mut client = http2(path.address).await;
        let request = Request::get("http://c.shop/x").header("te", "trailers").body(full("")).unwrap();
        let answer = read(client.send_request(request).await.unwrap()).await;
        assert!(answer.body.starts_with("GET http://c.shop/x HTTP/2.0\n"), "{way:?}: {}", answer.body);
        assert!(answer.body.contains("te: trailers"), "{way:?}: {}", answer.body);
        assert!(!answer.body.contains("tulle-"), "{way:?}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_declared_protocol_decides() {
    for way in WAYS {
        let path = path(way, AppProtocol::Http1, apps::serve(app).await).await;
        let request = Request::get("http://c/x")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(full(""))
            .unwrap();
        let answer = read(http2(path.address).await.send_request(request).await.unwrap()).await;
        assert!(answer.body.starts_with("GET /x HTTP/1.1\n"), "{way:?}: {}", answer.body);
        assert!(answer.body.contains("cookie: a=1; b=2"), "{way:?}: {}", answer.body);
        assert!(answer.body.contains("host: c"), "{way:?}: {}", answer.body);
    }
    for way in WAYS {
        let path = path(way, AppProtocol::Http2, apps::serve(app).await).await;
        let request = Request::post("/x").header("host", "c").body(full("body")).unwrap();
        let answer = read(http1(path.address).await.send_request(request).await.unwrap()).await;
        assert!(answer.body.starts_with("POST http://c/x HTTP/2.0\n"), "{way:?}: {}", answer.body);
        assert!(answer.body.ends_with("body"));
    }
}

#[tokio::test]
async fn many_streams_share_a_connection() {
    for way in WAYS {
        let path = path(way, AppProtocol::Detect, apps::serve(app).await).await;
        let client = http2(path.address).await;
        let begin = std::time::Instant::now();
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..300 {
            let mut client = client.clone();
            calls.spawn(async move {
                let request = Request::get("http://c/slow").body(full("")).unwrap();
                read(client.send_request(request).await.unwrap()).await.status
            });
        }
        while let Some(status) = calls.join_next().await {
            assert_eq!(status.unwrap(), 200, "{way:?}");
        }
        assert!(begin.elapsed() < Duration::from_secs(5), "{way:?}: {:?}", begin.elapsed());
        assert_eq!(path.near.edge_with("c", 300).await.failures, 0);
    }
}

#[tokio::test]
async fn trailers_are_stripped_as_heads_are() {
    let own = || {
        let mut trailers = HeaderMap::new();
        for name in ["tulle-reason", "tulle-retry", "tulle-port", "tulle-new", "http2-settings"] {
            trailers.insert(name, "x".parse().unwrap());
        }
        trailers
    };
    let with_sum = move || {
        let mut trailers = own();
        trailers.insert("x-sum", "42".parse().unwrap());
        trailers
    };
    let app = move |request: Request<Incoming>| async move {
        let received = request.into_body().collect().await.unwrap();
        let text = format!("{:?}", received.trailers());
        // With nothing left, the body ends without trailers.
        let trailers = if received.to_bytes().is_empty() { own() } else { with_sum() };
        let frames = [Frame::data(Bytes::from(text)), Frame::trailers(trailers)].map(Ok);
        Response::new(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames))))
    };
    for way in WAYS {
        let path = path(way, AppProtocol::Http2, apps::serve(app).await).await;
        let mut client = http2(path.address).await;
        let mut ask = async |data: Vec<&'static str>| {
            let request = Request::post("http://c/").body(chunks(data, Some(with_sum()))).unwrap();
            read(client.send_request(request).await.unwrap()).await
        };
        let answer = ask(vec!["a"]).await;
        assert_eq!(answer.body, r#"Some({"x-sum": "42"})"#, "{way:?}");
        let mut expected = HeaderMap::new();
        expected.insert("x-sum", "42".parse().unwrap());
        assert_eq!(answer.trailers, Some(expected), "{way:?}");
        assert_eq!(ask(vec![]).await.trailers, None, "{way:?}");
    }
}

/// A gRPC service at the level of HTTP/2: it answers each message as it comes, or one to all, or several
/// to one, and ends with trailers.
async fn grpc(request: Request<Incoming>) -> Response<TestBody> {
    let path = request.uri().path().to_owned();
    let mut body = request.into_body();
    let (sender, mut frames) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut all = Vec::new();
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            if path == "/bidi" {
                sender.send(Frame::data(data)).await.unwrap();
            } else {
                all.extend_from_slice(&data);
            }
        }
        match path.as_str() {
            "/bidi" => {}
            "/server" => {
                for part in ["1", "2", "3"] {
                    sender.send(Frame::data(Bytes::from(part))).await.unwrap();
                }
            }
            _ => sender.send(Frame::data(Bytes::from(all))).await.unwrap(),
        }
        let mut trailers = HeaderMap::new();
        let status = if path == "/fail" { "14" } else { "0" };
        trailers.insert("grpc-status", status.parse().unwrap());
        sender.send(Frame::trailers(trailers)).await.unwrap();
    });
    let stream = futures_util::stream::poll_fn(move |cx| frames.poll_recv(cx).map(|f| f.map(Ok)));
    Response::builder()
        .header("content-type", "application/grpc")
        .body(BodyExt::boxed(StreamBody::new(stream)))
        .unwrap()
}

fn call(path: &str, body: TestBody) -> Request<TestBody> {
    Request::post(format!("http://c{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap()
}

#[tokio::test]
async fn all_four_kinds_of_grpc_calls_pass() {
    for way in WAYS {
        let path = path(way, AppProtocol::Detect, apps::serve(grpc).await).await;
        let mut client = http2(path.address).await;
        for (kind, sent, expected) in [
            ("/unary", vec!["hi"], "hi"),
            ("/server", vec!["hi"], "123"),
            ("/client", vec!["a", "b", "c"], "abc"),
        ] {
            let request = call(kind, chunks(sent, None));
            let answer = read(client.send_request(request).await.unwrap()).await;
            assert_eq!(answer.body, expected, "{way:?}");
            assert_eq!(answer.trailers.expect("trailers")["grpc-status"], "0", "{way:?}");
        }
        // Both sides at once: each message is answered before the next is sent.
        let (sender, mut messages) = mpsc::channel::<Frame<Bytes>>(1);
        let stream = futures_util::stream::poll_fn(move |cx| messages.poll_recv(cx).map(|f| f.map(Ok)));
        let request = call("/bidi", BodyExt::boxed(StreamBody::new(stream)));
        let mut body = client.send_request(request).await.unwrap().into_body();
        for part in ["one", "two", "three"] {
            sender.send(Frame::data(Bytes::from(part))).await.unwrap();
            let echoed = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(echoed, part, "{way:?}");
        }
        drop(sender);
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        let edge = path.near.edge_with("c", 4).await;
        assert_eq!((edge.protocol, edge.failures), ("grpc", 0), "{way:?}");
        read(client.send_request(call("/fail", chunks(vec!["x"], None))).await.unwrap()).await;
        assert_eq!(path.near.edge_with("c", 5).await.failures, 1, "{way:?}");
    }
}

#[tokio::test]
async fn a_cancelled_call_is_cancelled_at_the_application() {
    for way in WAYS {
        let (gone, mut seen) = mpsc::channel::<()>(1);
        let app = apps::serve(move |_| {
            let gone = gone.clone();
            async move {
                struct Gone(mpsc::Sender<()>);
                impl Drop for Gone {
                    fn drop(&mut self) {
                        let _ = self.0.try_send(());
                    }
                }
                let _gone = Gone(gone);
                std::future::pending().await
            }
        })
        .await;
        let path = path(way, AppProtocol::Detect, app).await;
        let mut client = http2(path.address).await;
        let sent = client.send_request(Request::get("http://c/").body(full("")).unwrap());
        assert!(tokio::time::timeout(Duration::from_millis(200), sent).await.is_err());
        tokio::time::timeout(Duration::from_secs(5), seen.recv()).await.unwrap_or_else(|_| panic!("{way:?}"));
    }
}

#[tokio::test]
async fn grpc_clients_are_told_in_grpc() {
    let mut path = path(Way::SameNode, AppProtocol::Detect, apps::serve(grpc).await).await;
    path.near.add_service("c", AppProtocol::Http2, Vec::new());
    let answer = read(http2(path.address).await.send_request(call("/unary", full("x"))).await.unwrap()).await;
    assert_eq!((answer.status, &answer.headers["grpc-status"]), (200, &"14".parse().unwrap()));
    assert_eq!(answer.headers["tulle-reason"], "no-endpoints");
}
