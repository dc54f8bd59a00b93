//! How long a connection may wait for a request.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::drain::Drain;

/// An idle connection is closed after four such times, or a little more.
pub(in crate::http) const IDLE_QUARTER: Duration = Duration::from_secs(3600 / 4);

/// What ends a connection without a request. It is polled once for each task that waits, not once for each
/// request.
pub(in crate::http) struct IdleTimeout {
    quarter: Pin<Box<Sleep>>,
    /// Quarters of the time that have passed since a request was seen.
    quarters: u32,
    served: u64,
    drained: Pin<Box<dyn Future<Output = ()>>>,
    waits: Option<Waker>,
}

impl IdleTimeout {
    pub fn new(drain: &Drain, served: u64) -> Self {
        let drain = drain.clone();
        let drained = Box::pin(async move { drain.wait().await });
        Self { quarter: Box::pin(sleep(IDLE_QUARTER)), quarters: 0, served, drained, waits: None }
    }

    pub fn poll(&mut self, cx: &mut Context<'_>, served: u64) -> Poll<()> {
        let waits = self.waits.as_ref().is_some_and(|waits| waits.will_wake(cx.waker()));
        if waits && !self.quarter.is_elapsed() {
            return Poll::Pending;
        }
        self.waits = Some(cx.waker().clone());
        while self.quarter.as_mut().poll(cx).is_ready() {
            self.quarters = if self.served == served { self.quarters + 1 } else { 0 };
            self.served = served;
            if self.quarters == 4 {
                return Poll::Ready(());
            }
            self.quarter.as_mut().reset(Instant::now() + IDLE_QUARTER);
        }
        self.drained.as_mut().poll(cx)
    }
}
