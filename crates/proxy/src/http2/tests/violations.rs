//! A peer that sends exact bytes.

use std::future::poll_fn;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

use super::{LIMITS, LINGER, echo, wire};
use crate::http2::frame::{self, HEADER, Head, PREFACE, flag, kind, setting};
use crate::http2::hpack::Encoder;
use crate::http2::{Connection, Ended, ErrorCode, Plain};

/// A client of which every byte is said.
struct RawClient(DuplexStream);

impl RawClient {
    async fn new(io: DuplexStream) -> Self {
        let mut peer = Self(io);
        let mut out = PREFACE.to_vec();
        frame::settings(&mut out, &[]);
        peer.send(&out).await;
        peer
    }

    async fn send(&mut self, bytes: &[u8]) {
        // The other end may have closed by then.
        let _ = self.0.write_all(bytes).await;
    }

    async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut out = Vec::new();
        frame::head(&mut out, payload.len(), kind, flags, stream);
        out.extend_from_slice(payload);
        self.send(&out).await;
    }

    /// The next frame, or `None` at the end.
    async fn next(&mut self) -> Option<(Head, Vec<u8>)> {
        let read = async {
            let mut header = [0; HEADER];
            self.0.read_exact(&mut header).await.ok()?;
            let head = Head::parse(&header);
            let mut payload = vec![0; head.length];
            self.0.read_exact(&mut payload).await.ok()?;
            Some((head, payload))
        };
        timeout(Duration::from_secs(10), read).await.expect("a frame within ten seconds")
    }

    /// The next frame of that kind.
    async fn next_of(&mut self, kind: u8) -> (Head, Vec<u8>) {
        loop {
            let (head, payload) = self.next().await.expect("the connection is open");
            if head.kind == kind && !(kind == kind::SETTINGS && head.has(flag::ACK)) {
                return (head, payload);
            }
        }
    }

    async fn expect_go_away(&mut self, code: ErrorCode, case: &str) {
        while let Some((head, payload)) = self.next().await {
            if head.kind == kind::GOAWAY {
                assert_eq!(frame::u32_at(&payload[4..]), Some(code.0), "{case}");
                return;
            }
        }
        panic!("{case}: closed without GOAWAY");
    }

    async fn expect_reset(&mut self, stream: u32, code: ErrorCode, case: &str) {
        let (head, payload) = self.next_of(kind::RST_STREAM).await;
        assert_eq!(head.stream, stream, "{case}");
        assert_eq!(frame::u32_at(&payload), Some(code.0), "{case}");
    }
}

/// A block with those fields; pseudo-headers by their names.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        // Literal without indexing, new name (RFC 7541, section 6.2.2).
        out.push(0);
        out.push(name.len() as u8);
        out.extend_from_slice(name.as_bytes());
        out.push(value.len() as u8);
        out.extend_from_slice(value.as_bytes());
    }
    out
}

const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":authority", "c"), (":path", "/")];

