//! How a workload's connections get into the proxy.
//!
//! *Host* capture puts every workload into a cgroup of its own and has nftables redirect that
//! cgroup's TCP connections and DNS queries to the workload's own listeners, so that the proxy knows
//! who is calling. It needs root, nft and the unified cgroup hierarchy. *Namespace* capture takes all of the network
//! namespace that the node runs in (a container, a pod) for one workload, whoever has started its processes; what the node
//! sends itself has a mark. *Explicit* capture needs nothing: the process is told by its environment where the proxy listens.
//!
//! Redirected are the mesh's virtual addresses, which are all IPv4, and DNS. What can lead nowhere is refused instead
//! ([`Destinations`]). Loopback addresses that are not the mesh's are left alone; the outside is reached without the
//! proxy, by it (where only what is listed may leave), or refused, as the mesh's egress policy says.

mod begun;
mod captor;
mod destinations;
mod entrances;
mod host;
mod inbound_rules;
mod name_service;
mod namespace;
mod namespace_rules;
mod remains;
mod rules;
mod strays;
mod table;
mod watch;
mod zones;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use serde::{Deserialize, Serialize};
use tulle_model::name::WorkloadName;

use self::captor::Captor;
pub use self::destinations::Destinations;
pub use self::entrances::{Entrance, Entrances};
use self::host::Host;
use self::namespace::Namespace;
pub(crate) use self::remains::Remains;

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CaptureWish {
    /// Host capture where the host allows it.
    #[default]
    Auto,
    Host,
    /// Of the network namespace that this process is in.
    Namespace,
    Explicit,
}

/// What is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CaptureMode {
    Host,
    Namespace,
    Explicit,
}

impl CaptureMode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Namespace => "namespace",
            Self::Explicit => "explicit",
        }
    }
}

/// The cgroup of a workload, by its parts below the hierarchy's root. `scope` tells nodes of a host apart.
pub fn cgroup_of(scope: &str, workload: &WorkloadName) -> [String; 3] {
    [host::CGROUP.to_owned(), scope.to_owned(), format!("{}.{}", workload.namespace, workload.name)]
}

/// Where a workload's process has to start to be captured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slot {
    /// The cgroup that it must join before its program starts; `None` in explicit mode.
    pub cgroup: Option<PathBuf>,
    /// A folder with what it must see in place of the host's name service ([`tulle_sys::mounts`]).
    pub name_service: Option<PathBuf>,
}

/// Connections of a workload that the rules have counted, as the proxy did not see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// To the outside: begun, and of these answered, and refused by who is there.
    pub outside_begun: u64,
    pub outside_answered: u64,
    pub outside_refused: u64,
    /// Refused: a virtual address without a service, or a port that the service lacks; nobody to take bytes; outside of
    /// the mesh, where that is denied.
    pub no_service: u64,
    pub no_endpoints: u64,
    pub egress_denied: u64,
}

impl Counts {
    /// What was counted more, as it stands at `now`; remembers that.
    fn more(&mut self, index: usize, now: u64) -> u64 {
        let seen = std::mem::replace(self.at(index), now);
        // Where it is less, somebody has made it anew.
        now.checked_sub(seen).unwrap_or(now)
    }

    /// In the order of [`rules::COUNTERS`].
    fn at(&mut self, index: usize) -> &mut u64 {
        let Self {
            outside_begun,
            outside_answered,
            outside_refused,
            no_service,
            no_endpoints,
            egress_denied,
        } = self;
        [outside_begun, outside_answered, outside_refused, no_service, no_endpoints, egress_denied]
            .into_iter()
            .nth(index)
            .expect("there are as many as counters")
    }
}

/// The rules of a capture, to be told of destinations and asked what they have counted. They end with the capture.
#[derive(Clone)]
pub struct Rules(Weak<Captor>);

impl Rules {
    /// From now on the rules go by what is known of destinations now; they do when this returns.
    ///
    /// # Errors
    /// Where the system refuses; then they are made anew when that is possible again.
    pub fn follow(&self, destinations: Arc<Destinations>) -> io::Result<()> {
        self.0.upgrade().map_or(Ok(()), |captor| captor.follow(destinations))
    }

    /// From now on what comes to workloads past the mesh enters by these, and workloads that are not among them are closed to
    /// it; `None`: nothing is captured.
    ///
    /// # Errors
    /// As [`Rules::follow`].
    pub fn enter_by(&self, entrances: Option<Entrances>) -> io::Result<()> {
        self.0.upgrade().map_or(Ok(()), |captor| captor.enter_by(entrances))
    }

    /// What was counted since this was called last.
    pub fn take_counts(&self) -> BTreeMap<WorkloadName, Counts> {
        self.0.upgrade().map_or_else(BTreeMap::new, |captor| captor.take_counts())
    }
}

/// The capture of one node. Dropping it removes all that it made, unless it was opened again: then it leaves
/// what has processes ([`Capture::leave`]).
pub struct Capture {
    captor: Option<Arc<Captor>>,
}

impl Capture {
    /// Whether what is wished for cannot be had whatever the node: to be asked before it joins.
    ///
    /// # Errors
    /// As [`Capture::open`].
    pub fn check(wish: CaptureWish) -> io::Result<()> {
        match wish {
            CaptureWish::Namespace => Namespace::can_be_had().map_err(no_namespace),
            CaptureWish::Auto | CaptureWish::Host | CaptureWish::Explicit => Ok(()),
        }
    }

