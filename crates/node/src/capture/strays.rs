//! Processes that somebody has moved out of their workload's cgroup (an administrator, `pam_systemd`, `cgclassify`): what
//! they open there is not captured. They are taken back, and where that cannot be, their workload is in trouble.
//!
//! They are known by the variable that they were started with, and not by having been in the cgroup: an administrator's
//! shell may enter it for a moment. That takes a look at all processes of the host, so it is done seldom, for all
//! workloads at once, and as soon as somebody has left a cgroup who has not ended.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use tulle_model::name::WorkloadName;
use tulle_sys::cgroup::{self, Cgroup};
use tulle_sys::family::{Member, with_variable};

use super::host::CGROUP;
use crate::backoff::Pace;
use crate::workloads::{MARK, marked};

/// How often all processes of the host are looked at, at most: they take no more than a share of the time.
const LOOK: Duration = Duration::from_secs(5);
const SHARE: u32 = 200;

/// How soon one is taken back that somebody moves again and again, and how seldom after a while.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
const QUIET: Duration = Duration::from_secs(60);

/// How many processes a message names.
const MOST_NAMED: usize = 4;

/// What is known of the processes of a node's workloads.
#[derive(Default)]
pub(super) struct Strays {
    workloads: BTreeMap<WorkloadName, Processes>,
    look_at: Option<Instant>,
}

struct Processes {
    /// Those in the cgroup, with their starts.
    inside: HashMap<u32, u64>,
    outside: HashSet<Member>,
    pace: Pace,
    /// When those outside are taken back.
    back_at: Option<Instant>,
}

impl Default for Processes {
    fn default() -> Self {
        let pace = Pace::new(AGAIN.0, AGAIN.1, QUIET);
        Self { inside: HashMap::new(), outside: HashSet::new(), pace, back_at: None }
    }
}

impl Strays {
    /// Takes processes of these workloads back into their cgroups. Returns why it could not.
    pub(super) fn take_back(
        &mut self,
        mount: &Path,
        scope: &str,
        open: &BTreeMap<WorkloadName, Cgroup>,
    ) -> BTreeMap<WorkloadName, String> {
        self.workloads.retain(|name, _| open.contains_key(name));
        // Those in the cgroup of another workload are that one's: its `tulle run` was started by one of ours.
        let all = mount.join(CGROUP);
        let own = std::process::id();
        let is_outside = |member: &Member| {
            member.pid != own
                && member.is_alive()
                && cgroup::of_process(mount, member.pid).is_some_and(|theirs| !theirs.starts_with(&all))
        };
        let mut moved = false;
        for (name, cgroup) in open {
            let known = self.workloads.entry(name.clone()).or_default();
            known.outside.retain(is_outside);
            moved |= known.has_lost(cgroup, is_outside);
        }
        let now = Instant::now();
        if !open.is_empty() && (moved || self.look_at.is_none_or(|at| at <= now)) {
            self.look_everywhere(scope, is_outside);
            self.look_at = Some(Instant::now() + LOOK.max(now.elapsed() * SHARE));
        }
        let troubles = open.iter().filter_map(|(name, cgroup)| {
            let why = self.workloads.get_mut(name)?.take_back(name, mount, cgroup, now)?;
            Some((name.clone(), why))
        });
        troubles.collect()
    }

    /// Finds who was moved, and whom those have started.
    fn look_everywhere(&mut self, scope: &str, is_outside: impl Fn(&Member) -> bool) {
        let found = with_variable(MARK).unwrap_or_else(|e| {
            tracing::debug!("processes outside of their cgroups cannot be looked for: {e}");
            Vec::new()
        });
        for (member, value) in found {
            let Some((_, name)) = marked(&value).filter(|(of, _)| *of == scope) else { continue };
            if let Some(known) = self.workloads.get_mut(&name)
                && is_outside(&member)
            {
                known.outside.insert(member);
            }
        }
    }
}

impl Processes {
    /// Whether somebody was moved since the last look, or has left.
    fn has_lost(&mut self, cgroup: &Cgroup, is_outside: impl Fn(&Member) -> bool) -> bool {
        // A threaded one does not say.
        let Ok(pids) = cgroup.processes() else { return false };
        let mut before = std::mem::take(&mut self.inside);
        let mut started = |pid: u32| before.remove(&pid).or_else(|| Some(Member::of(pid)?.started));
        self.inside = pids.into_iter().filter_map(|pid| Some((pid, started(pid)?))).collect();
        before.into_iter().any(|(pid, started)| is_outside(&Member { pid, started }))
    }

    /// Takes those outside back where it is time to. Why some are still there.
    fn take_back(
        &mut self,
        name: &WorkloadName,
        mount: &Path,
        cgroup: &Cgroup,
        now: Instant,
    ) -> Option<String> {
        if self.outside.is_empty() {
            self.back_at = None;
            return None;
        }
        let mut why = "somebody moves it again and again".to_owned();
        let back_at = *self.back_at.get_or_insert_with(|| now + self.pace.delay(now, 1.0));
        if back_at <= now {
            self.back_at = None;
            self.outside.retain(|member| {
                let place = cgroup::of_process(mount, member.pid).unwrap_or_default();
                // A later process may have its number.
                let taken = if member.is_alive() { cgroup.take_in(member.pid) } else { return false };
                match taken {
                    Ok(()) => tracing::warn!(
                        "the process {} of the workload {name} is taken back into its cgroup: somebody had moved it to {}, \
                         and what it has opened there is not captured",
                        member.pid,
                        place.display()
                    ),
                    Err(ref e) => why = e.to_string(),
                }
                taken.is_err()
            });
        }
        let mut pids: Vec<_> = self.outside.iter().map(|member| member.pid).collect();
        pids.sort_unstable();
        let named: Vec<_> = pids.iter().take(MOST_NAMED).map(u32::to_string).collect();
        let more = if pids.len() > MOST_NAMED { " and more" } else { "" };
        (!pids.is_empty()).then(|| {
            format!(
                "not captured: process {}{more} is outside of the cgroup {} and cannot be taken back ({why}): write its \
                 number into cgroup.procs there, or start the workload again",
                named.join(", "),
                cgroup.path().display()
            )
        })
    }
}