#[tokio::test(flavor = "local")]
async fn violations_close_the_connection() {
    let headers = flag::END_HEADERS | flag::END_STREAM;
    let get = block(&GET);
    type Case<'c> = (&'c str, ErrorCode, u8, u8, u32, &'c [u8]);
    let cases: &[Case<'_>] = &[
        ("DATA on stream 0", ErrorCode::PROTOCOL_ERROR, kind::DATA, 0, 0, b"x"),
        ("DATA on an idle stream", ErrorCode::PROTOCOL_ERROR, kind::DATA, 0, 5, b"x"),
        ("HEADERS on stream 0", ErrorCode::PROTOCOL_ERROR, kind::HEADERS, headers, 0, &get),
        ("HEADERS on an even stream", ErrorCode::PROTOCOL_ERROR, kind::HEADERS, headers, 2, &get),
        ("a bad block", ErrorCode::COMPRESSION_ERROR, kind::HEADERS, headers, 1, &[0xff, 0xff, 0xff]),
        (
            "padding past the end",
            ErrorCode::PROTOCOL_ERROR,
            kind::HEADERS,
            headers | flag::PADDED,
            1,
            &[9, 0],
        ),
        ("a lone CONTINUATION", ErrorCode::PROTOCOL_ERROR, kind::CONTINUATION, flag::END_HEADERS, 1, &get),
        ("PUSH_PROMISE", ErrorCode::PROTOCOL_ERROR, kind::PUSH_PROMISE, flag::END_HEADERS, 1, &[0; 8]),
        ("a short PING", ErrorCode::FRAME_SIZE_ERROR, kind::PING, 0, 0, &[0; 7]),
        ("PING on a stream", ErrorCode::PROTOCOL_ERROR, kind::PING, 0, 1, &[0; 8]),
        ("SETTINGS on a stream", ErrorCode::PROTOCOL_ERROR, kind::SETTINGS, 0, 1, &[]),
        ("SETTINGS of a wrong length", ErrorCode::FRAME_SIZE_ERROR, kind::SETTINGS, 0, 0, &[0; 5]),
        ("an ACK with a payload", ErrorCode::FRAME_SIZE_ERROR, kind::SETTINGS, flag::ACK, 0, &[0; 6]),
        ("a window of 2^31", ErrorCode::FLOW_CONTROL_ERROR, kind::SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0]),
        ("a small MAX_FRAME_SIZE", ErrorCode::PROTOCOL_ERROR, kind::SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1]),
        ("a growth by 0", ErrorCode::PROTOCOL_ERROR, kind::WINDOW_UPDATE, 0, 0, &[0; 4]),
        (
            "a growth past 2^31",
            ErrorCode::FLOW_CONTROL_ERROR,
            kind::WINDOW_UPDATE,
            0,
            0,
            &[0x7f, 255, 255, 255],
        ),
        ("a short WINDOW_UPDATE", ErrorCode::FRAME_SIZE_ERROR, kind::WINDOW_UPDATE, 0, 0, &[0; 3]),
        ("RST_STREAM on an idle stream", ErrorCode::PROTOCOL_ERROR, kind::RST_STREAM, 0, 1, &[0; 4]),
        ("RST_STREAM on stream 0", ErrorCode::PROTOCOL_ERROR, kind::RST_STREAM, 0, 0, &[0; 4]),
        ("a short GOAWAY", ErrorCode::FRAME_SIZE_ERROR, kind::GOAWAY, 0, 0, &[0; 7]),
        ("a frame that is too large", ErrorCode::FRAME_SIZE_ERROR, kind::DATA, 0, 1, &[0; 16_385]),
    ];
    for (case, code, kind, flags, stream, payload) in cases {
        let (near, far) = wire();
        let server = echo(far);
        let mut peer = RawClient::new(near).await;
        peer.frame(*kind, *flags, *stream, payload).await;
        peer.expect_go_away(*code, case).await;
        drop(peer);
        assert!(matches!(server.await.unwrap(), Ended::Violation(_)), "{case}");
    }
}

#[tokio::test(flavor = "local")]
async fn other_beginnings_are_refused() {
    for bytes in [&b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n........."[..], b"GET / HTTP/1.1\r\nhost: c\r\n\r\n"] {
        let (mut near, far) = wire();
        let server = echo(far);
        near.write_all(bytes).await.unwrap();
        assert!(matches!(server.await.unwrap(), Ended::Violation(_)));
    }
    let (near, far) = wire();
    let server = echo(far);
    let mut peer = RawClient(near);
    let mut first = PREFACE.to_vec();
    frame::ping(&mut first, false, [0; 8]);
    peer.send(&first).await;
    peer.expect_go_away(ErrorCode::PROTOCOL_ERROR, "PING before SETTINGS").await;
    drop(peer);
    assert!(matches!(server.await.unwrap(), Ended::Violation(_)));
}

