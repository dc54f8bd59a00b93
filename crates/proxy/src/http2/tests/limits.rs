//! What a peer, and what we, may do, and what that may cost.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::http2::core::Core;
use crate::http2::frame::{self, PREFACE, flag, kind, setting};
use crate::http2::hpack::Encoder;
use crate::http2::{Reason, RequestHead};

fn request_block(method: &str) -> Vec<u8> {
    let mut e = Encoder::new();
    let mut out = Vec::new();
    e.begin(&mut out);
    e.method(&method.parse().unwrap(), &mut out);
    e.scheme("http", &mut out);
    e.authority("a", &mut out);
    e.path("/", &mut out);
    out
}

fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    frame::head(out, payload.len(), kind, flags, stream);
    out.extend_from_slice(payload);
}

fn server_core() -> Core {
    let mut core = Core::new(true, LIMITS);
    let mut hello = PREFACE.to_vec();
    frame::settings(&mut hello, &[]);
    core.receive(&hello, Duration::ZERO);
    core
}

/// An early answer whose rest is queued is cut when the request's receiver is dropped after it.
#[tokio::test(flavor = "local", start_paused = true)]
async fn early_answer_is_whole() {
    let (mut peer, far) = tokio::io::duplex(1 << 20);
    let mut connection = Connection::server(Plain(far), LIMITS, LINGER);
    tokio::task::spawn_local(async move {
        poll_fn(|cx| {
            connection.poll(cx, |_incoming, mut sender, receiver| {
                tokio::task::spawn_local(async move {
                    sender.respond(StatusCode::OK, &HeaderMap::new(), false).unwrap();
                    let body = http_body_util::Full::new(noise(100_000));
                    send_body(&mut sender, body).await.unwrap();
                    drop(sender);
                    drop(receiver);
                });
            })
        })
        .await
    });
    let mut out = PREFACE.to_vec();
    // A large stream window, and the connection's default one of 65,535.
    frame::settings(&mut out, &[(setting::INITIAL_WINDOW_SIZE, 1 << 20)]);
    put(&mut out, kind::HEADERS, flag::END_HEADERS, 1, &request_block("POST"));
    peer.write_all(&out).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut more = Vec::new();
    frame::number(&mut more, kind::WINDOW_UPDATE, 0, 1 << 20);
    peer.write_all(&more).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut got = vec![0; 1 << 20];
    let count = peer.read(&mut got).await.unwrap();
    let (mut at, mut data, mut ended, mut log) = (0, 0, false, Vec::new());
    while at + 9 <= count {
        let head = frame::Head::parse(got[at..].first_chunk().unwrap());
        if head.kind == kind::DATA {
            data += head.length;
            ended |= head.has(flag::END_STREAM);
        }
        if head.kind == kind::RST_STREAM {
            log.push((head.stream, got[at + 12]));
        }
        at += 9 + head.length;
    }
    assert!(data == 100_000 && ended, "{data} bytes, end {ended}, resets {log:?}");
}

/// A peer that asks and never reads.
#[test]
fn answers_to_one_that_does_not_read_are_bounded() {
    let mut core = server_core();
    let block = request_block("HEAD");
    let mut id = 1;
    let mut sent = 0;
    while core.ended.is_none() && id < 200_000 {
        let mut input = Vec::new();
        put(&mut input, kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, id, &block);
        sent += input.len();
        core.receive(&input, Duration::from_millis(u64::from(id)));
        while let Some(incoming) = core.accepted.pop_front() {
            let _ = incoming;
            core.send_block(id, true, |encoder, out| {
                encoder.status(StatusCode::OK, out);
                let value = http::HeaderValue::from_str(&format!("{id:0400}")).unwrap();
                encoder.header(&http::header::ETAG, &value, out);
            });
            let stream = core.streams.get_mut(&id).unwrap();
            (stream.receiver_held, stream.sender_held) = (false, false);
            core.forget_if_done(id);
        }
        id += 2;
    }
    assert!(core.out.len() < 4 << 20, "{} bytes to be written for {sent} that came", core.out.len());
}

