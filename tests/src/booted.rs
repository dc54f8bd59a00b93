//! A machine of its own that systemd boots: the files of this one, on which it changes nothing, and namespaces for all else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Outcome, Process, eventually, run};

const PATIENCE: Duration = Duration::from_secs(30);

/// What is booted.
pub const SYSTEMD: &str = "/lib/systemd/systemd";

/// A machine that runs until it is dropped.
pub struct Booted {
    unshare: Process,
    init: Pid,
    cgroup: PathBuf,
    _folder: tempfile::TempDir,
}

impl Booted {
    /// Boots one, which sees `shared` as `/mnt/packages`.
    #[track_caller]
    pub fn start(shared: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("tulle-booted-").tempdir().unwrap();
        let script = folder.path().join("boot.sh");
        fs::write(&script, include_str!("booted.sh")).unwrap();
        let root = folder.path().join("machine");
        fs::create_dir(&root).unwrap();
        // Its cgroups lie below one of ours, which is their root for whoever is in it.
        let mounts = run(Command::new("findmnt").args(["-n", "-t", "cgroup2", "-o", "TARGET"])).ok();
        let mount = mounts.lines().next().expect("a hierarchy of cgroups is mounted");
        let cgroup = Path::new(mount).join(format!("tulle-booted-{}", std::process::id()));
        fs::create_dir_all(&cgroup).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]).arg(&cgroup);
        command.args([
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--uts",
            "--ipc",
            "--net",
            "--cgroup",
            "sh",
        ]);
        let unshare = Process::spawn(command.arg(&script).arg(&root).arg(shared));
        let children = format!("/proc/{0}/task/{0}/children", unshare.pid());
        let init = eventually("the machine's first process", PATIENCE, || {
            assert!(unshare.is_running(), "{}", unshare.stderr());
            fs::read_to_string(&children).ok()?.trim().parse().ok().map(Pid::from_raw)
        });
        let machine = Self { unshare, init, cgroup, _folder: folder };
        eventually("the machine is up", PATIENCE, || {
            assert!(machine.unshare.is_running(), "{}", machine.unshare.stderr());
            let state = machine.sh("systemctl is-active tulle-test.target");
            (state.stdout.trim() == "active").then_some(())
        });
        machine
    }

    /// Runs a script of sh(1) in it, as its root.
    #[track_caller]
    pub fn sh(&self, script: &str) -> Outcome {
        let mut command = Command::new("nsenter");
        command.arg("-t").arg(self.init.to_string()).args(["-a", "--", "sh", "-c", script]).env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        run(&mut command)
    }

    /// What a script says that must succeed.
    #[track_caller]
    pub fn ok(&self, script: &str) -> String {
        let outcome = self.sh(script);
        assert!(outcome.status.success(), "{script}\n{outcome:#?}\n{}", self.journal());
        outcome.stdout.trim().to_owned()
    }

    /// The main process of a unit; 0 where it does not run.
    #[track_caller]
    pub fn main_pid(&self, unit: &str) -> u32 {
        self.ok(&format!("systemctl show -P MainPID {unit}")).parse().unwrap()
    }

    /// What a unit is: `active`, `inactive`, `failed`.
    #[track_caller]
    pub fn state(&self, unit: &str) -> String {
        self.sh(&format!("systemctl is-active {unit}")).stdout.trim().to_owned()
    }

    /// What units have said last.
    pub fn journal(&self) -> String {
        self.sh("journalctl --no-pager --lines 60").stdout
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        // All others go with it.
        let _ = kill(self.init, Signal::SIGKILL);
        let ended = || (!self.unshare.is_running()).then_some(());
        eventually("the end of the machine", PATIENCE, ended);
        let mut remove = Command::new("find");
        remove.arg(&self.cgroup).args(["-depth", "-type", "d", "-exec", "rmdir", "{}", "+"]);
        let _ = remove.status();
    }
}
