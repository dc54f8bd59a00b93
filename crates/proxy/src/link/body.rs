//! Message bodies on a link's HTTP/2 streams.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http_body::{Body, Frame, SizeHint};

use super::client::UploadGuard;
use crate::error::{UpstreamError, UpstreamErrorKind};

/// The body of a request or response that arrives on a link. What is read gives the sender room for more.
pub struct LinkBody {
    stream: RecvStream,
    length: Option<u64>,
    data_done: bool,
    upload: UploadGuard,
    /// Something to keep until the body ends or is dropped.
    _held: Option<Box<dyn std::any::Any>>,
}

impl LinkBody {
    pub(super) fn new(stream: RecvStream, headers: &http::HeaderMap, mut upload: UploadGuard) -> Self {
        if stream.is_end_stream() {
            upload.disarm();
        }
        let length = headers
            .get(http::header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.parse().ok());
        Self { stream, length, data_done: false, upload, _held: None }
    }

    pub(crate) fn holding(mut self, held: impl std::any::Any) -> Self {
        self._held = Some(Box::new(held));
        self
    }
}

impl Body for LinkBody {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        if !self.data_done {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    if let Some(left) = &mut self.length {
                        *left = left.saturating_sub(data.len() as u64);
                    }
                    // Fails only when the stream is over, which the next poll tells.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    if self.stream.is_end_stream() {
                        self.upload.disarm();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => {
                    // A reset with NO_ERROR after a whole answer is a polite end (RFC 9113 section 8.1).
                    if error.is_reset() && error.reason() == Some(Reason::NO_ERROR) {
                        self.upload.disarm();
                        return Poll::Ready(None);
                    }
                    return Poll::Ready(Some(Err(lost(&error))));
                }
                None => self.data_done = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => {
                self.upload.disarm();
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Err(error) => Poll::Ready(Some(Err(lost(&error)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

fn lost(error: &h2::Error) -> UpstreamError {
    UpstreamError::after_sending(UpstreamErrorKind::ConnectionLost, format!("the link ended: {error}"))
}

/// Sends a body to its end. An error of the body resets the stream; when the peer resets the stream,
/// the rest of the body is not read.
pub(crate) async fn send<B>(stream: &mut SendStream<Bytes>, body: B) -> Result<(), h2::Error>
where
    B: Body<Data = Bytes>,
{
    let mut body = pin!(body);
    poll_fn(|cx| {
        loop {
            // Room first, so that no more is read from the sender than can be passed on.
            stream.reserve_capacity(1);
            if stream.capacity() == 0 {
                match ready!(stream.poll_capacity(cx)) {
                    Some(Ok(0)) => continue,
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Poll::Ready(Err(error)),
                    None => return Poll::Ready(Err(Reason::CANCEL.into())),
                }
            } else if let Poll::Ready(reset) = stream.poll_reset(cx) {
                return Poll::Ready(Err(reset.map_or_else(|error| error, h2::Error::from)));
            }
            match ready!(body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let last = body.is_end_stream();
                        stream.send_data(data, last)?;
                        if last {
                            return Poll::Ready(Ok(()));
                        }
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            stream.reserve_capacity(0);
                            return Poll::Ready(stream.send_trailers(trailers));
                        }
                    }
                },
                Some(Err(_)) => {
                    stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(Err(Reason::CANCEL.into()));
                }
                None => return Poll::Ready(stream.send_data(Bytes::new(), true)),
            }
        }
    })
    .await
}
