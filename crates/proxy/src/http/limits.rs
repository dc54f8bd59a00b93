//! How long a request may take, and each attempt at it, as its rule says (HTTPRouteTimeouts): until the head of its answer is
//! there, it is answered with 504 where it takes longer; from then on the answer breaks off.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};
use tulle_model::decision::{Decider, Decision, Effect};
use tulle_model::snapshot::{HttpRule, Timeouts};

use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::http::body::{Body, BodyError, Event, Observer};

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

    /// An attempt begins.
    fn begin(&mut self) {
        let Timeouts { request, backend_request } = self.rule.timeouts;
        let attempt = backend_request.map(|time| (Instant::now() + time, "backendRequest", time));
        let whole = self.end.zip(request).map(|(end, time)| (end, "request", time));
        // One of them there is.
        let Some((until, field, time)) = [attempt, whole].into_iter().flatten().min() else { return };
        (self.field, self.time) = (field, time);
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
        Decision::new(Decider::HttpRoute(self.rule.route.clone()), field, Effect::Failed)
    }

    fn expired(&self) -> UpstreamError {
        let Decision { by, field, .. } = self.bound_by();
        let message = format!("there was no answer within {:?} ({by} {field})", self.time);
        UpstreamError::after_sending(UpstreamErrorKind::Timeout, message)
    }

    /// Has an answer break off where it is not whole in time.
    pub fn bound(self, body: &mut Body) {
        body.watch_as(None, LimitWatch(self));
    }
}

struct LimitWatch(TimeLimits);

impl Observer for LimitWatch {
    fn event(&mut self, _event: Event<'_>) {}

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        self.0.poll_over(cx).map(|()| OutOfTime(self.0.bound_by()).into())
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
        (Poll::Pending, Some(limits)) => limits.poll_over(cx).map(|()| Err(limits.expired())),
        (polled, _) => polled,
    })
}
