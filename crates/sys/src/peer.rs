//! Who is at the other end of a Unix socket: the process that connected, by the kernel's word.
//!
//! The kernel hands out a reference to that very process since Linux 6.5 (`SO_PEERPIDFD`). Before that it tells a number, which
//! is another's once the process has ended: whoever keeps that from being looked up for as long as it takes to go through
//! all numbers passes for another one there. Ask at once.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

use crate::cgroup;
use crate::family::{Member, lineage};
use crate::network::NetworkNamespace;

/// A process that has connected.
#[derive(Debug)]
pub struct Peer {
    held: Held,
    user: u32,
}

#[derive(Debug)]
enum Held {
    /// A reference, and the number that the process has until it has ended (pidfd_open(2)); 0 where it has none here, as it is
    /// in another PID namespace.
    Process(OwnedFd, u32),
    /// A number, and since when it is that process's.
    Number(Member),
}

impl Peer {
    /// The process that connected to this end.
    ///
    /// # Errors
    /// Where the kernel does not say, and where the process is gone.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        let credentials = getsockopt(&socket.as_fd(), PeerCredentials)?;
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let held = match pidfd(socket) {
            Ok(process) => {
                let pid = number(&process)?.ok_or_else(gone)?;
                Held::Process(process, pid)
            }
            Err(e) if e.raw_os_error() == Some(libc::ENOPROTOOPT) => {
                let pid = u32::try_from(credentials.pid()).map_err(io::Error::other)?;
                Held::Number(Member::of(pid).ok_or_else(gone)?)
            }
            Err(e) => return Err(e),
        };
        Ok(Self { held, user: credentials.uid() })
    }

    /// Its effective user when it connected.
    pub fn user(&self) -> u32 {
        self.user
    }

    /// The cgroup that it is in now, of the unified hierarchy at `mount`. `None` where it has ended.
    pub fn cgroup(&self, mount: &Path) -> Option<PathBuf> {
        self.alive(cgroup::of_process(mount, self.pid()))
    }

    /// The network namespace that it is in now. `None` where it has ended, and where this process may not look at it.
    pub fn network(&self) -> Option<NetworkNamespace> {
        let referred = match &self.held {
            Held::Process(process, _) => network_of(process).ok(),
            Held::Number(_) => None,
        };
        // Linux before 6.11 does not say it of a reference.
        self.alive(referred.or_else(|| NetworkNamespace::of(self.pid()).ok()))
    }

    /// The process, its parent, and so on. Empty where it has ended.
    pub fn lineage(&self) -> Vec<Member> {
        self.alive(Member::of(self.pid()).map(lineage)).unwrap_or_default()
    }

    fn pid(&self) -> u32 {
        match &self.held {
            Held::Process(_, pid) => *pid,
            Held::Number(member) => member.pid,
        }
    }

    /// What was looked up by its number, where that was its own all the time.
    fn alive<T>(&self, found: Option<T>) -> Option<T> {
        let is_alive = match &self.held {
            Held::Process(process, _) => !has_ended(process),
            Held::Number(member) => member.is_alive(),
        };
        found.filter(|_| is_alive)
    }
}

/// unix(7), `SO_PEERPIDFD`.
fn pidfd(socket: &impl AsFd) -> io::Result<OwnedFd> {
    let mut descriptor: libc::c_int = -1;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both pointers are to values of that size that live for the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut descriptor).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has made it for us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// `PIDFD_GET_NET_NAMESPACE` (linux/pidfd.h): it is asked of the very process, whether or not it has a number here.
fn network_of(process: &OwnedFd) -> io::Result<NetworkNamespace> {
    const GET_NET_NAMESPACE: libc::Ioctl = 0xff04;
    // SAFETY: it takes no argument.
    let descriptor = unsafe { libc::ioctl(process.as_raw_fd(), GET_NET_NAMESPACE, 0) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has made it for us, and nobody else has it.
    let file = fs::File::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
    Ok(NetworkNamespace::of_file(&file.metadata()?))
}

/// pidfd_open(2): it is readable once the process has ended.
fn has_ended(process: &OwnedFd) -> bool {
    let mut look = libc::pollfd { fd: process.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which lives for the call.
    unsafe { libc::poll(&raw mut look, 1, 0) != 0 }
}

/// The number of a process, in the PID namespace of `/proc`; 0 where it has none there. `None` where it has ended.
fn number(process: &OwnedFd) -> io::Result<Option<u32>> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd()))?;
    let field = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    Ok(field.and_then(|pid| pid.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::{Command, Stdio};

    use super::*;

    /// A process that connects, and its connection.
    fn connected() -> (std::process::Child, UnixStream) {
        let folder = std::env::temp_dir().join(format!(
            "tulle-peer-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let _ = fs::remove_file(&folder);
        let listener = UnixListener::bind(&folder).unwrap();
        let script =
            "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sys.stdin.read()";
        let mut command = Command::new("python3");
        command.args(["-c", script]).arg(&folder).stdin(Stdio::piped());
        let child = command.spawn().unwrap();
        let (stream, _) = listener.accept().unwrap();
        let _ = fs::remove_file(&folder);
        (child, stream)
    }

    #[test]
    fn a_peer_is_who_has_connected_until_it_ends() {
        let (mut child, stream) = connected();
        let own = Member::of(std::process::id()).unwrap();
        let number = Peer {
            held: Held::Number(Member::of(child.id()).unwrap()),
            user: nix::unistd::geteuid().as_raw(),
        };
        for peer in [Peer::of(&stream).unwrap(), number] {
            assert_eq!(peer.user(), nix::unistd::geteuid().as_raw());
            let lineage = peer.lineage();
            assert_eq!(lineage[..2], [Member::of(child.id()).unwrap(), own]);
            let mount = Path::new("/cgroups");
            let cgroup = peer.cgroup(mount);
            assert_eq!(cgroup, cgroup::of_process(mount, child.id()));
            assert_eq!(peer.network(), NetworkNamespace::own().ok());
            assert!(peer.network().is_some());
        }
        let held = Peer::of(&stream).unwrap();
        child.kill().unwrap();
        // It has ended, and nobody has waited for it.
        while !has_ended(&pidfd(&stream).unwrap()) {}
        assert!(held.lineage().is_empty() && held.cgroup(Path::new("/cgroups")).is_none());
        assert_eq!(held.network(), None);
        child.wait().unwrap();
        assert!(held.lineage().is_empty());
        assert!(Peer::of(&stream).is_err(), "nobody is there any more");
    }

    #[test]
    fn a_number_that_is_anothers_by_now_is_nobodys() {
        let own = Member::of(std::process::id()).unwrap();
        let earlier = Peer { held: Held::Number(Member { started: own.started - 1, ..own }), user: 0 };
        assert!(earlier.lineage().is_empty() && earlier.cgroup(Path::new("/cgroups")).is_none());
        assert_eq!(earlier.network(), None);
    }
}
