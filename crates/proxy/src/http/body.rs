//! Message bodies on their way through the proxy: streamed frame by frame, watched, held back until
//! the upstream wants them, or recorded up to a limit so that a second attempt can be made.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{HeaderMap, HeaderName};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;

use crate::budget::{Account, Charge};
use crate::http::headers;
use crate::http2::{ReceivedBody, Receiver};
use crate::progress::is_stall;

/// Why a body ended before its end.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request or response.
pub struct Body(Kind);

enum Kind {
    Empty,
    Whole(Option<Bytes>),
    Http2(ReceivedBody),
    Boxed(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BodyError>>>),
}

impl Body {
    pub fn empty() -> Self {
        Self(Kind::Empty)
    }

    /// All of a body, which is there already.
    pub fn whole(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::empty() } else { Self(Kind::Whole(Some(bytes))) }
    }

    pub fn new<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + 'static,
        B::Error: Into<BodyError>,
    {
        if body.is_end_stream() {
            return Self::empty();
        }
        Self(Kind::Boxed(Box::pin(body.map_err(Into::into))))
    }

    /// `first`, and then the rest of a body that it was taken from.
    pub fn after(first: Bytes, rest: Body) -> Self {
        Self(Kind::Boxed(Box::pin(After { first, rest })))
    }

    /// The length of a body that is there already.
    pub fn whole_length(&self) -> Option<u64> {
        match &self.0 {
            Kind::Empty => Some(0),
            Kind::Whole(bytes) => Some(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Http2(_) | Kind::Boxed(_) => None,
        }
    }

    /// Takes all of the body, if it is there already.
    pub fn take_whole(&mut self) -> Option<Bytes> {
        match &mut self.0 {
            Kind::Empty => Some(Bytes::new()),
            Kind::Whole(bytes) => Some(bytes.take().unwrap_or_default()),
            Kind::Http2(_) | Kind::Boxed(_) => None,
        }
    }

    /// Tells `observer` of everything that passes. What `observer` holds is dropped with the body; where
    /// the body is there as a whole, at once.
    pub fn observed(self, mut observer: impl FnMut(Event<'_>) + Unpin + 'static) -> Self {
        if let Kind::Whole(Some(bytes)) = &self.0 {
            observer(Event::Data(bytes.len()));
            observer(Event::End);
            return self;
        }
        let over = http_body::Body::is_end_stream(&self);
        let observed = Observed { inner: self, observer, over: false };
        // An empty body must say at once that it is: its length decides over the framing.
        if over {
            drop(observed);
            return Self::empty();
        }
        Self(Kind::Boxed(Box::pin(observed)))
    }
}

impl From<Receiver> for Body {
    /// What comes on a stream of HTTP/2; as a whole where all of it is there.
    fn from(mut receiver: Receiver) -> Self {
        match receiver.take_whole() {
            Some(bytes) => Self::whole(bytes),
            None => Self(Kind::Http2(ReceivedBody::new(receiver))),
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
            Kind::Empty => Poll::Ready(None),
            Kind::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Http2(body) => Poll::Ready(match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => Some(Ok(Frame::data(data))),
                    Err(frame) => frame.into_trailers().ok().and_then(|t| passed_on(t, &[])).map(Ok),
                },
                ended => ended.map(|failed| failed.map_err(Into::into)),
            }),
            Kind::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Whole(bytes) => bytes.is_none(),
            Kind::Http2(body) => body.is_end_stream(),
            Kind::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Kind::Http2(body) => body.size_hint(),
            Kind::Boxed(body) => body.size_hint(),
        }
    }
}

/// What of a trailer section that came in is passed on, if anything is (see
/// [`headers::normalize_trailers`]).
pub fn passed_on(mut trailers: HeaderMap, named: &[HeaderName]) -> Option<Frame<Bytes>> {
    headers::normalize_trailers(&mut trailers, named);
    (!trailers.is_empty()).then(|| Frame::trailers(trailers))
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
    Broken,
    /// Its reader went away before its end. The last event.
    Abandoned,
}

struct Observed<F: FnMut(Event<'_>)> {
    inner: Body,
    observer: F,
    over: bool,
}

