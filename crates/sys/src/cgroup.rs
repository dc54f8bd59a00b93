//! Cgroups of the unified hierarchy (cgroup v2), one for each captured workload.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::MsFlags;

/// Where nft looks for the paths of its `socket cgroupv2` expressions.
const NFT_ROOT: &str = "/sys/fs/cgroup";

/// How long processes of a killed cgroup may take to go.
const KILL_DEADLINE: Duration = Duration::from_secs(5);
const KILL_POLL: Duration = Duration::from_millis(2);

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
        let cgroup = Self { path, level: segments.len() };
        cgroup.create_again()?;
        Ok(cgroup)
    }

    /// Makes it once more, where somebody has removed it.
    pub fn create_again(&self) -> io::Result<()> {
        fs::create_dir_all(&self.path)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many levels below the root of the hierarchy it lies.
    pub fn level(&self) -> usize {
        self.level
    }

    /// How nft names it: the path below `/sys/fs/cgroup`.
    pub fn nft_path(&self) -> std::path::Display<'_> {
        self.path.strip_prefix(NFT_ROOT).unwrap_or(&self.path).display()
    }

    /// What the kernel knows it by. One that is removed and made again has another.
    pub fn id(&self) -> io::Result<u64> {
        Ok(fs::metadata(&self.path)?.ino())
    }

    /// By what the kernel knows it and those below it.
    ///
    /// # Errors
    /// Where it cannot be read; what goes meanwhile is no error.
    pub fn ids(&self) -> io::Result<BTreeSet<u64>> {
        let mut found = BTreeSet::new();
        add_ids(&self.path, &mut found)?;
        Ok(found)
    }

    /// The processes in it and below.
    pub fn processes(&self) -> io::Result<Vec<u32>> {
        let mut found = Vec::new();
        add_processes(&self.path, &mut found)?;
        Ok(found)
    }

    /// Takes a process into it.
    pub fn take_in(&self, pid: u32) -> io::Result<()> {
        fs::write(self.path.join("cgroup.procs"), pid.to_string())
    }

    /// Kills every process in it and below. An error where some are left at the deadline.
    pub fn kill(&self) -> io::Result<()> {
        let deadline = Instant::now() + KILL_DEADLINE;
        kill(&self.path)?;
        loop {
            let events = match fs::read_to_string(self.path.join("cgroup.events")) {
                Err(e) if is_gone(&e) => return Ok(()),
                other => other?,
            };
            if !says_populated(&events) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(io::ErrorKind::ResourceBusy.into());
            }
            std::thread::sleep(KILL_POLL);
        }
    }

    /// Whether a process is in it or below.
    pub fn is_populated(&self) -> io::Result<bool> {
        is_populated(&self.path)
    }

    /// Kills every process in it and removes it. An error where processes are left at the deadline.
    pub fn destroy(&self) -> io::Result<()> {
        destroy(&self.path)
    }
}

/// The cgroup that a process is in, of the unified hierarchy at `mount` (cgroups(7), `/proc/PID/cgroup`).
pub fn of_process(mount: &Path, pid: u32) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(mount.join(path))
}

/// Whether a process is in the cgroup at `path`, or below.
pub fn is_populated(path: &Path) -> io::Result<bool> {
    Ok(says_populated(&fs::read_to_string(path.join("cgroup.events"))?))
}

/// cgroups(7): 1 where a process is in it, or below.
fn says_populated(events: &str) -> bool {
    events.lines().any(|line| line == "populated 1")
}

/// A cgroup that goes while one of its files is open has no such device any more.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ENODEV)
}

fn add_ids(path: &Path, found: &mut BTreeSet<u64>) -> io::Result<()> {
    match fs::metadata(path) {
        Err(e) if is_gone(&e) => return Ok(()),
        other => found.insert(other?.ino()),
    };
    below(path)?.iter().try_for_each(|group| add_ids(group, found))
}

/// The cgroups right below one. It is no error that it goes meanwhile.
fn below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = match fs::metadata(path).map(|own| own.nlink()) {
        Err(e) if is_gone(&e) => return Ok(found),
        // A folder of kernfs has a link for each one in it, and two of its own. All its files would be listed.
        Ok(2) => return Ok(found),
        other => other.and_then(|_| fs::read_dir(path)),
    };
    match entries {
        Err(e) if is_gone(&e) => return Ok(found),
        other => {
            for entry in other? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    found.push(entry.path());
                }
            }
        }
    }
    Ok(found)
}

fn add_processes(path: &Path, found: &mut Vec<u32>) -> io::Result<()> {
    let processes = match fs::read_to_string(path.join("cgroup.procs")) {
        Err(e) if is_gone(&e) => return Ok(()),
        other => other?,
    };
    found.extend(processes.lines().filter_map(|line| line.parse::<u32>().ok()));
    below(path)?.iter().try_for_each(|group| add_processes(group, found))
}

fn kill(path: &Path) -> io::Result<()> {
    match fs::write(path.join("cgroup.kill"), "1") {
        Err(e) if is_gone(&e) => Ok(()),
        // cgroups(7): a threaded one is killed with the one that it is a part of; without processes it can be removed.
        Err(e) if e.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => Ok(()),
        other => other,
    }
}

/// Kills every process in the cgroup at `path` and below, and removes it. One that is not there is fine.
pub fn destroy(path: &Path) -> io::Result<()> {
    let deadline = Instant::now() + KILL_DEADLINE;
    kill(path)?;
    loop {
        match remove(path) {
            // The kernel takes a moment to reap what it killed.
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(KILL_POLL);
            }
            other => return other,
        }
    }
}

/// Removes a cgroup and those below it. An error where a process is in one of them. One that is not there is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    // Its files cannot be removed, only directories, innermost first.
    let entries = match fs::read_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
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
        assert_eq!(cgroup.nft_path().to_string(), "unified/tulle/n/a");
    }

    #[test]
    fn only_a_populated_group_is() {
        assert!(says_populated("populated 1\nfrozen 0\n"));
        assert!(!says_populated("populated 0\nfrozen 1\n") && !says_populated(""));
    }
}
