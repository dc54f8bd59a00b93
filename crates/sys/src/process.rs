//! Child processes that start inside their cgroup, and hear of it when their parent ends.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::run_as::RunAs;
use crate::{cgroup, descriptors, mounts};

/// Where and how a child process is to run.
#[derive(Debug, Default, Clone, Copy)]
pub struct Confinement<'a> {
    /// The cgroup that it joins before its program starts, so that not one of its sockets escapes.
    pub cgroup: Option<&'a Path>,
    /// A folder with what it sees in place of the host's name service ([`mounts`]).
    pub name_service: Option<&'a Path>,
    /// A process group of its own, so that a terminal's Ctrl-C is not for it.
    pub own_process_group: bool,
    /// `None`: as this process.
    pub run_as: Option<&'a RunAs>,
    /// What it gets when the thread that spawned it ends: spawn from a thread that lives as long as the child may.
    pub parent_death: Option<Signal>,
}

/// Prepares `command` so that its child runs confined, and may have as many files open as if this process had
/// never [raised](descriptors::raise) its own limit.
///
/// # Errors
/// Where the cgroup cannot be opened or a path holds a NUL byte; what fails later fails `spawn`.
pub fn confine(command: &mut Command, confinement: Confinement<'_>) -> io::Result<()> {
    let procs = match confinement.cgroup {
        Some(path) => {
            let path = cgroup::seen_from_here(path)?;
            Some(File::options().write(true).open(path.join("cgroup.procs"))?)
        }
        None => None,
    };
    let overlays = confinement.name_service.map(mounts::overlays).transpose()?;
    if confinement.own_process_group {
        command.process_group(0);
    }
    let parent = std::process::id() as libc::pid_t;
    let files =
        descriptors::of_children().map(|(soft, hard)| libc::rlimit { rlim_cur: soft, rlim_max: hard });
    let parent_death = confinement.parent_death.map(|signal| signal as libc::c_int);
    let run_as = confinement.run_as.cloned();
    let setup = move || {
        if let Some(procs) = &procs {
            // "0" is the writing process itself (cgroups v2, cgroup.procs).
            check(unsafe { libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) })?;
        }
        if let Some(overlays) = &overlays {
            mounts::mount_apart(overlays)?;
        }
        if let Some(files) = &files {
            check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, files) } as isize)?;
        }
        // All above may need root's rights, and a change of user takes back what is below (prctl(2)).
        if let Some(run_as) = &run_as {
            check(unsafe { libc::setgroups(run_as.groups.len(), run_as.groups.as_ptr()) } as isize)?;
            check(unsafe { libc::setgid(run_as.group) } as isize)?;
            check(unsafe { libc::setuid(run_as.user) } as isize)?;
        }
        if let Some(signal) = parent_death {
            check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) as isize })?;
            // The parent may have died before the line above.
            if unsafe { libc::getppid() } != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only; it allocates nothing and
    // takes no lock. What it owns was made before the fork.
    unsafe { command.pre_exec(setup) };
    Ok(())
}

fn check(result: isize) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_child_dies_with_the_thread_that_spawned_it() {
        let mut child = std::thread::spawn(|| {
            let mut command = Command::new("sleep");
            command.arg("60").stdout(Stdio::piped());
            let confinement = Confinement {
                own_process_group: true,
                parent_death: Some(Signal::SIGKILL),
                ..Default::default()
            };
            confine(&mut command, confinement).unwrap();
            command.spawn().unwrap()
        })
        .join()
        .unwrap();
        // The pipe closes when the child is gone.
        let mut rest = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn a_child_has_the_limits_that_its_parent_was_started_with() {
        let hard = descriptors::limit().unwrap();
        let before = hard.min(1024);
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, before, hard).unwrap();
        let raised = descriptors::raise().unwrap();
        assert_eq!(descriptors::limit().unwrap(), raised);
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -Sn"]).stdout(Stdio::piped());
        confine(&mut command, Confinement::default()).unwrap();
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), before.to_string());
    }

    #[test]
    fn a_child_runs_as_whom_it_should_and_still_dies_with_its_parent() {
        if !crate::is_root() {
            return;
        }
        let run_as = RunAs::named("65534", Some("65534")).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "id -u; id -g; id -G; exec sleep 60"]).stdout(Stdio::piped());
        let mut child = std::thread::spawn(move || {
            let parent_death = Some(Signal::SIGKILL);
            confine(&mut command, Confinement { run_as: Some(&run_as), parent_death, ..Default::default() })
                .unwrap();
            let mut child = command.spawn().unwrap();
            let mut said = [0; 18];
            child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
            assert_eq!(&said, b"65534\n65534\n65534\n");
            child
        })
        .join()
        .unwrap();
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn a_cgroup_that_is_not_there_is_an_error() {
        let mut command = Command::new("true");
        let confinement = Confinement { cgroup: Some(Path::new("/nonexistent")), ..Default::default() };
        assert!(confine(&mut command, confinement).is_err());
    }
}
