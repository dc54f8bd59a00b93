//! What the processes of a cgroup may take, by its controllers (cgroup v2: Documentation/admin-guide/cgroup-v2.rst).
//!
//! A cgroup has a controller where each one above it hands it down. Root hands it down from the top; others can only from the
//! cgroup that they are in, where that was given to them (systemd: `Delegate=yes`). No processes may be in a cgroup that hands
//! something down, but the topmost: those that are there are put into one beside those with limits.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

use crate::cgroup::{of_process, unified_mount_or_own};

/// Where those are put that were in the cgroup that hands controllers down.
const REST: &str = "tulle-rest";

/// In which time a quota of CPU may be taken, in microseconds: the kernel's own default.
const PERIOD: u64 = 100_000;

/// What the processes of a cgroup may take, all together. `None`: as much as there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// In bytes, nothing of it swapped out.
    pub memory: Option<u64>,
    /// In thousandths of a core.
    pub cpu: Option<u32>,
}

impl Limits {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The controllers that it needs.
    pub fn controllers(&self) -> impl Iterator<Item = Controller> {
        let memory = self.memory.map(|_| Controller::Memory);
        memory.into_iter().chain(self.cpu.map(|_| Controller::Cpu))
    }
}

/// A controller of cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    Memory,
    Cpu,
}

impl Controller {
    /// As cgroups and `limits` of a service call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
        }
    }
}

/// Why there cannot be limits.
#[derive(Debug, thiserror::Error)]
pub enum NoLimits {
    #[error("no cgroup v2 hierarchy is mounted below /sys/fs/cgroup")]
    NoHierarchy,
    #[error("the cgroup {} has no controller `{}` to hand down (see cgroup.controllers there)", .cgroup.display(), .controller.as_str())]
    Lacks { cgroup: PathBuf, controller: Controller },
    #[error("the cgroup {} is not this user's to make others in", .cgroup.display())]
    NotDelegated { cgroup: PathBuf },
    #[error("{}: {error}", .path.display())]
    Io { path: PathBuf, error: io::Error },
}

impl NoLimits {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::NoHierarchy | Self::Lacks { .. } if crate::is_root() => {
                "limits need cgroup v2 with these controllers: boot with `systemd.unified_cgroup_hierarchy=1`, or \
                 `cgroup_no_v1=all`; without `limits` it starts as it is"
            }
            _ => {
                "run it as root, or where cgroups are delegated: `systemd-run --user --scope -p Delegate=yes tulle up`, or \
                 a unit with `Delegate=yes`; without `limits` it starts as it is"
            }
        }
    }
}

/// A cgroup below which cgroups with limits can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegated(PathBuf);

impl Delegated {
    /// That of this process: the topmost for root, else the one that it is in.
    ///
    /// # Errors
    /// Where there is none, or it lacks a controller.
    pub fn with(controllers: impl IntoIterator<Item = Controller>) -> Result<Self, NoLimits> {
        let mount = unified_mount_or_own().ok().flatten().ok_or(NoLimits::NoHierarchy)?;
        let path = match crate::is_root() {
            true => mount,
            false => own(&mount).ok_or(NoLimits::NoHierarchy)?,
        };
        let has = words(&path.join("cgroup.controllers"))?;
        for controller in controllers {
            if !has.iter().any(|word| word == controller.as_str()) {
                return Err(NoLimits::Lacks { cgroup: path, controller });
            }
        }
        let writable = |path: &Path| access(path, AccessFlags::W_OK).is_ok();
        let needed = ["", "cgroup.procs", "cgroup.subtree_control"];
        if !needed.iter().all(|file| writable(&path.join(file))) {
            return Err(NoLimits::NotDelegated { cgroup: path });
        }
        Ok(Self(path))
    }

