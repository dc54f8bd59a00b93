//! Workloads whose application is part of this process: nothing of them is captured, and no process is looked after.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;
use tokio::sync::watch;
use tulle_model::name::WorkloadName;
use tulle_proxy::InProcess;
use tulle_sys::family::Family;

use super::{Entry, Owner, WorkloadSpec, Workloads};
use crate::probes::Health;
use crate::process_state::ProcessState;

impl Workloads {
    /// Makes an application within this process part of the mesh, as a workload. It takes traffic once it has a certificate.
    ///
    /// # Errors
    /// Where the description makes no sense, or the name is taken.
    pub(crate) fn add_in_process(
        self: &Arc<Self>,
        spec: WorkloadSpec,
        within: InProcess,
    ) -> anyhow::Result<WorkloadName> {
        spec.check()?;
        let name = WorkloadName::new(spec.namespace.as_str(), spec.name.as_str());
        let _busy = self.reserve(&name)?;
        self.check_room(&name)?;
        let (id, identity) = self.identities.get(&spec.namespace, &spec.service_account)?;
        let (process, _) = watch::channel(ProcessState { runs: true, ..ProcessState::default() });
        let (always, health) = watch::channel(Health::Ready);
        let entry = Arc::new(Entry {
            name: name.clone(),
            spec,
            id,
            certificate: identity.certificate(),
            state: self.state.cell().clone(),
            identity,
            process,
            health,
            draining: AtomicBool::new(false),
            family: Family::default(),
            owner: Owner::Us,
            asked: watch::Sender::new(false),
            ending: AtomicBool::new(false),
            listeners: Vec::new(),
            _dns: None,
            within: Some((within, always)),
            tasks: Mutex::default(),
        });
        self.keep(entry);
        Ok(name)
    }

    /// Waits until a workload has a certificate; `false`: it is gone.
    pub(crate) async fn has_certificate(&self, name: &WorkloadName) -> bool {
        let Some(mut certificate) = self.entries.lock().get(name).map(|entry| entry.certificate.clone())
        else {
            return false;
        };
        certificate.wait_for(Option::is_some).await.is_ok()
    }

    /// Takes such a workload out of the mesh.
    pub(crate) fn remove_in_process(&self, name: &WorkloadName) {
        if self.entries.lock().remove(name).is_none() {
            return;
        }
        self.report();
        self.state.update(|state| {
            state.workloads.remove(name);
        });
    }
}
