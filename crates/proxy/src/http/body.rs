//! Message bodies on their way through the proxy: streamed frame by frame, and watched.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;

use crate::http::grpc::Messages;
use crate::http::trailers::{passed_on, passed_on_as_written};
use crate::http2::{ReceivedBody, Receiver};

/// Why a body ended before its end.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request or response.
pub struct Body(BodyKind);

enum BodyKind {
    Empty,
    Whole(Option<Bytes>),
    Http2(ReceivedBody),
    Boxed(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BodyError>>>),
}

impl Body {
    pub fn empty() -> Self {
        Self(BodyKind::Empty)
    }

    /// All of a body, which is there already.
    pub fn whole(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::empty() } else { Self(BodyKind::Whole(Some(bytes))) }
    }

    pub fn new<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + 'static,
        B::Error: Into<BodyError>,
    {
        if body.is_end_stream() {
            return Self::empty();
        }
        Self(BodyKind::Boxed(Box::pin(body.map_err(Into::into))))
    }

    /// One that is no other way there.
    pub(super) fn boxed(body: impl http_body::Body<Data = Bytes, Error = BodyError> + 'static) -> Self {
        Self(BodyKind::Boxed(Box::pin(body)))
    }

    /// `first`, and then the rest of a body that it was taken from.
    pub fn after(first: Bytes, rest: Body) -> Self {
        Self(BodyKind::Boxed(Box::pin(After { first, rest })))
    }

    /// The same; what a peer says of how its trailers are written goes with them.
    #[cold]
    pub fn spelled(self) -> Self {
        match self.0 {
            BodyKind::Http2(body) => Self::boxed(AsWritten(body)),
            other => Self(other),
        }
    }

    /// The length of a body that is there already.
    pub fn whole_length(&self) -> Option<u64> {
        match &self.0 {
            BodyKind::Empty => Some(0),
            BodyKind::Whole(bytes) => Some(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            BodyKind::Http2(_) | BodyKind::Boxed(_) => None,
        }
    }

    /// Takes all of the body, if it is there already.
    pub fn take_whole(&mut self) -> Option<Bytes> {
        match &mut self.0 {
            BodyKind::Empty => Some(Bytes::new()),
            BodyKind::Whole(bytes) => Some(bytes.take().unwrap_or_default()),
            BodyKind::Http2(_) | BodyKind::Boxed(_) => None,
        }
    }

    /// All of a body, as it comes; `None`: it has more than `most` bytes. Trailers are left out.
    ///
    /// # Errors
    /// It breaks off.
    pub async fn collect_at_most(mut self, most: usize) -> Result<Option<Bytes>, BodyError> {
        if let Some(whole) = self.take_whole() {
            return Ok((whole.len() <= most).then_some(whole));
        }
        let mut bytes = BytesMut::new();
        while let Some(frame) = self.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if bytes.len() + data.len() > most {
                return Ok(None);
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Some(bytes.freeze()))
    }

    /// Tells `observer` of everything that passes. What `observer` holds is dropped with the body; where
    /// the body is there as a whole, at once.
    pub fn observe(&mut self, observer: impl FnMut(Event<'_>) + Unpin + 'static) {
        self.observe_as(None, observer);
    }

    /// The same for one that consists of messages of gRPC, which ends with a status where it breaks between two.
    pub fn observe_as(
        &mut self,
        messages: Option<Messages>,
        observer: impl FnMut(Event<'_>) + Unpin + 'static,
    ) {
        self.watch_as(messages, observer);
    }

    /// The same with one that may end it.
    pub fn watch_as(&mut self, messages: Option<Messages>, mut observer: impl Observer + Unpin + 'static) {
        if let BodyKind::Whole(Some(bytes)) = &self.0 {
            observer.event(Event::Data(bytes.len()));
            observer.event(Event::End);
            return;
        }
        let inner = std::mem::replace(self, Self::empty());
        // An empty body must say at once that it is: its length decides over the framing.
        let over = http_body::Body::is_end_stream(&inner);
        let observed = Observed { inner, observer, messages, over: false };
        if !over {
            *self = Self(BodyKind::Boxed(Box::pin(observed)));
        }
    }
}

impl From<Receiver> for Body {
    /// What comes on a stream of HTTP/2; as a whole where all of it is there.
    fn from(mut receiver: Receiver) -> Self {
        match receiver.take_whole() {
            Some(bytes) => Self::whole(bytes),
            None => Self(BodyKind::Http2(ReceivedBody::new(receiver))),
        }
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::whole(text.into())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            BodyKind::Empty => Poll::Ready(None),
            BodyKind::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            BodyKind::Http2(body) => poll_received(body, cx, |trailers| passed_on(trailers, &[])),
            BodyKind::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            BodyKind::Empty => true,
            BodyKind::Whole(bytes) => bytes.is_none(),
            BodyKind::Http2(body) => body.is_end_stream(),
            BodyKind::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            BodyKind::Empty => SizeHint::with_exact(0),
            BodyKind::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            BodyKind::Http2(body) => body.size_hint(),
            BodyKind::Boxed(body) => body.size_hint(),
        }
    }
}

/// The next frame of what comes in; its trailers through `clean`.
fn poll_received(
    body: &mut ReceivedBody,
    cx: &mut Context<'_>,
    clean: impl Fn(HeaderMap) -> Option<Frame<Bytes>>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    Poll::Ready(match ready!(http_body::Body::poll_frame(Pin::new(body), cx)) {
        Some(Ok(frame)) => match frame.into_data() {
            Ok(data) => Some(Ok(Frame::data(data))),
            Err(frame) => frame.into_trailers().ok().and_then(clean).map(Ok),
        },
        ended => ended.map(|failed| failed.map_err(Into::into)),
    })
}

/// What comes over a link for, or from, a port that asks for messages as they are written.
struct AsWritten(ReceivedBody);

impl http_body::Body for AsWritten {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        poll_received(&mut self.0, cx, |trailers| passed_on_as_written(trailers, &[]))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

struct After {
    first: Bytes,
    rest: Body,
}

impl http_body::Body for After {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if !this.first.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.first)))));
        }
        Pin::new(&mut this.rest).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.len() as u64;
        self.rest
            .size_hint()
            .exact()
            .map_or_else(SizeHint::default, |rest| SizeHint::with_exact(first + rest))
    }
}