impl<F: FnMut(Event<'_>) + Unpin> http_body::Body for Observed<F> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    (this.observer)(Event::Data(data.len()));
                } else if let Some(trailers) = frame.trailers_ref() {
                    (this.observer)(Event::Trailers(trailers));
                }
            }
            Some(Err(_)) | None if this.over => {}
            Some(Err(_)) => {
                this.over = true;
                (this.observer)(Event::Broken);
            }
            None => {
                this.over = true;
                (this.observer)(Event::End);
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

impl<F: FnMut(Event<'_>)> Drop for Observed<F> {
    fn drop(&mut self) {
        if !self.over {
            // A reader that was told of the end beforehand does not ask for it again.
            let whole = http_body::Body::is_end_stream(&self.inner);
            (self.observer)(if whole { Event::End } else { Event::Abandoned });
        }
    }
}

/// Holds a request's body back until the upstream wants it (RFC 9110, section 10.1.1): the client's
/// `100 Continue` is sent when its body is first read, so it must not be read too early.
#[derive(Clone)]
pub struct Gate(Arc<GateState>);

struct GateState {
    state: AtomicU8,
    reader: AtomicWaker,
    watcher: AtomicWaker,
}

const SHUT: u8 = 0;
const OPEN: u8 = 1;
const REFUSED: u8 = 2;

/// An upstream that does not know of expectations says nothing: after this long the body is sent.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

impl Gate {
    /// A gate before `body`, and the body behind it.
    pub fn before(body: Body) -> (Self, Body) {
        let state =
            GateState { state: AtomicU8::new(SHUT), reader: AtomicWaker::new(), watcher: AtomicWaker::new() };
        let gate = Self(Arc::new(state));
        let gated = Gated { inner: body, gate: gate.clone(), patience: None };
        (gate, Body(Kind::Boxed(Box::pin(gated))))
    }

    /// The upstream wants the body.
    pub fn open(&self) {
        self.set(OPEN);
    }

    /// The upstream has answered without it. Nothing happens if it was wanted before.
    pub fn refuse(&self) {
        self.set(REFUSED);
    }

    fn set(&self, to: u8) {
        if self.0.state.compare_exchange(SHUT, to, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.0.reader.wake();
            self.0.watcher.wake();
        }
    }

    /// Waits until it is open; for ever where it is refused. For one waiter at a time.
    pub async fn opened(&self) {
        std::future::poll_fn(|cx| {
            self.0.watcher.register(cx.waker());
            if self.0.state.load(Ordering::Acquire) == OPEN { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

struct Gated {
    inner: Body,
    gate: Gate,
    patience: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl http_body::Body for Gated {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        this.gate.0.reader.register(cx.waker());
        match this.gate.0.state.load(Ordering::Acquire) {
            OPEN => {}
            REFUSED => return Poll::Ready(Some(Err("the upstream answered without the body".into()))),
            _ => {
                let patience =
                    this.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(CONTINUE_WAIT)));
                ready!(patience.as_mut().poll(cx));
                this.gate.open();
            }
        }
        Pin::new(&mut this.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// How much of a request's body is kept for another attempt.
const REPLAY_LIMIT: usize = 64 << 10;

/// A request's body that can be sent more than once, as long as no more than a limit of it has been
/// read. What has been read is kept until [`Replay::commit`].
#[derive(Clone)]
pub struct Replay(Source);

#[derive(Clone)]
enum Source {
    /// All of it is there, as often as it is wanted.
    Whole(Bytes),
    Recorded(Rc<RefCell<Recording>>),
}

struct Recording {
    source: Body,
    /// The body's length, if it is known.
    length: Option<u64>,
    data: VecDeque<Bytes>,
    kept: usize,
    /// For what is kept, and in its place for what is on its way.
    charge: Charge,
    trailers: Option<HeaderMap>,
    source_over: bool,
    keeping: bool,
    lost: bool,
    /// The source does not go on with it.
    stalled: bool,
    /// Which of the bodies handed out may read: the last.
    reader: u64,
}

impl Replay {
    /// What is kept is charged to `account`.
    pub fn new(mut body: Body, account: &Rc<Account>) -> Self {
        if let Some(bytes) = body.take_whole() {
            return Self(Source::Whole(bytes));
        }
        if http_body::Body::is_end_stream(&body) {
            return Self(Source::Whole(Bytes::new()));
        }
        let length = http_body::Body::size_hint(&body).exact();
        Self(Source::Recorded(Rc::new(RefCell::new(Recording {
            source: body,
            length,
            data: VecDeque::new(),
            kept: 0,
            charge: Charge::on(account.clone()),
            trailers: None,
            source_over: false,
            keeping: true,
            lost: false,
            stalled: false,
            reader: 0,
        }))))
    }

    /// Whether [`Replay::body`] can give all of the body (again).
    pub fn possible(&self) -> bool {
        match &self.0 {
            Source::Whole(_) => true,
            Source::Recorded(recording) => !recording.borrow().lost,
        }
    }

    /// Whether who sends the body does not go on with it.
    pub fn has_stalled(&self) -> bool {
        match &self.0 {
            Source::Whole(_) => false,
            Source::Recorded(recording) => recording.borrow().stalled,
        }
    }

    /// The body from its beginning. Bodies that were handed out before end with an error.
    pub fn body(&self) -> Body {
        let recording = match &self.0 {
            Source::Whole(bytes) => return Body::whole(bytes.clone()),
            Source::Recorded(recording) => recording.clone(),
        };
        let reader = {
            let mut recording = recording.borrow_mut();
            recording.reader += 1;
            recording.reader
        };
        Body(Kind::Boxed(Box::pin(Replayed { recording, reader, next: 0, sent: 0 })))
    }

    /// There will be no further attempt: nothing more is kept.
    pub fn commit(&self) {
        if let Source::Recorded(recording) = &self.0 {
            recording.borrow_mut().keeping = false;
        }
    }
}

struct Replayed {
    recording: Rc<RefCell<Recording>>,
    reader: u64,
    /// How many chunks of the recording were given.
    next: usize,
    sent: u64,
}

impl http_body::Body for Replayed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let mut recording = this.recording.borrow_mut();
        if recording.reader != this.reader {
            return Poll::Ready(Some(Err("another attempt has taken the body over".into())));
        }
        if let Some(data) = recording.data.get(this.next).cloned() {
            if recording.keeping {
                this.next += 1;
            } else {
                // Only what comes after is of use to anybody.
                recording.data.drain(..=this.next);
                this.next = 0;
                recording.lost = true;
            }
            this.sent += data.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if recording.source_over {
            let trailers = recording.trailers.clone().filter(|_| this.next != usize::MAX);
            this.next = usize::MAX;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        match ready!(Pin::new(&mut recording.source).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    this.sent += data.len() as u64;
                    let needed = (recording.kept + data.len()).min(REPLAY_LIMIT);
                    if needed > recording.charge.bytes()
                        && let Err(shed) = recording.charge.resize(needed)
                    {
                        recording.lost = true;
                        return Poll::Ready(Some(Err(shed.message().into())));
                    }
                    if recording.keeping && recording.kept + data.len() <= REPLAY_LIMIT {
                        recording.kept += data.len();
                        recording.data.push_back(data.clone());
                        this.next += 1;
                    } else {
                        recording.keeping = false;
                        recording.lost = true;
                        recording.data.clear();
                        this.next = 0;
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    recording.source_over = true;
                    recording.trailers = Some(trailers.clone());
                    this.next = usize::MAX;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                recording.lost = true;
                recording.stalled = is_stall(&*error);
                Poll::Ready(Some(Err(error)))
            }
            None => {
                recording.source_over = true;
                this.next = usize::MAX;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let recording = self.recording.borrow();
        if self.next < recording.data.len() {
            return false;
        }
        if recording.source_over {
            return self.next == usize::MAX || recording.trailers.is_none();
        }
        http_body::Body::is_end_stream(&recording.source)
    }

    fn size_hint(&self) -> SizeHint {
        match self.recording.borrow().length {
            Some(length) => SizeHint::with_exact(length.saturating_sub(self.sent)),
            None => SizeHint::default(),
        }
    }
}
