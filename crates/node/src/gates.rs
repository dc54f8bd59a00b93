//! Inbound capture of the node's workloads, where it is asked for: a gate for each, which is a listener of the proxy, and the
//! rules that divert what comes to it. Where it is not, there is neither.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tulle_model::decision::{self, Decision};
use tulle_model::name::WorkloadName;
use tulle_proxy::state::{NodeState, StateCell};
use tulle_proxy::{Proxy, Purpose, Sockets};

use crate::capture::{Entrance, Entrances, Rules};

/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How many ports are tried for one that is free for IPv4 and IPv6.
const PORTS: usize = 16;

/// Opens and closes the gates of a node.
pub(crate) struct Porter {
    rules: Rules,
    state: Arc<StateCell>,
    proxy: Arc<Proxy>,
    open: BTreeMap<WorkloadName, Vec<SocketAddr>>,
    /// What the rules were told last, if anything: where they divert nothing, that there are no entrances.
    told: Option<Option<Entrances>>,
    /// Whether it was said last that something is captured.
    is_on: bool,
    /// Workloads whose gate could not be opened, which was said.
    shut: BTreeSet<WorkloadName>,
}

impl Porter {
    /// Has the rules be as the node's state asks for.
    pub async fn start(rules: Rules, state: Arc<StateCell>, proxy: Arc<Proxy>) -> Self {
        let mut porter = Self {
            rules,
            state,
            proxy,
            open: BTreeMap::new(),
            told: None,
            is_on: false,
            shut: BTreeSet::new(),
        };
        porter.follow().await;
        porter
    }