/// A client whose peer hangs.
#[tokio::test(flavor = "local", start_paused = true)]
async fn requests_to_one_that_hangs_are_bounded() {
    let (near, _far) = wire();
    let (handle, _running) = client(near);
    let uri = http::Uri::from_static("http://c.test/");
    let mut headers = HeaderMap::new();
    let mut count = 0;
    for i in 0..100_000 {
        headers.insert("x-request-id", format!("{i:0100}").parse().unwrap());
        let head = RequestHead { method: &http::Method::GET, uri: &uri, headers: &headers, more: &[] };
        if !handle.has_room() {
            break;
        }
        let (sender, receiver) = handle.request(&head, true).unwrap();
        tokio::task::yield_now().await;
        // Its deadline passes.
        drop((sender, receiver));
        count += 1;
    }
    let waiting = handle.0.borrow().out.len();
    assert!(waiting < 2 << 20, "{waiting} bytes wait after {count} requests");
}

/// One that breaks the rules and does not read is sent away all the same.
#[tokio::test(flavor = "local", start_paused = true)]
async fn a_violator_that_does_not_read_is_let_go() {
    let (mut peer, far) = tokio::io::duplex(64);
    let mut connection = Connection::server(Plain(far), LIMITS, LINGER);
    let (handle, received) = (connection.handle(), connection.received());
    let task = tokio::task::spawn_local(async move {
        tokio::select! {
            ended = poll_fn(|cx| connection.poll(cx, |_, _, _| {})) => format!("{ended:?}"),
            () = crate::http2::until_dead(handle, received, Duration::from_secs(4), Duration::from_secs(5), || {}) => "dead".into(),
        }
    });
    let mut out = PREFACE.to_vec();
    frame::settings(&mut out, &[]);
    put(&mut out, kind::DATA, 0, 0, b"x");
    peer.write_all(&out).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(3600), task).await;
    assert!(ended.is_ok(), "an hour later it still holds the connection");
}

/// A stream that raced with the last GOAWAY.
#[test]
fn what_comes_on_streams_after_the_last_is_ignored() {
    let mut core = server_core();
    let block = request_block("POST");
    let mut input = Vec::new();
    put(&mut input, kind::HEADERS, flag::END_HEADERS, 1, &block);
    core.receive(&input, Duration::ZERO);
    core.go();
    let mut input = Vec::new();
    put(&mut input, kind::PING, flag::ACK, 0, b"farewell");
    put(&mut input, kind::HEADERS, flag::END_HEADERS, 3, &block);
    put(&mut input, kind::DATA, flag::END_STREAM, 3, b"body");
    core.receive(&input, Duration::ZERO);
    assert!(core.ended.is_none(), "{:?}", core.ended);
}

/// The cost of one SETTINGS frame.
#[test]
fn one_settings_frame_costs_little() {
    let mut core = Core::new(true, super::super::Limits { frame: 64 << 10, streams: 1000, ..LIMITS });
    let mut hello = PREFACE.to_vec();
    frame::settings(&mut hello, &[]);
    core.receive(&hello, Duration::ZERO);
    let block = request_block("POST");
    for i in 0..1000 {
        let mut input = Vec::new();
        put(&mut input, kind::HEADERS, flag::END_HEADERS, 2 * i + 1, &block);
        core.receive(&input, Duration::ZERO);
    }
    let all: Vec<_> = (0..10_900).map(|i| (setting::INITIAL_WINDOW_SIZE, 1000 + i % 2)).collect();
    let mut input = Vec::new();
    frame::settings(&mut input, &all);
    let begun = std::time::Instant::now();
    core.receive(&input, Duration::ZERO);
    let took = begun.elapsed();
    assert!(core.ended.is_some() || took < Duration::from_millis(50), "{took:?} for {} bytes", input.len());
}

/// BDP probes of grpc-go: one PING a round trip, as long as data comes.
#[test]
fn pings_each_round_trip_are_fine() {
    let mut core = server_core();
    for i in 0..10_000u64 {
        let mut input = Vec::new();
        put(&mut input, kind::PING, 0, 0, &[2, 4, 16, 16, 9, 14, 7, 7]);
        core.receive(&input, Duration::from_micros(i * 500));
        let length = core.out.len();
        core.out.wrote(length);
        assert!(core.ended.is_none(), "after {i} pings in {} ms: {:?}", i / 2, core.ended);
    }
}

