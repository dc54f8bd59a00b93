//! A client's HTTP/1 connection: one request after the other, each answered in the connection's own task.
//!
//! While an answer is awaited, the socket is watched: what the client sends ahead is kept for later, a reset
//! drops the request, and a client that has closed its side is served to the end, as long as it takes
//! something.

mod answer;
mod body;
mod half_closed;
mod idle;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::UPGRADE;
use http::{HeaderMap, Method, Response, StatusCode, Version};
use tokio::io::AsyncWrite;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tulle_model::detect::resembles_http;

use self::answer::Asked;
use self::half_closed::HalfClosed;
use self::idle::Idle;
use super::framing::{Decoded, Decoder};
use super::head::{self, Bad, RequestHead};
use super::input::{AHEAD, Input, NoHead};
use super::output::Output;
use crate::budget::{Charge, Shed, cost};
use crate::drain::Drain;
use crate::http::asker::Asker;
use crate::http::body::Body;
use crate::http::headers;
use crate::http::record::Outline;
use crate::http::reply::{HEADERS_TOO_LARGE, Reason, reply};
use crate::http::server::{Connection, answer, decline};
use crate::http::spelling::Spelling;
use crate::http::upgrade::Leaving;
use crate::link::REASON;
use crate::metrics::Rejection;
use crate::progress::{Again, Patience, Side, Stall, Sweep};
use crate::tcp::{Downstream, Reset};

/// How long, and with how much, a client may go on sending what nobody wants after its last answer. Closed
/// at once, its kernel would throw the answer away (RFC 9112, section 9.6).
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 16 << 20;
/// What is left of a request's body that nobody read is skipped, up to that, so that another request may follow.
const SKIPPED: usize = 256 << 10;

/// What an HTTP/2 connection begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How a connection went on.
pub(in crate::http) enum Ended {
    /// It is over.
    Closed,
    /// The client speaks HTTP/2; so much of it was read.
    Http2(Downstream, BytesMut),
}

/// A client's connection, as its task and the body of the request under way share it.
pub(crate) struct Client {
    io: Downstream,
    input: Input,
    output: Output,
    /// For what waits in the two.
    charge: Charge,
    receiving: Receiving,
    expectation: Option<Box<Expectation>>,
    /// The connection's task, where it waits for what the body's reader does.
    task: Option<Waker>,
    sweep: Rc<Sweep>,
    reading: Patience,
    writing: Patience,
    again: Again,
    /// Since when the client's side is closed.
    half_closed: Option<Box<HalfClosed>>,
    /// None in tests.
    connection: Option<Rc<Connection>>,
}

/// The client may be waiting for `100 Continue` before it sends the body of the request under way.
#[derive(Default)]
struct Expectation {
    /// It has an answer instead, and need not send it any more (RFC 9110, section 10.1.1).
    answered: bool,
    /// Who reads that body, meanwhile.
    reader: Option<Waker>,
}

/// How far the body of the request under way is read.
enum Receiving {
    Over,
    /// Its reader has it, and the reading side of the connection with it.
    Reader(Decoder),
    /// Its reader went away before its end.
    Left(Decoder),
    Malformed,
    /// The connection broke.
    Broken,
}

/// The client is gone, or has to go.
struct Gone;

// It is looked at once and not kept.
#[allow(clippy::large_enum_variant)]
enum Begun {
    Request(RequestHead),
    Http2,
    /// It does not go on with what it began.
    Slow,
    /// There is no memory for the rest of its head.
    Shed(Shed),
}

/// Why no further request is served on a connection.
enum Last {
    /// The client has ended it, or is not worth a farewell.
    Gone,
    /// We end it, after the last answer.
    Answered,
    Http2,
    /// It has left HTTP, to go where it is awaited.
    Left(oneshot::Sender<(Downstream, BytesMut)>),
}

