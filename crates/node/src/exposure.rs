//! What explicit capture cannot hold off: a process that listens beyond loopback is reached past the mesh by whoever reaches
//! the host. Where the mesh asks for more than that, it is said.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tulle_model::name::WorkloadName;
use tulle_proxy::state::{NodeState, StateCell};
use tulle_sys::listening;

use crate::gates::asked;

/// How often it is looked where processes listen, and how much time passes at least.
const LOOK: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(1);

/// A process that can be reached past the mesh, though that is to be held off.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Exposed {
    workload: WorkloadName,
    address: SocketAddr,
    /// Whether nothing in plain may enter there at all.
    strict: bool,
}

impl fmt::Display for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, address, strict } = self;
        let what = if *strict { "strict is not enforced" } else { "policies are walked around" };
        write!(
            f,
            "{what}: {workload} listens at {address}, and whoever reaches this host enters it past the mesh; have it listen at \
             127.0.0.1 alone, or run the node with host or namespace capture"
        )
    }
}

/// Those of a node with explicit capture.
pub(crate) fn exposed(state: &NodeState) -> Vec<Exposed> {
    let (_, captured) = asked(state);
    let asked: Vec<_> =
        state.workloads.values().filter(|workload| captured.get(&workload.name) == Some(&true)).collect();
    let ports: Vec<_> = asked.iter().flat_map(|workload| workload.ports.iter().copied()).collect();
    if ports.is_empty() {
        return Vec::new();
    }
    let listening = listening::beyond_loopback(&ports).unwrap_or_else(|error| {
        tracing::debug!(%error, "where processes listen is not known");
        Vec::new()
    });
    let mut all = Vec::new();
    for address in listening {
        for workload in asked.iter().filter(|workload| workload.ports.contains(&address.port())) {
            let config = state.snapshot.workloads.get(&workload.name);
            let strict = config.is_some_and(|config| config.strict.is_at(address.port()));
            all.push(Exposed { workload: workload.name.clone(), address, strict });
        }
    }
    all.sort();
    all
}

/// Says that it is asked for, where no rules can divert anything, and which processes can be reached nevertheless: until the task is
/// aborted.
pub(crate) async fn say(state: Arc<StateCell>) {
    let mut changes = state.subscribe();
    let (mut said, mut known) = (false, BTreeSet::new());
    loop {
        changes.mark_unchanged();
        let now = Arc::clone(&state.load());
        let (by, _) = asked(&now);
        if let Some(by) = by.as_ref().filter(|_| !said) {
            tracing::warn!(
                "connections that come to workloads of this node past the mesh are not seen, though they are to be captured ({by}): \
                 its capture is explicit"
            );
        }
        said = by.is_some();
        // The kernel is read about all sockets of this host.
        let looking = spawn_blocking(move || exposed(&now).into_iter().collect::<BTreeSet<_>>());
        let Ok(exposed) = looking.await else { return };
        exposed.difference(&known).for_each(|one| tracing::warn!("{one}"));
        known = exposed;
        if said {
            // However often the configuration changes.
            sleep(PAUSE).await;
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = sleep(LOOK), if said => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use tulle_model::identity::{SpiffeId, TrustDomain};
    use tulle_model::snapshot::{Snapshot, Strictness, WorkloadConfig};
    use tulle_proxy::state::LocalWorkload;

    use super::*;

    #[test]
    fn who_listens_for_all_is_named_where_somebody_is_held_off() {
        let everywhere = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let loopback = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let [open, closed] = [&everywhere, &loopback].map(|listener| listener.local_addr().unwrap());
        let name = WorkloadName::new("shop", "web");
        let said = |inbound_capture: bool, strict: Strictness| {
            let config = WorkloadConfig { inbound_capture, strict, ..WorkloadConfig::new(name.clone()) };
            let workload = LocalWorkload {
                name: name.clone(),
                service: "web".into(),
                identity: SpiffeId::workload(&TrustDomain::new("mesh.test").unwrap(), "shop", "web").unwrap(),
                app_address: Ipv4Addr::LOCALHOST.into(),
                ports: vec![open.port(), closed.port()],
                certificate: None,
                draining: false,
                in_process: None,
                outside: None,
            };
            let mut snapshot = Snapshot::default();
            snapshot.workloads.insert(name.clone(), Arc::new(config));
            let mut state = NodeState { snapshot: Arc::new(snapshot), ..NodeState::default() };
            state.workloads.insert(name.clone(), Arc::new(workload));
            exposed(&state).iter().map(Exposed::to_string).collect::<Vec<_>>()
        };
        assert_eq!(said(false, Strictness::default()), [""; 0], "nobody is held off");
        let strict = said(true, Strictness { everywhere: true, except: vec![] });
        assert_eq!(strict.len(), 1, "{strict:?}");
        assert!(
            strict[0].starts_with(&format!("strict is not enforced: shop/web listens at {open},")),
            "{strict:?}"
        );
        let partly = said(true, Strictness { everywhere: true, except: vec![open.port()] });
        assert!(partly[0].starts_with("policies are walked around: "), "{partly:?}");
    }
}
