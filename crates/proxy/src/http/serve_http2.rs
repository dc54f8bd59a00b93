//! Serves clients that speak HTTP/2: each request is a task.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::{Method, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use crate::access_log::Outline;
use crate::boxed::boxed;
use crate::budget::{Shed, cost};
use crate::http::asker::Asker;
use crate::http::body::Body;
use crate::http::reply;
use crate::http::respond::respond;
use crate::http::server::{self, answer};
use crate::http::upgrade::Leaving;
use crate::http::{FIELD_LIMIT, HEADER_LIMIT};
use crate::http2::{
    self, ConnectProtocol, Connection, Ended, Error, Incoming, Limits, Plain, Receiver, Sender, Tunnel,
    Unfit, WhenReset, give_up, until_dead,
};
use crate::mesh_headers::REASON;
use crate::progress::Side;
use crate::reason::Reason;
use crate::tcp::{Downstream, Replayed};

/// What a client may do on one connection.
const LIMITS: Limits = Limits {
    stream_window: 1 << 20,
    connection_window: 4 << 20,
    frame: 64 << 10,
    header_list: HEADER_LIMIT as u32,
    fields: FIELD_LIMIT as u32,
    streams: 1000,
    // All that it has open, once; and less than a link takes.
    resets: 1000,
    resets_per_second: 250,
    when_reset: WhenReset::Wait,
    extended_connect: true,
    names: &[],
};
/// Clients that are silent are asked whether they live.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const PING_DEADLINE: Duration = Duration::from_secs(20);
/// How long a client may take to close a connection that we have ended.
const LINGER: Duration = Duration::from_secs(1);

/// Serves a connection, of which `first` was read already, until it ends.
pub(super) async fn serve(cx: Rc<server::ConnectionContext>, io: Downstream, first: Vec<u8>) {
    let worker = cx.worker.clone();
    let connection = Connection::server(Plain(Replayed::new(first, io)), LIMITS, LINGER);
    // What the connection costs more than one of HTTP/1.
    let _charge = match cx.account.charge(cost::HTTP2) {
        Ok(charge) => charge,
        Err(shed) => {
            worker.local.metrics.counts().rejected(shed.into());
            if worker.local.may_warn() {
                let (workload, reason) = (&cx.workload.name, shed.as_str());
                tracing::warn!(%workload, reason, "connection of a client refused: {}", shed.message());
            }
            return Box::pin(connection.refuse(shed.message())).await;
        }
    };
    let mut connection = connection.charged(cx.account.clone());
    let (handle, received) = (connection.handle(), connection.received());
    let _watched = worker.local.sweep.watch(&handle, Side::Client);
    let mut dead = pin!(until_dead(handle.clone(), received, PING_INTERVAL, PING_DEADLINE, || {}));
    let mut draining = pin!(worker.local.drain.wait());
    let mut told = false;
    let ended = loop {
        tokio::select! {
            biased;
            ended = poll_fn(|task| connection.poll(task, |incoming, sender, receiver| {
                match incoming.unfit {
                    Some(Unfit::Unaffordable) => return dismiss(&cx, incoming.head, sender),
                    Some(Unfit::Malformed) => return cx.unread(Reason::BadRequest, Outline::default()),
                    Some(Unfit::Oversized | Unfit::Misdirected) | None => {}
                }
                // Boxed, as a task's future is moved three times on its way, and this one is large.
                tokio::task::spawn_local(boxed(|| serve_stream(cx.clone(), incoming, sender, receiver)));
            })) => break ended,
            () = &mut dead => {
                tracing::debug!("a client does not answer pings");
                return;
            }
            () = &mut draining, if !told => {
                told = true;
                handle.go_away();
            }
        }
    };
    if let Ended::Violation(violation) = &ended {
        worker.local.metrics.counts().abusive_client(violation.code);
        if worker.local.may_warn() {
            tracing::warn!(workload = %cx.workload.name, "connection of a client closed: {violation}");
        }
    }
    if !matches!(ended, Ended::Closed) {
        tracing::debug!("connection of a workload ended: {ended}");
    }
}

/// Tells a client that it is not served, and why. Its preface may have been read.
pub(crate) async fn refuse(io: impl AsyncRead + AsyncWrite + Unpin, why: &'static str) {
    Connection::server(Plain(io), LIMITS, LINGER).refuse(why).await;
}