    /// Makes the cgroup `segments` below it, or takes over the one that is there, in which these limits hold from now on.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn limit(&self, segments: &[&str], limits: &Limits) -> Result<PathBuf, NoLimits> {
        let controllers: Vec<_> = limits.controllers().collect();
        self.hand_down(&controllers)?;
        let mut path = self.0.clone();
        for (level, segment) in segments.iter().enumerate() {
            if level > 0 {
                add_to_subtree(&path, &controllers)?;
            }
            path.push(segment);
            match fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(NoLimits::Io { path, error });
                }
                _ => {}
            }
        }
        set(&path, limits)?;
        Ok(path)
    }

    /// Hands the controllers down to the cgroups right below.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn hand_down(&self, controllers: &[Controller]) -> Result<(), NoLimits> {
        match add_to_subtree(&self.0, controllers) {
            Err(NoLimits::Io { error, .. }) if error.raw_os_error() == Some(Errno::EBUSY as i32) => {
                self.put_aside()?;
                add_to_subtree(&self.0, controllers)
            }
            other => other,
        }
    }

    /// Puts all its processes into one below it.
    fn put_aside(&self) -> Result<(), NoLimits> {
        let rest = self.0.join(REST);
        let at = |path: &Path, error| NoLimits::Io { path: path.to_owned(), error };
        fs::create_dir_all(&rest).map_err(|e| at(&rest, e))?;
        for process in words(&self.0.join("cgroup.procs"))? {
            match write(&rest.join("cgroup.procs"), &process) {
                // It has ended meanwhile.
                Err(e) if e.raw_os_error() == Some(Errno::ESRCH as i32) => {}
                other => other.map_err(|e| at(&rest, e))?,
            }
        }
        Ok(())
    }

    /// Where cgroups with these segments are.
    pub fn path(&self, segments: &[&str]) -> PathBuf {
        segments.iter().fold(self.0.clone(), |path, segment| path.join(segment))
    }
}

/// The cgroup that this process is in, or was in before those in it were put aside.
fn own(mount: &Path) -> Option<PathBuf> {
    let own = of_process(mount, std::process::id())?;
    match own.file_name().is_some_and(|name| name == REST) {
        true => own.parent().map(Path::to_owned),
        false => Some(own),
    }
}