    /// Starts capturing for the node that `scope` names (letters, digits and dashes; unique on this
    /// host), which is itself reached from elsewhere at `own_ports`. Removes what an earlier process of that scope left behind.
    /// Returns the mode in force and a sentence that says why.
    ///
    /// # Errors
    /// Where the capture that was asked for cannot be had.
    pub fn open(
        scope: &str,
        wish: CaptureWish,
        own_ports: &[u16],
    ) -> io::Result<(Self, CaptureMode, String)> {
        Self::start(scope, wish, own_ports, false)
    }

    /// Like [`Capture::open`], but leaves the processes that an earlier process of that scope captured.
    /// Their connections are refused until [`Capture::add_again`].
    pub fn open_again(
        scope: &str,
        wish: CaptureWish,
        own_ports: &[u16],
    ) -> io::Result<(Self, CaptureMode, String)> {
        Self::start(scope, wish, own_ports, true)
    }

    fn start(
        scope: &str,
        wish: CaptureWish,
        own_ports: &[u16],
        keep: bool,
    ) -> io::Result<(Self, CaptureMode, String)> {
        match wish {
            CaptureWish::Explicit => {
                return Ok((Self { captor: None }, CaptureMode::Explicit, "it was asked for".to_owned()));
            }
            CaptureWish::Namespace => {
                let namespace = Namespace::open(scope, keep, own_ports).map_err(no_namespace)?;
                let mut why = "all of this network namespace, with nftables".to_owned();
                let problems = [name_service::without_dns(), name_service::past_dns()];
                why.extend(problems.into_iter().flatten().map(|problem| format!("; {problem}")));
                return Ok((Self::by(Captor::Namespace(namespace)), CaptureMode::Namespace, why));
            }
            CaptureWish::Auto | CaptureWish::Host => {}
        }
        match Host::open(scope, keep) {
            Ok(host) => {
                let mut why = "running as root with nftables and cgroup v2".to_owned();
                why.extend(name_service::without_dns().map(|problem| format!("; {problem}")));
                Ok((Self::by(Captor::Host(host)), CaptureMode::Host, why))
            }
            Err(why) if wish == CaptureWish::Auto && !(keep && host::has_processes(scope)) => {
                if tulle_sys::is_root() {
                    tracing::error!(
                        "host capture cannot be had: only what follows HTTP_PROXY and the like enters the mesh ({why})"
                    );
                }
                Ok((Self { captor: None }, CaptureMode::Explicit, why))
            }
            Err(why) if wish == CaptureWish::Auto => Err(io::Error::other(format!(
                "host capture cannot be had ({why}), and processes are captured that an earlier run has left: \
                 without it they would stay cut off (`tulle node reset` ends them)"
            ))),
            Err(why) => Err(io::Error::other(format!("host capture cannot be had here: {why}"))),
        }
    }

    /// Its rules are watched from now on.
    fn by(captor: Captor) -> Self {
        let captor = Arc::new(captor);
        if let Err(e) = watch::start(&captor) {
            tracing::warn!("what others do to the capture rules is not seen: {e}");
        }
        Self { captor: Some(captor) }
    }

    /// The rules, where there are some: explicit capture has none.
    pub fn rules(&self) -> Option<Rules> {
        self.captor.as_ref().map(|captor| Rules(Arc::downgrade(captor)))
    }

    /// Captures a workload: its TCP connections go to `outbound_port` and its DNS queries to
    /// `dns_port`, on the loopback addresses of IPv4 and, for DNS, IPv6.
    ///
    /// # Errors
    /// Where the system refuses; the others are not touched by that.
    pub fn add(&self, workload: &WorkloadName, outbound_port: u16, dns_port: u16) -> io::Result<Slot> {
        if let Some(host) = self.host() {
            host.end_orphan(workload)?;
        }
        self.add_again(workload, outbound_port, dns_port)
    }

    /// Like [`Capture::add`], and leaves the processes that this workload has already.
    pub fn add_again(&self, workload: &WorkloadName, outbound_port: u16, dns_port: u16) -> io::Result<Slot> {
        match &self.captor {
            Some(captor) => captor.add(workload, outbound_port, dns_port),
            None => Ok(Slot::default()),
        }
    }

    /// What an earlier process of this node captured and nobody has added again: the cgroups, which have processes.
    pub fn orphans(&self) -> Vec<(WorkloadName, PathBuf)> {
        self.host().map_or(Vec::new(), Host::orphans)
    }

    /// Leaves the processes that are captured, their connections and queries refused, to [`Capture::open_again`].
    /// Nothing can be added any more.
    pub fn leave(&self) -> io::Result<()> {
        self.captor.as_ref().map_or(Ok(()), |captor| captor.leave())
    }

    /// Stops capturing a workload, and ends every process that is left in its cgroup, where it has one. A network namespace is
    /// closed then.
    pub fn remove(&self, workload: &WorkloadName) -> io::Result<()> {
        self.captor.as_ref().map_or(Ok(()), |captor| captor.remove(workload))
    }

    /// Why a workload's traffic is refused or not captured, where the host does not let it be captured any more.
    pub fn trouble(&self, workload: &WorkloadName) -> Option<String> {
        self.captor.as_ref()?.trouble(workload)
    }

    fn host(&self) -> Option<&Host> {
        self.captor.as_ref()?.host()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if let Some(captor) = &self.captor {
            captor.end();
        }
    }
}

fn no_namespace(why: String) -> io::Error {
    io::Error::other(format!("namespace capture cannot be had here: {why}"))
}
