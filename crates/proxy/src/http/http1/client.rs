//! Requests to applications, on connections that belong to whoever uses them.
//!
//! The one who asks writes the request and reads the answer. The application may answer before it has all
//! of the request: what is left goes on while the answer's body is read, and is stopped when that is
//! dropped. Where it breaks, the answer does.

mod body;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::header::HeaderValue;
use http::{Response, StatusCode, request, response};
use http_body::{Body as _, Frame};
use tokio::io::{AsyncRead, AsyncWrite};

use self::body::AnswerBody;
use super::encode::{self, Announced};
use super::framing::BodyDecoder;
use super::head::{self, Bad, ResponseHead};
use super::input::{Input, NoHead};
use super::output::{Output, Sending};
use crate::budget::{Charge, Shed};
use crate::http::asker::Caller;
use crate::http::body::{Body, BodyError};
use crate::http::headers::named_by_connection;
use crate::http::spelling::Spelling;
use crate::progress::{INTERIM_ANSWERS, Interim, Side, Stall};
use crate::sweep::{Patience, Sweep};

/// What a request can be sent through.
pub(crate) trait Http1Transport: AsyncRead + AsyncWrite + Unpin {
    /// Called when an answer comes in pieces, before the next one is awaited.
    fn hurry(&self) {}

    /// Called with `true` when a request is about to be sent, and with `false` when all of it is sent and its answer is
    /// whole, or has left HTTP. What is dropped in between is given up.
    fn set_busy(&mut self, _busy: bool) {}
}

/// A connection for one request after the other. It goes from hand to hand, so it is one pointer.
pub(crate) struct Http1Connection<IO>(Box<Parts<IO>>);

struct Parts<IO> {
    io: IO,
    input: Input,
    output: Output,
    /// For what waits in the two.
    charge: Charge,
    /// The answer began with a head that came alone.
    pieces: bool,
    sweep: Rc<Sweep>,
    reading: Patience,
    writing: Patience,
}

impl<IO> Http1Connection<IO> {
    pub fn new(io: IO, sweep: Rc<Sweep>) -> Self {
        let (input, output, charge) = Default::default();
        let [reading, writing] = [Patience::default(), Patience::default()];
        Self(Box::new(Parts { io, input, output, charge, pieces: false, sweep, reading, writing }))
    }

    pub fn io_mut(&mut self) -> &mut IO {
        &mut self.0.io
    }

    /// What it was made of, and what was read of it and belongs to no answer.
    fn into_parts(self) -> (IO, BytesMut) {
        (self.0.io, self.0.input.buffer)
    }
}

/// A request of the inner form, without its body.
#[derive(Clone, Copy)]
pub(crate) struct Outgoing<'r> {
    pub head: &'r request::Parts,
    /// What it asks to go on in instead of HTTP (RFC 9110, section 7.8).
    pub upgrade: Option<&'r HeaderValue>,
    /// Who sends it: what waits of it and of its answer is charged there, and interim answers go there.
    pub caller: &'r Caller,
}

/// Why there is no answer.
pub(crate) struct Failed {
    pub why: String,
    /// The body, if the connection took nothing of the request.
    pub unsent: Option<Body>,
    /// The answer's head is larger than is taken.
    pub oversized: bool,
    /// The application made no progress for too long.
    pub stalled: bool,
    /// There is no memory for the head of the answer.
    pub shed: Option<Shed>,
    /// Something of an answer came, and none that can be passed on: the application has had the request.
    pub answered: bool,
}

impl Failed {
    fn new(why: impl fmt::Display) -> Self {
        Self {
            why: why.to_string(),
            unsent: None,
            oversized: false,
            stalled: false,
            shed: None,
            answered: false,
        }
    }
}

/// An answer's head, and where its body comes from.
pub(crate) struct Answer<IO> {
    pub head: response::Parts,
    whole: Option<Bytes>,
    decoder: BodyDecoder,
    rest: Rest<IO>,
    /// The application keeps the connection (RFC 9112, section 9.3).
    keep: bool,
    /// For so many seconds, if it says that.
    pub keep_seconds: Option<u64>,
}