impl From<Gone> for Last {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

/// Serves a connection, of which `first` was read already, until it ends.
pub(in crate::http) async fn serve(cx: &Rc<Connection>, io: Downstream, first: Vec<u8>) -> Ended {
    let client = Rc::new(RefCell::new(Client::new(
        io,
        first,
        cx.worker.sweep.clone(),
        Charge::on(cx.account.clone()),
        Some(cx.clone()),
    )));
    let last = requests(cx, &client).await.unwrap_or_else(Last::from);
    if let Last::Answered = last {
        Box::pin(farewell(&client)).await;
    }
    // Nobody else has it, unless an upgrade has left a body unread.
    let Some(client) = Rc::into_inner(client).map(RefCell::into_inner) else { return Ended::Closed };
    match last {
        Last::Http2 => return Ended::Http2(client.io, client.input.buffer),
        Last::Left(hand) if matches!(client.receiving, Receiving::Over) => {
            let _ = hand.send((client.io, client.input.buffer));
        }
        _ => {}
    }
    Ended::Closed
}

/// Serves one request after the other. What a request needs is there only while it is served.
async fn requests(cx: &Rc<Connection>, client: &Rc<RefCell<Client>>) -> Result<Last, Gone> {
    let drain = &cx.worker.drain;
    let mut idle = None;
    let mut served = 0;
    loop {
        let under_way = match next_request(client, drain, &mut idle, served).await {
            Ok(Begun::Request(request)) => Box::pin(serve_request(cx, client, request)),
            Ok(Begun::Http2) => return Ok(Last::Http2),
            Ok(Begun::Slow) => return Box::pin(refuse_slow(cx, client)).await,
            Ok(Begun::Shed(shed)) => {
                cx.unread(Reason::Shed(shed), &Outline::of(&client.borrow().input.buffer));
                return Box::pin(dismiss(client, reply(Reason::Shed(shed), shed.message()))).await;
            }
            Err(NoHead::Bad(bad)) => return Box::pin(refuse(cx, client, bad, served == 0)).await,
            Err(NoHead::Ended | NoHead::Cut) => return Ok(Last::Answered),
            Err(NoHead::Broken(error)) => {
                tracing::debug!(%error, "connection of a workload ended");
                return Err(Gone);
            }
        };
        served += 1;
        if let Some(last) = under_way.await? {
            return Ok(last);
        }
    }
}

/// Serves one request. `None`: another one may follow.
async fn serve_request(
    cx: &Rc<Connection>,
    client: &Rc<RefCell<Client>>,
    request: RequestHead,
) -> Result<Option<Last>, Gone> {
    let whole = request.whole();
    let RequestHead { mut parts, framing, keep, length, written, .. } = request;
    let body = whole.as_ref().map_or(0, Bytes::len);
    let price = cost::REQUEST + parts.headers.len() * cost::FIELD + 2 * length as usize + body;
    let _charge = match cx.account.charge(price) {
        Ok(charge) => charge,
        Err(shed) => {
            let response = decline(cx, parts, Reason::Shed(shed), shed.message());
            return Box::pin(dismiss(client, response)).await.map(Some);
        }
    };
    cx.account.turn().await;
    let asked = Asked {
        method: parts.method.clone(),
        version: parts.version,
        keep,
        trailers: headers::takes_trailers(&parts.headers),
    };
    let (mut handed, mut leaving) = (None, None);
    if asked.method == Method::CONNECT || parts.headers.contains_key(UPGRADE) {
        let (hand, taken) = oneshot::channel();
        (handed, leaving) = (Some(hand), Some(Leaving::Http1(taken)));
    }
    let body = match whole {
        Some(bytes) => Body::whole(bytes),
        None => {
            let expects = parts.version == Version::HTTP_11 && headers::expects_continue(&parts.headers);
            client.borrow_mut().receive(Decoder::new(framing), expects);
            Body::new(body::Incoming::new(client.clone(), &parts.headers))
        }
    };
    let asker = match parts.version {
        Version::HTTP_11 => Asker::Http1(client.clone()),
        _ => Asker::Nobody,
    };
    let response = {
        let mut answer = pin!(answer(cx, &mut parts, body, Some(written), leaving, asker));
        let answered = poll_fn(|task| {
            if let Poll::Ready(response) = answer.as_mut().poll(task) {
                return Poll::Ready(Ok(response));
            }
            match client.borrow_mut().poll_gone(task) {
                // It is told, in case that it listens.
                Poll::Ready(Gone) if cx.cut.get() => match answer.as_mut().poll(task) {
                    Poll::Ready(response) => Poll::Ready(Ok(response)),
                    Poll::Pending => {
                        let method = Some(asked.method.to_string());
                        Poll::Ready(Ok(cx.let_go(&Outline { method, ..Outline::default() })))
                    }
                },
                gone => gone.map(Err),
            }
        });
        answered.await?
    };
    // It is not held while the answer leaves, which may take long.
    drop(parts);
    let malformed = matches!(client.borrow().receiving, Receiving::Malformed);
    if malformed && response.headers().contains_key(REASON) {
        // It was refused for that.
        cx.worker.metrics.counts().rejected(Rejection::MalformedHttp);
        return dismiss(client, response).await.map(Some);
    }
    let left = match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => handed,
        status if asked.method == Method::CONNECT && status.is_success() => handed,
        _ => None,
    };
    let last = cx.worker.drain.started() || cx.cut.get();
    let kept = answer::write(client, &asked, response, last).await?;
    if let Some(hand) = left {
        return Ok(Some(Last::Left(hand)));
    }
    // A client of HTTP/1.0 may be waiting for the end.
    let over = (kept || asked.version == Version::HTTP_11) && body_over(client, kept).await;
    Ok((!kept || !over).then_some(Last::Answered))
}

