//! Cgroups of the unified hierarchy (cgroup v2), one for each captured workload.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::MsFlags;

/// Where nft looks for the paths of its `socket cgroupv2` expressions.
const NFT_ROOT: &str = "/sys/fs/cgroup";

/// How long processes of a killed cgroup may take to go.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// Where the unified hierarchy is mounted: the first cgroup2 mount below `/sys/fs/cgroup`
/// (`/sys/fs/cgroup` itself, or `/sys/fs/cgroup/unified` on hybrid systems).
pub fn unified_mount() -> io::Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(find_unified_mount(&mounts))
}

/// As [`unified_mount`]; mounts the hierarchy at `/sys/fs/cgroup` where that is an empty folder:
/// `ip netns exec` gives a process a new `/sys`, which hides the host's mounts from it.
pub fn unified_mount_or_own() -> io::Result<Option<PathBuf>> {
    if let Some(found) = unified_mount()? {
        return Ok(Some(found));
    }
    let empty = fs::read_dir(NFT_ROOT).is_ok_and(|mut entries| entries.next().is_none());
    if !empty {
        return Ok(None);
    }
    let (none, flags) = (None::<&str>, MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC);
    nix::mount::mount(Some("cgroup2"), NFT_ROOT, Some("cgroup2"), flags, none)?;
    unified_mount()
}

/// The path at which this process sees the cgroup that another one, with other mounts, sees at `path`.
pub fn seen_from_here(path: &Path) -> io::Result<PathBuf> {
    if path.exists() {
        return Ok(path.to_owned());
    }
    let mount = unified_mount_or_own()?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let hybrid = Path::new(NFT_ROOT).join("unified");
    let relative = path.strip_prefix(hybrid).or_else(|_| path.strip_prefix(NFT_ROOT));
    Ok(mount.join(relative.map_err(io::Error::other)?))
}

/// proc_pid_mountinfo(5): the mount point is the fifth field, the type follows the ` - `.
fn find_unified_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            (after.split(' ').next() == Some("cgroup2")).then(|| before.split(' ').nth(4)).flatten()
        })
        .map(PathBuf::from)
        .find(|path| path.starts_with(NFT_ROOT))
}

/// A cgroup that this process made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
    /// How many levels below the root of the hierarchy it lies.
    level: usize,
}

impl Cgroup {
    /// Makes the cgroup `segments` below `mount`, parents included; one that exists is taken over.
    pub fn create(mount: &Path, segments: &[&str]) -> io::Result<Self> {
        let path = segments.iter().fold(mount.to_owned(), |path, segment| path.join(segment));
        fs::create_dir_all(&path)?;
        Ok(Self { path, level: segments.len() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The nft expression that matches sockets made by processes in it.
    pub fn nft_match(&self) -> String {
        let relative = self.path.strip_prefix(NFT_ROOT).unwrap_or(&self.path);
        format!("socket cgroupv2 level {} \"{}\"", self.level, relative.display())
    }

    /// Kills every process in it and removes it. An error where processes are left at the deadline.
    pub fn destroy(&self) -> io::Result<()> {
        destroy(&self.path)
    }
}

/// Kills every process in the cgroup at `path` and below, and removes it. One that is not there is fine.
pub fn destroy(path: &Path) -> io::Result<()> {
    let deadline = Instant::now() + KILL_DEADLINE;
    match fs::write(path.join("cgroup.kill"), "1") {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        other => other?,
    }
    loop {
        match remove_tree(path) {
            // The kernel takes a moment to reap what it killed.
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            other => return other,
        }
    }
}

/// Files of a cgroup cannot be removed, only its directories, innermost first.
fn remove_tree(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_unified_hierarchy() {
        let hybrid = "30 24 0:26 / /sys/fs/cgroup ro shared:9 - tmpfs tmpfs ro,mode=755\n\
                      31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw\n";
        assert_eq!(find_unified_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        let unified = "30 24 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(find_unified_mount(unified), Some("/sys/fs/cgroup".into()));
        assert_eq!(find_unified_mount("31 30 0:27 / /mnt/cg rw - cgroup2 cgroup2 rw\n"), None);
        assert_eq!(find_unified_mount("garbage\n"), None);
    }

    #[test]
    fn names_itself_as_nft_does() {
        let cgroup = Cgroup { path: "/sys/fs/cgroup/unified/tulle/n/a".into(), level: 3 };
        assert_eq!(cgroup.nft_match(), "socket cgroupv2 level 3 \"unified/tulle/n/a\"");
    }
}
