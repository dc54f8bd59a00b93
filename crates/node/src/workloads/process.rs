//! A workload whose process this node runs itself.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tulle_model::name::WorkloadName;

use super::{Running, WorkloadSpec, Workloads};
use crate::supervise::{Confined, Event, Process, Supervised, supervise};

/// A process that is a workload of the mesh for as long as it is supervised. Dropping it kills the
/// process; [`WorkloadProcess::stop`] does it without a failed request.
pub struct WorkloadProcess {
    workloads: Arc<Workloads>,
    name: WorkloadName,
    running: Running,
    supervised: Supervised,
}

impl Workloads {
    /// Adds a workload and starts its process, captured and with the workload's environment beside
    /// its own (which wins where both set a variable). What it does is sent to `events`.
    ///
    /// # Errors
    /// As [`Workloads::add`]. That the process cannot be started is an event.
    pub async fn run(
        self: &Arc<Self>,
        spec: WorkloadSpec,
        mut process: Process,
        events: mpsc::Sender<Event>,
    ) -> anyhow::Result<WorkloadProcess> {
        let running = self.add(spec).await?;
        let name = WorkloadName::new(running.namespace.as_str(), running.name.as_str());
        let state = self.process(&name).context("the workload was removed at once")?;
        let own = std::mem::take(&mut process.environment);
        process.environment = running.variables().into_iter().chain(own).collect();
        process.confined = Confined {
            cgroup: running.cgroup.clone(),
            name_service: running.name_service.clone(),
            run_as: process.confined.run_as.take(),
        };
        let supervised = supervise(process, events, state);
        Ok(WorkloadProcess { workloads: self.clone(), name, running, supervised })
    }
}

impl WorkloadProcess {
    pub fn name(&self) -> &WorkloadName {
        &self.name
    }

    /// What the process was started with.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Waits until the process has ended and is not going to be started again.
    pub async fn ended(&mut self) {
        self.supervised.ended().await;
    }

    /// Lets what is in flight finish (at most for `drain`), sends SIGTERM, and SIGKILL after `grace`;
    /// then the workload is no part of the mesh any more.
    pub async fn stop(self, drain: Duration, grace: Duration) {
        self.workloads.drain(&self.name, drain).await;
        self.supervised.stop(grace).await;
        self.workloads.remove(&self.name).await;
    }
}
