//! The body of a client's request, read from the client's connection by whoever wants it.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Frame, SizeHint};

use super::{Client, Receiving};
use crate::http::body::BodyError;
use crate::http::headers::named_by_connection;
use crate::http::http1::framing::Decoded;
use crate::http::http1::input::Lost;
use crate::http::trailers::passed_on_as_written;
use crate::progress::Side;

/// The body of a request. It has the reading side of the connection until it ends or is dropped.
pub(in crate::http) struct RequestBody {
    client: Rc<RefCell<Client>>,
    /// What the head's `Connection` names has no place in the trailers either.
    named: Box<[HeaderName]>,
    over: bool,
}

impl RequestBody {
    /// `headers`: the head's, as they came.
    pub fn new(client: Rc<RefCell<Client>>, headers: &HeaderMap) -> Self {
        Self { client, named: named_by_connection(headers), over: false }
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        let client = &mut *this.client.borrow_mut();
        let Receiving::Reader(decoder) = &mut client.receiving else {
            this.over = true;
            return Poll::Ready(Some(Err("the client was not asked for it".into())));
        };
        let decoded = client.input.poll_body(cx, &mut client.io, decoder, &client.charge, |_| {});
        client.input.awaited = decoded.is_pending();
        let held = client.input.hold_body(decoder, client.output.held(), &mut client.charge);
        if let Some(expectation) = &mut client.expectation
            && expectation.answered
            && matches!(decoded, Poll::Pending | Poll::Ready(Err(Lost::Ended)))
        {
            expectation.reader = Some(cx.waker().clone());
            client.reading.rest();
            if decoded.is_ready() {
                client.half_close(false);
                client.wake();
            }
            return Poll::Pending;
        }
        let decoded = match decoded {
            Poll::Pending if let Err(shed) = held => Err(Lost::Shed(shed)),
            Poll::Ready(decoded) => {
                // It does not wait, or not any longer.
                client.expectation = None;
                client.reading.rest();
                decoded
            }
            Poll::Pending => {
                if let Some(expectation) = &mut client.expectation {
                    expectation.reader = Some(cx.waker().clone());
                }
                let Some((what, mark)) = decoder.begun(&client.input.buffer) else { return Poll::Pending };
                ready!(client.reading.poll(cx, &client.sweep, Side::Client, what, mark));
                Err(Lost::Stalled)
            }
        };
        this.over = decoder.is_over() || decoded.is_err();
        if this.over {
            client.receiving = match &decoded {
                Ok(_) => Receiving::Over,
                Err(Lost::Malformed(_)) => Receiving::Malformed,
                Err(Lost::Ended | Lost::Broken(_) | Lost::Stalled | Lost::Shed(_)) => Receiving::Broken,
            };
            match decoded {
                Err(Lost::Ended) => client.half_close(false),
                Err(Lost::Shed(_)) => client.forget(),
                _ => {}
            }
            client.wake();
        }
        Poll::Ready(match decoded {
            Ok(Decoded::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Decoded::Trailers(trailers)) => passed_on_as_written(trailers, &this.named).map(Ok),
            Ok(Decoded::End | Decoded::More) => None,
            Err(lost) => Some(Err(lost.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }

    fn size_hint(&self) -> SizeHint {
        match &self.client.borrow().receiving {
            Receiving::Reader(decoder) => decoder.left().map_or_else(SizeHint::default, SizeHint::with_exact),
            _ => SizeHint::default(),
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let client = &mut *self.client.borrow_mut();
        client.receiving = match std::mem::replace(&mut client.receiving, Receiving::Broken) {
            Receiving::Reader(decoder) => Receiving::Left(decoder),
            other => other,
        };
        client.wake();
    }
}
