//! How broken answers and given-up requests end.

use std::future::poll_fn;

use bytes::Bytes;
use h2::Reason;
use http::{Request, Response};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tulle_model::snapshot::AppProtocol;

use super::super::apps::{exchange, read_head, script};
use super::super::mesh::{WAYS, Way, path};
use super::{App, Asked, End, Respond, SOON, block, connect, frame, says, see};

/// A message of gRPC, whole.
const MESSAGE: &str = "\0\0\0\0\x04part";

/// Does what its path says: `/KIND/REST`.
async fn act(request: Asked, mut respond: Respond) {
    let path = request.uri().path().to_owned();
    let mut parts = path.split('/').skip(1);
    let (kind, code) = (parts.next().unwrap(), parts.next().unwrap_or("0"));
    let code = Reason::from(code.parse::<u32>().unwrap());
    let grpc = request.headers().get("content-type").is_some_and(|kind| kind == "application/grpc");
    let mut head = Response::builder();
    if grpc {
        head = head.header("content-type", "application/grpc");
    }
    if kind == "unanswered" {
        return respond.send_reset(code);
    }
    if kind == "short" {
        head = head.header("content-length", "100");
    }
    let data = match (kind, grpc) {
        ("empty", _) => "",
        // Two messages, and a part of a third one.
        ("cut", true) => "\0\0\0\0\x04part\0\0\0\0\x01x\0\0\0",
        (_, true) => MESSAGE,
        _ => "part",
    };
    let mut body = respond.send_response(head.body(()).unwrap(), false).unwrap();
    if !data.is_empty() {
        // In pieces that end anywhere.
        let (one, two) = data.split_at(data.len() / 2);
        body.send_data(Bytes::from(one), false).unwrap();
        if kind == "short" {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        body.send_data(Bytes::from(two), kind == "short").unwrap();
    }
    match kind {
        // What was written before has to leave.
        "reset" => {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            body.send_reset(code);
        }
        // It is killed, or the client has had enough.
        _ => std::future::pending().await,
    }
}

fn request(path: &str, grpc: bool) -> Request<()> {
    let request = Request::post(format!("http://c{path}")).header("te", "trailers");
    let kind = if grpc { "application/grpc" } else { "text/plain" };
    request.header("content-type", kind).body(()).unwrap()
}

/// A status of gRPC in trailers.
fn unavailable(end: &End) -> bool {
    matches!(end, End::Trailers(trailers) if trailers["grpc-status"] == "14" && trailers.contains_key("grpc-message"))
}

#[tokio::test]
async fn an_answer_whose_application_dies_is_an_internal_error_and_for_grpc_unavailable() {
    for way in WAYS {
        for (kind, grpc) in
            [("part", false), ("empty", false), ("part", true), ("cut", true), ("empty", true)]
        {
            let app = App::start(act).await;
            let path = path(way, AppProtocol::Http2, app.address).await;
            let mut client = connect(path.address).await;
            let (response, _) = client.send_request(request(&format!("/{kind}"), grpc), true).unwrap();
            let mut data = 0;
            let (kill, empty) = (app.kill, kind == "empty");
            if empty {
                let kill = kill.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                    kill.send_replace(true);
                });
            }
            let seen = see(response, || {
                data += 1;
                if !empty {
                    kill.send_replace(true);
                }
            })
            .await;
            assert_eq!(seen.status, Some(200), "{way:?} {kind} {grpc}: {seen:?}");
            match (grpc, kind) {
                (true, "part" | "empty") => assert!(unavailable(&seen.end), "{way:?} {kind}: {seen:?}"),
                _ => assert_eq!(
                    seen.end,
                    End::Reset(Reason::INTERNAL_ERROR),
                    "{way:?} {kind} {grpc}: {seen:?}"
                ),
            }
            assert_eq!(path.near.edge_with("c", 1).await.failures, 1, "{way:?} {kind} {grpc}");
        }
    }
}

#[tokio::test]
async fn a_malformed_answer_is_an_internal_error() {
    for way in WAYS {
        let path = path(way, AppProtocol::Http2, App::start(act).await.address).await;
        let (response, _) = connect(path.address).await.send_request(request("/short", false), true).unwrap();
        let seen = see(response, || {}).await;
        assert_eq!((seen.status, seen.end), (Some(200), End::Reset(Reason::INTERNAL_ERROR)), "{way:?}");
    }
}