#[tokio::test(flavor = "local")]
async fn malformed_requests_are_reset_and_no_other() {
    let cases: &[&[(&str, &str)]] = &[
        &[(":method", "GET"), (":scheme", "http"), (":authority", "c")],
        &[(":method", "GET"), (":path", "/"), (":authority", "c")],
        &[(":method", "GET"), (":method", "GET"), (":scheme", "http"), (":path", "/")],
        &[(":method", "GET"), (":scheme", "http"), ("x", "y"), (":path", "/")],
        &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":status", "200")],
        &[(":method", "GET"), (":scheme", "http"), (":path", "")],
        &[(":method", "GET"), (":scheme", "http"), (":path", "secret")],
        &[(":method", "GET"), (":scheme", "http"), (":path", "/"), ("connection", "close")],
        &[(":method", "GET"), (":scheme", "http"), (":path", "/"), ("transfer-encoding", "chunked")],
        &[(":method", "GET"), (":scheme", "http"), (":path", "/"), ("te", "gzip")],
        &[(":method", "GET"), (":scheme", "http"), (":path", "/"), ("Upper", "x")],
        &[(":method", "GET"), (":scheme", "http"), (":path", "/"), ("x", "a\r\nb")],
        &[(":method", "GET"), (":scheme", "http"), (":path", "/"), ("content-length", "5")],
        &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":unknown", "5")],
        &[(":method", "CONNECT"), (":scheme", "http"), (":path", "/"), (":authority", "c:1")],
        &[(":method", "CONNECT")],
    ];
    let (near, far) = wire();
    echo(far);
    let mut peer = RawClient::new(near).await;
    let mut stream = 1;
    for fields in cases {
        peer.frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &block(fields)).await;
        peer.expect_reset(stream, ErrorCode::PROTOCOL_ERROR, &format!("{fields:?}")).await;
        stream += 2;
    }
    // Lengths that are not kept (RFC 9113, section 8.1.1).
    for body in [&b"1234"[..], b"123456"] {
        let mut fields = GET.to_vec();
        fields.push(("content-length", "5"));
        peer.frame(kind::HEADERS, flag::END_HEADERS, stream, &block(&fields)).await;
        peer.frame(kind::DATA, flag::END_STREAM, stream, body).await;
        peer.expect_reset(stream, ErrorCode::PROTOCOL_ERROR, "a length that is not kept").await;
        stream += 2;
    }
    peer.frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &block(&GET)).await;
    let (head, _) = peer.next_of(kind::HEADERS).await;
    assert_eq!(head.stream, stream);
}

#[tokio::test(flavor = "local")]
async fn padding_priorities_and_unknown_frames_are_understood() {
    let (near, far) = wire();
    echo(far);
    let mut peer = RawClient::new(near).await;
    let mut payload = vec![3, 0, 0, 0, 0, 16];
    let block = block(&GET);
    payload.extend_from_slice(&block[..10]);
    payload.extend_from_slice(&[0; 3]);
    peer.frame(kind::HEADERS, flag::PADDED | flag::PRIORITY, 1, &payload).await;
    peer.frame(kind::CONTINUATION, 0, 1, &block[10..12]).await;
    peer.frame(kind::CONTINUATION, flag::END_HEADERS, 1, &block[12..]).await;
    peer.frame(77, 0xff, 1, b"whatever").await;
    peer.frame(kind::PRIORITY, 0, 9, &[0; 5]).await;
    peer.frame(kind::DATA, flag::PADDED, 1, b"\x02hello..").await;
    peer.frame(kind::DATA, flag::PADDED | flag::END_STREAM, 1, b"\x00").await;
    let (head, data) = peer.next_of(kind::DATA).await;
    assert_eq!((head.stream, &data[..]), (1, &b"hello"[..]));
    peer.frame(kind::PING, 0, 0, b"12345678").await;
    let (head, echoed) = peer.next_of(kind::PING).await;
    assert!(head.has(flag::ACK) && echoed == b"12345678");
}

#[tokio::test(flavor = "local")]
async fn windows_are_kept() {
    let (near, far) = wire();
    echo(far);
    let mut peer = RawClient::new(near).await;
    let mut settings = Vec::new();
    frame::settings(&mut settings, &[(setting::INITIAL_WINDOW_SIZE, 10)]);
    peer.send(&settings).await;
    peer.frame(kind::HEADERS, flag::END_HEADERS, 1, &block(&GET)).await;
    peer.frame(kind::DATA, flag::END_STREAM, 1, b"twenty-one bytes here").await;
    let (_, first) = peer.next_of(kind::DATA).await;
    assert_eq!(first, b"twenty-one");
    // It shrinks below what is under way already, and grows again.
    settings.clear();
    frame::settings(&mut settings, &[(setting::INITIAL_WINDOW_SIZE, 5)]);
    peer.send(&settings).await;
    peer.frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9]).await;
    let (_, second) = peer.next_of(kind::DATA).await;
    assert_eq!(second, b" byt");
    peer.frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 100]).await;
    let (head, third) = peer.next_of(kind::DATA).await;
    assert!(head.has(flag::END_STREAM));
    assert_eq!(third, b"es here");
}