/// A connection whose answer was read to its end, while the request may not have been sent to its.
pub(crate) struct Rest<IO> {
    connection: Http1Connection<IO>,
    upload: Option<Upload>,
}

/// Sends a request, and waits for the head of its answer.
pub(crate) async fn exchange<IO: Http1Transport>(
    Http1Connection(mut connection): Http1Connection<IO>,
    request: Outgoing<'_>,
    mut body: Body,
) -> Result<Answer<IO>, Failed> {
    let Outgoing { head, upgrade, caller } = request;
    if !connection.charge.is_of(&caller.account) {
        connection.charge = Charge::on(caller.account.clone());
    }
    let before = connection.output.total;
    connection.io.set_busy(true);
    let announced = Announced::of_request(head, body.size_hint().exact());
    encode::request(connection.output.buffer(), head, announced, upgrade);
    let whole = body.take_whole();
    let mut upload = Upload::new(body, announced.sending);
    if let Some(bytes) = &whole {
        upload.over = true;
        if connection.output.put(bytes.clone(), &mut upload.sending, true).is_err() {
            return Err(Failed::new("the request's body is not as long as its head says"));
        }
    }
    let mut upload = Some(upload);
    let mut broken = None;
    let spelled = head.extensions.get::<Spelling>().is_some();
    let parse = |bytes: &[u8]| {
        let mut parsed = head::response(bytes, &head.method);
        if spelled && let Ok(Some((answer, _))) = &mut parsed {
            Spelling::of_response(bytes).map(|spelling| answer.parts.extensions.insert(spelling));
        }
        parsed
    };
    let mut interim = Interim::default();
    let outcome = poll_fn(|cx| {
        let Parts { io, input, output, charge, sweep, reading, writing, .. } = &mut *connection;
        if let Some(sending) = &mut upload {
            match sending.poll(cx, io, output, charge) {
                Poll::Pending if output.is_empty() => writing.rest(),
                Poll::Pending => {
                    if writing.poll(cx, sweep, Side::Application, Stall::Write, output.total).is_ready() {
                        return Poll::Ready(Err(NoAnswer::Stalled("it does not take the request")));
                    }
                }
                Poll::Ready(Ok(())) => {
                    writing.rest();
                    upload = None;
                }
                Poll::Ready(Err(Unsent::Broken(error))) if output.total == before => {
                    return Poll::Ready(Err(NoAnswer::Unsent(error)));
                }
                // The application may have answered before it closed its side.
                Poll::Ready(Err(Unsent::Broken(error))) => {
                    broken = Some(error);
                    upload = None;
                }
                Poll::Ready(Err(Unsent::Body(error))) => return Poll::Ready(Err(NoAnswer::Body(error))),
            }
        }
        loop {
            let parsed = match input.poll_head(cx, io, charge, parse) {
                Poll::Ready(parsed) => parsed,
                // It may take its time to begin.
                Poll::Pending if input.is_empty() => {
                    charge.hold(0, output.held());
                    return Poll::Pending;
                }
                Poll::Pending => {
                    if let Err(shed) = charge.try_hold(input.held() + output.held()) {
                        return Poll::Ready(Err(NoAnswer::Shed(shed)));
                    }
                    ready!(reading.poll(cx, sweep, Side::Application, Stall::Head, interim.count().into()));
                    return Poll::Ready(Err(NoAnswer::Stalled("it does not finish the head of its answer")));
                }
            };
            reading.rest();
            let answer = parsed.map_err(NoAnswer::Head)?;
            if answer.parts.status.is_informational() && !interim.admits(&answer.parts.headers) {
                sweep.count(Side::Application, Stall::Interim);
                return Poll::Ready(Err(NoAnswer::Interim));
            }
            match answer.parts.status {
                StatusCode::SWITCHING_PROTOCOLS if upgrade.is_some() && upload.is_none() => {
                    return Poll::Ready(Ok(answer));
                }
                StatusCode::SWITCHING_PROTOCOLS => return Poll::Ready(Err(NoAnswer::Switched)),
                status if status.is_informational() => caller.asker.pass(cx, answer.parts),
                _ => return Poll::Ready(Ok(answer)),
            }
        }
    })
    .await;
    match outcome {
        Ok(ResponseHead { parts, framing, whole, keep, keep_seconds }) => {
            let mut decoder = BodyDecoder::new(framing);
            if spelled {
                decoder.keep_letters();
            }
            if whole.is_none() && connection.input.is_empty() {
                connection.pieces = true;
                connection.io.hurry();
            }
            let keep = keep && broken.is_none();
            let rest = Rest { connection: Http1Connection(connection), upload };
            Ok(Answer { head: parts, whole, decoder, rest, keep, keep_seconds })
        }
        Err(NoAnswer::Unsent(error)) => Err(Failed {
            unsent: match (whole, upload) {
                (Some(bytes), _) => Some(Body::whole(bytes)),
                (None, Some(upload)) => upload.take_back(),
                (None, None) => None,
            },
            ..Failed::new(error)
        }),
        Err(NoAnswer::Shed(shed)) => Err(Failed { shed: Some(shed), ..Failed::new(shed.message()) }),
        Err(no_answer @ NoAnswer::Head(NoHead::Bad(Bad::TooLarge))) => {
            Err(Failed { oversized: true, ..Failed::new(no_answer) })
        }
        Err(no_answer @ (NoAnswer::Stalled(_) | NoAnswer::Interim)) => {
            Err(Failed { stalled: true, ..Failed::new(no_answer) })
        }
        Err(no_answer) => {
            let answered = match &no_answer {
                NoAnswer::Body(_) => false,
                NoAnswer::Switched | NoAnswer::Head(NoHead::Bad(_) | NoHead::Cut) => true,
                _ => interim.count() > 0 || !connection.input.is_empty(),
            };
            let failed = match broken {
                Some(error) => Failed::new(format_args!("{error}; {no_answer}")),
                None => Failed::new(no_answer),
            };
            Err(Failed { answered, ..failed })
        }
    }
}