/// 1000 streams time out at once.
#[test]
fn all_streams_of_a_link_may_be_cancelled_at_once() {
    let mut core = Core::new(true, crate::link::LIMITS);
    let mut hello = PREFACE.to_vec();
    frame::settings(&mut hello, &[]);
    core.receive(&hello, Duration::ZERO);
    let block = request_block("GET");
    for i in 0..1000 {
        let mut input = Vec::new();
        put(&mut input, kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 2 * i + 1, &block);
        core.receive(&input, Duration::ZERO);
    }
    core.accepted.clear();
    for i in 0..1000 {
        let mut input = Vec::new();
        frame::number(&mut input, kind::RST_STREAM, 2 * i + 1, Reason::CANCEL.0);
        core.receive(&input, Duration::from_secs(30));
        assert!(core.ended.is_none(), "after {i}: {:?}", core.ended);
    }
}

/// A request that is cut by RST_STREAM(NO_ERROR) is no whole one.
#[tokio::test(flavor = "local", start_paused = true)]
async fn a_request_cut_with_no_error_is_not_whole() {
    let (mut peer, far) = tokio::io::duplex(1 << 20);
    let mut connection = Connection::server(Plain(far), LIMITS, LINGER);
    let (tell, told) = tokio::sync::oneshot::channel();
    let mut tell = Some(tell);
    tokio::task::spawn_local(async move {
        poll_fn(|cx| {
            connection.poll(cx, |_incoming, sender, receiver| {
                let tell = tell.take().unwrap();
                tokio::task::spawn_local(async move {
                    let whole = ReceivedBody::new(receiver).collect().await.map(|c| c.to_bytes());
                    let _ = tell.send(whole);
                    drop(sender);
                });
            })
        })
        .await
    });
    let mut out = PREFACE.to_vec();
    frame::settings(&mut out, &[]);
    put(&mut out, kind::HEADERS, flag::END_HEADERS, 1, &request_block("POST"));
    put(&mut out, kind::DATA, 0, 1, b"half of i");
    peer.write_all(&out).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut out = Vec::new();
    frame::number(&mut out, kind::RST_STREAM, 1, 0);
    peer.write_all(&out).await.unwrap();
    let whole = told.await.unwrap();
    assert!(whole.is_err(), "taken as whole: {whole:?}");
}

/// 10: `waiting` keeps what is gone.
#[test]
fn streams_that_are_gone_do_not_wait() {
    let mut core = server_core();
    core.send_window = 0;
    let block = request_block("GET");
    for i in 0..100_000u32 {
        let id = 2 * i + 1;
        let mut input = Vec::new();
        put(&mut input, kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, id, &block);
        core.receive(&input, Duration::ZERO);
        core.accepted.clear();
        core.streams.get_mut(&id).unwrap().answered = true;
        core.send_block(id, false, |encoder, out| encoder.status(StatusCode::OK, out));
        core.send_data(id, &mut Bytes::from_static(b"body"), true);
        let stream = core.streams.get_mut(&id).unwrap();
        (stream.receiver_held, stream.sender_held) = (false, false);
        let mut input = Vec::new();
        frame::number(&mut input, kind::RST_STREAM, id, 8);
        core.receive(&input, Duration::ZERO);
        let length = core.out.len();
        core.out.wrote(length);
    }
    assert!(core.waiting.len() < 1000, "{} wait, {} streams", core.waiting.len(), core.streams.len());
}

