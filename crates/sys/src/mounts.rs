//! What a process sees in place of the host's name service, in a mount namespace of its own.
//!
//! The C library asks nscd(8) or systemd-resolved where it finds their sockets, and such a question never becomes
//! a packet. So a process that is to ask the node's DNS sees a resolv.conf(5) of the node, and neither of the two.
//!
//! The kernel takes a mount away when the file or folder under it is replaced or removed, whoever does it: then
//! [`cover`] puts it back.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};

/// What the C library reads.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The folder of systemd-resolved: its sockets, and files that [`RESOLV_CONF`] may lead to.
pub const RESOLVED: &str = "/run/systemd/resolve";
/// The folders where nscd's socket may lie; one may lead to the other.
const NSCD: [&str; 2] = ["/run/nscd", "/var/run/nscd"];

/// In a folder of ours: what is seen in place of [`RESOLV_CONF`], of [`RESOLVED`], of nscd's folder.
pub const OWN_RESOLV_CONF: &str = "resolv.conf";
pub const OWN_RESOLVED: &str = "resolve";
pub const OWN_EMPTY: &str = "empty";

/// The identity of a file: device and inode.
pub type FileId = (u64, u64);

/// One of ours in place of one of the host's.
#[derive(Debug, PartialEq, Eq)]
pub struct Overlay {
    source: CString,
    target: CString,
    /// What the host has there.
    hosts: FileId,
}

/// What a process is to see in place of what the host has at this moment; `folder` holds ours. In the order in which
/// they have to be mounted.
pub fn overlays(folder: &Path) -> io::Result<Vec<Overlay>> {
    let mut overlays = Vec::new();
    let mut add = |source: &Path, target: &Path| {
        let Ok(metadata) = fs::metadata(target) else { return Ok(()) };
        let hosts = (metadata.dev(), metadata.ino());
        let path = |path: &Path| CString::new(path.as_os_str().as_bytes());
        if !overlays.iter().any(|other: &Overlay| other.hosts == hosts) {
            overlays.push(Overlay { source: path(source)?, target: path(target)?, hosts });
        }
        io::Result::Ok(())
    };
    add(&folder.join(OWN_RESOLVED), Path::new(RESOLVED))?;
    for nscd in NSCD {
        add(&folder.join(OWN_EMPTY), Path::new(nscd))?;
    }
    if !is_resolveds(Path::new(RESOLV_CONF)) {
        add(&folder.join(OWN_RESOLV_CONF), Path::new(RESOLV_CONF))?;
    }
    Ok(overlays)
}

/// Whether a path leads into the folder of systemd-resolved.
pub fn is_resolveds(path: &Path) -> bool {
    let folder = fs::canonicalize(RESOLVED);
    folder.is_ok_and(|folder| fs::canonicalize(path).is_ok_and(|path| path.starts_with(folder)))
}

/// Whether this process may have mount namespaces.
pub fn may_mount() -> io::Result<()> {
    in_a_thread(|| {
        own_namespace()?;
        Ok(())
    })
}

/// Gives the calling thread a mount namespace of its own and mounts there. Only system calls: it runs between fork
/// and exec.
pub(crate) fn mount_apart(overlays: &[Overlay]) -> io::Result<()> {
    own_namespace()?;
    overlays.iter().try_for_each(mount)
}

/// Mounts in the mount namespace of the process `pid` what is missing there: where that process sees the host's own,
/// or what is gone. Nothing where it has the namespace of this process, or files of its own, as a container has.
pub fn cover(pid: u32, overlays: &[Overlay]) -> io::Result<()> {
    let namespace = fs::File::open(format!("/proc/{pid}/ns/mnt"))?;
    let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    if id(namespace.metadata()?) == id(fs::metadata("/proc/self/ns/mnt")?) {
        return Ok(());
    }
    in_a_thread(|| {
        // A thread that shares its root with others cannot change it (setns(2)).
        unshare(CloneFlags::CLONE_FS)?;
        setns(&namespace, CloneFlags::CLONE_NEWNS)?;
        for overlay in overlays {
            let target = Path::new(std::ffi::OsStr::from_bytes(overlay.target.as_bytes()));
            let uncovered =
                fs::metadata(target).is_ok_and(|seen| seen.nlink() == 0 || id(seen) == overlay.hosts);
            if uncovered {
                mount(overlay)?;
            }
        }
        Ok(())
    })
}

/// A namespace belongs to a thread; this one ends with its work.
fn in_a_thread(work: impl FnOnce() -> io::Result<()> + Send) -> io::Result<()> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(128 << 10).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread has panicked")))
    })
}

fn own_namespace() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let null = std::ptr::null();
    let slave = libc::MS_REC | libc::MS_SLAVE;
    // SAFETY: the only pointers are to a literal, or null where mount(2) wants none.
    check(unsafe { libc::mount(null, c"/".as_ptr(), null, slave, std::ptr::null()) })
}

fn mount(overlay: &Overlay) -> io::Result<()> {
    let Overlay { source, target, .. } = overlay;
    let null = std::ptr::null();
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC | libc::MS_RDONLY;
    // SAFETY: the pointers are to NUL-terminated strings that outlive the calls.
    let mounted = unsafe {
        check(libc::mount(source.as_ptr(), target.as_ptr(), null, libc::MS_BIND, std::ptr::null())).and_then(
            |()| {
                // Flags count in a second call only (mount(2)).
                let flags = flags | libc::MS_REMOUNT | libc::MS_BIND;
                check(libc::mount(null, target.as_ptr(), null, flags, std::ptr::null()))
            },
        )
    };
    match mounted {
        // What the host has no more needs no cover.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
