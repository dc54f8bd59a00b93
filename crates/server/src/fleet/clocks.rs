//! How a node's clock stands to this host's: the two tell each other their time with every report.

use std::time::SystemTime;

use tulle_model::clock;
use tulle_wire::node::{NodeClock, ServerClock};

use crate::grpc::enrolment::millis;

/// What is known of one node's clock.
#[derive(Debug, Default)]
pub(super) struct NodeClocks {
    /// What the latest report's answer has to say again.
    asked: Option<i64>,
    /// It was logged that the two differ.
    differ: bool,
}

impl NodeClocks {
    /// Takes what a report says, which came at `now`; returns by how many milliseconds the node's clock is
    /// ahead. The node knows the round trip; where it has not measured yet, its time is compared as it came.
    pub fn told(&mut self, node: &str, told: &NodeClock, now: SystemTime) -> i64 {
        self.asked = Some(told.steady_millis);
        let ahead = told.ahead_millis.unwrap_or_else(|| told.unix_millis.saturating_sub(millis(now)));
        let differ = clock::is_notable(ahead, 0);
        if std::mem::replace(&mut self.differ, differ) != differ {
            if differ {
                tracing::warn!(
                    node,
                    "the clock of the node `{node}` is {} this server's; set the clocks right (NTP)",
                    clock::describe(ahead)
                );
            } else {
                tracing::info!(node, "the clock of the node `{node}` and this server's agree again");
            }
        }
        ahead
    }

    /// What the node is told, once for each report.
    pub fn answer(&mut self, now: SystemTime) -> Option<ServerClock> {
        self.asked.take().map(|asked_millis| ServerClock { unix_millis: millis(now), asked_millis })
    }
}