/// Waits for the next request. An idle connection ends with the worker, or after a long time; one whose
/// head has begun has to go on with it.
async fn next_request(
    client: &RefCell<Client>,
    drain: &Drain,
    idle: &mut Option<Idle>,
    served: u64,
) -> Result<Begun, NoHead> {
    let parse = |bytes: &[u8]| match head::request(bytes) {
        Ok(found) => Ok(found.map(|(request, used)| (Begun::Request(request), used))),
        Err(_) if served == 0 && bytes.starts_with(PREFACE) => Ok(Some((Begun::Http2, 0))),
        Err(_) if served == 0 && PREFACE.starts_with(bytes) => Ok(None),
        Err(bad) => Err(bad),
    };
    poll_fn(|cx| {
        let client = &mut *client.borrow_mut();
        if client.has_ended() && client.input.is_empty() {
            return Poll::Ready(Err(NoHead::Ended));
        }
        if let Poll::Ready(begun) = client.input.poll_head(cx, &mut client.io, &client.charge, parse) {
            client.reading.rest();
            if client.input.takes_memory() || client.charge.bytes() > 0 {
                // What came with it may have to wait for long.
                client.input.shrink();
                client.hold();
            }
            return Poll::Ready(begun);
        }
        client.input.skip_empty_lines();
        if client.input.is_empty() {
            client.input.rest();
            let idle = idle.get_or_insert_with(|| Idle::new(drain, served));
            if drain.started() || idle.poll(cx, served).is_ready() {
                return Poll::Ready(Err(NoHead::Ended));
            }
        } else {
            if let Err(shed) = client.charge.try_hold(client.input.held()) {
                return Poll::Ready(Ok(Begun::Shed(shed)));
            }
            ready!(client.reading.poll(cx, &client.sweep, Stall::Head, served));
            return Poll::Ready(Ok(Begun::Slow));
        }
        Poll::Pending
    })
    .await
}

/// Tells a client what is wrong with its request. One that never spoke HTTP would not understand it: its
/// connection is reset. `first`: nothing came before.
async fn refuse(cx: &Rc<Connection>, client: &RefCell<Client>, bad: Bad, first: bool) -> Result<Last, Gone> {
    let counts = cx.worker.metrics.counts();
    let refused = |reason, message| {
        cx.unread(reason, &Outline::of(&client.borrow().input.buffer));
        reply(reason, message)
    };
    let response = match bad {
        Bad::Malformed(_) if first && !resembles_http(&client.borrow().input.buffer) => {
            counts.rejected(Rejection::NotHttp);
            cx.not_http();
            tracing::debug!("connection refused: the port is for HTTP, and the client does not speak it");
            client.borrow_mut().io.reset();
            return Err(Gone);
        }
        Bad::Malformed(why) => {
            counts.rejected(Rejection::MalformedHttp);
            refused(Reason::BadRequest, why.0)
        }
        Bad::TooLarge => refused(Reason::HeadersTooLarge, HEADERS_TOO_LARGE),
    };
    dismiss(client, response).await
}

