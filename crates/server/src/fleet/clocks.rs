//! How a node's clock stands to this host's: the two tell each other their time with every report.

use std::time::{Duration, SystemTime};

use tulle_model::clock::{SkewNews, SkewWatch, describe};
use tulle_wire::node::{NodeClock, ServerClock};

use crate::timestamp::millis;

/// What is known of one node's clock.
#[derive(Debug, Default)]
pub(super) struct NodeClocks {
    /// What the latest report's answer has to say again.
    asked: Option<i64>,
    watch: SkewWatch,
}

impl NodeClocks {
    /// Takes what a report says, which came at `now`, so long after this server's start; returns by how many milliseconds the node's clock is
    /// ahead. The node knows the round trip; where it has not measured yet, its time is compared as it came.
    pub fn told(&mut self, node: &str, told: &NodeClock, now: SystemTime, steady: Duration) -> i64 {
        self.asked = Some(told.steady_millis);
        let ahead = told.ahead_millis.unwrap_or_else(|| told.unix_millis.saturating_sub(millis(now)));
        let steady = i64::try_from(steady.as_millis()).unwrap_or(i64::MAX);
        match self.watch.look(ahead, 0, steady) {
            Some(SkewNews::Differ) => tracing::warn!(
                node,
                "the clock of the node `{node}` is {} this server's; set the clocks right (NTP)",
                describe(ahead)
            ),
            Some(SkewNews::Agree) => {
                tracing::info!(node, "the clock of the node `{node}` and this server's agree again");
            }
            None => {}
        }
        ahead
    }

    /// What the node is told, once for each report.
    pub fn answer(&mut self, now: SystemTime) -> Option<ServerClock> {
        self.asked.take().map(|asked_millis| ServerClock { unix_millis: millis(now), asked_millis })
    }
}
