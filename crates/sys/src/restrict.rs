//! What a process of ours may not take and do that does the bidding of others.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::Pid;

/// Prepares `command` so that its child has so many bytes of memory of its own, writes no files, leaves no core and gets no
/// rights that it does not have. The memory is what can be written and is not shared (`RLIMIT_DATA`, getrlimit(2)): address space
/// (`RLIMIT_AS`) would count the program's text and what allocators set aside and never touch.
pub fn restrict(command: &mut Command, memory: u64) {
    let setup = move || {
        setrlimit(Resource::RLIMIT_DATA, memory, memory)?;
        setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
        setrlimit(Resource::RLIMIT_FSIZE, 0, 0)?;
        prctl::set_no_new_privs()?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(setup) };
}

/// From now on this process opens nothing: it has its standard input, output and errors. Nobody may look into it.
///
/// # Errors
/// Where the kernel refuses.
pub fn open_nothing() -> io::Result<()> {
    const STANDARD: u64 = 3;
    setrlimit(Resource::RLIMIT_NOFILE, STANDARD, STANDARD)?;
    prctl::set_dumpable(false)?;
    Ok(())
}

/// How long a process has computed, in all its threads.
///
/// # Errors
/// Where there is no such process.
pub fn computed(process: u32) -> io::Result<Duration> {
    let process = i32::try_from(process).map_err(io::Error::other)?;
    let clock = nix::time::clock_getcpuclockid(Pid::from_raw(process))?;
    Ok(nix::time::clock_gettime(clock)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_has_no_more_memory_than_it_may_and_no_core() {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -d; ulimit -c; ulimit -f"]);
        restrict(&mut command, 64 << 20);
        let said = command.output().unwrap();
        assert_eq!(String::from_utf8(said.stdout).unwrap(), "65536\n0\n0\n");
    }

    #[test]
    fn what_a_process_computes_is_counted() {
        let own = std::process::id();
        let before = computed(own).unwrap();
        while computed(own).unwrap() < before + Duration::from_millis(5) {}
        // No kernel counts as far (proc(5), pid_max).
        assert!(computed((4 << 20) + 1).is_err());
    }
}
