//! The processes of a workload, children and grandchildren included: by their cgroup where they have one, and by
//! what a child gets from its parent: without a cgroup, and where somebody has moved one elsewhere.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup;

/// Which processes belong together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Family {
    /// All in this cgroup and below.
    pub cgroup: Option<PathBuf>,
    /// All that started with this variable (`NAME=value`) in their environment.
    pub mark: Option<String>,
    /// This process, what descends from it, and its process group where it leads one.
    pub root: Option<Member>,
}

/// A process; a later one with the same number is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Member {
    pub pid: u32,
    /// In clock ticks since the system started (proc_pid_stat(5), `starttime`).
    pub started: u64,
}

impl Member {
    /// The process that has this number now. It may have ended, as long as nobody has waited for it.
    pub fn of(pid: u32) -> Option<Self> {
        Stat::of(pid).map(|stat| Self { pid, started: stat.started })
    }

    /// Whether it has not ended.
    pub fn is_alive(self) -> bool {
        Stat::of(self.pid).is_some_and(|stat| stat.started == self.started && !stat.has_ended)
    }

    /// Its effective user (proc_pid_status(5), `Uid`). `None` where it has ended.
    pub fn user(self) -> Option<u32> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let users = text.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        let user = users.split_whitespace().nth(1)?.parse().ok()?;
        self.is_alive().then_some(user)
    }

    /// Sends a signal. One that has ended is fine.
    pub fn signal(self, signal: Signal) -> io::Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid.cast_signed()), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

impl Family {
    /// Those in a cgroup, as this process may see it at another path.
    pub fn of_cgroup(path: &Path) -> Self {
        Self { cgroup: Some(path.to_owned()), ..Self::default() }
    }

    /// All members that have not ended, and that this process can see.
    ///
    /// # Errors
    /// Where the cgroup, or `/proc`, cannot be read. A cgroup that is not there has no members.
    pub fn members(&self) -> io::Result<Vec<Member>> {
        let mut members = self.in_its_cgroup()?;
        members.extend(self.elsewhere(&members)?);
        Ok(members)
    }

    /// As [`Family::members`], but looks outside of the cgroup, which costs more, only where nobody is in it: enough to
    /// wait for the last one.
    ///
    /// # Errors
    /// As for [`Family::members`].
    pub fn left(&self) -> io::Result<Vec<Member>> {
        let members = self.in_its_cgroup()?;
        if members.is_empty() { self.elsewhere(&members) } else { Ok(members) }
    }

    fn in_its_cgroup(&self) -> io::Result<Vec<Member>> {
        let mut members = Vec::new();
        if let Some(path) = &self.cgroup {
            in_cgroup(&cgroup::seen_from_here(path)?, &mut members)?;
        }
        Ok(members)
    }

    /// The members that are not among these.
    fn elsewhere(&self, known: &[Member]) -> io::Result<Vec<Member>> {
        if self.root.is_none() && self.mark.is_none() {
            return Ok(Vec::new());
        }
        let all = processes()?;
        let mut members: HashSet<u32> = HashSet::new();
        if let Some(root) = self.root {
            let reused = all.get(&root.pid).is_some_and(|stat| stat.started != root.started);
            if !reused {
                members.extend(descendants(root.pid, &all));
                // A number is not given away while it is that of a process group.
                members.extend(all.iter().filter(|(_, stat)| stat.group == root.pid).map(|(pid, _)| *pid));
            }
            // Those that it has started in the cgroup of another family, beside ours, are that one's.
            let place = self.cgroup.as_deref().and_then(|path| cgroup::seen_from_here(path).ok());
            if let Some(folder) = place.as_deref().and_then(Path::parent)
                && let Some(mount) = cgroup::unified_mount()?
            {
                let is_beside = |pid| cgroup::of_process(&mount, pid).is_some_and(|p| p.starts_with(folder));
                members.retain(|pid| *pid == root.pid || !is_beside(*pid));
            }
        }
        if let Some(mark) = &self.mark {
            members.extend(all.keys().filter(|pid| has_variable(**pid, mark)));
        }
        members.remove(&std::process::id());
        known.iter().for_each(|member| {
            members.remove(&member.pid);
        });
        let member = |pid: u32| Some(Member { pid, started: all.get(&pid)?.started });
        Ok(members.into_iter().filter_map(member).collect())
    }

