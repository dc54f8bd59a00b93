//! The engine against itself, against another implementation (`h2`), and against a peer that sends exact
//! bytes.

mod interop;
mod limits;
mod memory;
mod violations;

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use tokio::io::DuplexStream;

use super::{Connection, Ended, Handle, Limits, Plain, ReceivedBody, Receiver, Sender, WhenReset, send_body};
use crate::budget::{Accounts, Budget, Payer};

pub(super) const LIMITS: Limits = Limits {
    stream_window: 64 << 10,
    connection_window: 128 << 10,
    frame: 16 << 10,
    header_list: 16 << 10,
    fields: 1000,
    streams: 100,
    resets: 400,
    resets_per_second: 100,
    when_reset: WhenReset::Wait,
    extended_connect: true,
    names: &[],
};
const LINGER: Duration = Duration::from_millis(100);

/// Two ends of a wire that holds few bytes at a time.
pub(super) fn wire() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(7 * 1024)
}

/// Runs a server that sends every request's body back, with its trailers and a header about its path.
pub(super) fn echo(io: DuplexStream) -> tokio::task::JoinHandle<Ended> {
    let mut connection = Connection::server(Plain(io), LIMITS, LINGER);
    tokio::task::spawn_local(async move {
        poll_fn(|cx| {
            connection.poll(cx, |incoming, sender, receiver| {
                tokio::task::spawn_local(answer(incoming.head, sender, receiver));
            })
        })
        .await
    })
}

async fn answer(head: http::request::Parts, mut sender: Sender, receiver: Receiver) {
    let mut headers = HeaderMap::new();
    headers.insert("x-path", head.uri.path().parse().unwrap());
    let body = ReceivedBody::new(receiver);
    let empty = http_body::Body::is_end_stream(&body);
    if sender.respond(StatusCode::OK, &headers, empty).is_ok() && !empty {
        let _ = send_body(&mut sender, body).await;
    }
}

/// Runs a client's connection.
pub(super) fn client(io: DuplexStream) -> (Handle, tokio::task::JoinHandle<Ended>) {
    let mut connection = Connection::client(Plain(io), LIMITS, LINGER);
    let handle = connection.handle();
    let running = tokio::task::spawn_local(async move {
        poll_fn(|cx| connection.poll(cx, |_, _, _| panic!("servers send no requests"))).await
    });
    (handle, running)
}

/// A body of that length, different at every place.
pub(super) fn noise(length: usize) -> Bytes {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect::<Vec<u8>>().into()
}

/// How many have waited for streams.
static CAME: AtomicU64 = AtomicU64::new(0);

/// Waits until a stream can be opened.
pub(super) async fn ready(handle: &Handle) {
    let line = handle.0.borrow_mut().line.get_or_insert_default().clone();
    let caller = Accounts::new(Budget::unlimited()).of(&Payer::Handshakes);
    let mut ticket = line.ticket(&caller, CAME.fetch_add(1, Ordering::Relaxed));
    poll_fn(|cx| {
        std::task::ready!(ticket.poll_turn(cx));
        if handle.has_room() {
            line.call_for(handle.room() - 1);
            return Poll::Ready(());
        }
        ticket.stand(cx);
        Poll::Pending
    })
    .await;
}

/// Sends a request, and its answer's head, body and trailers.
pub(super) async fn exchange(
    handle: &Handle,
    path: &str,
    body: Bytes,
    trailers: Option<HeaderMap>,
) -> (http::response::Parts, Bytes, Option<HeaderMap>) {
    let uri = http::Uri::try_from(format!("http://c.test{path}")).unwrap();
    let head = super::RequestFields {
        method: &http::Method::POST,
        uri: &uri,
        extensions: &http::Extensions::new(),
        headers: &HeaderMap::new(),
        more: &[],
    };
    ready(handle).await;
    let (mut sender, mut receiver) = handle.request(&head, false).unwrap();
    tokio::task::spawn_local(async move {
        let frames = [Some(http_body::Frame::data(body)), trailers.map(http_body::Frame::trailers)];
        let frames = futures_util::stream::iter(frames.into_iter().flatten().map(Ok::<_, std::io::Error>));
        send_body(&mut sender, http_body_util::StreamBody::new(frames)).await
    });
    let head = poll_fn(|cx| receiver.poll_head(cx)).await.unwrap();
    let collected = ReceivedBody::new(receiver).collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    (head, collected.to_bytes(), trailers)
}

