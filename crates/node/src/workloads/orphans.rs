//! Workloads of an earlier process of this node. Their processes go on, without a mesh, until their owner
//! (`tulle run`) comes back for them; where it is gone, they are ended.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use tulle_model::name::WorkloadName;
use tulle_sys::family::{Family, Member, with_variable};

use super::Workloads;
use super::environment::{MARK, mark, marked};
use super::record::{Record, Records};
use crate::capture::Capture;
use crate::ending;
use crate::scope::Whose;

/// How long an owner of which nothing is known has to come back.
const RETURN_DEADLINE: Duration = Duration::from_secs(10);

/// How often we look whether the owners are still there.
const POLL: Duration = Duration::from_millis(250);

/// What processes get of which nothing is known.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub(super) struct Orphan {
    family: Family,
    owner: Option<Member>,
    grace: Duration,
    ending: bool,
}

impl Orphan {
    fn new(family: Family, record: Option<Record>) -> Self {
        Self {
            family,
            owner: record.and_then(|record| record.owner()),
            grace: record.map_or(STOP_TIMEOUT, |record| record.stop_timeout()),
            ending: false,
        }
    }
}

/// Those in cgroups of `capture`. The others take a look at all processes of the host: [`Workloads::tend_orphans`].
pub(super) fn captured(scope: &str, capture: &Capture, records: &Records) -> BTreeMap<WorkloadName, Orphan> {
    let orphan = |(workload, cgroup): (WorkloadName, PathBuf)| {
        let mark = Some(format!("{MARK}={}", mark(scope, &workload)));
        let family = Family { mark, ..Family::of_cgroup(&cgroup) };
        let orphan = Orphan::new(family, records.load(&workload));
        (workload, orphan)
    };
    capture.orphans().into_iter().map(orphan).collect()
}

/// The workloads that have processes with a mark, each with the mark.
pub(crate) fn marked_workloads(whose: &Whose) -> BTreeMap<WorkloadName, String> {
    let processes = with_variable(MARK).unwrap_or_else(|e| {
        tracing::warn!("processes that an earlier run of the node has left cannot be looked for: {e}");
        Vec::new()
    });
    let wanted = |(_, value): (Member, String)| {
        let (scope, workload) = marked(&value)?;
        whose.is(scope).then(|| (workload, format!("{MARK}={value}")))
    };
    processes.into_iter().filter_map(wanted).collect()
}

impl Workloads {
    /// Finds those that carry a mark of this node, then ends the processes of those whose owner is gone. Returns when
    /// none is left that somebody may come back for.
    pub async fn tend_orphans(self: Arc<Self>) {
        let started = Instant::now();
        let whose = Whose::Node(self.scope.clone());
        let marked = spawn_blocking(move || marked_workloads(&whose)).await.unwrap_or_default();
        for (workload, mark) in marked {
            // Some have come back meanwhile.
            let entries = self.entries.lock();
            if !entries.contains_key(&workload) {
                let family = Family { mark: Some(mark), ..Family::default() };
                let orphan = Orphan::new(family, self.records.load(&workload));
                self.orphans.lock().entry(workload).or_insert(orphan);
            }
        }
        self.orphans_known.send_replace(true);
        self.forget_records();
        loop {
            let waiting: Vec<_> = {
                let orphans = self.orphans.lock();
                orphans.iter().filter(|(_, o)| !o.ending).map(|(name, o)| (name.clone(), o.owner)).collect()
            };
            if waiting.is_empty() {
                return;
            }
            for (name, owner) in waiting {
                let gone = match owner {
                    Some(owner) => !owner.is_alive(),
                    None => started.elapsed() >= RETURN_DEADLINE,
                };
                // Not one that its owner, come back, is adding right now.
                if gone && let Ok(_reservation) = self.reserve(&name) {
                    self.end_orphan(&name);
                }
            }
            sleep(POLL).await;
        }
    }

    /// Removes the records of workloads whose processes are all gone.
    fn forget_records(&self) {
        // In this order: one that is being added has its record while it is busy, and is an entry after that.
        let records = self.records.list();
        let busy = self.busy.lock().clone();
        let entries = self.entries.lock();
        let orphans = self.orphans.lock();
        let is_known = |name: &WorkloadName| {
            busy.contains(name) || entries.contains_key(name) || orphans.contains_key(name)
        };
        records.iter().filter(|name| !is_known(name)).for_each(|name| self.records.remove(name));
    }

    /// Whether a workload can have this name, which one of an earlier process of the node may have.
    pub(super) async fn check_orphan(
        self: &Arc<Self>,
        name: &WorkloadName,
        again: bool,
    ) -> anyhow::Result<()> {
        if !again {
            // The sender lives as long as we do.
            let _ = self.orphans_known.subscribe().wait_for(|known| *known).await;
        }
        let Some(Orphan { owner, ending, .. }) = self.orphans.lock().get(name).cloned() else {
            return Ok(());
        };
        if ending {
            bail!("the processes that the workload {name} had before are being ended right now");
        }
        if again {
            return Ok(());
        }
        if let Some(owner) = owner.filter(|owner| owner.is_alive()) {
            bail!("the workload {name} runs on this node already, by process {}", owner.pid);
        }
        self.end_orphan(name);
        bail!("the processes that the workload {name} had before are being ended right now")
    }

    /// Its owner has come back.
    pub(super) fn adopt(&self, name: &WorkloadName) {
        self.orphans.lock().remove(name);
    }

    /// Begins to end its processes. The caller has reserved the name; from then on it is taken until they are removed.
    fn end_orphan(self: &Arc<Self>, name: &WorkloadName) {
        let orphan = {
            let mut orphans = self.orphans.lock();
            let Some(orphan) = orphans.get_mut(name).filter(|orphan| !orphan.ending) else { return };
            orphan.ending = true;
            orphan.clone()
        };
        let (this, name) = (self.clone(), name.clone());
        tokio::spawn(async move {
            let grace = orphan.grace;
            tracing::warn!(
                "nobody has come back for the workload {name}: its processes have {grace:?} to end"
            );
            if let Err(e) = ending::end(&orphan.family, grace).await {
                tracing::warn!("not all processes of the workload {name} have ended: {e}");
            }
            this.uncapture(&name).await;
            this.records.remove(&name);
            this.orphans.lock().remove(&name);
        });
    }

    /// The workloads of an earlier process that are still there, with the number of their processes.
    pub(super) fn orphans_left(&self) -> Vec<(WorkloadName, usize)> {
        let orphans = self.orphans.lock().clone();
        let count = |family: &Family| family.left().map_or(0, |members| members.len());
        orphans.into_iter().map(|(name, o)| (name, count(&o.family))).filter(|(_, n)| *n > 0).collect()
    }
}
