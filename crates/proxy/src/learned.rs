//! What ports that nothing is declared of have spoken, as long as their endpoints stay the same.

use std::sync::Weak;

use tulle_model::name::ServiceName;
use tulle_model::snapshot::{EndpointSet, FastMap};

/// Ports whose protocol a worker remembers.
const MAX_LEARNED: usize = 16 * 1024;

/// What the ports that nothing is declared of have spoken on this worker.
#[derive(Default)]
pub(crate) struct Learned(FastMap<(ServiceName, u16), (Weak<EndpointSet>, Learnt)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Learnt {
    /// A client has spoken HTTP.
    Http,
    /// The server sends SETTINGS before its client says anything.
    Http2Server,
}

impl Learned {
    /// What the port spoke with those very endpoints.
    pub fn of(&self, service: &ServiceName, port: u16, endpoints: &Weak<EndpointSet>) -> Option<Learnt> {
        // Held weakly, so that no other set is at the same address, and what it holds is let go of.
        let (of, learnt) = self.0.get(&(service.clone(), port))?;
        of.ptr_eq(endpoints).then_some(*learnt)
    }

    /// Keeps the more that is known of those endpoints.
    pub fn learn(&mut self, service: &ServiceName, port: u16, endpoints: &Weak<EndpointSet>, learnt: Learnt) {
        if self.of(service, port, endpoints) >= Some(learnt) {
            return;
        }
        if self.0.len() >= MAX_LEARNED {
            self.0.clear();
        }
        self.0.insert((service.clone(), port), (endpoints.clone(), learnt));
    }
}
