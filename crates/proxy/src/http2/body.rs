//! Message bodies on streams.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::error::Error;
use super::give_up;
use super::handle::{Receiver, Sender};

/// The body of a request or response that comes in.
pub struct ReceivedBody {
    receiver: Receiver,
    data_done: bool,
}

impl ReceivedBody {
    pub fn new(receiver: Receiver) -> Self {
        Self { receiver, data_done: false }
    }
}

impl Body for ReceivedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if !self.data_done {
            match ready!(self.receiver.poll_data(cx)) {
                Some(Ok(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_done = true,
            }
        }
        let trailers = ready!(self.receiver.poll_trailers(cx));
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.receiver.is_at_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.receiver.length_left().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Sends a body to its end. An error of the body resets the stream, with its own code where it was reset as well;
/// when the peer resets the stream, the rest of the body is not read, and what it comes from hears the peer's code.
pub async fn send_body<B>(sender: &mut Sender, body: B) -> Result<(), Error>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut body = pin!(Some(body));
    let sent = send(sender, body.as_mut()).await;
    if let Err(error) = &sent {
        give_up(error, || body.set(None));
    }
    sent
}

async fn send<B>(sender: &mut Sender, mut body: Pin<&mut Option<B>>) -> Result<(), Error>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut rest = Bytes::new();
    let mut last = false;
    poll_fn(|cx| {
        loop {
            // Room first, so that little more is read from the sender than can be passed on.
            let room = sender.poll_room(cx);
            if let Poll::Ready(Err(error)) = room {
                return Poll::Ready(Err(error));
            }
            if !rest.is_empty() {
                if room.is_pending() {
                    sender.wants_room(rest.len());
                    return Poll::Pending;
                }
                sender.send(&mut rest, last);
                if rest.is_empty() && last {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            // An end needs no room (RFC 9113, section 6.9.1).
            let Some(mut body) = body.as_mut().as_pin_mut() else { return Poll::Ready(Ok(())) };
            match ready!(body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        rest = data;
                        last = body.is_end_stream();
                        if rest.is_empty() && last {
                            sender.send(&mut rest, true);
                            return Poll::Ready(Ok(()));
                        }
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            return Poll::Ready(sender.send_trailers(&trailers));
                        }
                    }
                },
                Some(Err(error)) => return Poll::Ready(Err(sender.break_off(&*error.into()))),
                None => {
                    sender.send(&mut Bytes::new(), true);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    })
    .await
}
