//! How a workload's connections get into the proxy.
//!
//! *Host* capture puts every workload into a cgroup of its own and has nftables redirect that
//! cgroup's TCP connections and DNS queries to the workload's own listeners, so that the proxy knows
//! who is calling. It needs root, nft and the unified cgroup hierarchy. *Explicit* capture needs
//! nothing: the process is told by its environment where the proxy listens.
//!
//! Not redirected: connections to loopback addresses other than the mesh's virtual ones, and IPv6
//! (the mesh's names have IPv4 addresses only).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use tulle_model::name::WorkloadName;
use tulle_sys::cgroup::{self, Cgroup};
use tulle_sys::nft;

/// The folder of all of Tulle's cgroups.
const CGROUP: &str = "tulle";

/// The mesh's virtual addresses.
const VIRTUAL_ADDRESSES: &str = "127.64.0.0/10";

/// A name server that is always reachable: what is sent there is redirected to the node's DNS.
const REDIRECTED_NAME_SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);

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
    /// What it must see as `/etc/resolv.conf`, where the host's own would have its queries fail
    /// before they can be redirected.
    pub resolv_conf: Option<PathBuf>,
}

/// The capture of one node. Dropping it removes all that it made.
pub struct Capture {
    host: Option<Host>,
}

struct Host {
    /// Tells this node's table and cgroups from another node's on the same host.
    scope: String,
    mount: PathBuf,
    resolv_conf: Option<PathBuf>,
    workloads: Mutex<BTreeMap<WorkloadName, Redirect>>,
}

struct Redirect {
    cgroup: Cgroup,
    outbound_port: u16,
    dns_port: u16,
    /// Of an earlier process of this node: nobody has said yet that it is still there.
    orphan: bool,
}

/// Where what an orphan sends is redirected: nothing listens there, so it is refused.
const NOWHERE: u16 = 1;

impl Capture {
    /// Starts capturing for the node that `scope` names (letters, digits and dashes; unique on this
    /// host), with files in `directory`. Removes what an earlier process of that scope left behind.
    /// Returns the mode in force and a sentence that says why.
    ///
    /// # Errors
    /// Where host capture was asked for and cannot be had.
    pub fn open(scope: &str, directory: &Path, wish: CaptureWish) -> io::Result<(Self, CaptureMode, String)> {
        Self::start(scope, directory, wish, false)
    }

    /// Like [`Capture::open`], but leaves the processes that an earlier process of that scope captured.
    /// Their connections are refused until [`Capture::add_again`]; [`Capture::end_orphans`] ends the rest.
    pub fn open_again(
        scope: &str,
        directory: &Path,
        wish: CaptureWish,
    ) -> io::Result<(Self, CaptureMode, String)> {
        Self::start(scope, directory, wish, true)
    }

    fn start(
        scope: &str,
        directory: &Path,
        wish: CaptureWish,
        keep: bool,
    ) -> io::Result<(Self, CaptureMode, String)> {
        if wish == CaptureWish::Explicit {
            return Ok((Self { host: None }, CaptureMode::Explicit, "it was asked for".to_owned()));
        }
        match Host::open(scope, directory, keep) {
            Ok(host) => {
                let why = "running as root with nftables and cgroup v2".to_owned();
                Ok((Self { host: Some(host) }, CaptureMode::Host, why))
            }
            Err(why) if wish == CaptureWish::Auto => Ok((Self { host: None }, CaptureMode::Explicit, why)),
            Err(why) => Err(io::Error::other(format!("host capture cannot be had here: {why}"))),
        }
    }

    /// Captures a workload: its TCP connections go to `outbound_port` and its DNS queries to
    /// `dns_port`, both on 127.0.0.1.
    pub fn add(&self, workload: &WorkloadName, outbound_port: u16, dns_port: u16) -> io::Result<Slot> {
        if let Some(host) = &self.host
            && let Some(orphan) = host.workloads.lock().get(workload).filter(|redirect| redirect.orphan)
        {
            orphan.cgroup.destroy()?;
        }
        self.add_again(workload, outbound_port, dns_port)
    }