enum NoAnswer {
    /// Nothing of the request was taken.
    Unsent(io::Error),
    Head(NoHead),
    Body(BodyError),
    Switched,
    Stalled(&'static str),
    Interim,
    Shed(Shed),
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsent(error) | Self::Head(NoHead::Broken(error)) => error.fmt(f),
            Self::Head(NoHead::Ended) => f.write_str("it was closed"),
            Self::Head(NoHead::Cut) => f.write_str("it was closed within the head of the answer"),
            Self::Head(NoHead::Bad(Bad::TooLarge)) => {
                f.write_str("the header fields of the answer are larger than 64 KiB, or more than 256")
            }
            Self::Head(NoHead::Bad(Bad::Malformed(why))) => write!(f, "the answer is malformed: {}", why.0),
            Self::Body(error) => write!(f, "the request's body broke: {error}"),
            Self::Stalled(what) => f.write_str(what),
            Self::Shed(shed) => f.write_str(shed.message()),
            Self::Interim => {
                write!(f, "it sent more than {INTERIM_ANSWERS} interim answers, or more than 64 KiB of them")
            }
            Self::Switched => f.write_str("it switched protocols without being asked to"),
        }
    }
}

/// The part of a request that is on its way.
struct Upload {
    body: Body,
    sending: Sending,
    /// What was taken of the body before anything was sent.
    first: First,
    /// All of it was put.
    over: bool,
}

enum First {
    Nothing,
    Part(Bytes),
    /// More than can be given back, or it was sent.
    Gone,
}

/// Why a request is not sent to its end.
enum Unsent {
    Broken(io::Error),
    Body(BodyError),
}

impl Upload {
    fn new(body: Body, sending: Sending) -> Self {
        Self { body, sending, first: First::Nothing, over: false }
    }

