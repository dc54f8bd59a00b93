//! Looks after processes: those that somebody has moved out of their cgroup are taken back, and all follow the host's name service.

use std::collections::BTreeMap;

use super::Host;
use crate::capture::strays::Strays;

impl Host {
    /// Takes processes that were moved out of their workload's cgroup back into it.
    pub(in crate::capture) fn take_back(&self, strays: &mut Strays) {
        let open: BTreeMap<_, _> = {
            let state = self.state.lock();
            let open =
                state.workloads.iter().filter(|(_, workload)| workload.opening.is_some() && !state.ended);
            open.map(|(name, workload)| (name.clone(), workload.cgroup.clone())).collect()
        };
        // Without the lock, as all processes of the host may be looked at.
        let now = strays.take_back(&self.mount, &self.scope, &open);
        let mut before = self.strays.lock();
        for (name, why) in now.iter().filter(|(name, why)| before.get(name) != Some(why)) {
            tracing::error!("the workload {name}: {why}");
        }
        *before = now;
    }

    /// Follows the host's name service.
    pub(in crate::capture) fn follow_name_service(&self) {
        let Some(service) = &self.name_service else { return };
        match service.refresh() {
            Ok(true) => {
                let state = self.state.lock();
                let cgroups: Vec<_> =
                    state.workloads.values().map(|workload| workload.cgroup.clone()).collect();
                drop(state);
                cgroups.iter().for_each(|cgroup| service.cover(cgroup));
            }
            Ok(false) => {}
            Err(e) => tracing::warn!("the host's name service cannot be followed: {e}"),
        }
    }
}