    /// Like [`Capture::add`], and leaves the processes that this workload has already.
    pub fn add_again(&self, workload: &WorkloadName, outbound_port: u16, dns_port: u16) -> io::Result<Slot> {
        let Some(host) = &self.host else { return Ok(Slot::default()) };
        let directory = format!("{}.{}", workload.namespace, workload.name);
        let cgroup = Cgroup::create(&host.mount, &[CGROUP, &host.scope, &directory])?;
        let path = cgroup.path().to_owned();
        let mut workloads = host.workloads.lock();
        workloads.insert(workload.clone(), Redirect { cgroup, outbound_port, dns_port, orphan: false });
        host.apply(&workloads)?;
        Ok(Slot { cgroup: Some(path), resolv_conf: host.resolv_conf.clone() })
    }

    /// Ends the processes of an earlier process of this node that nobody has added again.
    pub fn end_orphans(&self) -> io::Result<()> {
        let Some(host) = &self.host else { return Ok(()) };
        let mut workloads = host.workloads.lock();
        for orphan in workloads.values().filter(|redirect| redirect.orphan) {
            orphan.cgroup.destroy()?;
        }
        workloads.retain(|_, redirect| !redirect.orphan);
        host.apply(&workloads)
    }

    /// Stops capturing a workload, and ends every process that is left in its cgroup.
    pub fn remove(&self, workload: &WorkloadName) -> io::Result<()> {
        let Some(host) = &self.host else { return Ok(()) };
        let mut workloads = host.workloads.lock();
        let Some(redirect) = workloads.get(workload) else { return Ok(()) };
        // The processes go first: none of them may run uncaptured. Those that cannot be ended stay captured.
        redirect.cgroup.destroy()?;
        workloads.remove(workload);
        host.apply(&workloads)
    }
}

impl Host {
    fn open(scope: &str, directory: &Path, keep: bool) -> Result<Self, String> {
        if !tulle_sys::is_root() {
            return Err("not running as root".to_owned());
        }
        let mount = cgroup::unified_mount_or_own()
            .map_err(|e| format!("the cgroup v2 hierarchy cannot be found or mounted: {e}"))?
            .ok_or("no cgroup v2 hierarchy is mounted below /sys/fs/cgroup")?;
        let host = Self {
            scope: scope.to_owned(),
            resolv_conf: resolv_conf(directory).map_err(|e| format!("a file cannot be written: {e}"))?,
            mount,
            workloads: Mutex::default(),
        };
        let remains = |e: io::Error| format!("the remains of an earlier run cannot be removed: {e}");
        if keep {
            *host.workloads.lock() = host.orphans().map_err(remains)?;
        }
        if host.workloads.lock().is_empty() {
            host.clear().map_err(remains)?;
            host.try_rules()?;
        } else {
            // The earlier process has shown that the kernel lets us.
            host.apply(&host.workloads.lock()).map_err(remains)?;
        }
        Ok(host)
    }

    /// The workloads that still have processes, of an earlier process of this node.
    fn orphans(&self) -> io::Result<BTreeMap<WorkloadName, Redirect>> {
        let entries = match fs::read_dir(self.mount.join(CGROUP).join(&self.scope)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            other => other?,
        };
        let mut orphans = BTreeMap::new();
        for entry in entries {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                continue;
            }
            let directory = entry.file_name().to_string_lossy().into_owned();
            // cgroups(7): 1 where a process is in it, or below.
            let populated = fs::read_to_string(entry.path().join("cgroup.events"))?.contains("populated 1");
            match directory.split_once('.') {
                Some((namespace, name)) if populated => {
                    let cgroup = Cgroup::create(&self.mount, &[CGROUP, &self.scope, &directory])?;
                    let redirect =
                        Redirect { cgroup, outbound_port: NOWHERE, dns_port: NOWHERE, orphan: true };
                    orphans.insert(WorkloadName::new(namespace, name), redirect);
                }
                _ => cgroup::destroy(&entry.path())?,
            }
        }
        Ok(orphans)
    }

    /// Redirects a cgroup without processes, to learn whether the kernel lets us.
    fn try_rules(&self) -> Result<(), String> {
        let trial = Cgroup::create(&self.mount, &[CGROUP, &self.scope, "trial"])
            .map_err(|e| format!("no cgroup can be made below {}: {e}", self.mount.display()))?;
        let redirect =
            Redirect { cgroup: trial.clone(), outbound_port: NOWHERE, dns_port: NOWHERE, orphan: false };
        let result = nft::apply(&ruleset(&self.table(), [&redirect]));
        self.clear().map_err(|e| format!("the trial rules cannot be removed: {e}"))?;
        result.map_err(|e| e.to_string())
    }

    fn table(&self) -> String {
        format!("tulle-{}", self.scope)
    }

    fn apply(&self, workloads: &BTreeMap<WorkloadName, Redirect>) -> io::Result<()> {
        nft::apply(&ruleset(&self.table(), workloads.values())).map_err(io::Error::other)
    }

    fn clear(&self) -> io::Result<()> {
        cgroup::destroy(&self.mount.join(CGROUP).join(&self.scope))?;
        // Another node of this host may have cgroups there.
        let _ = fs::remove_dir(self.mount.join(CGROUP));
        nft::apply(&removal(&self.table())).map_err(io::Error::other)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(e) = self.clear() {
            tracing::warn!("the capture rules of {} cannot be removed: {e}", self.table());
        }
    }
}

