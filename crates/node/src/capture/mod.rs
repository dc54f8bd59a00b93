//! How a workload's connections get into the proxy.
//!
//! *Host* capture puts every workload into a cgroup of its own and has nftables redirect that
//! cgroup's TCP connections and DNS queries to the workload's own listeners, so that the proxy knows
//! who is calling. It needs root, nft and the unified cgroup hierarchy. *Explicit* capture needs
//! nothing: the process is told by its environment where the proxy listens.
//!
//! Not redirected: connections to loopback addresses other than the mesh's virtual ones, and IPv6 other than DNS
//! (the mesh's names have IPv4 addresses only).

mod host;
mod name_service;
mod remains;
mod rules;
mod strays;
mod watch;
mod zones;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tulle_model::name::WorkloadName;

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
