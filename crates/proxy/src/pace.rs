//! How fast one payer's requests begin, so that those of others begin in between.
//!
//! A worker runs what is ready, in its order. Of somebody who sends thousands of requests at once, thousands would
//! run before the next request of anybody else. So only some of each payer begin in one round of the worker's queue;
//! the others wait, in their order. Where nobody else does anything, one round follows the other at once.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Requests of one payer that begin in one round.
const IN_ROUND: u32 = 32;

thread_local! {
    /// Those that have requests waiting. A task of its own serves them as long as there are any.
    static WAITING: RefCell<Vec<Rc<PayerQueue>>> = const { RefCell::new(Vec::new()) };
}

/// One payer's requests on one worker.
#[derive(Default)]
pub(crate) struct Pace(Rc<PayerQueue>);

#[derive(Default)]
struct PayerQueue {
    /// Requests that have begun since the last round that this payer waited for.
    begun: Cell<u32>,
    waiting: RefCell<VecDeque<Waker>>,
}

impl Pace {
    /// Waits until one more request may begin: at once, or in one of the next rounds.
    pub async fn turn(&self) {
        let begun = self.0.begun.get();
        if begun < IN_ROUND {
            self.0.begun.set(begun + 1);
        } else {
            self.wait().await;
        }
    }

    #[cold]
    async fn wait(&self) {
        let mut waits = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut waits, true) {
                return Poll::Ready(());
            }
            let mut waiting = self.0.waiting.borrow_mut();
            if waiting.is_empty() {
                join(&self.0);
            }
            waiting.push_back(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Has a queue served from the next round on.
fn join(queue: &Rc<PayerQueue>) {
    WAITING.with_borrow_mut(|queues| {
        if queues.is_empty() {
            tokio::task::spawn_local(serve());
        }
        queues.push(queue.clone());
    });
}

/// Lets some of each queue begin, and waits until the thread has run all that was ready, again and again.
async fn serve() {
    poll_fn(|cx| {
        let more = WAITING.with_borrow_mut(|queues| {
            queues.retain(|queue| {
                let mut waiting = queue.waiting.borrow_mut();
                let count = waiting.len().min(IN_ROUND as usize);
                waiting.drain(..count).for_each(Waker::wake);
                queue.begun.set(count as u32);
                !waiting.is_empty()
            });
            !queues.is_empty()
        });
        if !more {
            return Poll::Ready(());
        }
        // Behind everything that is ready now.
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts so many requests of one payer, each of which writes its name down when it begins.
    fn send(pace: &Rc<Pace>, name: &'static str, count: usize, begun: &Rc<RefCell<Vec<&'static str>>>) {
        for _ in 0..count {
            let (pace, begun) = (pace.clone(), begun.clone());
            tokio::task::spawn_local(async move {
                pace.turn().await;
                begun.borrow_mut().push(name);
            });
        }
    }

    async fn run_all(begun: &Rc<RefCell<Vec<&'static str>>>, count: usize) {
        while begun.borrow().len() < count {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(flavor = "local")]
    async fn who_sends_much_lets_others_in_between() {
        let begun = Rc::default();
        let [greedy, polite] = [Rc::<Pace>::default(), Rc::default()];
        send(&greedy, "greedy", 1000, &begun);
        tokio::task::yield_now().await;
        send(&polite, "polite", 3, &begun);
        run_all(&begun, 1003).await;
        let last = begun.borrow().iter().rposition(|name| *name == "polite").unwrap();
        assert!(last <= 4 * IN_ROUND as usize, "{last}");
    }

    #[tokio::test(flavor = "local")]
    async fn two_that_send_much_have_the_same() {
        let begun = Rc::default();
        let [one, other] = [Rc::<Pace>::default(), Rc::default()];
        send(&one, "one", 500, &begun);
        send(&other, "other", 500, &begun);
        run_all(&begun, 1000).await;
        let ones = begun.borrow()[..500].iter().filter(|name| **name == "one").count();
        assert!((234..=266).contains(&ones), "{ones}");
    }

    #[tokio::test(flavor = "local")]
    async fn who_waits_begins_in_its_order_and_one_that_goes_is_passed_over() {
        let (begun, pace) = (Rc::new(RefCell::new(Vec::new())), Rc::<Pace>::default());
        let mut tasks = Vec::new();
        for i in 0..100 {
            let (pace, begun) = (pace.clone(), begun.clone());
            tasks.push(tokio::task::spawn_local(async move {
                pace.turn().await;
                begun.borrow_mut().push(i);
            }));
        }
        tokio::task::yield_now().await;
        tasks[50].abort();
        for task in tasks {
            let _ = task.await;
        }
        let expected: Vec<_> = (0..100).filter(|i| *i != 50).collect();
        assert_eq!(*begun.borrow(), expected);
    }
}