#[tokio::test(flavor = "local")]
async fn floods_end_the_connection() {
    type Flood = fn(u32, &mut Vec<u8>);
    let get = block(&GET);
    let floods: &[(&str, Flood)] = &[
        ("resets", |i, out| {
            let get = block(&GET);
            frame::head(out, get.len(), kind::HEADERS, flag::END_HEADERS, 2 * i + 1);
            out.extend_from_slice(&get);
            frame::number(out, kind::RST_STREAM, 2 * i + 1, 8);
        }),
        ("settings", |_, out| frame::settings(out, &[])),
        ("empty data", |_, out| frame::head(out, 0, kind::DATA, 0, 1)),
        ("unknown frames", |_, out| frame::head(out, 0, 99, 0, 0)),
        ("malformed requests", |i, out| {
            let bad = block(&GET[..2]);
            frame::head(out, bad.len(), kind::HEADERS, flag::END_HEADERS, 2 * i + 3);
            out.extend_from_slice(&bad);
        }),
        ("continuations", |i, out| {
            let (kind, stream) = if i == 0 { (kind::HEADERS, 3) } else { (kind::CONTINUATION, 3) };
            frame::head(out, 0, kind, 0, stream);
        }),
    ];
    for (case, flood) in floods {
        let (near, far) = wire();
        let mut connection = Connection::server(Plain(far), LIMITS, LINGER);
        let server = tokio::task::spawn_local(async move {
            let mut held = Vec::new();
            poll_fn(|cx| connection.poll(cx, |_, sender, receiver| held.push((sender, receiver)))).await
        });
        let mut peer = RawClient::new(near).await;
        if *case == "empty data" {
            peer.frame(kind::HEADERS, flag::END_HEADERS, 1, &get).await;
        }
        let (mut read, mut write) = tokio::io::split(peer.0);
        let reading = tokio::task::spawn_local(async move {
            let mut sink = tokio::io::sink();
            let _ = tokio::io::copy(&mut read, &mut sink).await;
        });
        for i in 0..20_000 {
            let mut out = Vec::new();
            flood(i, &mut out);
            if server.is_finished() || write.write_all(&out).await.is_err() {
                break;
            }
        }
        drop(write);
        let ended = timeout(Duration::from_secs(10), server).await.expect("it ends").unwrap();
        match ended {
            Ended::Violation(violation) => assert_eq!(violation.code, ErrorCode::ENHANCE_YOUR_CALM, "{case}"),
            other => panic!("{case}: {other}"),
        }
        reading.abort();
    }
}

/// A request that is reset in the same breath is not handed over, and leaves nothing behind.
#[test]
fn what_is_reset_at_once_is_forgotten() {
    let mut core = crate::http2::core::Core::new(true, LIMITS);
    let mut bytes = PREFACE.to_vec();
    frame::settings(&mut bytes, &[]);
    let get = block(&GET);
    frame::head(&mut bytes, get.len(), kind::HEADERS, flag::END_HEADERS, 1);
    bytes.extend_from_slice(&get);
    frame::head(&mut bytes, 5, kind::DATA, 0, 1);
    bytes.extend_from_slice(b"hello");
    frame::number(&mut bytes, kind::RST_STREAM, 1, ErrorCode::CANCEL.0);
    core.receive(&bytes, Duration::ZERO);
    assert!(core.accepted.is_empty() && core.streams.is_empty());
}

/// Whatever bytes come, in whatever pieces: no panic, and an end.
#[tokio::test(flavor = "local")]
async fn noise_is_survived() {
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;

    use crate::http2::core::Core;

    let frames = prop::collection::vec(
        (0u8..11, any::<u8>(), 0u32..6, prop::collection::vec(any::<u8>(), 0..40)),
        0..30,
    );
    let mut runner = TestRunner::deterministic();
    let strategy = (frames, prop::collection::vec(1usize..50, 1..20), any::<bool>());
    let result = runner.run(&strategy, |(frames, pieces, server)| {
        let mut bytes = if server { PREFACE.to_vec() } else { Vec::new() };
        frame::settings(&mut bytes, &[]);
        let mut encoder = Encoder::new();
        for (kind, flags, stream, payload) in &frames {
            let mut payload = payload.clone();
            if *kind == kind::HEADERS && flags & 1 == 0 {
                payload.clear();
                encoder.begin(&mut payload);
                payload.extend_from_slice(&block(&GET));
            }
            frame::head(&mut bytes, payload.len(), *kind, *flags, *stream);
            bytes.extend_from_slice(&payload);
        }
        let mut whole = Core::new(server, LIMITS);
        whole.receive(&bytes, Duration::ZERO);
        let mut pieced = Core::new(server, LIMITS);
        let mut rest = &bytes[..];
        for length in pieces.iter().cycle() {
            let (piece, after) = rest.split_at((*length).min(rest.len()));
            pieced.receive(piece, Duration::ZERO);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(whole.out.pending(), pieced.out.pending());
        prop_assert_eq!(whole.accepted.len(), pieced.accepted.len());
        Ok(())
    });
    result.unwrap();
}
