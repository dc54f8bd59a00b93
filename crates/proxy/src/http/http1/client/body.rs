//! The body of an answer, as it comes; what is left of its request goes on meanwhile.
//!
//! A request whose sender breaks it, or does not go on with it, is no request any more (RFC 9112, section 8): its answer
//! breaks, too, which ends the connection to the application. What is there of the answer is passed on before. An
//! application that takes no more of the request is free to do so, and to answer.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderName;
use http_body::{Frame, SizeHint};

use super::{Http1Transport, Parts, Rest, Unsent};
use crate::http::body::BodyError;
use crate::http::http1::framing::{BodyDecoder, Decoded};
use crate::http::http1::input::{Cut, Lost};
use crate::http::trailers::passed_on_as_written;
use crate::progress::{Side, Stall, Stalled};

/// So much of an answer passes behind the end of a request that broke, if it is there.
const AT_HAND: usize = 64 << 10;

pub(super) struct AnswerBody<IO, F> {
    decoder: BodyDecoder,
    /// What the head's `Connection` names has no place in the trailers either.
    named: Box<[HeaderName]>,
    /// Until the end.
    left: Option<(Rest<IO>, F)>,
    /// Why it ends before its end.
    lost: Option<BodyError>,
    /// Why the request did.
    broken: Option<Broken>,
    keep: bool,
}

struct Broken {
    why: BodyError,
    /// What of the answer may still pass.
    left: usize,
}

impl<IO: Http1Transport, F: FnOnce(Rest<IO>)> AnswerBody<IO, F> {
    pub fn new(
        rest: Rest<IO>,
        decoder: BodyDecoder,
        named: Box<[HeaderName]>,
        keep: bool,
        give_back: F,
    ) -> Self {
        Self { decoder, named, left: Some((rest, give_back)), lost: None, broken: None, keep }
    }

    fn over(&mut self) {
        let Some((mut rest, give_back)) = self.left.take() else { return };
        rest.answered();
        if self.keep && rest.is_clean() {
            give_back(rest);
        }
    }
}

impl<IO: Http1Transport, F: FnOnce(Rest<IO>) + Unpin> http_body::Body for AnswerBody<IO, F> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some((Rest { connection, upload }, _)) = &mut this.left else {
            return Poll::Ready(this.lost.take().map(Err));
        };
        let Parts { io, input, output, charge, pieces, sweep, reading, writing } = &mut *connection.0;
        if let Some(sending) = upload {
            let sent = match sending.poll(cx, io, output, charge) {
                Poll::Ready(Ok(())) => Poll::Ready(true),
                Poll::Ready(Err(Unsent::Broken(_))) => Poll::Ready(false),
                Poll::Ready(Err(Unsent::Body(why))) => {
                    this.broken = Some(Broken { why, left: AT_HAND });
                    Poll::Ready(false)
                }
                Poll::Pending if output.is_empty() => {
                    writing.rest();
                    Poll::Pending
                }
                Poll::Pending => {
                    writing.poll(cx, sweep, Side::Application, Stall::Write, output.total).map(|()| false)
                }
            };
            if let Poll::Ready(sent) = sent {
                writing.rest();
                *upload = None;
                this.keep &= sent;
            }
        }
        let hurry = |io: &IO| {
            if *pieces {
                io.hurry();
            }
        };
        let decoded = input.poll_body(cx, io, &mut this.decoder, charge, hurry);
        let held = input.hold_body(&this.decoder, output.held(), charge);
        let decoded = match decoded {
            Poll::Pending if let Some(broken) = this.broken.take() => Err(broken.why),
            Poll::Ready(Ok(Decoded::Data(data)))
                if let Some(broken) = this.broken.take_if(|broken| broken.left < data.len()) =>
            {
                Err(broken.why)
            }
            Poll::Pending if let Err(shed) = held => Err(Lost::Shed(shed).into()),
            Poll::Ready(decoded) => {
                reading.rest();
                decoded.map_err(BodyError::from)
            }
            Poll::Pending => {
                let Some((what, mark)) = this.decoder.begun(&input.buffer) else { return Poll::Pending };
                ready!(reading.poll(cx, sweep, Side::Application, what, mark));
                Err(Lost::Stalled.into())
            }
        };
        match decoded {
            Ok(Decoded::Data(data)) => {
                if let Some(broken) = &mut this.broken {
                    broken.left -= data.len();
                }
                if this.decoder.is_over() {
                    this.over();
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Ok(Decoded::Trailers(trailers)) => {
                this.over();
                Poll::Ready(passed_on_as_written(trailers, &this.named).map(Ok))
            }
            Ok(Decoded::End | Decoded::More) => {
                this.over();
                Poll::Ready(None)
            }
            Err(lost) => {
                // What came before is passed on first: the reset of a link's stream would overtake it.
                this.left = None;
                this.lost = Some(lost);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_none() && self.lost.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.decoder.left().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl From<Lost> for BodyError {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Ended => Cut.into(),
            Lost::Broken(error) => error.into(),
            Lost::Stalled => Stalled.into(),
            Lost::Shed(shed) => shed.into(),
            Lost::Malformed(why) => why.into(),
        }
    }
}