async fn serve_stream(
    cx: Rc<server::ConnectionContext>,
    incoming: Incoming,
    mut sender: Sender,
    receiver: Receiver,
) {
    // Each stream has such a future. What is held over one wait alone shares its room there with what is held over
    // others: so the answer is, and what is rare and large is boxed.
    let Incoming { mut head, unfit, .. } = incoming;
    cx.account.turn().await;
    if let Some(unfit) = unfit {
        let (reason, message) = reply::unfit_for(unfit);
        let response = server::decline(&cx, &head, reason, message);
        drop(head);
        return respond(&mut sender, response).await;
    }
    if head.method == Method::CONNECT {
        return Box::pin(connect(cx, head, sender, receiver)).await;
    }
    let (body, asker) = (Body::from(receiver), Asker::Http2(sender.interim()));
    let response = {
        let answered = pin!(Some(answer(&cx, &mut head, body, None, None, asker)));
        or_given_up(&cx, answered, &mut sender).await
    };
    // It is not held while the answer leaves, which may take long.
    drop(head);
    let Some(response) = response else {
        // What it held is given back, which takes its time, too.
        return cx.account.turn().await;
    };
    match said_instead(&response) {
        Some(code) => sender.reset(code),
        None => respond(&mut sender, response).await,
    }
}

/// The code that the application said instead of an answer.
fn said_instead(response: &Response<Body>) -> Option<http2::ErrorCode> {
    if response.headers().contains_key(REASON) { reply::reset_code(response.headers()) } else { None }
}

/// Waits for an answer. `None`: the client has reset the stream, and what serves it is given up with its code.
async fn or_given_up(
    cx: &server::ConnectionContext,
    mut answered: Pin<&mut Option<impl Future<Output = Response<Body>>>>,
    sender: &mut Sender,
) -> Option<Response<Body>> {
    let error = match or_reset(answered.as_mut(), sender).await {
        Ok(response) => return Some(response),
        Err(error) => error,
    };
    if let Error::ResetHere(http2::ErrorCode::PROTOCOL_ERROR) = error {
        cx.unread(Reason::BadRequest, Outline::default());
    }
    let by_client = matches!(error, Error::Reset(_) | Error::Connection(_));
    cx.ending.counted.set(!by_client);
    give_up(&error, || answered.set(None));
    cx.ending.counted.set(false);
    None
}

/// Waits for an answer, or until the client resets the stream.
pub(crate) async fn or_reset<T>(
    mut answered: Pin<&mut Option<impl Future<Output = T>>>,
    sender: &mut Sender,
) -> Result<T, Error> {
    poll_fn(|cx| {
        if let Some(answered) = answered.as_mut().as_pin_mut()
            && let Poll::Ready(response) = answered.poll(cx)
        {
            return Poll::Ready(Ok(response));
        }
        sender.poll_reset(cx).map(Err)
    })
    .await
}

/// Answers a request for which there is no memory: at once, so that none is held for it.
fn dismiss(cx: &Rc<server::ConnectionContext>, head: http::request::Parts, mut sender: Sender) {
    let response = server::decline(cx, &head, Reason::Shed(Shed::Memory), Shed::Memory.message());
    // Without what it says to people, for which there may be no room. Fails only when the stream is over: nobody
    // waits for it then.
    let _ = sender.respond(response.status(), response.headers(), true);
}

/// A request to leave HTTP: after an answer that grants it, the stream is a tunnel.
async fn connect(
    cx: Rc<server::ConnectionContext>,
    mut head: http::request::Parts,
    mut sender: Sender,
    receiver: Receiver,
) {
    let extended = head.extensions.get::<ConnectProtocol>().is_some();
    let (hand_over, handed_over) = oneshot::channel();
    let leaving = Leaving::Http2(handed_over);
    let asker = Asker::Http2(sender.interim());
    let answered = pin!(Some(answer(&cx, &mut head, Body::empty(), None, Some(leaving), asker)));
    let Some(response) = or_given_up(&cx, answered, &mut sender).await else { return };
    if let Some(code) = said_instead(&response) {
        return sender.reset(code);
    }
    if !response.status().is_success() || hand_over.is_closed() {
        return respond(&mut sender, response).await;
    }
    if sender.respond(response.status(), response.headers(), false).is_ok() {
        // Nobody waits for it any more: it is dropped, which resets the stream.
        let open = if extended { Tunnel::extended } else { Tunnel::new };
        let _ = hand_over.send(open(sender, receiver));
    }
}

/// How large the future is that a function of four arguments returns.
#[cfg(test)]
pub(crate) fn size_of_future<A, B, C, D, F: Future>(_: impl Fn(A, B, C, D) -> F) -> usize {
    size_of::<F>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It is copied on its way into its task, and held as long as the stream.
    #[test]
    fn a_stream_takes_little_room() {
        let size = size_of_future(serve_stream);
        assert!(size <= 4 << 10, "{size} bytes");
    }
}