    /// Sends SIGKILL to all members; those of a cgroup cannot escape it by forking.
    ///
    /// # Errors
    /// As for [`Family::members`], and where a signal cannot be sent.
    pub fn kill(&self) -> io::Result<()> {
        if let Some(path) = &self.cgroup {
            match fs::write(cgroup::seen_from_here(path)?.join("cgroup.kill"), "1") {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                // Linux before 5.14 has no such file.
                Err(e) => tracing::debug!("{}: cgroup.kill: {e}", path.display()),
            }
        }
        self.members()?.into_iter().try_for_each(|member| member.signal(Signal::SIGKILL))
    }
}

/// A process and those above it, the nearest first.
pub fn lineage(member: Member) -> Vec<Member> {
    let mut found = vec![member];
    let mut child = member;
    while found.len() < DEEPEST {
        let parent_of =
            |child: Member| Stat::of(child.pid).filter(|s| s.started == child.started).map(|s| s.parent);
        let Some(pid) = parent_of(child) else { break };
        let Some(parent) = Member::of(pid) else { break };
        // A parent that has ended meanwhile leaves its children to another one, before its number is given away.
        if parent_of(child) != Some(pid) {
            break;
        }
        found.push(parent);
        child = parent;
    }
    found
}

/// How many processes above each other are looked at.
const DEEPEST: usize = 256;

/// Every process of this host whose environment has a variable `name`, with its value.
pub fn with_variable(name: &str) -> io::Result<Vec<(Member, String)>> {
    let prefix = format!("{name}=");
    let own = std::process::id();
    let value = |(pid, stat): (u32, Stat)| {
        let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
        let value = environment.split(|b| *b == 0).find_map(|v| v.strip_prefix(prefix.as_bytes()))?;
        let value = String::from_utf8(value.to_vec()).ok()?;
        Some((Member { pid, started: stat.started }, value))
    };
    Ok(processes()?.into_iter().filter(|(pid, _)| *pid != own).filter_map(value).collect())
}

fn has_variable(pid: u32, variable: &str) -> bool {
    // Another user's, which would not take our signals either.
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    environment.split(|b| *b == 0).any(|v| v == variable.as_bytes())
}

/// The process `root` and those below it.
fn descendants(root: u32, all: &HashMap<u32, Stat>) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for (pid, stat) in all {
        children.entry(stat.parent).or_default().push(*pid);
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        found.extend(children.remove(&pid).unwrap_or_default());
    }
    found
}

/// A cgroup goes with its last process at any moment, so one that is not there is fine.
fn in_cgroup(path: &Path, members: &mut Vec<Member>) -> io::Result<()> {
    let gone =
        |e: &io::Error| e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(Errno::ENODEV as i32);
    let text = match fs::read_to_string(path.join("cgroup.procs")) {
        Err(e) if gone(&e) => return Ok(()),
        // cgroups(7): a threaded cgroup has its processes listed further up.
        Err(e) if e.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => return Ok(()),
        other => other?,
    };
    // 0 stands for a process of another PID namespace, which has no number here.
    let pids = text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != 0);
    members.extend(pids.filter_map(Member::of).filter(|member| member.is_alive()));
    let entries = match fs::read_dir(path) {
        Err(e) if gone(&e) => return Ok(()),
        other => other?,
    };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir())) {
        in_cgroup(&entry.path(), members)?;
    }
    Ok(())
}

/// All processes that have not ended.
fn processes() -> io::Result<HashMap<u32, Stat>> {
    let numbers =
        fs::read_dir("/proc")?.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let alive = numbers.filter_map(|pid| Some((pid, Stat::of(pid).filter(|stat| !stat.has_ended)?)));
    Ok(alive.collect())
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    group: u32,
    started: u64,
    /// A zombie.
    has_ended: bool,
}

