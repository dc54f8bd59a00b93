//! What was asked of workloads in the last day, as nodes tell it (`tulle policy`). It is kept in memory alone: nodes tell all of it
//! again to a server that begins anew.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::SystemTime;

use tulle_model::name::NamespacedName;
use tulle_model::summary::{Book, Callee, Comer, Summary, SummaryView};
use tulle_wire::node as wire;

use crate::telemetry::EdgeView;
use crate::timestamp::seconds;

/// How many are kept of the whole mesh.
pub const SUMMARIES: usize = 100_000;
/// What nodes see again they tell every ten minutes: for so many seconds an address is one of lately.
const LATELY: i64 = 900;
/// How many addresses an edge names.
const NAMED: usize = 8;

/// Time is given in seconds, from whatever start.
#[derive(Debug)]
pub struct Summaries(Book);

impl Default for Summaries {
    fn default() -> Self {
        Self(Book::new(SUMMARIES))
    }
}

impl Summaries {
    /// Takes what a node tells. `is_own`: whether it runs workloads of a namespace; the others of which it told.
    pub fn take(&mut self, told: Vec<wire::Summary>, is_own: impl Fn(&str) -> bool, now: u64) -> Vec<String> {
        let now = signed(now);
        let mut owned: HashMap<String, bool> = HashMap::new();
        for message in told {
            let namespace = message.destination_namespace.clone();
            let ago = signed(message.seconds_ago);
            let is_own = *owned.entry(namespace).or_insert_with_key(|namespace| is_own(namespace));
            match Summary::try_from(message) {
                Ok(summary) if is_own => drop(self.0.note(summary, now.saturating_sub(ago), now)),
                Ok(_) => {}
                // One of a newer version says something that this one does not know.
                Err(error) => tracing::debug!("a summary of a node is not understood: {error}"),
            }
        }
        owned.into_iter().filter(|(_, is_own)| !is_own).map(|(namespace, _)| namespace).collect()
    }

    /// Those of destinations in a namespace, or of all, in the order of their names.
    pub fn view(&self, namespace: Option<&str>, now: u64, time: SystemTime) -> Vec<SummaryView> {
        let (now, time) = (signed(now), signed(seconds(time)));
        let is_asked =
            |summary: &Summary| namespace.is_none_or(|asked| *summary.to.name().namespace == *asked);
        let mut all: Vec<_> = self.0.iter(now).filter(|(summary, _)| is_asked(summary)).collect();
        all.sort_unstable();
        all.into_iter().map(|(summary, at)| SummaryView::new(summary, time - (now - at))).collect()
    }

    /// Says of edges from outside of the mesh from where it came lately.
    pub fn name_addresses(&self, edges: &mut [EdgeView], now: u64) {
        let from_outside = |edge: &EdgeView| edge.source.namespace.is_empty();
        if !edges.iter().any(from_outside) {
            return;
        }
        let now = signed(now);
        let mut lately: HashMap<&NamespacedName, Vec<(i64, IpAddr)>> = HashMap::new();
        for (summary, at) in self.0.iter(now).filter(|(_, at)| *at > now - LATELY) {
            if let (Comer::Outside(Some(address)), Callee::Service(to) | Callee::Workload(to)) =
                (&summary.from, &summary.to)
            {
                lately.entry(to).or_default().push((-at, *address));
            }
        }
        for edge in edges.iter_mut().filter(|edge| from_outside(edge)) {
            let Some(seen) = lately.get_mut(&edge.destination) else { continue };
            seen.sort_unstable();
            for (_, address) in seen.iter() {
                if edge.addresses.len() < NAMED && !edge.addresses.contains(address) {
                    edge.addresses.push(*address);
                }
            }
        }
    }
}

fn signed(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
