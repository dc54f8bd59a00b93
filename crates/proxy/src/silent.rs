//! Peers that have not said yet what they want, or who they are: when there are too many, the oldest goes for a
//! newcomer.

use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tulle_model::waiting_room::{Ticket, WaitingRoom};

/// The room of one listener. `G` tells peers apart that get into each other's way first (addresses, say).
pub struct SilentPeers<G>(Arc<Mutex<WaitingRoom<G, oneshot::Sender<()>>>>);

/// A peer's place, until it is dropped.
pub struct WaitingPlace<G: Hash + Eq + Copy> {
    room: Arc<Mutex<WaitingRoom<G, oneshot::Sender<()>>>>,
    group: G,
    ticket: Ticket,
    lost: oneshot::Receiver<()>,
}

impl<G: Hash + Eq + Copy> SilentPeers<G> {
    /// Room for so many.
    pub fn new(capacity: usize) -> Self {
        Self(Arc::new(Mutex::new(WaitingRoom::new(capacity))))
    }

    /// A place for a peer that has just come. Where there is none left, somebody else loses theirs.
    pub fn enter(&self, group: G) -> WaitingPlace<G> {
        let (kept, lost) = oneshot::channel();
        // Who loses the place hears of it by the drop of what was kept for them.
        let (ticket, _) = self.0.lock().enter(group, kept);
        WaitingPlace { room: self.0.clone(), group, ticket, lost }
    }
}

impl<G: Hash + Eq + Copy> WaitingPlace<G> {
    /// The peer has said something, and is the last now to go.
    pub fn renew(&mut self) {
        let mut room = self.room.lock();
        if let Some(kept) = room.leave(self.ticket) {
            // There is the place that was just left.
            self.ticket = room.enter(self.group, kept).0;
        }
    }

    /// Returns when the place was given to somebody else: this peer is to be let go.
    pub async fn lost(&mut self) {
        let _ = (&mut self.lost).await;
    }
}

impl<G: Hash + Eq + Copy> Drop for WaitingPlace<G> {
    fn drop(&mut self) {
        self.room.lock().leave(self.ticket);
    }
}
