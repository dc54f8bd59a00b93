//! Connections of HTTP/2 that take no new streams, and end with their last one: the peer has said that it goes
//! away, or they are not to be used any longer.
//!
//! Each is a descriptor, for as long as its streams like. A peer that goes away again and again, and leaves a
//! stream open each time, must not have any number of them: for one more than may be, the oldest is ended.

use std::cell::RefCell;
use std::collections::VecDeque;

use tokio::sync::oneshot;

/// Those to one peer that are left to their streams.
#[derive(Default)]
pub(crate) struct Departing(RefCell<VecDeque<oneshot::Sender<()>>>);

/// What ends a connection at once. Held where connections are given out.
pub(crate) struct Exit(oneshot::Sender<()>);

/// The connection's own side of it, to be dropped when that is closed.
pub(crate) struct Ending(oneshot::Receiver<()>);

impl Exit {
    pub fn new() -> (Self, Ending) {
        let (exit, ending) = oneshot::channel();
        (Self(exit), Ending(ending))
    }

    /// Ends it; whether it was still there.
    pub fn end(self) -> bool {
        self.0.send(()).is_ok()
    }

    /// Whether it has ended by itself.
    pub fn is_over(&self) -> bool {
        self.0.is_closed()
    }
}

impl Ending {
    /// Returns when the connection is to end, whatever runs on it. Never returns where nobody can say so any more.
    pub async fn told(&mut self) {
        if (&mut self.0).await.is_err() {
            std::future::pending().await
        }
    }
}

impl Departing {
    /// One more. `most`: how many there may be; whether the oldest was ended for it.
    pub fn add(&self, exit: Exit, most: usize) -> bool {
        let crowded = self.len() >= most && self.end_oldest();
        self.0.borrow_mut().push_back(exit.0);
        crowded
    }

    /// Ends the one that has been departing for the longest; whether there was one.
    pub fn end_oldest(&self) -> bool {
        let oldest = self.0.borrow_mut().pop_front();
        oldest.is_some_and(|oldest| oldest.send(()).is_ok())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        let mut all = self.0.borrow_mut();
        all.retain(|exit| !exit.is_closed());
        all.len()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_oldest_makes_way() {
        let departing = Departing::default();
        let mut endings: Vec<Ending> = (0..4)
            .map(|n| {
                let (exit, ending) = Exit::new();
                assert_eq!(departing.add(exit, 3), n == 3);
                ending
            })
            .collect();
        assert!(endings[0].told().now_or_never().is_some());
        assert_eq!(departing.len(), 3);
        // One that has ended by itself leaves room.
        drop(endings.remove(2));
        assert_eq!(departing.len(), 2);
        let (exit, _ending) = Exit::new();
        assert!(!departing.add(exit, 3));
        // The others go on, even when nobody knows of them any longer.
        drop(departing);
        assert!(endings[1].told().now_or_never().is_none());
    }
}