/// Declaring the table first makes the deletion succeed where there is none.
fn removal(table: &str) -> String {
    format!("table ip {table}\ndelete table ip {table}\n")
}

/// The whole table, which replaces the one before in one transaction.
fn ruleset<'a>(table: &str, workloads: impl IntoIterator<Item = &'a Redirect>) -> String {
    let mut jumps = String::new();
    let mut chains = String::new();
    for (i, Redirect { cgroup, outbound_port, dns_port, .. }) in workloads.into_iter().enumerate() {
        let cgroup = cgroup.nft_match();
        let written = writeln!(jumps, "    {cgroup} jump workload_{i}").and(writeln!(
            chains,
            "  chain workload_{i} {{
    udp dport 53 redirect to :{dns_port}
    tcp dport 53 redirect to :{dns_port}
    ip daddr {VIRTUAL_ADDRESSES} meta l4proto tcp redirect to :{outbound_port}
    ip daddr 127.0.0.0/8 return
    meta l4proto tcp redirect to :{outbound_port}
  }}"
        ));
        written.expect("writing to a String cannot fail");
    }
    format!(
        "{removal}table ip {table} {{
{chains}  chain output {{
    type nat hook output priority -100; policy accept;
{jumps}  }}
}}
",
        removal = removal(table)
    )
}

/// A resolv.conf for the workloads, where queries to the host's first name server would not reach
/// the redirection: it is an IPv6 address, or no route leads there.
fn resolv_conf(directory: &Path) -> io::Result<Option<PathBuf>> {
    let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    if first_name_server(&host).is_some_and(has_route) {
        return Ok(None);
    }
    let path = directory.join("resolv.conf");
    fs::create_dir_all(directory)?;
    fs::write(&path, redirected(&host))?;
    Ok(Some(path))
}

/// resolv.conf(5): the local machine where none is named. `None` for an IPv6 address.
fn first_name_server(resolv_conf: &str) -> Option<Ipv4Addr> {
    let mut servers = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    match servers.next() {
        Some(address) => address.parse().ok(),
        None => Some(Ipv4Addr::LOCALHOST),
    }
}

/// Connecting a UDP socket looks the route up and sends nothing.
fn has_route(address: Ipv4Addr) -> bool {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| socket.connect((IpAddr::V4(address), 53)))
        .is_ok()
}

fn redirected(resolv_conf: &str) -> String {
    let others = resolv_conf.lines().filter(|line| !line.trim_start().starts_with("nameserver"));
    let server = format!("nameserver {REDIRECTED_NAME_SERVER}");
    others.chain([server.as_str()]).flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_server_counts() {
        assert_eq!(
            first_name_server("search x\nnameserver 10.0.0.2\nnameserver ::1\n"),
            Some([10, 0, 0, 2].into())
        );
        assert_eq!(first_name_server("nameserver ::1\nnameserver 10.0.0.2\n"), None);
        assert_eq!(first_name_server("# none\n"), Some(Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn a_redirected_resolv_conf_keeps_the_rest() {
        let text = redirected("search shop.example\nnameserver 10.0.0.2\noptions ndots:2\n");
        assert_eq!(text, "search shop.example\noptions ndots:2\nnameserver 127.0.0.53\n");
    }
}