    /// Follows the node's state until the task is aborted.
    pub async fn run(mut self) {
        let mut changes = self.state.subscribe();
        loop {
            changes.mark_unchanged();
            if !self.follow().await {
                sleep(RETRY).await;
                continue;
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// `false` where something could not be done.
    async fn follow(&mut self) -> bool {
        if self.state.load().snapshot.mesh_untold {
            // Who is to be held off has not been said yet: everybody is, until then.
            return self.tell(Some(Entrances::new()), None).await;
        }
        let (by, workloads) = asked(&self.state.load());
        let mut good = true;
        self.shut.retain(|name| workloads.get(name) == Some(&true));
        for (name, _) in workloads.iter().filter(|(_, captured)| **captured) {
            if self.open.contains_key(name) {
                continue;
            }
            match open(&self.proxy, &Purpose::Inbound { workload: name.clone() }).await {
                Ok(addresses) => {
                    self.shut.remove(name);
                    self.open.insert(name.clone(), addresses);
                }
                Err(e) => {
                    if self.shut.insert(name.clone()) {
                        tracing::error!(
                            "the workload {name} is closed to what comes past the mesh: no port for that can be opened: {e}"
                        );
                    }
                    good = false;
                }
            }
        }
        let gone: Vec<_> = self.open.extract_if(.., |name, _| workloads.get(name) != Some(&true)).collect();
        let entrance = |(name, captured): (WorkloadName, bool)| {
            let gate = self.open.get(&name).and_then(|addresses| addresses.first());
            let entrance = match gate {
                _ if !captured => Entrance::Direct,
                Some(address) => Entrance::Gate(address.port()),
                None => Entrance::Closed,
            };
            (name, entrance)
        };
        let entrances = by.as_ref().map(|_| workloads.into_iter().map(entrance).collect());
        good &= self.tell(entrances, by.as_ref()).await;
        // Once nothing is diverted there any more.
        for address in gone.into_iter().flat_map(|(_, addresses)| addresses) {
            self.proxy.close(address).await;
        }
        good
    }

    async fn tell(&mut self, entrances: Option<Entrances>, by: Option<&Decision>) -> bool {
        if self.told.as_ref() == Some(&entrances) {
            return true;
        }
        let (rules, told) = (self.rules.clone(), entrances.clone());
        match spawn_blocking(move || rules.enter_by(told)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => {
                tracing::warn!("the capture rules do not know by which gates workloads are entered: {e}");
                return false;
            }
            Err(_) => return false,
        }
        let was_on = std::mem::replace(&mut self.is_on, by.is_some());
        match by {
            Some(by) if !was_on => tracing::info!("inbound capture is on ({by})"),
            None if was_on => tracing::info!("inbound capture is off"),
            _ => {}
        }
        self.told = Some(entrances);
        true
    }
}

/// What asks for inbound capture on a node, if anything does, and of each of its workloads, whether it is captured.
pub(crate) fn asked(state: &NodeState) -> (Option<Decision>, BTreeMap<WorkloadName, bool>) {
    let snapshot = &state.snapshot;
    let mut asked = None;
    let mut workloads = BTreeMap::new();
    // What is part of this process listens nowhere.
    let processes = state.workloads.iter().filter(|(_, workload)| workload.in_process.is_none());
    for (name, _) in processes {
        let config = snapshot.workloads.get(name).map(|config| &**config);
        let by = decision::inbound_capture(&snapshot.mesh, config);
        workloads.insert(name.clone(), by.is_some());
        asked = asked.or(by);
    }
    // What is about a workload says more.
    (asked.or_else(|| decision::inbound_capture(&snapshot.mesh, None)), workloads)
}

/// Listens for what rules lead there: for IPv4, and at the same port for IPv6, where the host has that.
pub(crate) async fn open(proxy: &Proxy, purpose: &Purpose) -> io::Result<Vec<SocketAddr>> {
    let bind = |address| Sockets::bind(purpose.clone(), address, proxy.workers());
    let mut last = None;
    for _ in 0..PORTS {
        let v4 = bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let v6 = match bind((Ipv6Addr::LOCALHOST, v4.address().port()).into()) {
            Ok(v6) => Some(v6),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                last = Some(e);
                continue;
            }
            Err(e) => {
                tracing::debug!("connections of IPv6 cannot be captured: {e}");
                None
            }
        };
        let v4 = proxy.listen(v4).await?;
        let Some(v6) = v6 else { return Ok(vec![v4]) };
        return match proxy.listen(v6).await {
            Ok(v6) => Ok(vec![v4, v6]),
            Err(e) => {
                proxy.close(v4).await;
                Err(e)
            }
        };
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

#[cfg(test)]
mod tests {
    use tulle_model::identity::{SpiffeId, TrustDomain};
    use tulle_model::snapshot::{MeshSettings, Snapshot, WorkloadConfig};
    use tulle_proxy::state::LocalWorkload;

    use super::*;

    /// A node with these workloads, and what the server has said of each.
    fn state(mesh: bool, workloads: &[(&str, Option<bool>)]) -> NodeState {
        let mut state = NodeState::default();
        let mesh = MeshSettings { inbound_capture: mesh, ..MeshSettings::default() };
        let mut snapshot = Snapshot { mesh: Arc::new(mesh), ..Snapshot::default() };
        for &(text, told) in workloads {
            let name = WorkloadName::new("shop", text);
            let local = LocalWorkload {
                name: name.clone(),
                service: text.into(),
                identity: SpiffeId::workload(&TrustDomain::new("mesh.test").unwrap(), "shop", text).unwrap(),
                app_address: Ipv4Addr::LOCALHOST.into(),
                ports: vec![80],
                certificate: None,
                draining: false,
                in_process: None,
                outside: None,
            };
            state.workloads.insert(name.clone(), Arc::new(local));
            if let Some(inbound_capture) = told {
                let config = WorkloadConfig { inbound_capture, ..WorkloadConfig::new(name.clone()) };
                snapshot.workloads.insert(name, Arc::new(config));
            }
        }
        state.snapshot = Arc::new(snapshot);
        state
    }

    #[test]
    fn what_is_said_of_a_workload_counts_and_of_the_mesh_until_something_is() {
        for (mesh, workloads, on, captured) in [
            (false, &[("a", None), ("b", Some(false))][..], false, &[][..]),
            (false, &[("a", None), ("b", Some(true))], true, &["b"]),
            (true, &[("a", None), ("b", Some(false))], true, &["a"]),
            (true, &[], true, &[]),
        ] {
            let (by, asked) = asked(&state(mesh, workloads));
            let expected: BTreeMap<_, _> = workloads
                .iter()
                .map(|(name, _)| (WorkloadName::new("shop", *name), captured.contains(name)))
                .collect();
            assert_eq!((by.is_some(), asked), (on, expected), "{mesh} {workloads:?}");
        }
    }
}
