//! What the node has of one of its workloads.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tulle_model::identity::SpiffeId;
use tulle_model::name::WorkloadName;
use tulle_proxy::InProcess;
use tulle_proxy::certificate::WorkloadCertificate;
use tulle_proxy::state::{LocalWorkload, StateCell};
use tulle_sys::family::Family;
use tulle_wire::node as wire;

use super::{Owner, SelectingService, WorkloadSpec};
use crate::control::identities::Identity;
use crate::dns::DnsListener;
use crate::probes::{Health, Why};
use crate::process_state::ProcessState;

/// Why a workload is not ready that has just come.
pub(crate) const WAITS_FOR_CERTIFICATE: &str = "it waits for its certificate";

/// One workload, for as long as it is of this node.
pub(super) struct Entry {
    pub name: WorkloadName,
    pub spec: WorkloadSpec,
    pub id: SpiffeId,
    pub certificate: watch::Receiver<Option<Arc<WorkloadCertificate>>>,
    pub identity: Arc<Identity>,
    /// What the node is told of it is there.
    pub state: Arc<StateCell>,
    pub process: watch::Sender<ProcessState>,
    pub health: watch::Receiver<Health>,
    pub draining: AtomicBool,
    pub family: Family,
    pub owner: Owner,
    pub asked: watch::Sender<bool>,
    /// Whether its processes are being ended.
    pub ending: AtomicBool,
    pub listeners: Vec<SocketAddr>,
    pub _dns: Option<DnsListener>,
    /// Where its application is part of this process: what that is handed requests by, and what says that it is well.
    pub within: Option<(InProcess, watch::Sender<Health>)>,
    /// Its probe, and what follows its certificate and health.
    pub tasks: Mutex<Vec<AbortOnDropHandle<()>>>,
}

impl Entry {
    /// Whether it is somebody else's (`tulle run`), who ends its processes when he is asked.
    pub fn is_owned(&self) -> bool {
        matches!(self.owner, Owner::Other(_))
    }

    /// Whether it takes traffic, and why not or perhaps not for long.
    pub fn readiness(&self) -> (bool, Why) {
        if self.draining.load(Ordering::Relaxed) {
            return (false, "it is stopping".into());
        }
        if self.certificate.borrow().is_none() {
            return (false, WAITS_FOR_CERTIFICATE.into());
        }
        // Nobody may enter it: nobody else is to be told that it takes traffic.
        if let Some(why) = self.closed_because() {
            return (false, why.as_str().into());
        }
        // Its probe hears of it a moment later.
        let process = self.process.borrow();
        if !process.runs {
            return (false, process.absence().as_str().into());
        }
        match &*self.health.borrow() {
            Health::Ready => (true, "".into()),
            Health::Doubtful(why) => (true, why.clone()),
            Health::NotReady(why) => (false, why.clone()),
        }
    }

    /// Why it is not known who may enter it, if it is not.
    pub fn closed_because(&self) -> Option<String> {
        self.state.load().snapshot.closed_because(&self.name)
    }

    /// The Services that select it, where the server has said.
    pub fn selecting(&self) -> Option<Vec<SelectingService>> {
        let state = self.state.load();
        let services = &state.snapshot.workloads.get(&self.name)?.services;
        let selecting = services.iter().map(|selected| SelectingService {
            service: selected.by.name.to_string(),
            ports: selected.ports.iter().map(|port| port.service_port).collect(),
        });
        Some(selecting.collect())
    }

    pub fn stop_timeout(&self) -> Duration {
        Duration::from_millis(self.spec.stop_timeout_ms)
    }

    pub fn local(&self) -> LocalWorkload {
        LocalWorkload {
            name: self.name.clone(),
            service: self.spec.service.as_str().into(),
            identity: self.id.clone(),
            app_address: self.spec.app_address,
            ports: self.spec.ports.iter().map(|p| p.port).collect(),
            certificate: self.certificate.borrow().clone(),
            draining: self.draining.load(Ordering::Relaxed),
            in_process: self.within.as_ref().map(|(within, _)| within.clone()),
            outside: None,
        }
    }

    pub fn report(&self) -> wire::Workload {
        let (ready, why) = self.readiness();
        let spec = &self.spec;
        let ports = spec.ports.iter().map(|p| wire::WorkloadPort {
            name: p.name.clone(),
            port: p.port.into(),
            target_port: p.target_port.unwrap_or(p.port).into(),
        });
        wire::Workload {
            namespace: spec.namespace.clone(),
            name: spec.name.clone(),
            labels: spec.labels.clone().into_iter().collect(),
            address: spec.app_address.to_string(),
            service_account: spec.service_account.clone(),
            ports: ports.collect(),
            ready,
            reason: if ready { String::new() } else { why.what },
            certificate_not_after: self.certificate.borrow().as_ref().map_or(0, |c| c.svid().not_after()),
        }
    }
}