#[tokio::test]
async fn an_answer_of_http1_that_breaks_is_broken_for_all_clients() {
    let answers = [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\nz\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\npart",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n0\r\nx y: z\r\n\r\n",
    ];
    for way in WAYS {
        for answer in answers {
            let app = script(move |mut stream| async move {
                read_head(&mut stream).await;
                let (head, body) = answer.split_at(answer.find("\r\n\r\n").unwrap() + 4);
                stream.write_all(head.as_bytes()).await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                stream.write_all(body.as_bytes()).await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            })
            .await;
            let path = path(way, AppProtocol::Http1, app).await;
            let (response, _) = connect(path.address).await.send_request(request("/", false), true).unwrap();
            let seen = see(response, || {}).await;
            assert_eq!(seen.end, End::Reset(Reason::INTERNAL_ERROR), "{way:?} {answer:?}: {seen:?}");
            assert_eq!((seen.status, seen.data.as_str()), (Some(200), "part"), "{way:?} {answer:?}");
            let got = exchange(path.address, "GET / HTTP/1.1\r\nhost: c\r\n\r\n").await;
            assert!(got.starts_with("HTTP/1.1 200 ") && got.contains("part"), "{way:?} {answer:?}: {got}");
            assert!(!got.contains("\r\n0\r\n"), "{way:?} {answer:?}: it looks whole: {got}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_breaks_with_its_link_is_an_internal_error() {
    for grpc in [false, true] {
        let app = App::start(act).await;
        let path = path(Way::Link, AppProtocol::Http2, app.address).await;
        let (response, _) = connect(path.address).await.send_request(request("/part", grpc), true).unwrap();
        let proxy = path.far.proxy.clone();
        let (cut, mut told) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            told.recv().await;
            proxy.drain(std::time::Duration::ZERO).await;
        });
        let seen = see(response, || _ = cut.send(())).await;
        match grpc {
            true => assert!(unavailable(&seen.end), "{seen:?}"),
            false => assert_eq!(seen.end, End::Reset(Reason::INTERNAL_ERROR), "{seen:?}"),
        }
    }
}

/// Codes that applications and clients reset with: gRPC's, and one that nobody knows.
const CODES: [u32; 6] = [2, 7, 8, 11, 13, 0x99];

#[tokio::test]
async fn an_applications_own_code_reaches_the_client() {
    for way in WAYS {
        let app = App::start(act).await;
        let path = path(way, AppProtocol::Http2, app.address).await;
        let mut client = connect(path.address).await;
        for (kind, grpc) in [("reset", false), ("reset", true), ("unanswered", false), ("unanswered", true)] {
            for code in CODES {
                let sent = client.send_request(request(&format!("/{kind}/{code}"), grpc), true).unwrap();
                let seen = see(sent.0, || {}).await;
                let expected = End::Reset(Reason::from(code));
                assert_eq!(seen.end, expected, "{way:?} {kind} {code} {grpc}: {seen:?}");
            }
        }
        // Who has no codes is told in words.
        let text = "POST /unanswered/2 HTTP/1.1\r\nhost: c\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let got = exchange(path.address, text).await;
        assert!(got.starts_with("HTTP/1.1 502 ") && got.contains("connection-lost"), "{way:?}: {got}");
        assert!(!got.contains("tulle-reset") && !got.contains("tulle-retry"), "{way:?}: {got}");
        let text = "POST /reset/8 HTTP/1.1\r\nhost: c\r\ncontent-length: 0\r\n\r\n";
        let got = exchange(path.address, text).await;
        assert!(got.starts_with("HTTP/1.1 200 ") && got.contains("part"), "{way:?}: {got}");
        assert!(!got.contains("\r\n0\r\n"), "{way:?}: it looks whole: {got}");
    }
}

#[tokio::test]
async fn a_clients_own_code_reaches_the_application() {
    for way in WAYS {
        let (sender, mut codes) = mpsc::unbounded_channel();
        let app = App::start(move |request: Asked, mut respond: Respond| {
            let sender = sender.clone();
            async move {
                let code = match request.uri().path() {
                    "/answered" => {
                        let mut body = respond.send_response(Response::new(()), false).unwrap();
                        body.send_data(Bytes::from("part"), false).unwrap();
                        poll_fn(|cx| body.poll_reset(cx)).await
                    }
                    _ => {
                        let _ = sender.send(None);
                        poll_fn(|cx| respond.poll_reset(cx)).await
                    }
                };
                let _ = sender.send(Some(code.unwrap()));
            }
        })
        .await;
        let path = path(way, AppProtocol::Http2, app.address).await;
        let mut client = connect(path.address).await;
        for (to, ended) in [("/answered", true), ("/answered", false), ("/", true), ("/", false)] {
            for code in CODES {
                let (response, mut body) = client.send_request(request(to, false), ended).unwrap();
                let mut next = async || timeout(SOON, codes.recv()).await.expect("it hears of it").unwrap();
                let mut answer = None;
                match to {
                    "/answered" => {
                        let answer = answer.insert(response.await.unwrap().into_body());
                        answer.data().await.unwrap().unwrap();
                    }
                    _ => assert_eq!(next().await, None),
                }
                body.send_reset(Reason::from(code));
                assert_eq!(next().await, Some(Reason::from(code)), "{way:?} {to} {ended}");
            }
        }
    }
}

/// A message that came before the mistake reaches the client, however large, and what it ends with says that it broke.
#[tokio::test]
async fn what_came_before_a_mistake_is_passed_on() {
    let mistakes = [
        ("a pseudo header in trailers", frame(1, 5, &block(&[(":status", "200")]))),
        ("trailers that do not end", frame(1, 4, &block(&[("x", "y")]))),
        ("a reset", frame(3, 0, &[0, 0, 0, 0x0b])),
    ];
    for way in WAYS {
        for (what, mistake) in &mistakes {
            for (grpc, pieces) in [(false, 1), (true, 1), (false, 20), (true, 20)] {
                let kind = if grpc { "application/grpc" } else { "text/plain" };
                let mut out = frame(1, 4, &block(&[(":status", "200"), ("content-type", kind)]));
                let mut sent = String::new();
                for _ in 0..pieces {
                    let message = format!("\0\0\0\x20\0{}", "x".repeat(8 << 10));
                    out.extend(frame(0, 0, message.as_bytes()));
                    sent.push_str(&message);
                }
                out.extend(mistake);
                let path = path(way, AppProtocol::Http2, says(out).await).await;
                let sent_request =
                    connect(path.address).await.send_request(request("/", grpc), true).unwrap();
                let seen = see(sent_request.0, || {}).await;
                let told =
                    format!("{way:?} {what} {kind} {pieces}: {:?} after {}", seen.end, seen.data.len());
                assert!(seen.status == Some(200) && seen.data == sent, "{told}");
                match (grpc, *what) {
                    (_, "a reset") => assert_eq!(seen.end, End::Reset(Reason::ENHANCE_YOUR_CALM), "{told}"),
                    (true, _) => assert!(unavailable(&seen.end), "{told}"),
                    (false, _) => assert_eq!(seen.end, End::Reset(Reason::INTERNAL_ERROR), "{told}"),
                }
                assert_eq!(path.near.edge_with("c", 1).await.failures, 1, "{told}");
            }
        }
    }
}

/// A length that the answer does not keep would make the status malformed that takes the place of the rest.
#[tokio::test]
async fn a_call_of_grpc_that_breaks_has_no_length() {
    for way in WAYS {
        let head = [(":status", "200"), ("content-type", "application/grpc"), ("content-length", "100")];
        let mut out = frame(1, 4, &block(&head));
        out.extend(frame(0, 0, MESSAGE.as_bytes()));
        out.extend(frame(1, 5, &block(&[(":status", "200")])));
        let path = path(way, AppProtocol::Http2, says(out).await).await;
        let (response, _) = connect(path.address).await.send_request(request("/", true), true).unwrap();
        let seen = see(response, || {}).await;
        assert!(seen.data == MESSAGE && unavailable(&seen.end), "{way:?}: {seen:?}");
    }
}

/// A client of gRPC makes a failure of an answer without a status (UNKNOWN), and so do we.
#[tokio::test]
async fn a_call_of_grpc_that_ends_without_a_status_has_failed() {
    let head = |more: &[(&str, &str)]| {
        let fields = [&[(":status", "200"), ("content-type", "application/grpc")], more].concat();
        block(&fields)
    };
    let message = frame(0, 0, MESSAGE.as_bytes());
    for (what, out, failed) in [
        ("no trailers", [frame(1, 4, &head(&[])), frame(0, 1, MESSAGE.as_bytes())].concat(), true),
        ("nothing at all", frame(1, 5, &head(&[])), true),
        (
            "other trailers",
            [frame(1, 4, &head(&[])), message.clone(), frame(1, 5, &block(&[("x", "y")]))].concat(),
            true,
        ),
        (
            "a status",
            [frame(1, 4, &head(&[])), message, frame(1, 5, &block(&[("grpc-status", "0")]))].concat(),
            false,
        ),
        ("a status in the head", frame(1, 5, &head(&[("grpc-status", "0")])), false),
        ("a status that is the caller's doing", frame(1, 5, &head(&[("grpc-status", "5")])), false),
        ("404", frame(1, 5, &block(&[(":status", "404")])), false),
    ] {
        for way in WAYS {
            let path = path(way, AppProtocol::Http2, says(out.clone()).await).await;
            let (response, _) = connect(path.address).await.send_request(request("/", true), true).unwrap();
            see(response, || {}).await;
            let edge = path.near.edge_with("c", 1).await;
            assert_eq!(edge.failures, u64::from(failed), "{way:?} {what}");
        }
    }
}
