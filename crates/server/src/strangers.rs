//! Clients that have not shown who they are: so many at most, and for one more the one goes that has said
//! nothing for the longest, of the address that has the most. Nobody keeps others out by saying nothing.

use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tulle_model::waiting_room::{Ticket, WaitingRoom};

type Room = Mutex<WaitingRoom<IpAddr, CancellationToken>>;

/// The strangers of one listener.
#[derive(Clone)]
pub(crate) struct Strangers(Arc<Room>);

/// A stranger's place, until it is dropped.
pub(crate) struct Stranger {
    room: Arc<Room>,
    address: IpAddr,
    ticket: Mutex<Ticket>,
    /// Cancelled when somebody else got the place.
    pub sent_away: CancellationToken,
}

impl Strangers {
    /// Room for so many.
    pub(crate) fn new(capacity: usize) -> Self {
        Self(Arc::new(Mutex::new(WaitingRoom::new(capacity))))
    }

    /// A place for one who has just come.
    pub(crate) fn enter(&self, address: IpAddr) -> Stranger {
        let sent_away = CancellationToken::new();
        let (ticket, evicted) = self.0.lock().enter(address, sent_away.clone());
        if let Some(evicted) = evicted {
            evicted.cancel();
        }
        Stranger { room: self.0.clone(), address, ticket: Mutex::new(ticket), sent_away }
    }
}

impl Stranger {
    /// It has asked for something, and is the last now to go.
    pub(crate) fn spoke(&self) {
        let mut ticket = self.ticket.lock();
        let mut room = self.room.lock();
        if let Some(sent_away) = room.leave(*ticket) {
            // There is the place that was just left.
            *ticket = room.enter(self.address, sent_away).0;
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.room.lock().leave(*self.ticket.get_mut());
    }
}
