//! Finds what peers do not go on with, by the deadlines of [`crate::progress`].
//!
//! There is no timer for each of them. One sweep of a worker looks at all that is watched, so often that a
//! deadline is kept within an eighth of the shortest; while nothing is watched there is none. A message that is
//! there as a whole never comes here.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tulle_model::snapshot::FastMap;

use crate::http2::Handle;
use crate::metrics::WorkerRegistry;
use crate::progress::{Deadlines, Side, Stall};

/// What the sweep looks at.
trait Watched {
    /// `now`: the time of the sweep's own clock. `grace`: how coarse that is.
    fn look(&self, now: Duration, grace: Duration);
}

/// The sweep of one worker.
#[derive(Default)]
pub(crate) struct Sweep {
    deadlines: Deadlines,
    registry: Arc<WorkerRegistry>,
    /// Time as the sweep sees it. It stands still while this thread is held up: that is no fault of peers.
    now: Cell<Duration>,
    watched: RefCell<FastMap<u64, Weak<dyn Watched>>>,
    next: Cell<u64>,
    running: Cell<bool>,
}

/// Something that is watched, until this is dropped.
struct Watch<W> {
    sweep: Rc<Sweep>,
    number: u64,
    watched: Rc<W>,
}

impl<W> Drop for Watch<W> {
    fn drop(&mut self) {
        self.sweep.watched.borrow_mut().remove(&self.number);
    }
}

impl Sweep {
    pub fn new(deadlines: Deadlines, registry: Arc<WorkerRegistry>) -> Rc<Self> {
        Rc::new(Self { deadlines, registry, ..Self::default() })
    }

    /// Watches a connection of HTTP/2 and its streams, as long as what is returned is kept.
    pub fn watch(self: &Rc<Self>, connection: &Handle, side: Side) -> impl Sized + 'static {
        let deadlines = if side == Side::Link { self.deadlines.on_links() } else { self.deadlines };
        let handle = connection.clone();
        self.add(Streams { handle, side, deadlines, registry: self.registry.clone() })
    }

    /// Counts what was cut.
    pub fn count(&self, side: Side, what: Stall) {
        self.registry.counts.stalls[side as usize][what as usize].add(1);
    }

    fn add<W: Watched + 'static>(self: &Rc<Self>, watched: W) -> Watch<W> {
        let number = self.next.get();
        self.next.set(number + 1);
        let watched = Rc::new(watched);
        let weak: Weak<W> = Rc::downgrade(&watched);
        self.watched.borrow_mut().insert(number, weak);
        if !self.running.replace(true) {
            let sweep = Rc::downgrade(self);
            tokio::task::spawn_local(Self::run(sweep, self.tick()));
        }
        Watch { sweep: self.clone(), number, watched }
    }

    fn tick(&self) -> Duration {
        let Deadlines { head, body, write } = self.deadlines;
        (head.min(body).min(write) / 16).max(Duration::from_millis(5))
    }

    async fn run(sweep: Weak<Self>, tick: Duration) {
        let mut last = Instant::now();
        let mut ticks = interval_at(last + tick, tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(sweep) = sweep.upgrade() else { return };
            sweep.now.set(sweep.now.get() + last.elapsed().min(2 * tick));
            last = Instant::now();
            let all: Vec<_> = sweep.watched.borrow().values().cloned().collect();
            if all.is_empty() {
                sweep.running.set(false);
                return;
            }
            // Looking may end what is watched.
            for watched in all.iter().filter_map(Weak::upgrade) {
                watched.look(sweep.now.get(), tick);
            }
        }
    }
}

/// A connection of HTTP/2.
struct Streams {
    handle: Handle,
    side: Side,
    deadlines: Deadlines,
    registry: Arc<WorkerRegistry>,
}

impl Watched for Streams {
    fn look(&self, now: Duration, _grace: Duration) {
        self.handle.look(now, &self.deadlines);
        self.count();
    }
}

