//! Network namespaces (network_namespaces(7)): which one a process is in, and whether it is the host's own.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Which network namespace it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkNamespace {
    device: u64,
    inode: u64,
}

/// `NET_NS_INIT_INO` (linux/nsfs.h, since Linux 6.18): namespaces that are made have higher numbers.
const INITIAL: u64 = 0xefff_fff9;
/// `PROC_PID_INIT_INO`: the PID namespace of the host.
const INITIAL_PID: u64 = 0xefff_fffc;

/// A setting that the kernel shows in the host's own network alone (net/core/sysctl_net_core.c).
const OF_THE_HOST: &str = "/proc/sys/net/core/netdev_max_backlog";

impl NetworkNamespace {
    /// That of the calling thread.
    ///
    /// # Errors
    /// Where `/proc` does not say it.
    pub fn own() -> io::Result<Self> {
        Self::at(Path::new("/proc/thread-self/ns/net"))
    }

    /// That of a process.
    ///
    /// # Errors
    /// Where there is no such process, or this one may not look at it (ptrace(2)).
    pub fn of(pid: u32) -> io::Result<Self> {
        Self::at(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    fn at(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|file| Self::of_file(&file))
    }

    /// The one that a file of its kind stands for (ioctl_nsfs(2)).
    pub(crate) fn of_file(file: &fs::Metadata) -> Self {
        Self { device: file.dev(), inode: file.ino() }
    }

    /// Whether it is the one that the host was started with, in which this thread has to be.
    pub fn is_the_hosts(self) -> bool {
        let of_first = fs::metadata("/proc/self/ns/pid").is_ok_and(|pid| pid.ino() == INITIAL_PID);
        let seen = Seen {
            shows_the_hosts_settings: Path::new(OF_THE_HOST).exists(),
            // Of a container it is the container's.
            first_process: Self::of(1).ok().filter(|_| of_first),
        };
        seen.is_the_hosts(self)
    }
}

/// What a host lets be seen; not every kernel or container shows all of it.
struct Seen {
    shows_the_hosts_settings: bool,
    /// That of the host's first process.
    first_process: Option<NetworkNamespace>,
}

impl Seen {
    fn is_the_hosts(&self, own: NetworkNamespace) -> bool {
        own.inode == INITIAL || self.shows_the_hosts_settings || self.first_process == Some(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_is_known_by_whatever_shows_it() {
        let [own, other] = [7, 8].map(|inode| NetworkNamespace { device: 4, inode });
        let of = |shows_the_hosts_settings, first_process| {
            Seen { shows_the_hosts_settings, first_process }.is_the_hosts(own)
        };
        assert!(!of(false, None) && !of(false, Some(other)));
        assert!(of(true, None) && of(false, Some(own)) && of(true, Some(other)));
        let initial = NetworkNamespace { device: 4, inode: INITIAL };
        assert!(Seen { shows_the_hosts_settings: false, first_process: None }.is_the_hosts(initial));
    }

    #[test]
    fn a_process_is_where_it_was_started() {
        let own = NetworkNamespace::own().unwrap();
        assert_eq!(NetworkNamespace::of(std::process::id()).unwrap(), own);
        assert!(NetworkNamespace::of(u32::MAX).is_err());
    }
}
