//! What hyper makes of the same bytes.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body as _;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::service_fn;

/// A head takes any size and any number of fields here: the limits of the two differ.
const FIELDS: usize = 8 << 10;
const BUFFER: usize = 1 << 20;

/// A message.
#[derive(Debug)]
pub(super) struct Seen {
    /// The method and the target, or the status.
    pub line: String,
    pub body: SeenBody,
}

#[derive(Debug, PartialEq)]
pub(super) enum SeenBody {
    /// More is to come.
    Waits,
    Whole(Vec<u8>),
    Refused,
}

/// A connection on which these bytes come, and then nothing or the end.
struct ScriptedConnection {
    bytes: Bytes,
    ends: bool,
    /// Nothing comes before something was written.
    silent: bool,
}

impl Read for ScriptedConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.silent || self.bytes.is_empty() && !self.ends {
            return Poll::Pending;
        }
        let count = self.bytes.len().min(buffer.remaining());
        buffer.put_slice(&self.bytes.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl Write for ScriptedConnection {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.silent = false;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The requests that hyper serves of a connection that stays open.
pub(super) fn requests(bytes: &[u8]) -> Vec<Seen> {
    let seen: Rc<RefCell<Vec<Seen>>> = Rc::default();
    let frames: Rc<Cell<usize>> = Rc::default();
    let wire = ScriptedConnection { bytes: Bytes::copy_from_slice(bytes), ends: false, silent: false };
    let service = service_fn(|request: Request<Incoming>| {
        let (seen, frames) = (seen.clone(), frames.clone());
        let line = format!("{} {}", request.method(), request.uri());
        async move {
            let index = seen.borrow().len();
            seen.borrow_mut().push(Seen { line, body: SeenBody::Waits });
            let body = collect(request.into_body(), &frames).await;
            seen.borrow_mut()[index].body = body;
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.max_headers(FIELDS).max_buf_size(BUFFER).auto_date_header(false);
    let mut connection = pin!(builder.serve_connection(wire, service));
    let mut cx = Context::from_waker(Waker::noop());
    // It wakes itself now and then: done when nothing changes any more.
    let mut rest = 0;
    while rest < 3 && connection.as_mut().poll(&mut cx).is_pending() {
        let before = (seen.borrow().len(), frames.get());
        let _ = connection.as_mut().poll(&mut cx);
        rest = if (seen.borrow().len(), frames.get()) == before { rest + 1 } else { 0 };
    }
    seen.take()
}

/// The final answer, if hyper takes one of a connection that ends then.
pub(super) fn answer(bytes: &[u8], method: &Method) -> Option<Seen> {
    let wire = ScriptedConnection { bytes: Bytes::copy_from_slice(bytes), ends: true, silent: true };
    let mut cx = Context::from_waker(Waker::noop());
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_headers(FIELDS).max_buf_size(BUFFER);
    let (mut sender, connection) = match pin!(builder.handshake(wire)).poll(&mut cx) {
        Poll::Ready(Ok(pair)) => pair,
        _ => return None,
    };
    let mut connection = pin!(connection);
    let target = if *method == Method::CONNECT { "a:1" } else { "/" };
    let request =
        Request::builder().method(method).uri(target).header("host", "a").body(Empty::<Bytes>::new());
    let mut answering = pin!(async {
        let response = sender.send_request(request.ok()?).await.ok()?;
        let line = response.status().as_str().to_owned();
        Some(Seen { line, body: collect(response.into_body(), &Cell::default()).await })
    });
    for _ in 0..100 {
        if let Poll::Ready(seen) = answering.as_mut().poll(&mut cx) {
            return seen;
        }
        let _ = connection.as_mut().poll(&mut cx);
    }
    panic!("hyper does not come to an end with an answer");
}

/// All of a body; `frames` counts what comes of it.
async fn collect(mut body: Incoming, frames: &Cell<usize>) -> SeenBody {
    let mut whole = Vec::new();
    while !body.is_end_stream() {
        let frame = body.frame().await;
        frames.set(frames.get() + 1);
        match frame {
            Some(Ok(frame)) => whole.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            Some(Err(_)) => return SeenBody::Refused,
            None => break,
        }
    }
    SeenBody::Whole(whole)
}
