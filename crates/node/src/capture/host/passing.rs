//! What passes without the proxy, or not at all: the rules follow what is known of destinations, and count.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::MutexGuard;
use tulle_model::name::WorkloadName;
use tulle_sys::cgroup::Cgroup;
use tulle_sys::nft_counters::packets_by_cgroup;

use super::{Host, State};
use crate::capture::destinations::Destinations;
use crate::capture::{Counts, begun, rules};

impl Host {
    /// Has the rules go by what is known of destinations.
    pub(in crate::capture) fn follow(&self, destinations: Arc<Destinations>) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.ended || state.destinations.as_ref() == Some(&destinations) {
            return Ok(());
        }
        let before = state.destinations.replace(destinations.clone());
        let mut script = String::new();
        let extent = rules::Extent::Cgroups(&state.node);
        rules::follow(&mut script, &self.table, extent, before.as_deref(), &destinations);
        for (name, workload) in &mut state.workloads {
            let in_force = workload.in_force().is_some();
            let Some(opening) = &mut workload.opening else { continue };
            let before = std::mem::replace(&mut opening.egress, destinations.leaving(name));
            if in_force && opening.egress != before {
                let member = rules::Member::Cgroup(&workload.cgroup);
                rules::egress(&mut script, "delete", &self.table, member, before);
                rules::egress(&mut script, "add", &self.table, member, opening.egress);
            }
        }
        if script.is_empty() {
            return Ok(());
        }
        self.apply_or_rebuild(&mut state, &script, &"what is known of destinations")
            .map_err(io::Error::other)?;
        self.end_begun(state);
        Ok(())
    }

    /// Ends what workloads have begun past the proxy that are held to a policy of egress from now on.
    pub(super) fn end_begun(&self, mut state: MutexGuard<'_, State>) {
        let newly_held = state.newly_held();
        drop(state);
        begun::end_of_cgroups(&newly_held);
    }

    /// What the rules have counted since this was called last.
    pub(in crate::capture) fn take_counts(&self) -> BTreeMap<WorkloadName, Counts> {
        let mut state = self.state.lock();
        state.gather(&self.table);
        std::mem::take(&mut state.counted)
    }
}

impl State {
    /// The workloads that have not been held to a policy of egress before, and are from now on.
    pub(super) fn newly_held(&mut self) -> Vec<Cgroup> {
        let Some(destinations) = &self.destinations else { return Vec::new() };
        let mut found = Vec::new();
        for (name, workload) in &mut self.workloads {
            let is_held = workload.in_force().is_some() && destinations.egress.ends_what_began(name);
            if is_held && !workload.is_held {
                found.push(workload.cgroup.clone());
            }
            workload.is_held = is_held;
        }
        found
    }

    /// Asks the rules what they have counted. To be called before what counts is taken away.
    pub(super) fn gather(&mut self, table: &str) {
        let open = self.workloads.iter_mut().filter(|(_, workload)| workload.in_force().is_some());
        let mut open: BTreeMap<u64, _> = open.map(|workload| (workload.1.id, workload)).collect();
        if open.is_empty() {
            return;
        }
        let counted = match packets_by_cgroup(table, rules::COUNTERS) {
            Ok(counted) => counted,
            Err(e) => {
                // Somebody has taken them away, and that is mended.
                tracing::debug!("what the rules have counted cannot be read: {e}");
                return;
            }
        };
        for (index, counts) in counted.into_iter().enumerate() {
            for (group, now) in counts {
                let Some((name, workload)) = open.get_mut(&group) else { continue };
                let more = workload.seen.more(index, now);
                if more > 0 {
                    *self.counted.entry((*name).clone()).or_default().at(index) += more;
                }
            }
        }
    }
}