/// Gives a client its last answer, to a request that was not read to its end.
async fn dismiss(client: &RefCell<Client>, response: Response<Body>) -> Result<Last, Gone> {
    client.borrow_mut().forget();
    let asked = Asked { method: Method::GET, version: Version::HTTP_11, keep: false, trailers: false };
    answer::write(client, &asked, response, false).await?;
    linger(client).await;
    Ok(Last::Gone)
}

/// Tells a client that it took too long.
async fn refuse_slow(cx: &Rc<Connection>, client: &RefCell<Client>) -> Result<Last, Gone> {
    cx.unread(Reason::RequestTimeout, &Outline::of(&client.borrow().input.buffer));
    let response = reply(Reason::RequestTimeout, "the head of the request was begun and not finished");
    let asked = Asked { method: Method::GET, version: Version::HTTP_11, keep: false, trailers: false };
    answer::write(client, &asked, response, false).await?;
    Ok(Last::Gone)
}

/// Waits until the body of the request that was answered is read. `false`: it never will be. `kept`: the client was
/// told that another request may follow, so that what is left of this one is skipped.
async fn body_over(client: &RefCell<Client>, kept: bool) -> bool {
    let mut skipped = 0;
    poll_fn(|cx| {
        let client = &mut *client.borrow_mut();
        loop {
            let decoder = match &mut client.receiving {
                Receiving::Over => return Poll::Ready(true),
                Receiving::Broken | Receiving::Malformed => return Poll::Ready(false),
                Receiving::Reader(_) => {
                    client.park(cx);
                    return Poll::Pending;
                }
                Receiving::Left(decoder) if kept => decoder,
                Receiving::Left(_) => return Poll::Ready(false),
            };
            match client.input.poll_body(cx, &mut client.io, decoder, &client.charge, |_| {}) {
                Poll::Ready(Ok(Decoded::Data(data))) if skipped < SKIPPED => skipped += data.len(),
                Poll::Ready(Ok(Decoded::End | Decoded::Trailers(_))) => {
                    client.reading.rest();
                    client.receiving = Receiving::Over;
                }
                Poll::Ready(_) => return Poll::Ready(false),
                Poll::Pending => {
                    ready!(client.reading.poll(cx, &client.sweep, Stall::Body, skipped as u64));
                    return Poll::Ready(false);
                }
            }
        }
    })
    .await
}

/// Closes a connection so that the client gets all of its last answer.
async fn farewell(client: &RefCell<Client>) {
    let clean = {
        let client = client.borrow();
        // What is no socket does not end by itself.
        matches!(client.io, Downstream::Tcp(_))
            && matches!(client.receiving, Receiving::Over)
            && client.input.is_empty()
    };
    if !clean {
        linger(client).await;
    }
}

/// Closes our side, and reads for a while what the client goes on to send.
async fn linger(client: &RefCell<Client>) {
    client.borrow_mut().forget();
    let (mut shut, mut skipped) = (false, 0);
    let over = poll_fn(|cx| {
        let client = &mut *client.borrow_mut();
        if !shut {
            let _ = ready!(Pin::new(&mut client.io).poll_shutdown(cx));
            shut = true;
        }
        while skipped < LINGER_BYTES && !client.has_ended() {
            match ready!(client.input.poll_read(cx, &mut client.io, AHEAD)) {
                Ok(1..) => skipped += client.input.buffer.split().len(),
                Ok(0) | Err(_) => break,
            }
        }
        Poll::Ready(())
    });
    let _ = timeout(LINGER, over).await;
}