/// Two readers that do not read stop everybody else on the connection.
#[tokio::test(flavor = "local", start_paused = true)]
async fn slow_readers_stop_nobody_else() {
    let (near, far) = wire();
    echo(far);
    let (handle, _running) = client(near);
    let uri = http::Uri::from_static("http://c.test/slow");
    let headers = HeaderMap::new();
    let head = RequestHead { method: &http::Method::POST, uri: &uri, headers: &headers, more: &[] };
    let mut held = Vec::new();
    for _ in 0..2 {
        ready(&handle).await;
        let (mut sender, receiver) = handle.request(&head, false).unwrap();
        tokio::task::spawn_local(async move {
            let _ = send_body(&mut sender, http_body_util::Full::new(noise(300_000))).await;
        });
        held.push(receiver);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let third =
        tokio::time::timeout(Duration::from_secs(60), exchange(&handle, "/quick", noise(1000), None)).await;
    assert!(third.is_ok(), "a third request waits for ever");
}

/// What is kept of data in small pieces.
#[test]
fn small_pieces_cost_no_more_than_large_ones() {
    let mut core = server_core();
    let mut input = Vec::new();
    put(&mut input, kind::HEADERS, flag::END_HEADERS, 1, &request_block("POST"));
    for _ in 0..60_000 {
        put(&mut input, kind::DATA, 0, 1, b"x");
    }
    core.receive(&input, Duration::ZERO);
    let stream = &core.streams[&1];
    assert!(
        stream.data.len() < 1000,
        "{} pieces, {} bytes of queue for 60000",
        stream.data.len(),
        stream.data.capacity() * size_of::<Bytes>()
    );
}

/// An end needs no window.
#[tokio::test(flavor = "local", start_paused = true)]
async fn an_end_needs_no_window() {
    let (mut peer, far) = tokio::io::duplex(1 << 20);
    let mut connection = Connection::server(Plain(far), LIMITS, LINGER);
    let (tell, told) = tokio::sync::oneshot::channel();
    let mut tell = Some(tell);
    tokio::task::spawn_local(async move {
        poll_fn(|cx| {
            connection.poll(cx, |_incoming, mut sender, _receiver| {
                let tell = tell.take().unwrap();
                tokio::task::spawn_local(async move {
                    sender.respond(StatusCode::OK, &HeaderMap::new(), false).unwrap();
                    let frames = [
                        Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from_static(b"12345"))),
                        Ok(http_body::Frame::trailers(HeaderMap::new())),
                    ];
                    let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
                    let _ = tell.send(send_body(&mut sender, body).await);
                });
            })
        })
        .await
    });
    let mut out = PREFACE.to_vec();
    frame::settings(&mut out, &[(setting::INITIAL_WINDOW_SIZE, 5)]);
    put(&mut out, kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &request_block("GET"));
    peer.write_all(&out).await.unwrap();
    let sent = tokio::time::timeout(Duration::from_secs(60), told).await;
    assert!(sent.is_ok(), "the trailers wait for a window that they do not need");
}

/// An answer that can have no content has none.
#[tokio::test(flavor = "local", start_paused = true)]
async fn a_204_has_no_body() {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let (handle, _running) = client(near);
    let uri = http::Uri::from_static("http://c.test/");
    let headers = HeaderMap::new();
    let head = RequestHead { method: &http::Method::GET, uri: &uri, headers: &headers, more: &[] };
    let (_sender, mut receiver) = handle.request(&head, true).unwrap();
    let mut out = Vec::new();
    frame::settings(&mut out, &[]);
    put(&mut out, kind::HEADERS, flag::END_HEADERS, 1, &[0x89]);
    put(&mut out, kind::DATA, flag::END_STREAM, 1, b"HTTP/1.1 200 OK\r\n\r\n");
    far.write_all(&out).await.unwrap();
    poll_fn(|cx| receiver.poll_head(cx)).await.unwrap();
    let body = ReceivedBody::new(receiver).collect().await.map(|c| c.to_bytes());
    assert!(body.is_err() || body.as_ref().unwrap().is_empty(), "{body:?}");
}

/// One that does not read, of which nothing is wrong, and a drain.
#[tokio::test(flavor = "local", start_paused = true)]
async fn a_drain_does_not_wait_for_one_that_does_not_read() {
    let (mut peer, far) = tokio::io::duplex(64);
    let mut connection = Connection::server(Plain(far), LIMITS, LINGER);
    let handle = connection.handle();
    let task = tokio::task::spawn_local(async move { poll_fn(|cx| connection.poll(cx, |_, _, _| {})).await });
    let mut out = PREFACE.to_vec();
    frame::settings(&mut out, &[]);
    frame::go_away(&mut out, 0, 0, "");
    peer.write_all(&out).await.unwrap();
    handle.go_away();
    assert!(tokio::time::timeout(Duration::from_secs(3600), task).await.is_ok(), "an hour later it is there");
}
