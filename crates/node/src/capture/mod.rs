//! How a workload's connections get into the proxy.
//!
//! *Host* capture puts every workload into a cgroup of its own and has nftables redirect that
//! cgroup's TCP connections and DNS queries to the workload's own listeners, so that the proxy knows
//! who is calling. It needs root, nft and the unified cgroup hierarchy. *Explicit* capture needs
//! nothing: the process is told by its environment where the proxy listens.
//!
//! Redirected are the mesh's virtual addresses, which are all IPv4, and DNS. What can lead nowhere is refused instead
//! ([`Destinations`]). Loopback addresses that are not the mesh's are left alone; the outside is reached without the
//! proxy, by it (where only what is listed may leave), or refused, as the mesh's egress policy says.

mod destinations;
mod entrances;
mod host;
mod inbound_rules;
mod name_service;
mod remains;
mod rules;
mod strays;
mod watch;
mod zones;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use tulle_model::name::WorkloadName;

pub use self::destinations::Destinations;
pub use self::entrances::{Entrance, Entrances};
use self::host::Host;
pub(crate) use self::remains::Remains;

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CaptureWish {
    /// Host capture where the host allows it.
    #[default]
    Auto,
    Host,
    Explicit,
}

/// What is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureMode {
    Host,
    Explicit,
}

impl CaptureMode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Explicit => "explicit",
        }
    }
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

/// The rules of a capture, to be told of destinations and asked what they have counted. They end with the capture.
#[derive(Clone)]
pub struct Rules(Weak<Host>);

impl Rules {
    /// From now on the rules go by what is known of destinations now; they do when this returns.
    ///
    /// # Errors
    /// Where the system refuses; then they are made anew when that is possible again.
    pub fn follow(&self, destinations: Arc<Destinations>) -> io::Result<()> {
        self.0.upgrade().map_or(Ok(()), |host| host.follow(destinations))
    }

    /// From now on what comes to workloads past the mesh enters by these, and workloads that are not among them are closed to
    /// it; `None`: nothing is captured.
    ///
    /// # Errors
    /// As [`Rules::follow`].
    pub fn enter_by(&self, entrances: Option<Entrances>) -> io::Result<()> {
        self.0.upgrade().map_or(Ok(()), |host| host.enter_by(entrances))
    }

    /// What was counted since this was called last.
    pub fn take_counts(&self) -> BTreeMap<WorkloadName, Counts> {
        self.0.upgrade().map_or_else(BTreeMap::new, |host| host.take_counts())
    }
}

/// The capture of one node. Dropping it removes all that it made, unless it was opened again: then it leaves
/// what has processes ([`Capture::leave`]).
pub struct Capture {
    host: Option<Arc<Host>>,
}

impl Capture {
    /// Starts capturing for the node that `scope` names (letters, digits and dashes; unique on this
    /// host). Removes what an earlier process of that scope left behind.
    /// Returns the mode in force and a sentence that says why.
    ///
    /// # Errors
    /// Where host capture was asked for and cannot be had.
    pub fn open(scope: &str, wish: CaptureWish) -> io::Result<(Self, CaptureMode, String)> {
        Self::start(scope, wish, false)
    }

    /// Like [`Capture::open`], but leaves the processes that an earlier process of that scope captured.
    /// Their connections are refused until [`Capture::add_again`].
    pub fn open_again(scope: &str, wish: CaptureWish) -> io::Result<(Self, CaptureMode, String)> {
        Self::start(scope, wish, true)
    }

    fn start(scope: &str, wish: CaptureWish, keep: bool) -> io::Result<(Self, CaptureMode, String)> {
        if wish == CaptureWish::Explicit {
            return Ok((Self { host: None }, CaptureMode::Explicit, "it was asked for".to_owned()));
        }
        match Host::open(scope, keep) {
            Ok(host) => {
                let host = Arc::new(host);
                if let Err(e) = watch::start(&host) {
                    tracing::warn!("what others do to the capture rules is not seen: {e}");
                }
                let mut why = "running as root with nftables and cgroup v2".to_owned();
                why.extend(name_service::without_dns().map(|problem| format!("; {problem}")));
                Ok((Self { host: Some(host) }, CaptureMode::Host, why))
            }
            Err(why) if wish == CaptureWish::Auto && !(keep && host::has_processes(scope)) => {
                if tulle_sys::is_root() {
                    tracing::error!(
                        "host capture cannot be had: only what follows HTTP_PROXY and the like enters the mesh ({why})"
                    );
                }
                Ok((Self { host: None }, CaptureMode::Explicit, why))
            }
            Err(why) if wish == CaptureWish::Auto => Err(io::Error::other(format!(
                "host capture cannot be had ({why}), and processes are captured that an earlier run has left: \
                 without it they would stay cut off (`tulle node reset` ends them)"
            ))),
            Err(why) => Err(io::Error::other(format!("host capture cannot be had here: {why}"))),
        }
    }

    /// The rules, where there are some: host capture has them.
    pub fn rules(&self) -> Option<Rules> {
        self.host.as_ref().map(|host| Rules(Arc::downgrade(host)))
    }

    /// Captures a workload: its TCP connections go to `outbound_port` and its DNS queries to
    /// `dns_port`, on the loopback addresses of IPv4 and, for DNS, IPv6.
    ///
    /// # Errors
    /// Where the system refuses; the others are not touched by that.
    pub fn add(&self, workload: &WorkloadName, outbound_port: u16, dns_port: u16) -> io::Result<Slot> {
        if let Some(host) = &self.host {
            host.end_orphan(workload)?;
        }
        self.add_again(workload, outbound_port, dns_port)
    }

    /// Like [`Capture::add`], and leaves the processes that this workload has already.
    pub fn add_again(&self, workload: &WorkloadName, outbound_port: u16, dns_port: u16) -> io::Result<Slot> {
        match &self.host {
            Some(host) => host.add(workload, outbound_port, dns_port),
            None => Ok(Slot::default()),
        }
    }

    /// What an earlier process of this node captured and nobody has added again: the cgroups, which have processes.
    pub fn orphans(&self) -> Vec<(WorkloadName, PathBuf)> {
        self.host.as_ref().map_or(Vec::new(), |host| host.orphans())
    }

    /// Leaves the processes that are captured, their connections and queries refused, to [`Capture::open_again`].
    /// Nothing can be added any more.
    pub fn leave(&self) -> io::Result<()> {
        self.host.as_ref().map_or(Ok(()), |host| host.leave())
    }

    /// Stops capturing a workload, and ends every process that is left in its cgroup.
    pub fn remove(&self, workload: &WorkloadName) -> io::Result<()> {
        self.host.as_ref().map_or(Ok(()), |host| host.remove(workload))
    }

    /// Why a workload's traffic is refused or not captured, where the host does not let it be captured any more.
    pub fn trouble(&self, workload: &WorkloadName) -> Option<String> {
        self.host.as_ref()?.trouble(workload)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if let Some(host) = &self.host {
            host.end();
        }
    }
}