impl Stat {
    /// `None` where there is no such process.
    fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// proc_pid_stat(5): the name, the second field, may have blanks and parentheses in it.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<_> = rest.split_whitespace().collect();
        let (state, parent, group) = (fields.first()?, fields.get(1)?, fields.get(2)?);
        Some(Self {
            parent: parent.parse().ok()?,
            group: group.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
            has_ended: matches!(*state, "Z" | "X" | "x"),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// Runs a script that prints one number a line, and says how many it will be.
    fn shell(script: &str, numbers: usize, mark: &str) -> (Child, Vec<u32>) {
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("TULLE_TEST_MARK", mark).process_group(0).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().take(numbers);
        let numbers = lines.map(|line| line.unwrap().trim().parse().unwrap()).collect();
        (child, numbers)
    }

    fn pids(family: &Family) -> HashSet<u32> {
        family.members().unwrap().into_iter().map(|m| m.pid).collect()
    }

    #[test]
    fn finds_who_left_the_group_the_session_and_the_parent() {
        let mark = format!("m-{}", std::process::id());
        // A child, one in a session of its own, and one whose parent has ended.
        let script = "sleep 60 & echo $!; setsid sh -c 'echo $$; exec sleep 60' & sleep 0.1; \
                      (setsid sh -c 'echo $$; exec sleep 60' & ) ; wait";
        let (mut child, numbers) = shell(script, 3, &mark);
        let root = Member::of(child.id());
        let marked = Family { mark: Some(format!("TULLE_TEST_MARK={mark}")), ..Family::default() };
        let expected: HashSet<u32> = numbers.iter().copied().chain([child.id()]).collect();
        assert_eq!(pids(&marked), expected);
        let found = with_variable("TULLE_TEST_MARK").unwrap();
        let found: HashSet<u32> = found.into_iter().filter(|(_, m)| *m == mark).map(|(m, _)| m.pid).collect();
        assert_eq!(found, expected);
        // Without the mark the one that was left alone in a session of its own cannot be found.
        let rooted = Family { root, ..Family::default() };
        assert_eq!(pids(&rooted), numbers[..2].iter().copied().chain([child.id()]).collect());

        marked.kill().unwrap();
        child.wait().unwrap();
        while !marked.members().unwrap().is_empty() {}
        assert_eq!(pids(&rooted), HashSet::new());
    }

    #[test]
    fn a_number_that_is_anothers_by_now_is_not_taken_for_a_member() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let member = Member::of(child.id()).unwrap();
        let earlier = Member { started: member.started - 1, ..member };
        assert!(member.is_alive() && !earlier.is_alive());
        earlier.signal(Signal::SIGKILL).unwrap();
        let family = Family { root: Some(earlier), ..Family::default() };
        assert_eq!(family.members().unwrap(), []);
        assert!(child.try_wait().unwrap().is_none(), "the other one got the signal");
        member.signal(Signal::SIGKILL).unwrap();
        child.wait().unwrap();
        assert!(!member.is_alive());
    }

    #[test]
    fn a_lineage_is_from_child_to_parent() {
        let own = Member::of(std::process::id()).unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let member = Member::of(child.id()).unwrap();
        assert_eq!(lineage(member)[..2], [member, own]);
        assert_eq!(lineage(member).last().map(|m| m.pid), Some(1), "it ends with the first of all");
        let earlier = Member { started: member.started - 1, ..member };
        assert_eq!((lineage(earlier), earlier.user()), (vec![earlier], None));
        assert_eq!(member.user(), Some(nix::unistd::geteuid().as_raw()));
        member.signal(Signal::SIGKILL).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn names_may_have_anything_in_them() {
        let rest: Vec<String> = (4..=30).map(|n| n.to_string()).collect();
        let line = |name: &str, state: &str| format!("17 ({name}) {state} {}", rest.join(" "));
        let stat = |has_ended| Some(Stat { parent: 4, group: 5, started: 22, has_ended });
        assert_eq!(Stat::parse(&line("a) S 1 (b", "S")), stat(false));
        assert_eq!(Stat::parse(&line("a", "Z")), stat(true));
        assert_eq!(Stat::parse("17 (a"), None);
    }

    #[test]
    fn who_is_not_in_the_cgroup_is_a_member_nevertheless() {
        let Some(mount) = cgroup::unified_mount().unwrap() else { return };
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let root = Member::of(child.id());
        let family = Family { root, ..Family::of_cgroup(&mount.join("tulle-none/x")) };
        assert_eq!(
            (family.members().unwrap(), family.left().unwrap()),
            (vec![root.unwrap()], vec![root.unwrap()])
        );
        family.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(family.left().unwrap(), []);
    }

    #[test]
    fn a_cgroup_that_is_gone_has_no_members() {
        let family = Family::of_cgroup(Path::new("/sys/fs/cgroup/tulle-none/x"));
        assert_eq!(family.members().unwrap_or_default(), []);
    }
}