#[tokio::test(flavor = "local")]
async fn bodies_of_any_size_pass_many_at_a_time() {
    let (near, far) = wire();
    let server = echo(far);
    let (handle, running) = client(near);
    let sizes = [0, 1, 9, 16_384, 16_385, 65_535, 300_000];
    let all = (0..150).map(|i| {
        let handle = handle.clone();
        tokio::task::spawn_local(async move {
            let body = noise(sizes[i % sizes.len()]);
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", format!("{i}").parse().unwrap());
            let trailers = (i % 2 == 0).then_some(trailers);
            let path = format!("/{i}");
            let (head, back, after) = exchange(&handle, &path, body.clone(), trailers.clone()).await;
            assert_eq!(head.headers["x-path"], path);
            assert_eq!(back, body, "request {i}");
            assert_eq!(after, trailers);
        })
    });
    for done in all.collect::<Vec<_>>() {
        done.await.unwrap();
    }
    assert_eq!(handle.streams(), 0);
    handle.go_away();
    assert!(matches!(running.await.unwrap(), Ended::Closed));
    assert!(matches!(server.await.unwrap(), Ended::Closed));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_slow_reader_stops_its_sender_and_no_other() {
    let (near, far) = wire();
    echo(far);
    let (handle, _running) = client(near);
    let uri = http::Uri::from_static("http://c.test/slow");
    let headers = HeaderMap::new();
    let head = super::RequestFields {
        method: &http::Method::POST,
        uri: &uri,
        extensions: &http::Extensions::new(),
        headers: &headers,
        more: &[],
    };
    let (mut sender, receiver) = handle.request(&head, false).unwrap();
    let sent = std::rc::Rc::new(std::cell::Cell::new(0));
    let counted = sent.clone();
    tokio::task::spawn_local(async move {
        loop {
            let room = poll_fn(|cx| sender.poll_room(cx)).await.unwrap();
            let mut piece = noise(room.min(1000));
            let length = piece.len();
            sender.send(&mut piece, false);
            counted.set(counted.get() + length - piece.len());
        }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let stuck = sent.get();
    assert!(stuck <= 4 * LIMITS.stream_window as usize, "{stuck} bytes are buffered");
    let (_, back, _) = exchange(&handle, "/quick", noise(1000), None).await;
    assert_eq!(back.len(), 1000);
    assert_eq!(sent.get(), stuck);
    drop(receiver);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn who_goes_away_finishes_what_runs() {
    let (near, far) = wire();
    let mut connection = Connection::server(Plain(far), LIMITS, LINGER);
    let server = connection.handle();
    let ended = tokio::task::spawn_local(async move {
        poll_fn(|cx| {
            connection.poll(cx, |incoming, sender, receiver| {
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    answer(incoming.head, sender, receiver).await;
                });
            })
        })
        .await
    });
    let (handle, running) = client(near);
    let under_way = tokio::task::spawn_local({
        let handle = handle.clone();
        async move { exchange(&handle, "/a", noise(100_000), None).await.1.len() }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.go_away();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!handle.is_open(), "the client has heard of it");
    assert_eq!(under_way.await.unwrap(), 100_000);
    assert!(matches!(ended.await.unwrap(), Ended::Closed));
    assert!(matches!(running.await.unwrap(), Ended::Closed));
}

#[tokio::test(flavor = "local")]
async fn dropping_an_answer_resets_its_stream() {
    let (near, far) = wire();
    echo(far);
    let (handle, _running) = client(near);
    let uri = http::Uri::from_static("http://c.test/");
    let headers = HeaderMap::new();
    let head = super::RequestFields {
        method: &http::Method::POST,
        uri: &uri,
        extensions: &http::Extensions::new(),
        headers: &headers,
        more: &[],
    };
    let (mut sender, receiver) = handle.request(&head, false).unwrap();
    drop(receiver);
    let reset = poll_fn(|cx| sender.poll_reset(cx)).await;
    assert!(matches!(reset, super::Error::ResetHere(super::ErrorCode::CANCEL)), "{reset:?}");
    drop(sender);
    assert_eq!(handle.streams(), 0);
    let (_, back, _) = exchange(&handle, "/", noise(10), None).await;
    assert_eq!(back.len(), 10);
}

/// Its end has come, and what is before it is thrown away unread.
#[tokio::test(flavor = "local")]
async fn an_answer_that_is_reset_here_does_not_look_whole() {
    use super::frame::{self, flag, kind};
    let core = std::rc::Rc::new(std::cell::RefCell::new(super::core::Core::new(false, LIMITS)));
    let handle = Handle(core.clone(), None);
    let mut bytes = Vec::new();
    frame::settings(&mut bytes, &[]);
    core.borrow_mut().receive(&bytes, Duration::ZERO);
    let head = super::RequestFields {
        method: &http::Method::POST,
        uri: &http::Uri::from_static("http://c.test/"),
        extensions: &http::Extensions::new(),
        headers: &HeaderMap::new(),
        more: &[],
    };
    let (sender, mut receiver) = handle.request(&head, false).unwrap();
    let mut bytes = Vec::new();
    frame::head(&mut bytes, 1, kind::HEADERS, flag::END_HEADERS, 1);
    bytes.push(0x88);
    frame::head(&mut bytes, 3, kind::DATA, flag::END_STREAM, 1);
    bytes.extend(b"all");
    core.borrow_mut().receive(&bytes, Duration::ZERO);
    poll_fn(|cx| receiver.poll_head(cx)).await.unwrap();
    drop(sender);
    assert!(matches!(poll_fn(|cx| receiver.poll_data(cx)).await, Some(Err(_))));
}
