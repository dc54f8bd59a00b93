//! What the kernel says of a process and its children. (Their CPU time is read by `load`, at the
//! two ends of its window.)

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::results::Memory;

/// The process and all that descend from it.
pub fn tree(root: u32) -> Vec<u32> {
    let mut found = BTreeSet::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        if !found.insert(pid) {
            continue;
        }
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            open.extend(children.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    found.into_iter().collect()
}

pub fn memory(pids: &[u32]) -> Memory {
    let mut sum = Memory::default();
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        sum.resident += field(&status, "VmRSS:");
        sum.anonymous += field(&status, "RssAnon:");
        sum.proportional += field(&rollup, "Pss:");
    }
    sum
}

/// Has the kernel read a program from the disk when it is started next. How much of a program is mapped at its first touch, and
/// counts as resident, depends on the pieces in which the page cache holds it: a program that was just written lies there in large
/// ones, another way each time.
pub fn read_anew(program: &Path) -> std::io::Result<()> {
    let file = File::open(program)?;
    // What is not on the disk yet stays in memory.
    file.sync_all()?;
    Ok(posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
}

/// Size of the file that a process runs.
pub fn binary_size(pid: u32) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/exe")).ok().map(|file| file.len())
}

/// The value of a line `NAME 12 kB`, in bytes.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or_default() * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory() {
        let own = tree(std::process::id());
        assert!(own.contains(&std::process::id()));
        let memory = memory(&own);
        assert!(memory.resident > memory.anonymous && memory.anonymous > 0 && memory.proportional > 0);
        assert_eq!(field("Name: x\nVmRSS:\t    12 kB\n", "VmRSS:"), 12 * 1024);
        assert_eq!(field("", "VmRSS:"), 0);
    }

    #[test]
    fn nobody_uses_nothing() {
        assert_eq!(memory(&[u32::MAX]), Memory::default());
    }
}
