//! How long a request may take, and each attempt at it, as its rule says (HTTPRouteTimeouts): until the head of its answer is
//! there, it is answered with 504 where it takes longer; from then on the answer breaks off.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tulle_model::decision::{Decider, Decision, Effect};
use tulle_model::snapshot::{HttpRule, Timeouts};

use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::http::body::{Body, BodyError};
use crate::http::grpc::Messages;
use crate::mesh_headers::TIME_LEFT;

/// When a request has to be over, of its head: who answers it may know that.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestEnd(pub Instant);

impl RequestEnd {
    /// What the node is told that it is sent to.
    #[cold]
    pub fn field(self) -> (HeaderName, HeaderValue) {
        let left = self.0.saturating_duration_since(Instant::now());
        (TIME_LEFT, u64::try_from(left.as_millis()).unwrap_or(u64::MAX).into())
    }

    /// What the node says that it comes from.
    #[cold]
    pub fn told(headers: &HeaderMap) -> Option<Self> {
        let left = headers.get(TIME_LEFT)?.to_str().ok()?.parse().ok()?;
        Instant::now().checked_add(Duration::from_millis(left)).map(Self)
    }
}

/// The limits of one request.
pub(crate) struct TimeLimits {
    rule: Arc<HttpRule>,
    /// When the request has to be over.
    end: Option<Instant>,
    /// Until when the attempt under way may take, and whose limit that is.
    timer: Pin<Box<Sleep>>,
    field: &'static str,
    time: Duration,
    is_over: bool,
}

/// An answer that took too long; what decided that.
#[derive(Debug, thiserror::Error)]
#[error("the answer was not whole in time ({} {})", .0.by, .0.field)]
pub(crate) struct OutOfTime(pub Decision);

impl TimeLimits {
    /// Those of a request that began then; `None`: it may take as long as it likes, as nearly all do.
    pub fn of(rule: &Arc<HttpRule>, began: Instant) -> Option<Self> {
        if rule.timeouts == Timeouts::default() {
            return None;
        }
        let end = rule.timeouts.request.map(|time| began + time);
        let timer = Box::pin(sleep_until(began));
        Some(Self { rule: rule.clone(), end, timer, field: "", time: Duration::ZERO, is_over: false })
    }

    /// When the request has to be over, if it has to.
    pub fn end(&self) -> Option<Instant> {
        self.end
    }

    /// When an attempt has to be over that begins now.
    #[cold]
    pub fn attempt_end(&self) -> Option<RequestEnd> {
        self.first_over().map(|(end, ..)| RequestEnd(end))
    }

    /// Which limit is the first to end an attempt that begins now: when, its field, and how long it is.
    fn first_over(&self) -> Option<(Instant, &'static str, Duration)> {
        let Timeouts { request, backend_request } = self.rule.timeouts;
        let attempt = backend_request.map(|time| (Instant::now() + time, "backendRequest", time));
        let whole = self.end.zip(request).map(|(end, time)| (end, "request", time));
        [attempt, whole].into_iter().flatten().min()
    }

    /// An attempt begins.
    #[cold]
    fn begin(&mut self) {
        // One of them there is.
        let Some((until, field, time)) = self.first_over() else { return };
        (self.field, self.time, self.is_over) = (field, time, false);
        self.timer.as_mut().reset(until);
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let polled = self.timer.as_mut().poll(cx);
        self.is_over = polled.is_ready();
        polled
    }

    /// What decided over the attempt, if it took too long.
    pub fn decision(&self) -> Option<Decision> {
        self.is_over.then(|| self.bound_by())
    }

    fn bound_by(&self) -> Decision {
        let field = format!("spec.rules[{}].timeouts.{}", self.rule.index, self.field);
        Decision::new(Decider::rule(&self.rule), field, Effect::Failed)
    }

    /// Ready, with what to say of it, when the attempt under way has taken too long.
    #[cold]
    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<UpstreamError> {
        self.poll_over(cx).map(|()| self.expired())
    }

    fn expired(&self) -> UpstreamError {
        let Decision { by, field, .. } = self.bound_by();
        let message = format!("there was no answer within {:?} ({by} {field})", self.time);
        UpstreamError::after_sending(UpstreamErrorKind::Timeout, message)
    }

    /// Has an answer break off where it is not whole in time: `messages` of gRPC with a status, where that is between two.
    pub fn bound(self, body: &mut Body, messages: Option<Messages>) {
        if body.whole_length().is_some() {
            return;
        }
        let inner = std::mem::replace(body, Body::empty());
        *body = Body::new(TimedBody { inner, limits: self });
        if messages.is_some() {
            body.observe_as(messages, |_| {});
        }
    }
}

/// An answer that has to be whole in time. What is there passes, however late its client is.
struct TimedBody {
    inner: Body,
    limits: TimeLimits,
}

impl http_body::Body for TimedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { inner, limits } = self.get_mut();
        match Pin::new(inner).poll_frame(cx) {
            Poll::Pending => limits.poll_over(cx).map(|()| Some(Err(OutOfTime(limits.bound_by()).into()))),
            polled => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What comes of an attempt, if it comes in time.
pub(crate) fn within_limits<T>(
    mut limits: Option<&mut TimeLimits>,
    mut attempt: Pin<&mut impl Future<Output = Result<T, UpstreamError>>>,
) -> impl Future<Output = Result<T, UpstreamError>> {
    if let Some(limits) = &mut limits {
        limits.begin();
    }
    poll_fn(move |cx| match (attempt.as_mut().poll(cx), &mut limits) {
        (Poll::Pending, Some(limits)) => limits.poll_expired(cx).map(Err),
        (polled, _) => polled,
    })
}
