//! What a peer, and what we, may do, and what that may cost.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::http2::control::MAX_SETTINGS;
use crate::http2::core::Core;
use crate::http2::frame::{self, PREFACE, flag, kind, setting};
use crate::http2::hpack::Encoder;
use crate::http2::{ErrorCode, RequestFields};

fn request_block(method: &str) -> Vec<u8> {
    let mut e = Encoder::new();
    let mut out = Vec::new();
    e.begin(&mut out);
    e.method(&method.parse().unwrap(), &mut out);
    e.scheme("http", &mut out);
    e.authority("a", &mut out);
    e.path(b"/", &mut out);
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
        let head = RequestFields {
            method: &http::Method::GET,
            uri: &uri,
            extensions: &http::Extensions::new(),
            headers: &headers,
            more: &[],
        };
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

/// Each change of the window goes over all streams, so one frame may hold few settings: what ends is the
/// connection, before any stream was looked at.
#[test]
fn one_settings_frame_costs_little() {
    let changes = |count: u32| {
        let mut core = server_core();
        let mut input = Vec::new();
        put(&mut input, kind::HEADERS, flag::END_HEADERS, 1, &request_block("POST"));
        let all: Vec<_> = (0..count).map(|i| (setting::INITIAL_WINDOW_SIZE, 1000 + i % 2)).collect();
        frame::settings(&mut input, &all);
        core.receive(&input, Duration::ZERO);
        let ended = core.ended.as_ref().map(ToString::to_string);
        (ended, core.peer.initial_window)
    };
    assert_eq!(changes(MAX_SETTINGS as u32), (None, 1000 + i64::from(MAX_SETTINGS as u32 - 1) % 2));
    let (ended, window) = changes(MAX_SETTINGS as u32 + 1);
    assert!(ended.is_some_and(|why| why.contains("the same settings over and over")));
    assert_eq!(window, i64::from(u16::MAX), "it was taken nevertheless");
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
        frame::number(&mut input, kind::RST_STREAM, 2 * i + 1, ErrorCode::CANCEL.0);
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
    let head = RequestFields {
        method: &http::Method::POST,
        uri: &uri,
        extensions: &http::Extensions::new(),
        headers: &headers,
        more: &[],
    };
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
    let head = RequestFields {
        method: &http::Method::GET,
        uri: &uri,
        extensions: &http::Extensions::new(),
        headers: &headers,
        more: &[],
    };
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

fn with_trailers(core: &mut Core, id: u32) {
    let mut input = Vec::new();
    put(&mut input, kind::HEADERS, flag::END_HEADERS, id, &request_block("POST"));
    core.receive(&input, Duration::ZERO);
    core.accepted.clear();
}

/// Answered early, a request's trailers are on their way: that is nobody's fault, however often it happens.
#[test]
fn trailers_of_requests_that_were_cut_are_no_mistakes() {
    let mut core = server_core();
    let trailers = [0, 1, b'x', 1, b'y'];
    for i in 0..20_000 {
        let id = 2 * i + 1;
        with_trailers(&mut core, id);
        core.send_block(id, true, |encoder, out| encoder.status(StatusCode::PAYLOAD_TOO_LARGE, out));
        let stream = core.streams.get_mut(&id).unwrap();
        (stream.receiver_held, stream.sender_held) = (false, false);
        core.reset(id, ErrorCode::NO_ERROR);
        let mut input = Vec::new();
        put(&mut input, kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, id, &trailers);
        core.receive(&input, Duration::ZERO);
        let length = core.out.len();
        core.out.wrote(length);
        assert!(core.ended.is_none(), "after {i}: {:?}", core.ended);
    }
    assert_eq!((core.faults, core.cut.len()), (0, 0));
    // Without such a request, they are.
    let mut input = Vec::new();
    put(&mut input, kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &trailers);
    core.receive(&input, Duration::ZERO);
    expect_closed(&core);
}

/// It was ended for HEADERS on a stream that is over.
fn expect_closed(core: &Core) {
    let closed = |ended: &Ended| matches!(ended, Ended::Violation(v) if v.code == ErrorCode::STREAM_CLOSED);
    assert!(core.ended.as_ref().is_some_and(closed), "{:?}", core.ended);
}

/// A request that was cut is good for one section of trailers, and for none when it has ended otherwise.
#[test]
fn requests_that_were_cut_allow_no_others() {
    let cut = |core: &mut Core, id: u32, held: bool| {
        with_trailers(core, id);
        let stream = core.streams.get_mut(&id).unwrap();
        (stream.receiver_held, stream.sender_held) = (held, held);
        core.reset(id, ErrorCode::NO_ERROR);
    };
    let send = |core: &mut Core, kind: u8, flags: u8, id: u32, payload: &[u8]| {
        let mut input = Vec::new();
        put(&mut input, kind, flags, id, payload);
        core.receive(&input, Duration::ZERO);
    };
    let trailers = [0, 1, b'x', 1, b'y'];
    for (held, id) in [true, false].into_iter().flat_map(|held| [1, 3, 5].map(|id| (held, id))) {
        let mut core = server_core();
        (0..3).for_each(|n| cut(&mut core, 1 + 2 * n, held));
        send(&mut core, kind::DATA, flag::END_STREAM, 1, b"x");
        send(&mut core, kind::RST_STREAM, 0, 3, &[0; 4]);
        send(&mut core, kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 5, &trailers);
        assert_eq!((core.faults, core.cut.len()), (0, 0), "held: {held}");
        send(&mut core, kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, id, &trailers);
        match held {
            // Somebody has the stream yet, and it is known that it was reset.
            true => assert!(core.ended.is_none()),
            false => expect_closed(&core),
        }
    }
    // Of a peer that leaves all of them as they are, no more are remembered than may be on their way.
    let mut core = server_core();
    for i in 0..10_000 {
        cut(&mut core, 2 * i + 1, false);
        let length = core.out.len();
        core.out.wrote(length);
    }
    assert_eq!(core.cut.len(), 2 * core.limits.streams as usize);
}

/// Heads of answers that wait for the socket are none of the client's doing.
#[test]
fn large_answers_that_wait_do_not_end_the_connection() {
    let mut core = server_core();
    let value = http::HeaderValue::from_bytes(&[b'v'; 60_000]).unwrap();
    for i in 0..50 {
        with_trailers(&mut core, 2 * i + 1);
        core.send_block(2 * i + 1, false, |encoder, out| {
            encoder.status(StatusCode::OK, out);
            encoder.header(&http::header::ETAG, &value, out);
        });
    }
    assert!(core.out.len() > 2 << 20);
    let mut input = Vec::new();
    put(&mut input, kind::PING, 0, 0, &[1; 8]);
    core.receive(&input, Duration::ZERO);
    assert!(core.ended.is_none(), "{:?}", core.ended);
    // Answers to pings are.
    let mut pings = Vec::new();
    for _ in 0..100_000 {
        put(&mut pings, kind::PING, 0, 0, &[1; 8]);
    }
    core.receive(&pings, Duration::ZERO);
    assert!(core.ended.is_some());
}

/// A client core, as one that has heard of the peer's settings.
fn client_core(limits: super::super::Limits, settings: &[(u16, u32)]) -> Core {
    let mut core = Core::new(false, limits);
    let mut hello = Vec::new();
    frame::settings(&mut hello, settings);
    core.receive(&hello, Duration::ZERO);
    core
}

/// One request's answer is not held against the others, whatever is wrong with it.
#[test]
fn what_a_server_answers_costs_its_stream_only() {
    let answers: [&[(u8, u8, &[u8])]; 4] = [
        // A head that is malformed, and one of which too much comes.
        &[(kind::HEADERS, flag::END_HEADERS, &[0x88, 0, 2, b'T', b'E', 1, b'x'])],
        &[
            (kind::HEADERS, flag::END_HEADERS, &[0x88, 0x0f, 13, 1, b'1']),
            (kind::DATA, flag::END_STREAM, b"too long"),
        ],
        // Trailers with a status.
        &[
            (kind::HEADERS, flag::END_HEADERS, &[0x88]),
            (kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, &[0x88]),
        ],
        &[(kind::HEADERS, flag::END_HEADERS, &[0x89]), (kind::DATA, 0, b"no body")],
    ];
    for (case, answer) in answers.iter().enumerate() {
        let mut core = client_core(LIMITS, &[]);
        for turn in 0..5000 {
            let now = Duration::from_millis(20 * turn);
            core.pass_time(now);
            let id = core.open().unwrap();
            let stream = core.streams.get_mut(&id).unwrap();
            (stream.receiver_held, stream.sender_held) = (true, false);
            stream.sending = crate::http2::stream::Way::Ended;
            for (kind, flags, payload) in *answer {
                let mut input = Vec::new();
                put(&mut input, *kind, *flags, id, payload);
                core.receive(&input, now);
            }
            assert!(core.ended.is_none(), "{case}: {:?}", core.ended);
            assert!(core.streams[&id].reset.is_some(), "{case}");
            core.streams.get_mut(&id).unwrap().receiver_held = false;
            core.forget_if_done(id);
            let length = core.out.len();
            core.out.wrote(length);
        }
        assert_eq!(core.unanswered, 0);
    }
}

/// Frames without data are put up with from a server, and cost it the stream when they are many.
#[test]
fn empty_frames_cost_a_server_its_stream_only() {
    let mut core = client_core(LIMITS, &[]);
    let all: Vec<u32> = (0..50).map(|_| core.open().unwrap()).collect();
    let mut input = Vec::new();
    for id in &all {
        put(&mut input, kind::HEADERS, flag::END_HEADERS, *id, &[0x88]);
        for _ in 0..90 {
            put(&mut input, kind::DATA, 0, *id, b"");
        }
    }
    core.receive(&input, Duration::ZERO);
    assert!(core.ended.is_none(), "{:?}", core.ended);
    assert!(all.iter().all(|id| core.streams[id].reset.is_none()));
    let mut input = Vec::new();
    for _ in 0..90 {
        put(&mut input, kind::DATA, 0, all[0], b"");
    }
    core.receive(&input, Duration::ZERO);
    assert!(core.streams[&all[0]].reset.is_some() && core.streams[&all[1]].reset.is_none());
}

/// Opens a stream, whose head would be sent.
fn open(core: &mut Core) -> Option<u32> {
    let id = core.open().ok()?;
    let stream = core.streams.get_mut(&id).unwrap();
    (stream.receiver_held, stream.sender_held) = (false, false);
    Some(id)
}

/// Whoever resets them, no more streams are reset on a link than its peer takes: further ones are not opened.
#[test]
fn a_link_opens_no_more_than_it_may_reset() {
    let near = crate::link::client::LIMITS;
    let mut client = client_core(near, &[]);
    let mut server = Core::new(true, crate::link::LIMITS);
    let mut hello = PREFACE.to_vec();
    frame::settings(&mut hello, &[]);
    server.receive(&hello, Duration::ZERO);
    let block = request_block("GET");
    // The server is stopped again and again, and sees at once what came meanwhile.
    let (mut on_the_wire, mut resets) = (Vec::new(), 0u64);
    for millisecond in 0..120_000u64 {
        let now = Duration::from_millis(millisecond);
        client.pass_time(now);
        while let Some(id) = open(&mut client) {
            put(&mut on_the_wire, kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, id, &block);
            client.reset(id, ErrorCode::CANCEL);
            frame::number(&mut on_the_wire, kind::RST_STREAM, id, ErrorCode::CANCEL.0);
            resets += 1;
        }
        let length = client.out.len();
        client.out.wrote(length);
        if millisecond % 9000 == 0 {
            for frames in std::mem::take(&mut on_the_wire).chunks(64 << 10) {
                server.receive(frames, now);
                server.accepted.clear();
                let length = server.out.len();
                server.out.wrote(length);
            }
            assert!(server.ended.is_none(), "after {millisecond} ms and {resets} resets: {:?}", server.ended);
        }
    }
    assert!(resets > 40_000, "{resets}");
}

/// Where there are others, a connection on which many streams were reset is left before the peer takes offence.
#[test]
fn a_connection_is_left_when_many_streams_were_reset() {
    let limits =
        super::super::Limits { resets: 100, resets_per_second: 3, when_reset: WhenReset::Leave, ..LIMITS };
    let mut core = client_core(limits, &[]);
    let answered = core.open().unwrap();
    let mut resets = 0;
    while let Some(id) = open(&mut core) {
        core.reset(id, ErrorCode::CANCEL);
        resets += 1;
        assert!(resets <= 101);
    }
    assert!(core.ended.is_none() && !core.takes_streams());
    // What is under way goes on.
    let mut input = Vec::new();
    put(&mut input, kind::HEADERS, flag::END_HEADERS, answered, &[0x88]);
    core.receive(&input, Duration::ZERO);
    assert!(core.streams[&answered].head.is_some());
}

/// RFC 9113, section 6.5.2: some servers close the connection of whoever sends more than they said.
#[tokio::test(flavor = "local", start_paused = true)]
async fn nothing_larger_than_the_peer_takes_is_sent() {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let (handle, _running) = client(near);
    let mut settings = Vec::new();
    frame::settings(&mut settings, &[(setting::MAX_HEADER_LIST_SIZE, 200)]);
    far.write_all(&settings).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let uri = http::Uri::from_static("http://c/");
    let mut headers = HeaderMap::new();
    let mut send = |length: usize| {
        headers.insert("x", "v".repeat(length).parse().unwrap());
        let head = RequestFields {
            method: &http::Method::GET,
            uri: &uri,
            extensions: &http::Extensions::new(),
            headers: &headers,
            more: &[],
        };
        handle.request(&head, true).map(|_| ())
    };
    // :method, :authority, :scheme, :path and x: 42 + 43 + 43 + 38 + 33.
    send(1).unwrap();
    assert!(matches!(send(2), Err(crate::http2::Error::TooLargeForPeer(200))));
    send(0).unwrap();
}

/// A peer that has many answers to take is not asked for more before it does.
#[tokio::test(flavor = "local", start_paused = true)]
async fn a_client_that_takes_nothing_is_not_read() {
    let (mut peer, far) = tokio::io::duplex(64 << 10);
    let limits = super::super::Limits { streams: 10_000, ..LIMITS };
    let mut connection = Connection::server(Plain(far), limits, LINGER);
    let handle = connection.handle();
    let running = tokio::task::spawn_local(async move {
        poll_fn(|cx| {
            connection.poll(cx, |_incoming, mut sender, _receiver| {
                let mut headers = HeaderMap::new();
                headers.insert("x", "v".repeat(60_000).parse().unwrap());
                let _ = sender.respond(StatusCode::OK, &headers, true);
            })
        })
        .await
    });
    let mut out = PREFACE.to_vec();
    frame::settings(&mut out, &[]);
    peer.write_all(&out).await.unwrap();
    let (mut read, mut write) = tokio::io::split(peer);
    let writing = tokio::task::spawn_local(async move {
        for i in 0..500 {
            let mut out = Vec::new();
            put(
                &mut out,
                kind::HEADERS,
                flag::END_HEADERS | flag::END_STREAM,
                2 * i + 1,
                &request_block("GET"),
            );
            if write.write_all(&out).await.is_err() {
                return;
            }
        }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let waits = handle.0.borrow().out.len();
    assert!((4 << 20..40 << 20).contains(&waits), "{waits} bytes wait");
    // It takes them, and is read to the end.
    let mut buffer = vec![0; 1 << 20];
    let mut taken = 0;
    while taken < 500 * 60_000 {
        let count = read.read(&mut buffer).await.unwrap();
        assert!(count > 0, "closed after {taken}: {:?}", handle.0.borrow().ended);
        taken += count;
    }
    writing.await.unwrap();
    assert!(!running.is_finished());
}