impl Streams {
    fn count(&self) {
        let cut = self.handle.take_cut();
        for (count, cut) in self.registry.counts.stalls[self.side as usize].iter().zip(cut) {
            if cut > 0 {
                count.add(u64::from(cut));
            }
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.count();
    }
}

/// What is awaited of one peer on a connection of HTTP/1, one thing at a time.
#[derive(Default)]
pub(crate) struct Patience(Option<Box<Watch<Wait>>>);

#[derive(Default)]
struct Wait {
    /// Since when nothing has moved, by the sweep's clock.
    since: Cell<Option<Duration>>,
    deadline: Cell<Duration>,
    mark: Cell<u64>,
    over: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Watched for Wait {
    fn look(&self, now: Duration, grace: Duration) {
        let lasted = |since| now.saturating_sub(since) >= self.deadline.get() + grace;
        if self.since.get().is_some_and(lasted) {
            self.over.set(true);
            if let Some(waker) = self.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}

impl Patience {
    /// Waits for `side` to go on with `what`; ready, and counted, when it has not for too long. `mark` is
    /// another one after each progress.
    pub fn poll(
        &mut self,
        cx: &Context<'_>,
        sweep: &Rc<Sweep>,
        side: Side,
        what: Stall,
        mark: u64,
    ) -> Poll<()> {
        let watch = self.0.get_or_insert_with(|| Box::new(sweep.add(Wait::default())));
        let wait = &watch.watched;
        if wait.since.get().is_none() || wait.mark.get() != mark {
            wait.since.set(Some(sweep.now.get()));
            wait.mark.set(mark);
            wait.deadline.set(sweep.deadlines.of(what));
            wait.over.set(false);
        }
        if wait.over.replace(false) {
            wait.since.set(None);
            sweep.count(side, what);
            return Poll::Ready(());
        }
        let mut waker = wait.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Nothing is awaited any more.
    pub fn rest(&mut self) {
        if let Some(watch) = &self.0 {
            watch.watched.since.set(None);
            watch.watched.over.set(false);
        }
    }
}

/// Wakes a task at every turn of the sweep, for what nobody else tells it.
#[derive(Default)]
pub(crate) struct SweepWaker(Option<Box<Watch<Task>>>);

#[derive(Default)]
struct Task(RefCell<Option<Waker>>);

impl Watched for Task {
    fn look(&self, _now: Duration, _grace: Duration) {
        if let Some(waker) = self.0.borrow_mut().take() {
            waker.wake();
        }
    }
}

impl SweepWaker {
    /// Has the task woken once more.
    pub fn poll(&mut self, cx: &Context<'_>, sweep: &Rc<Sweep>) {
        let watch = self.0.get_or_insert_with(|| Box::new(sweep.add(Task::default())));
        *watch.watched.0.borrow_mut() = Some(cx.waker().clone());
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn counted(sweep: &Sweep, side: Side, what: Stall) -> u64 {
        sweep.registry.counts.stalls[side as usize][what as usize].get()
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn what_makes_no_progress_is_over_after_its_time_and_not_before() {
        let sweep = Sweep::new(Deadlines::default(), Arc::default());
        for (what, deadline) in [(Stall::Head, 30), (Stall::Body, 60), (Stall::Write, 60)] {
            let mut patience = Patience::default();
            let begun = Instant::now();
            poll_fn(|cx| patience.poll(cx, &sweep, Side::Client, what, 0)).await;
            let took = begun.elapsed().as_secs_f64();
            assert!((deadline as f64..deadline as f64 + 5.0).contains(&took), "{what:?}: {took} s");
            assert_eq!(counted(&sweep, Side::Client, what), 1);
        }
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn progress_begins_the_time_anew() {
        let sweep = Sweep::new(Deadlines::default(), Arc::default());
        let mut patience = Patience::default();
        for mark in 0..20 {
            let wait = poll_fn(|cx| patience.poll(cx, &sweep, Side::Application, Stall::Body, mark));
            let wait = tokio::time::timeout(Duration::from_secs(50), wait).await;
            assert!(wait.is_err(), "{mark}");
        }
        patience.rest();
        tokio::time::sleep(Duration::from_secs(600)).await;
        let wait = poll_fn(|cx| patience.poll(cx, &sweep, Side::Application, Stall::Body, 20));
        assert!(tokio::time::timeout(Duration::from_secs(50), wait).await.is_err(), "it rested");
        assert_eq!(counted(&sweep, Side::Application, Stall::Body), 0);
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn nothing_runs_where_nothing_is_watched() {
        let sweep = Sweep::new(Deadlines::default(), Arc::default());
        let mut patience = Patience::default();
        let _ = poll_fn(|cx| Poll::Ready(patience.poll(cx, &sweep, Side::Client, Stall::Head, 0))).await;
        assert!(sweep.running.get());
        drop(patience);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!sweep.running.get() && sweep.watched.borrow().is_empty());
    }
}
