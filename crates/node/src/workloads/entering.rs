//! Makes workloads known, once all that they need is there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::bail;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tulle_model::identity::SpiffeId;
use tulle_model::name::WorkloadName;
use tulle_sys::run_as::RunAs;

use super::{Entry, Owner, Running, WorkloadSpec, Workloads, follow};
use crate::control::identities::Identity;
use crate::dns::DnsListener;
use crate::probes::{self, Check, Health, Probe, Timing};
use crate::process_state::ProcessState;

impl Workloads {
    #[expect(clippy::too_many_arguments, reason = "each of them is a field of the entry")]
    pub(super) fn enter(
        self: &Arc<Self>,
        name: WorkloadName,
        spec: WorkloadSpec,
        id: SpiffeId,
        identity: Arc<Identity>,
        running: &Running,
        (run_as, owner): (Option<RunAs>, Owner),
        listeners: Vec<SocketAddr>,
        dns: Option<DnsListener>,
    ) {
        let default_probe = || {
            let port = spec.ports.first()?.port;
            Some(Probe { check: Check::Tcp { port }, timing: Timing::default() })
        };
        let probe = spec.probe.clone().or_else(default_probe);
        let target = running.target(spec.app_address, run_as);
        let (process, process_receiver) = watch::channel(ProcessState::default());
        let (health_sender, health) = watch::channel(Health::NotReady("it is starting".into()));
        let probing = tokio::spawn(probes::watch(probe, target, process_receiver, health_sender));
        let entry = Arc::new(Entry {
            name: name.clone(),
            spec,
            id,
            certificate: identity.certificate(),
            state: self.state.cell().clone(),
            identity,
            process,
            health: health.clone(),
            draining: AtomicBool::new(false),
            family: running.family(),
            owner,
            asked: watch::Sender::new(false),
            ending: AtomicBool::new(false),
            listeners,
            _dns: dns,
            within: None,
            tasks: Mutex::new(vec![AbortOnDropHandle::new(probing)]),
        });
        self.keep(entry);
    }

    /// Whether a workload of that name can be added.
    pub(super) fn check_room(&self, name: &WorkloadName) -> anyhow::Result<()> {
        if self.drained.load(Ordering::Relaxed) {
            bail!("the node is drained or stops, and takes no workload (`tulle node drain --undo`)");
        }
        if let Some(entry) = self.entries.lock().get(name) {
            match entry.ending.load(Ordering::Relaxed) {
                true => bail!("the processes that the workload {name} had before are being ended right now"),
                false => bail!("the workload {name} runs on this node already"),
            }
        }
        Ok(())
    }

    /// Makes an entry known, and follows what becomes of it.
    pub(super) fn keep(self: &Arc<Self>, entry: Arc<Entry>) {
        self.entries.lock().insert(entry.name.clone(), entry.clone());
        self.publish(&entry);
        self.report();
        let following = tokio::spawn(follow(Arc::downgrade(self), Arc::downgrade(&entry)));
        entry.tasks.lock().push(AbortOnDropHandle::new(following));
    }
}
