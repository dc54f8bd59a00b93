//! What becomes of an exchange that ends without being told so.

use super::{Exchange, Origin, Stage};
use crate::reason::{Reason, Verdict};

impl Exchange {
    /// Whether its client has given it up, where it ends before it is answered.
    fn is_given_up(&self) -> bool {
        match &self.client {
            // Who was let go is counted as that.
            Some(client) => !client.cut.get() && !client.counted.get(),
            None => !matches!(self.origin, Origin::Workload(_)),
        }
    }

    /// Has the line of what bytes have passed of written.
    fn closed(&mut self) {
        let reason = self.reason;
        let verdict = reason.map_or(Verdict::Success, Reason::verdict);
        self.write(|entry| (entry.reason, entry.result) = (reason, verdict));
    }

    /// Counts a request whose client has given it up.
    #[cold]
    fn abandoned(&mut self) {
        let latency = self.latency();
        if let Some(edge) = self.edge() {
            edge.sent(self.bytes_sent());
            edge.request(None, Verdict::Abandoned, latency);
        }
        self.write(|entry| (entry.latency, entry.result) = (Some(latency), Verdict::Abandoned));
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Over => {}
            Stage::Open(edge) => {
                if let Some(edge) = edge {
                    edge.closed();
                }
                self.closed();
            }
            Stage::Switched(_) => self.closed(),
            Stage::Begun if self.is_given_up() => self.abandoned(),
            Stage::Begun => {}
        }
    }
}