impl Client {
    fn new(
        io: Downstream,
        first: Vec<u8>,
        sweep: Rc<Sweep>,
        charge: Charge,
        connection: Option<Rc<Connection>>,
    ) -> Self {
        Self {
            io,
            input: Input::new(first),
            output: Output::default(),
            charge,
            receiving: Receiving::Over,
            expectation: None,
            task: None,
            again: Again::default(),
            half_closed: None,
            connection,
            sweep,
            reading: Patience::with(Side::Client),
            writing: Patience::with(Side::Client),
        }
    }

    /// The body of a request is to come.
    fn receive(&mut self, decoder: Decoder, expects_continue: bool) {
        self.receiving = Receiving::Reader(decoder);
        self.input.awaited = false;
        self.expectation = expects_continue.then(Box::default);
    }

    /// Has the trailers of the request under way say how they are written.
    pub(in crate::http) fn keep_letters(&mut self) {
        if let Receiving::Reader(decoder) = &mut self.receiving {
            decoder.keep_letters();
        }
    }

    /// Sends an interim answer. What does not leave now goes with the next thing that is written.
    pub(in crate::http) fn send_interim(
        &mut self,
        cx: &mut Context<'_>,
        status: StatusCode,
        headers: &HeaderMap,
        spelling: Option<&Spelling>,
    ) {
        if status == StatusCode::CONTINUE {
            self.expectation = None;
        }
        answer::put_interim(&mut self.output, status, headers, spelling);
        let _ = self.output.poll_flush(cx, &mut self.io);
        if self.output.is_empty() {
            self.output.rest();
        }
        self.hold();
    }

    /// The answer is whole, and the client was never asked for the body that it held back: nobody need wait for it.
    fn end_expectation(&mut self) {
        if let Some(expectation) = self.expectation.take() {
            self.receiving = Receiving::Broken;
            if let Some(reader) = expectation.reader {
                reader.wake();
            }
        }
    }

    fn has_room(&self) -> bool {
        self.output.has_room(&self.charge)
    }

    /// Has what waits in the buffers charged.
    fn hold(&mut self) {
        self.charge.hold(0, self.input.held() + self.output.held());
    }

    /// Gives back what was read and nobody wants: the connection has had its last request.
    fn forget(&mut self) {
        self.input = Input::default();
        self.hold();
    }

    /// Has the connection's task woken by [`Client::wake`].
    fn park(&mut self, cx: &Context<'_>) {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
        }
    }

    fn wake(&mut self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    /// Watches the client while it is answered. Whoever reads the body sees for itself what becomes of the
    /// connection, as long as it comes back for more; of a body that broke there is no reader any more.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Gone> {
        loop {
            if self.has_ended() {
                return self.poll_closed(cx);
            }
            if let Receiving::Reader(_) = self.receiving {
                self.park(cx);
                return self.poll_unread(cx);
            }
            let most = self.charge.readable(AHEAD).saturating_sub(self.input.buffer.len());
            if most == 0 {
                return self.poll_closed(cx);
            }
            match ready!(self.input.poll_read(cx, &mut self.io, most)) {
                Ok(0) => self.half_close(false),
                Ok(_) => self.hold(),
                Err(error) => {
                    tracing::debug!(%error, "a client went away from what it asked for");
                    return Poll::Ready(Gone);
                }
            }
        }
    }

    /// Whether another request may follow the one that is being answered, as far as its body is concerned. `final_word`:
    /// who gives the answer seldom reads on.
    fn may_follow(&self, final_word: bool) -> bool {
        // Whether it sends a body that it was not asked for is the client's choice.
        let asked = self.expectation.is_none();
        match &self.receiving {
            Receiving::Over => true,
            Receiving::Reader(_) if !final_word => asked,
            Receiving::Reader(decoder) | Receiving::Left(decoder) => {
                asked && decoder.left().is_some_and(|left| left <= SKIPPED as u64)
            }
            Receiving::Broken | Receiving::Malformed => false,
        }
    }
}
