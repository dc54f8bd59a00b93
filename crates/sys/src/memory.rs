//! How much memory this process may take, and giving back what it does not need.
#![allow(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

// The allocator that `mi_collect` is of, which the binary has as its own.
use libmimalloc_sys as _;

unsafe extern "C" {
    fn mi_collect(force: bool);
}

/// Has the allocator give back to the kernel what this thread has freed.
pub fn collect() {
    // SAFETY: it takes no pointers, and may be called from any thread at any time; in a process with
    // another allocator it finds nothing.
    unsafe { mi_collect(true) }
}

/// The bytes of memory that this host has, as far as /proc/meminfo tells.
pub fn of_host() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// The lowest limit of memory, in bytes, of this process' cgroup and those above it, of version 1 and 2;
/// `None` where none has any.
pub fn of_cgroup() -> Option<u64> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let folders = folders(&mounts, &groups);
    let lowest = folders.iter().flat_map(|folder| folder.up()).filter_map(|file| limit(&file)).min()?;
    // Version 1 says "none" by a number that is larger than any memory.
    (of_host().is_none_or(|all| lowest < all)).then_some(lowest)
}

/// A cgroup's folder as it is seen from here.
#[derive(Debug, PartialEq, Eq)]
struct Folder {
    mount: PathBuf,
    below: PathBuf,
    file: &'static str,
}

impl Folder {
    /// The files with the limits of the cgroup and of those above it.
    fn up(&self) -> Vec<PathBuf> {
        self.below.ancestors().map(|path| self.mount.join(path).join(self.file)).collect()
    }
}

/// Where the limits of this process' memory are: cgroups(7), /proc/self/mountinfo in proc(5).
fn folders(mounts: &str, groups: &str) -> Vec<Folder> {
    let mut folders = Vec::new();
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (mut left, mut right) = (left.split(' ').skip(3), right.split(' '));
        let (Some(root), Some(mount)) = (left.next(), left.next()) else { continue };
        let (kind, options) = (right.next(), right.nth(1).unwrap_or_default());
        let (file, own) = match kind {
            Some("cgroup2") => ("memory.max", groups.lines().find_map(|line| line.strip_prefix("0::"))),
            Some("cgroup") if options.split(',').any(|option| option == "memory") => {
                let own = groups.lines().find_map(|line| {
                    let (_, line) = line.split_once(':')?;
                    let (controllers, path) = line.split_once(':')?;
                    controllers.split(',').any(|name| name == "memory").then_some(path)
                });
                ("memory.limit_in_bytes", own)
            }
            _ => continue,
        };
        let Some(own) = own else { continue };
        // Of a cgroup outside of what is mounted, only the mount's own limits can be seen.
        let below = Path::new(own).strip_prefix(root).unwrap_or(Path::new(""));
        let outside = below.components().any(|part| part == std::path::Component::ParentDir);
        let below = if outside { PathBuf::new() } else { below.to_owned() };
        folders.push(Folder { mount: mount.into(), below, file });
    }
    folders
}

fn limit(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
        30 24 0:26 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n\
        31 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
        32 24 0:28 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn limits_are_looked_for_in_both_versions_up_to_the_root() {
        let found = folders(HYBRID, "7:cpu,cpuacct:/x\n5:memory:/a/b\n0::/init\n");
        let files: Vec<String> = found.iter().flat_map(Folder::up).map(|f| f.display().to_string()).collect();
        assert_eq!(
            files,
            [
                "/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "/sys/fs/cgroup/unified/init/memory.max",
                "/sys/fs/cgroup/unified/memory.max",
            ]
        );
    }

    #[test]
    fn in_a_container_the_root_is_what_is_mounted() {
        let mounts = "40 30 0:28 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        let of = |groups| folders(mounts, groups)[0].below.clone();
        assert_eq!(of("0::/docker/abc/app\n"), Path::new("app"));
        assert_eq!(of("0::/docker/abc\n"), Path::new(""));
        assert_eq!(of("0::/\n"), Path::new(""));
        assert_eq!(of("0::/docker/abc/../../x\n"), Path::new(""));
    }

    #[test]
    fn the_lowest_limit_counts() {
        let folder = std::env::temp_dir().join(format!("tulle-memory-{}", std::process::id()));
        fs::create_dir_all(folder.join("a/b")).unwrap();
        fs::write(folder.join("a/memory.max"), "1000\n").unwrap();
        fs::write(folder.join("a/b/memory.max"), "max\n").unwrap();
        let found = Folder { mount: folder.clone(), below: "a/b".into(), file: "memory.max" };
        let limits: Vec<u64> = found.up().iter().filter_map(|file| limit(file)).collect();
        fs::remove_dir_all(folder).unwrap();
        assert_eq!(limits, [1000]);
        assert!(of_host().unwrap() > 1 << 20);
    }
}
