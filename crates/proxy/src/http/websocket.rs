//! WebSockets to applications of HTTP/2 (RFC 8441), each on a connection of its own: a TCP connection on this node,
//! a CONNECT stream of a link to another, as those of HTTP/1.1 are.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use http::request::Parts;
use http::{Method, response};
use tokio::time::timeout;

use crate::budget::Seat;
use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::http::asker::Caller;
use crate::http::{FIELD_LIMIT, HEADER_LIMIT};
use crate::http2::{Connection, Error, Handle, Limits, Plain, Receiver, RequestFields, Sender, WhenReset};
use crate::progress::Side;
use crate::tcp::Upstream;
use crate::worker::Worker;

/// What an application may send on such a connection.
const LIMITS: Limits = Limits {
    stream_window: 1 << 20,
    connection_window: 1 << 20,
    frame: 64 << 10,
    header_list: HEADER_LIMIT as u32,
    fields: FIELD_LIMIT as u32,
    streams: 0,
    resets: 1,
    resets_per_second: 1,
    when_reset: WhenReset::Leave,
    extended_connect: false,
    names: &[],
};
/// How long the application may take to say what it allows.
const SETTINGS_DEADLINE: Duration = Duration::from_secs(5);
/// How long it may take to close the connection.
const LINGER: Duration = Duration::from_secs(1);

/// An application's answer, and the two ends of its stream.
pub(super) struct Answered {
    pub head: response::Parts,
    pub sender: Sender,
    pub receiver: Receiver,
}

/// The connection ends with its only stream, and at once where there is none.
struct Only(Handle);

impl Drop for Only {
    fn drop(&mut self) {
        self.0.go_away();
    }
}

/// Asks an application for a WebSocket, with the head of a client that did so. `None`: it does not speak HTTP/2,
/// or not say that it takes them (section 3).
pub(super) async fn ask(
    worker: &Rc<Worker>,
    (upstream, seat): (Upstream, Option<Seat>),
    head: &Parts,
    caller: &Caller,
) -> Result<Option<Answered>, UpstreamError> {
    let connection = Connection::client(Plain(upstream), LIMITS, LINGER);
    let mut connection = connection.charged(caller.account.clone());
    let only = Only(connection.handle());
    let sweep = worker.local.sweep.clone();
    worker.local.connections.spawn_local(async move {
        let _watched = sweep.watch(&connection.handle(), Side::Application);
        let ended = poll_fn(|cx| connection.poll(cx, |_, _, _| {})).await;
        tracing::debug!("connection for a WebSocket ended: {ended}");
        drop(seat);
    });
    // Its settings come before anything else that it says.
    if !matches!(timeout(SETTINGS_DEADLINE, only.0.ping()).await, Ok(Ok(())))
        || !only.0.takes_extended_connect()
    {
        return Ok(None);
    }
    let request = RequestFields { method: &Method::CONNECT, ..RequestFields::new(head, &[]) };
    let lost = |error: Error| {
        if let Error::Malformed(_) = error {
            let message = format!("the answer to a request for a WebSocket cannot be passed on: {error}");
            return UpstreamError::bad_answer(message);
        }
        let kind = match error {
            Error::Reset(code) => UpstreamErrorKind::Reset(code.0),
            Error::Stalled => UpstreamErrorKind::Timeout,
            Error::Oversized => UpstreamErrorKind::AnswerHeadersTooLarge,
            Error::TooLargeForPeer(_) => UpstreamErrorKind::HeadersTooLarge,
            _ => UpstreamErrorKind::ConnectionLost,
        };
        let safe_to_retry = error.is_unprocessed() || matches!(error, Error::TooLargeForPeer(_));
        let message = format!("the WebSocket was not answered: {error}");
        UpstreamError::new(kind, safe_to_retry, message)
    };
    let opened = only.0.clone().paid_by(&caller.account).request(&request, false);
    let (sender, mut receiver) = opened.map_err(lost)?;
    let answered = poll_fn(|cx| {
        loop {
            match ready!(receiver.poll_head(cx)) {
                Ok(head) if head.status.is_informational() => caller.asker.pass(cx, head),
                answered => return Poll::Ready(answered),
            }
        }
    });
    let head = answered.await.map_err(lost)?;
    Ok(Some(Answered { head, sender, receiver }))
}