fn words(path: &Path) -> Result<Vec<String>, NoLimits> {
    let text = fs::read_to_string(path).map_err(|error| NoLimits::Io { path: path.to_owned(), error })?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

fn add_to_subtree(path: &Path, controllers: &[Controller]) -> Result<(), NoLimits> {
    let file = path.join("cgroup.subtree_control");
    let has = words(&file)?;
    let missing = controllers.iter().map(|controller| controller.as_str());
    let missing: Vec<_> = missing.filter(|name| !has.iter().any(|word| word == name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let wanted: Vec<_> = missing.iter().map(|name| format!("+{name}")).collect();
    write(&file, &wanted.join(" ")).map_err(|error| NoLimits::Io { path: file, error })
}

/// Has limits hold in a cgroup, and no others.
///
/// # Errors
/// Where the system refuses.
pub fn set(cgroup: &Path, limits: &Limits) -> Result<(), NoLimits> {
    // What is wanted of it; without a limit, a file that is not there says the same.
    let write = |file: &str, value: &str, wanted: bool| {
        let path = cgroup.join(file);
        match write(&path, value) {
            Err(e) if !wanted && e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|error| NoLimits::Io { path, error }),
        }
    };
    let (memory, cpu) = (limits.memory, limits.cpu);
    // Else it would be swapped out instead, and slow down all others. Where the kernel swaps nothing there is no such file.
    write("memory.swap.max", if memory.is_some() { "0" } else { "max" }, false)?;
    // All of it ends, as a process without its children, or they without it, is no service.
    write("memory.oom.group", if memory.is_some() { "1" } else { "0" }, false)?;
    write("memory.max", &memory.map_or("max".to_owned(), |bytes| bytes.to_string()), memory.is_some())?;
    write("cpu.max", &quota(cpu), cpu.is_some())
}

/// Writes into a file of a cgroup, and makes none.
fn write(path: &Path, value: &str) -> io::Result<()> {
    fs::File::options().write(true).truncate(true).open(path)?.write_all(value.as_bytes())
}

/// As `cpu.max` has it.
fn quota(cpu: Option<u32>) -> String {
    match cpu {
        Some(thousandths) => format!("{} {PERIOD}", u64::from(thousandths) * PERIOD / 1000),
        None => format!("max {PERIOD}"),
    }
}

/// How often the kernel has ended processes of a cgroup as they had no memory left; `None` where it does not say.
pub fn out_of_memory(cgroup: &Path) -> Option<u64> {
    kills(&fs::read_to_string(cgroup.join("memory.events")).ok()?)
}

fn kills(events: &str) -> Option<u64> {
    events.lines().find_map(|line| line.strip_prefix("oom_kill "))?.parse().ok()
}

/// How much memory the processes of a cgroup may take, in words; `None` where that is not limited.
pub fn memory_in_words(cgroup: &Path) -> Option<String> {
    let bytes: u64 = fs::read_to_string(cgroup.join("memory.max")).ok()?.trim().parse().ok()?;
    Some(in_words(bytes))
}

fn in_words(bytes: u64) -> String {
    let units = [(30, "Gi"), (20, "Mi"), (10, "Ki")];
    let unit = units.into_iter().find(|(bits, _)| bytes > 0 && bytes.is_multiple_of(1 << bits));
    unit.map_or_else(|| bytes.to_string(), |(bits, unit)| format!("{}{unit}", bytes >> bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_the_kernel_reads_them() {
        let folder = tempfile::tempdir().unwrap();
        let read = |file: &str| fs::read_to_string(folder.path().join(file)).unwrap();
        for file in ["memory.max", "memory.swap.max", "memory.oom.group", "cpu.max"] {
            fs::write(folder.path().join(file), "").unwrap();
        }
        let limits = Limits { memory: Some(512 << 20), cpu: Some(1500) };
        set(folder.path(), &limits).unwrap();
        let written = ["memory.max", "memory.swap.max", "memory.oom.group", "cpu.max"].map(read);
        assert_eq!(written, ["536870912", "0", "1", "150000 100000"]);
        set(folder.path(), &Limits { cpu: Some(10), ..Limits::default() }).unwrap();
        let written = ["memory.max", "memory.swap.max", "memory.oom.group", "cpu.max"].map(read);
        assert_eq!(written, ["max", "max", "0", "1000 100000"]);
        assert_eq!(memory_in_words(folder.path()), None);
    }

    #[test]
    fn a_cgroup_without_the_controller_takes_no_limit() {
        let gone = Path::new("/nonexistent/cgroup");
        set(gone, &Limits::default()).unwrap();
        let error = set(gone, &Limits { memory: Some(1), cpu: None }).unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/cgroup/memory.max: "), "{error}");
    }

    #[test]
    fn what_the_kernel_has_ended_is_counted() {
        assert_eq!(kills("low 0\nhigh 0\nmax 12\noom 1\noom_kill 2\noom_group_kill 1\n"), Some(2));
        assert_eq!(kills("oom 1\n"), None);
        assert_eq!(out_of_memory(Path::new("/nonexistent")), None);
    }

    #[test]
    fn sizes_have_their_largest_unit() {
        for (bytes, expected) in
            [(512 << 20, "512Mi"), (3 << 30, "3Gi"), (1536 << 10, "1536Ki"), (1000, "1000"), (0, "0")]
        {
            assert_eq!(in_words(bytes), expected);
        }
    }

    #[test]
    fn controllers_are_handed_down_once_and_processes_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cgroup.subtree_control");
        fs::write(&file, "pids memory\n").unwrap();
        add_to_subtree(folder.path(), &[Controller::Memory]).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "pids memory\n", "it does that already");
        add_to_subtree(folder.path(), &[Controller::Memory, Controller::Cpu]).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "+cpu");
        fs::write(folder.path().join("cgroup.procs"), "").unwrap();
        Delegated(folder.path().to_owned()).put_aside().unwrap();
        assert!(folder.path().join(REST).is_dir());
    }
}