    fn poll<IO: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut IO,
        output: &mut Output,
        charge: &mut Charge,
    ) -> Poll<Result<(), Unsent>> {
        loop {
            let waits = self.gather(cx, output, charge).map_err(Unsent::Body)?;
            if output.poll_flush(cx, io).map_err(Unsent::Broken)?.is_pending() {
                if charge.is_over() {
                    output.shrink();
                }
                return Poll::Pending;
            }
            self.first = First::Gone;
            if self.over {
                output.rest();
                return Poll::Ready(Ok(()));
            }
            if waits {
                output.rest();
                return Poll::Pending;
            }
        }
    }

    /// Takes what is there of the body; whether it waits for more.
    fn gather(
        &mut self,
        cx: &mut Context<'_>,
        output: &mut Output,
        charge: &Charge,
    ) -> Result<bool, BodyError> {
        while !self.over && output.has_room(charge) {
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else { return Ok(true) };
            let put = match frame.transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => {
                    self.over = self.body.is_end_stream();
                    // One part goes with the head; on a dead connection, neither is lost.
                    let with_head = matches!(self.first, First::Nothing);
                    if with_head {
                        self.first = First::Part(data.clone());
                    }
                    let put = output.put(data, &mut self.sending, self.over);
                    if with_head && put.is_ok() {
                        return Ok(false);
                    }
                    put
                }
                Some(Err(frame)) => {
                    (self.over, self.first) = (true, First::Gone);
                    output.finish_with(&mut self.sending, frame.trailers_ref())
                }
                None => {
                    self.over = true;
                    output.finish(&mut self.sending)
                }
            };
            put.map_err(|_| "it is not as long as its head says")?;
        }
        Ok(false)
    }

    fn take_back(self) -> Option<Body> {
        match self.first {
            First::Nothing => Some(self.body),
            First::Part(first) => Some(Body::after(first, self.body)),
            First::Gone => None,
        }
    }
}

impl<IO: Http1Transport + 'static> Answer<IO> {
    /// The answer with its body. When that was read to its end and the connection can be used again, it is
    /// handed to `give_back`.
    pub fn into_response(mut self, give_back: impl FnOnce(Rest<IO>) + Unpin + 'static) -> Response<Body> {
        let body = match self.whole.take() {
            Some(bytes) => {
                self.rest.answered();
                if self.keep && self.rest.is_clean() {
                    give_back(self.rest);
                }
                Body::whole(bytes)
            }
            None => {
                let named = named_by_connection(&self.head.headers);
                Body::new(AnswerBody::new(self.rest, self.decoder, named, self.keep, give_back))
            }
        };
        Response::from_parts(self.head, body)
    }

    /// The head, and the connection that has left HTTP with what was already read of it.
    pub fn into_upgraded(self) -> (response::Parts, IO, BytesMut) {
        let (mut io, read) = self.rest.connection.into_parts();
        io.set_busy(false);
        (self.head, io, read)
    }
}

impl<IO: Http1Transport> Rest<IO> {
    /// Whether nothing was sent that belongs to no answer.
    fn is_clean(&self) -> bool {
        self.connection.0.input.is_empty()
    }

    /// The answer is whole.
    fn answered(&mut self) {
        if self.upload.is_none() {
            self.connection.0.io.set_busy(false);
        }
    }

    /// The connection, if all of the request is sent.
    pub fn ready(mut self) -> Result<Http1Connection<IO>, Self> {
        if self.upload.is_some() {
            return Err(self);
        }
        self.answered();
        let Parts { input, output, charge, pieces, .. } = &mut *self.connection.0;
        input.rest();
        if charge.bytes() > 0 {
            charge.hold(0, input.held() + output.held());
        }
        *pieces = false;
        Ok(self.connection)
    }

    /// Sends what is left of the request. `None`: that failed.
    pub async fn finish(mut self) -> Option<Http1Connection<IO>> {
        if let Some(mut upload) = self.upload.take() {
            let Parts { io, output, charge, .. } = &mut *self.connection.0;
            let sent = poll_fn(|cx| {
                let sent = upload.poll(cx, io, output, charge);
                charge.hold(0, output.held());
                sent
            });
            sent.await.ok()?;
        }
        self.ready().ok()
    }
}
