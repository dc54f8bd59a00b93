//! What was asked of workloads, in few words: who came, to which port of what, with which method and path. Nodes of the
//! destinations write down each distinct one, so that policies can be made of what is seen ([`suggest`]), and a change of
//! policies can be held against it ([`replay`]).
//!
//! Of a path the parts that differ from one request to the next are folded ([`fold`]); its query, headers, hosts and bodies are
//! not kept at all.

mod book;
mod fold;
pub mod replay;
pub mod suggest;
mod view;

use std::net::IpAddr;
use std::sync::Arc;

pub use self::book::{Book, KEPT_SECONDS, Noted};
pub use self::fold::{LONGEST, REST, VARIABLE, fold, fold_into};
pub use self::view::{CalleeView, InvalidSummary, SummaryView};
use crate::identity::SpiffeId;
use crate::name::{NamespacedName, WorkloadName};
use crate::snapshot::WorkloadConfig;

/// How many are told apart of one edge: of what one identity, or all of the outside, asked of one destination, let in or not.
pub const OF_EDGE: usize = 1_000;
/// How many addresses outside of the mesh are told apart, of one destination.
pub const ADDRESSES: usize = 32;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Summary {
    pub from: Comer,
    pub to: Callee,
    /// Of a Service its own, of a workload that at which it listens.
    pub port: u16,
    pub asked: Wish,
    /// Whether it was let in.
    pub allowed: bool,
}

/// Who came.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Comer {
    Mesh(SpiffeId),
    /// In plain, from outside of the mesh; `None`: from one of many addresses.
    Outside(Option<IpAddr>),
}

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Callee {
    Service(NamespacedName),
    /// A workload, at a port for which no Service stands.
    Workload(WorkloadName),
}

/// What for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Wish {
    /// Bytes.
    Tcp,
    /// Folded.
    Http { method: Arc<str>, path: Arc<str> },
    /// A call, by its path.
    Grpc { path: Arc<str> },
    /// Requests that are not told apart, as there were too many different ones.
    Requests,
}

impl Callee {
    /// As what a port of a workload is reached, and at which port of that: the Service of the name that telemetry has for it,
    /// or another one that selects it, or none.
    pub fn of(
        config: Option<&WorkloadConfig>,
        workload: &WorkloadName,
        service: &str,
        port: u16,
    ) -> (Self, u16) {
        let services = config.map(|config| &*config.services).unwrap_or_default();
        let served = services.iter().filter_map(|selected| {
            let served = selected.ports.iter().find(|served| served.target_port == port)?;
            Some((&selected.by, served.service_port))
        });
        let best = served.min_by_key(|(by, _)| *by.name != *service);
        match best {
            Some((by, port)) => (Self::Service(by.clone()), port),
            None => (Self::Workload(workload.clone()), port),
        }
    }

    pub fn name(&self) -> &NamespacedName {
        match self {
            Self::Service(name) | Self::Workload(name) => name,
        }
    }
}

impl Summary {
    /// What stands for all of an edge that there is no room for one by one.
    pub fn coarse(&self) -> Self {
        let from = match &self.from {
            Comer::Mesh(identity) => Comer::Mesh(identity.clone()),
            Comer::Outside(_) => Comer::Outside(None),
        };
        let asked = match self.asked {
            Wish::Tcp => Wish::Tcp,
            Wish::Http { .. } | Wish::Grpc { .. } | Wish::Requests => Wish::Requests,
        };
        Self { from, asked, to: self.to.clone(), ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::ServiceName;
    use crate::port_settings::Http1Settings;
    use crate::snapshot::{AppProtocol, Selected, ServedPort};

    #[test]
    fn a_workload_is_reached_as_the_service_of_its_name() {
        let served = |service_port, target_port| ServedPort {
            service_port,
            target_port,
            protocol: AppProtocol::Detect,
            http1: Http1Settings::DEFAULT,
        };
        let services = [("all", vec![served(1, 34567), served(2, 34568)]), ("cart", vec![served(80, 34567)])]
            .map(|(name, ports)| Selected { by: ServiceName::new("shop", name), ports });
        let name = WorkloadName::new("shop", "cart-1");
        let config = WorkloadConfig { services: services.into(), ..WorkloadConfig::new(name.clone()) };
        let service = |name| Callee::Service(ServiceName::new("shop", name));
        for (config, port, expected) in [
            (Some(&config), 34567, (service("cart"), 80)),
            (Some(&config), 34568, (service("all"), 2)),
            (Some(&config), 99, (Callee::Workload(name.clone()), 99)),
            (None, 34567, (Callee::Workload(name.clone()), 34567)),
        ] {
            assert_eq!(Callee::of(config, &name, "cart", port), expected, "{port}");
        }
    }
}