/// Something that happens to a body.
pub enum Event<'a> {
    Data(usize),
    Trailers(&'a HeaderMap),
    /// All of it has passed. The last event.
    End,
    /// It broke: whoever sends it failed. The last event.
    Broken(&'a BodyError),
    /// Its reader went away before its end. The last event.
    Abandoned,
}

/// Who is told of what happens to a body.
pub trait Observer {
    fn event(&mut self, event: Event<'_>);

    /// Ready, with the reason, where the body is to break here.
    fn poll_end(&mut self, _cx: &mut Context<'_>) -> Poll<BodyError> {
        Poll::Pending
    }
}

impl<F: FnMut(Event<'_>)> Observer for F {
    fn event(&mut self, event: Event<'_>) {
        self(event);
    }
}

struct Observed<O: Observer> {
    inner: Body,
    observer: O,
    messages: Option<Messages>,
    over: bool,
}

impl<O: Observer + Unpin> http_body::Body for Observed<O> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = match this.observer.poll_end(cx) {
            Poll::Ready(why) => {
                // Nothing more comes of it.
                this.inner = Body::empty();
                Some(Err(why))
            }
            Poll::Pending => ready!(Pin::new(&mut this.inner).poll_frame(cx)),
        };
        match &polled {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    this.observer.event(Event::Data(data.len()));
                    if let Some(messages) = &mut this.messages {
                        messages.pass(data);
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    this.observer.event(Event::Trailers(trailers));
                }
            }
            Some(Err(_)) | None if this.over => {}
            Some(Err(error)) => {
                this.over = true;
                this.observer.event(Event::Broken(error));
                let trailers = this.messages.and_then(|messages| messages.trailers(&**error));
                if let Some(trailers) = trailers {
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
            }
            None => {
                this.over = true;
                this.observer.event(Event::End);
            }
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<O: Observer> Drop for Observed<O> {
    fn drop(&mut self) {
        if !self.over {
            // A reader that was told of the end beforehand does not ask for it again.
            let whole = http_body::Body::is_end_stream(&self.inner);
            self.observer.event(if whole { Event::End } else { Event::Abandoned });
        }
    }
}
