//! Who waits to open a stream, on any of the connections to one peer: first come, first served.
//!
//! A place that becomes free calls one, the first in line. Who was called and finds nothing goes back to where
//! it stood; who gives up passes its call on. So a crowd of any size costs what those cost who are served.
//!
//! What its users hold: while somebody stands in line and there is a place, somebody is called. Whoever takes a
//! place therefore calls the next ([`Line::call_for`]) if there are others.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The line before the connections to one peer.
#[derive(Debug, Default)]
pub struct Line {
    standing: RefCell<BTreeMap<u64, Waker>>,
    /// Who was called and has not looked yet.
    called: Cell<usize>,
}

impl Line {
    /// Whether nobody is before a newcomer.
    pub fn is_free(&self) -> bool {
        self.called.get() == 0 && self.standing.borrow().is_empty()
    }

    /// How many stand in line.
    pub fn len(&self) -> usize {
        self.standing.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Has the first look whether there is a place for it.
    pub fn call(&self) {
        let first = self.standing.borrow_mut().pop_first();
        if let Some((_, waker)) = first {
            self.called.set(self.called.get() + 1);
            waker.wake();
        }
    }

    /// Has the next look if there are more places left than those who were called.
    pub fn call_for(&self, places: usize) {
        if places > self.called.get() {
            self.call();
        }
    }

    /// Has all look: what they wait for will not come.
    pub fn call_all(&self) {
        let all = self.standing.take();
        self.called.set(self.called.get() + all.len());
        all.into_values().for_each(Waker::wake);
    }

    /// A ticket for who came as the one of that number: lower ones go before. No two have the same.
    pub fn ticket(self: &Rc<Self>, number: u64) -> Ticket {
        Ticket { line: self.clone(), number, stands: false }
    }
}

/// One who waits. It keeps its place in the order until it is dropped.
#[derive(Debug)]
pub struct Ticket {
    line: Rc<Line>,
    number: u64,
    /// In line, or called.
    stands: bool,
}

impl Ticket {
    pub fn is_of(&self, line: &Rc<Line>) -> bool {
        Rc::ptr_eq(&self.line, line)
    }

    /// Waits until it is this one's turn to look for a place.
    pub fn poll_turn(&mut self, cx: &Context<'_>) -> Poll<()> {
        let first = {
            let mut standing = self.line.standing.borrow_mut();
            if self.stands {
                if let Some(waker) = standing.get_mut(&self.number) {
                    waker.clone_from(cx.waker());
                    return Poll::Pending;
                }
                self.line.called.set(self.line.called.get() - 1);
                self.stands = false;
                return Poll::Ready(());
            }
            self.line.called.get() == 0
                && standing.first_key_value().is_none_or(|(first, _)| *first > self.number)
        };
        if first {
            return Poll::Ready(());
        }
        self.stand(cx);
        Poll::Pending
    }

    /// Goes (back) in line: there is no place.
    pub fn stand(&mut self, cx: &Context<'_>) {
        self.stands = true;
        self.line.standing.borrow_mut().insert(self.number, cx.waker().clone());
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.stands && self.line.standing.borrow_mut().remove(&self.number).is_none() {
            self.line.called.set(self.line.called.get() - 1);
            self.line.call();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    /// Places that are handed out through a line, as the pools do it.
    struct Places {
        line: Rc<Line>,
        came: Cell<u64>,
        free: Cell<usize>,
        looks: Cell<usize>,
        served: RefCell<Vec<u64>>,
    }

    impl Places {
        fn with(free: usize) -> Rc<Self> {
            let (line, came, looks, served) = Default::default();
            Rc::new(Self { line, came, free: Cell::new(free), looks, served })
        }

        async fn enter(&self) {
            let number = self.came.get();
            self.came.set(number + 1);
            self.enter_as(number).await;
        }

        async fn enter_as(&self, number: u64) {
            let mut ticket = self.line.ticket(number);
            poll_fn(|cx| {
                if ticket.poll_turn(cx).is_pending() {
                    return Poll::Pending;
                }
                self.looks.set(self.looks.get() + 1);
                match self.free.get() {
                    0 => {
                        ticket.stand(cx);
                        Poll::Pending
                    }
                    free => {
                        self.free.set(free - 1);
                        self.line.call_for(free - 1);
                        Poll::Ready(())
                    }
                }
            })
            .await;
            self.served.borrow_mut().push(ticket.number);
        }

        fn leave(&self) {
            self.free.set(self.free.get() + 1);
            self.line.call();
        }
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_crowd_is_served_in_order_and_one_is_woken_for_a_place() {
        let places = Places::with(4);
        let crowd: Vec<_> = (0..4000)
            .map(|_| {
                let places = places.clone();
                tokio::task::spawn_local(async move {
                    places.enter().await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    places.leave();
                })
            })
            .collect();
        for one in crowd {
            one.await.unwrap();
        }
        assert_eq!(*places.served.borrow(), (0..4000).collect::<Vec<_>>());
        assert!(places.looks.get() < 4100, "{} looked for 4000 places", places.looks.get());
        assert!(places.line.is_free());
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn who_gives_up_passes_its_turn_on() {
        let places = Places::with(0);
        let enter = || {
            let places = places.clone();
            tokio::task::spawn_local(async move { places.enter().await })
        };
        let (first, second, third) = (enter(), enter(), enter());
        tokio::task::yield_now().await;
        assert_eq!(places.line.len(), 3);
        // Called, and gone before it looks; and one that goes from the middle of the line.
        places.leave();
        first.abort();
        second.abort();
        assert!(first.await.is_err() && second.await.is_err());
        third.await.unwrap();
        assert_eq!(*places.served.borrow(), [2]);
        assert!(places.line.is_free());
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn nobody_overtakes_who_was_called() {
        let places = Places::with(0);
        let enter = || {
            let places = places.clone();
            tokio::task::spawn_local(async move { places.enter().await })
        };
        let waits = enter();
        tokio::task::yield_now().await;
        places.leave();
        // Comes before the other has looked.
        let newcomer = enter();
        waits.await.unwrap();
        tokio::task::yield_now().await;
        assert_eq!(*places.served.borrow(), [0]);
        places.leave();
        newcomer.await.unwrap();
        assert_eq!(*places.served.borrow(), [0, 1]);
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn who_is_sent_back_stands_where_it_stood() {
        let places = Places::with(0);
        let enter = |number| {
            let places = places.clone();
            tokio::task::spawn_local(async move { places.enter_as(number).await })
        };
        let newcomers = [7, 8].map(enter);
        tokio::task::yield_now().await;
        let sent_back = [3, 4, 5].map(enter);
        tokio::task::yield_now().await;
        places.free.set(5);
        places.line.call();
        for one in sent_back.into_iter().chain(newcomers) {
            one.await.unwrap();
        }
        assert_eq!(*places.served.borrow(), [3, 4, 5, 7, 8]);
    }
}
