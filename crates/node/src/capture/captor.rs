//! What captures, in whichever of the modes that have rules.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use tulle_model::name::WorkloadName;
use tulle_sys::nft_watch::Heard;

use super::host::Host;
use super::namespace::Namespace;
use super::{Counts, Destinations, Entrances, Slot};

pub(super) enum Captor {
    Host(Host),
    Namespace(Namespace),
}

impl Captor {
    /// The one that has cgroups, and processes in them.
    pub(super) fn host(&self) -> Option<&Host> {
        match self {
            Self::Host(host) => Some(host),
            Self::Namespace(_) => None,
        }
    }

    pub(super) fn table(&self) -> &str {
        match self {
            Self::Host(host) => host.table(),
            Self::Namespace(namespace) => namespace.table(),
        }
    }

    pub(super) fn add(&self, workload: &WorkloadName, outbound_port: u16, dns_port: u16) -> io::Result<Slot> {
        match self {
            Self::Host(host) => host.add(workload, outbound_port, dns_port),
            Self::Namespace(namespace) => {
                namespace.add(workload, outbound_port, dns_port).map(|()| Slot::default())
            }
        }
    }

    pub(super) fn remove(&self, workload: &WorkloadName) -> io::Result<()> {
        match self {
            Self::Host(host) => host.remove(workload),
            Self::Namespace(namespace) => namespace.remove(workload),
        }
    }

    pub(super) fn follow(&self, destinations: Arc<Destinations>) -> io::Result<()> {
        match self {
            Self::Host(host) => host.follow(destinations),
            Self::Namespace(namespace) => namespace.follow(destinations),
        }
    }

    pub(super) fn enter_by(&self, entrances: Option<Entrances>) -> io::Result<()> {
        match self {
            Self::Host(host) => host.enter_by(entrances),
            Self::Namespace(namespace) => namespace.enter_by(entrances),
        }
    }

    pub(super) fn take_counts(&self) -> BTreeMap<WorkloadName, Counts> {
        match self {
            Self::Host(host) => host.take_counts(),
            Self::Namespace(namespace) => namespace.take_counts(),
        }
    }

    pub(super) fn trouble(&self, workload: &WorkloadName) -> Option<String> {
        match self {
            Self::Host(host) => host.trouble(workload),
            Self::Namespace(namespace) => namespace.trouble(),
        }
    }

    pub(super) fn attend(&self, heard: &Heard) {
        match self {
            Self::Host(host) => host.attend(heard),
            Self::Namespace(namespace) => namespace.attend(heard),
        }
    }

    pub(super) fn leave(&self) -> io::Result<()> {
        match self {
            Self::Host(host) => host.leave(),
            Self::Namespace(namespace) => namespace.leave(),
        }
    }

    pub(super) fn end(&self) {
        match self {
            Self::Host(host) => host.end(),
            Self::Namespace(namespace) => namespace.end(),
        }
    }
}
