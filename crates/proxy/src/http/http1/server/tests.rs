//! How long a connection waits for what.

use std::cell::Cell;
use std::io;

use bytes::Bytes;
use http::{Method, Response, Version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::time::{Instant, timeout};
use tulle_model::port_settings::Http1Settings;

use super::answer::AnswerForm;
use super::idle::IDLE_QUARTER;
use super::*;
use crate::drain::DrainSignal;
use crate::http::body::Body;
use crate::http::http1::Bad;
use crate::reset::Reset;

const HEAD_DEADLINE: Duration = Duration::from_secs(30);
const HALF_CLOSED: Duration = Http1Settings::DEFAULT.half_close;

/// A connection without a kernel.
struct MemoryConnection(DuplexStream, Rc<Cell<bool>>);

impl Reset for MemoryConnection {
    fn reset(&mut self) {
        self.1.set(true);
    }
}

impl AsyncRead for MemoryConnection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for MemoryConnection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

/// Who serves nobody else.
struct Alone;

impl Owner for Alone {
    fn half_close(&self) -> Duration {
        HALF_CLOSED
    }

    fn cut(&self) {}
}

struct Fixture {
    wire: DuplexStream,
    client: RefCell<Client>,
    signal: DrainSignal,
    drain: Drain,
    idle: Option<IdleTimeout>,
    was_reset: Rc<Cell<bool>>,
}

impl Fixture {
    fn new() -> Self {
        let (wire, io) = tokio::io::duplex(64);
        let (signal, drain) = DrainSignal::new();
        let was_reset = Rc::new(Cell::new(false));
        let client = RefCell::new(Client::new(
            Downstream::Tunnel(Box::new(MemoryConnection(io, was_reset.clone()))),
            Vec::new(),
            Rc::default(),
            Charge::default(),
            Rc::new(Alone),
        ));
        Self { wire, client, signal, drain, idle: None, was_reset }
    }

    async fn next(&mut self, served: u64) -> Result<Begun<RequestHead>, NoHead> {
        next_request(&self.client, &self.drain, &mut self.idle, served, |request| request).await
    }
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: c\r\n\r\n";

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_deadline_of_a_head_begins_with_its_first_byte() {
    let mut fixture = Fixture::new();
    fixture.wire.write_all(GET).await.unwrap();
    assert!(matches!(fixture.next(0).await, Ok(Begun::Request(_))));
    // An empty line is no head.
    fixture.wire.write_all(b"\r\n").await.unwrap();
    let idle = timeout(2 * HEAD_DEADLINE, fixture.next(1)).await;
    assert!(idle.is_err(), "an idle connection stays open");
    fixture.wire.write_all(b"GET").await.unwrap();
    let begin = Instant::now();
    let late = timeout(2 * HEAD_DEADLINE, fixture.next(1)).await.expect("a deadline");
    assert!(matches!(late, Ok(Begun::Slow)));
    let over = begin.elapsed().as_secs_f64() / HEAD_DEADLINE.as_secs_f64();
    assert!((1.0..1.25).contains(&over), "{over}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_idle_connection_ends_after_an_hour_without_requests() {
    let mut fixture = Fixture::new();
    for served in 0..8 {
        assert!(timeout(3 * IDLE_QUARTER, fixture.next(served)).await.is_err(), "{served}");
        fixture.wire.write_all(GET).await.unwrap();
        assert!(matches!(fixture.next(served).await, Ok(Begun::Request(_))));
    }
    let begin = Instant::now();
    assert!(matches!(fixture.next(8).await, Err(NoHead::Ended)));
    let quarters = begin.elapsed().as_secs_f64() / IDLE_QUARTER.as_secs_f64();
    assert!((4.0..5.1).contains(&quarters), "{quarters}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_drain_ends_what_is_idle_and_waits_for_what_has_begun() {
    let mut fixture = Fixture::new();
    assert!(timeout(HEAD_DEADLINE, fixture.next(0)).await.is_err());
    fixture.wire.write_all(&GET[..9]).await.unwrap();
    assert!(timeout(HEAD_DEADLINE / 2, fixture.next(0)).await.is_err());
    fixture.signal.start();
    fixture.wire.write_all(&GET[9..]).await.unwrap();
    assert!(matches!(fixture.next(0).await, Ok(Begun::Request(_))));
    assert!(matches!(fixture.next(1).await, Err(NoHead::Ended)));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn http2_is_told_by_its_preface() {
    for cut in 0..PREFACE.len() {
        let mut fixture = Fixture::new();
        fixture.wire.write_all(&PREFACE[..cut]).await.unwrap();
        assert!(timeout(HEAD_DEADLINE / 2, fixture.next(0)).await.is_err(), "{cut}");
        fixture.wire.write_all(&PREFACE[cut..]).await.unwrap();
        fixture.wire.write_all(b"more").await.unwrap();
        assert!(matches!(fixture.next(0).await, Ok(Begun::Http2)), "{cut}");
        assert!(fixture.client.borrow().input.buffer.starts_with(PREFACE));
    }
    // Not in the middle of a connection.
    let mut fixture = Fixture::new();
    fixture.wire.write_all(PREFACE).await.unwrap();
    assert!(matches!(fixture.next(1).await, Err(NoHead::Bad(Bad::Malformed(_)))));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_client_that_closed_its_side_must_take_its_answer() {
    let mut fixture = Fixture::new();
    fixture.wire.shutdown().await.unwrap();
    let client = &fixture.client;
    let gone = || poll_fn(|cx| client.borrow_mut().poll_gone(cx));
    assert!(timeout(HALF_CLOSED / 2, gone()).await.is_err());
    // It takes something, and has all of the time again.
    client.borrow_mut().output.total += 1;
    let begin = Instant::now();
    gone().await;
    assert_eq!(begin.elapsed().as_secs(), HALF_CLOSED.as_secs());
}

/// An end by the connection's end must not look orderly where the answer broke.
#[tokio::test(flavor = "local", start_paused = true)]
async fn half_an_answer_without_a_length_ends_with_a_reset() {
    struct Half(bool);
    impl http_body::Body for Half {
        type Data = Bytes;
        type Error = &'static str;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, &'static str>>> {
            let half = std::mem::take(&mut self.0);
            Poll::Ready(Some(if half { Ok(http_body::Frame::data("half".into())) } else { Err("broken") }))
        }
    }
    for (version, reset) in [(Version::HTTP_10, true), (Version::HTTP_11, false)] {
        let mut fixture = Fixture::new();
        let asked = AnswerForm { method: Method::GET, version, keep: true, trailers: false };
        let response = Response::new(Body::new(Half(true)));
        let read = async {
            let mut text = vec![0; 64];
            while fixture.wire.read(&mut text).await.is_ok_and(|count| count == text.len()) {}
        };
        let (written, ()) = tokio::join!(answer::write(&fixture.client, &asked, response, false), read);
        assert!(written.is_err());
        assert_eq!(fixture.was_reset.get(), reset, "{version:?}");
    }
}

fn size_of_future<T, F: Future>(_: impl FnOnce(T) -> F) -> usize {
    size_of::<F>()
}

/// A thousand that are idle should cost little.
#[test]
fn an_idle_connection_is_small() {
    type Accepted =
        (Rc<crate::worker::Worker>, tulle_model::name::WorkloadName, crate::Capture, tokio::net::TcpStream);
    let connection = size_of_future(|(worker, source, capture, tcp): Accepted| {
        crate::outbound::serve(worker, source, capture, tcp)
    });
    let shared = size_of::<Client>();
    assert!(connection + shared <= 1800, "{connection} and {shared} bytes");
}
