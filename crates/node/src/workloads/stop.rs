//! How the workloads of a node stop: one by one as somebody asks, or all of them with the node, which leaves
//! the processes that others have started.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use tulle_model::name::WorkloadName;

use super::{Entry, Workloads};
use crate::ending;

/// How often the end of what is in flight is looked for.
const DRAIN_POLL: Duration = Duration::from_millis(10);

/// How long an owner may take longer than the processes that it ends.
const OWNER_GRACE: Duration = Duration::from_secs(2);

/// What a node leaves on its host when it stops.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Left {
    /// With the number of their processes; one at least.
    pub workloads: Vec<(WorkloadName, usize)>,
}

impl Workloads {
    /// Has the workload refuse new requests, in a way that has its peers go elsewhere, and waits until
    /// nothing is in flight, at most until the deadline. `false` where something still is.
    pub async fn drain(&self, name: &WorkloadName, deadline: Duration) -> bool {
        let Some(entry) = self.entries.lock().get(name).cloned() else { return true };
        entry.draining.store(true, Ordering::Relaxed);
        self.publish(&entry);
        self.report();
        let end = Instant::now() + deadline;
        // A request that was let in just before may not be counted yet.
        self.proxy.settle().await;
        while self.proxy.in_flight(name) > 0 {
            if Instant::now() >= end {
                return false;
            }
            sleep(DRAIN_POLL).await;
        }
        true
    }

    /// Takes a workload out of the mesh, and ends what is left of its processes where it has a cgroup.
    pub async fn remove(&self, name: &WorkloadName) {
        let Ok(_busy) = self.reserve(name) else { return };
        let Some(entry) = self.entries.lock().remove(name) else { return };
        self.report();
        self.uncapture(name).await;
        self.records.remove(name);
        for address in &entry.listeners {
            self.proxy.close(*address).await;
        }
        self.state.update(|state| {
            state.workloads.remove(name);
        });
    }

    /// Has all workloads take no new requests, and waits until nothing is in flight; `false` where something
    /// still is at the deadline. No workload is added from now on.
    pub async fn drain_all(&self, deadline: Duration) -> bool {
        self.drained.store(true, Ordering::Relaxed);
        let names = self.names();
        join_all(names.iter().map(|name| self.drain(name, deadline))).await.into_iter().all(|done| done)
    }

    /// Takes [`Workloads::drain_all`] back.
    pub fn undrain(&self) {
        self.drained.store(false, Ordering::Relaxed);
        for entry in self.all() {
            entry.draining.store(false, Ordering::Relaxed);
            self.publish(&entry);
        }
        self.report();
    }

    /// Whether the owner of a workload is asked to end its processes.
    pub fn asked_to_stop(&self, name: &WorkloadName) -> Option<watch::Receiver<bool>> {
        self.entries.lock().get(name).map(|entry| entry.asked.subscribe())
    }

    /// Asks the owners of all workloads that have one to end their processes. Returns the longest that these may
    /// take.
    pub fn ask_to_stop(&self) -> Duration {
        let owned = self.all().into_iter().filter(|entry| entry.is_owned());
        let ask = |entry: Arc<Entry>| {
            entry.asked.send_replace(true);
            entry.stop_timeout()
        };
        owned.map(ask).max().unwrap_or_default()
    }

    /// Has the owners of workloads end their processes, and ends them itself where an owner does not. No workload is
    /// added from now on. Those without an owner are none of its business.
    pub async fn end_owned(&self) {
        self.drained.store(true, Ordering::Relaxed);
        let any = |this: &Self| this.all().iter().any(|entry| entry.is_owned());
        if !any(self) {
            return;
        }
        let end = Instant::now() + self.ask_to_stop() + OWNER_GRACE;
        while any(self) && Instant::now() < end {
            sleep(DRAIN_POLL).await;
        }
        self.kill_owned().await;
    }

    /// Kills the processes of workloads that have an owner, and removes them.
    pub async fn kill_owned(&self) {
        let owned: Vec<_> = self.all().into_iter().filter(|entry| entry.is_owned()).collect();
        join_all(owned.iter().map(|entry| async {
            if let Err(e) = ending::kill(&entry.family).await {
                tracing::warn!("not all processes of the workload {} have ended: {e}", entry.name);
            }
            self.remove(&entry.name).await;
        }))
        .await;
    }

    /// Ends the processes of a workload whose owner is gone: they are drained, have their time, and go.
    pub async fn end(&self, name: &WorkloadName, drain: Duration) {
        let Some(entry) = self.entries.lock().get(name).cloned() else { return };
        entry.ending.store(true, Ordering::Relaxed);
        self.drain(name, drain).await;
        entry.process.send_modify(|process| process.set(false));
        let grace = entry.stop_timeout();
        match ending::end(&entry.family, grace).await {
            Ok(ended) if ended.members > 0 => tracing::warn!(
                "the `tulle run` of {name} is gone: {} processes were ended, {} of them by force",
                ended.members,
                ended.killed
            ),
            Ok(_) => {}
            Err(e) => tracing::warn!("not all processes of the workload {name} have ended: {e}"),
        }
        self.remove(name).await;
    }

    /// Drains and removes all workloads, whatever is left of their processes, and takes no more.
    pub async fn stop(&self, deadline: Duration) {
        self.drain_all(deadline).await;
        for name in &self.names() {
            self.remove(name).await;
        }
        let capture = self.capture.lock().take();
        // Removes the rules and the cgroups.
        let _ = spawn_blocking(move || drop(capture)).await;
    }

    /// Drains all workloads, takes no more, and leaves their processes as they are, cut off from the mesh and
    /// from what it keeps from them. Returns what is left.
    pub async fn leave(&self, deadline: Duration) -> Left {
        let end = Instant::now() + deadline;
        self.drain_all(deadline).await;
        // What nobody will come back for is on its way out.
        while self.all().iter().any(|entry| entry.ending.load(Ordering::Relaxed)) && Instant::now() < end {
            sleep(DRAIN_POLL).await;
        }
        let entries = self.all();
        let mut workloads = self.orphans_left();
        let counts = entries.iter().map(|e| (e.name.clone(), e.family.left().map_or(0, |m| m.len())));
        workloads.extend(counts.filter(|(_, processes)| *processes > 0));
        let capture = self.capture.lock().take();
        let left = spawn_blocking(move || capture.map_or(Ok(()), |capture| capture.leave())).await;
        if let Ok(Err(e)) = left {
            tracing::warn!("the capture rules cannot be closed: {e}");
        }
        Left { workloads }
    }

    fn names(&self) -> Vec<WorkloadName> {
        self.entries.lock().keys().cloned().collect()
    }

    fn all(&self) -> Vec<Arc<Entry>> {
        self.entries.lock().values().cloned().collect()
    }
}
