//! Which workload a process belongs to that asks the node for an identity.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use tulle_model::identity::SpiffeId;
use tulle_model::name::WorkloadName;
use tulle_sys::cgroup;
use tulle_sys::family::Member;
use tulle_sys::network::NetworkNamespace;
use tulle_sys::peer::Peer;

use super::{Owner, Workloads};
use crate::capture::CaptureMode;
use crate::control::identities::Identity;

/// What the processes of a workload may have.
pub(crate) struct Entitled {
    pub workload: WorkloadName,
    pub id: SpiffeId,
    pub identity: Arc<Identity>,
    /// Closed once the workload is gone.
    pub present: watch::Receiver<bool>,
}

impl Workloads {
    /// The workload that a process is of: by its cgroup, which it cannot leave by itself; with explicit capture, where there
    /// is none, by its user and its ancestors; with namespace capture, by its network namespace.
    pub(crate) fn of_process(&self, peer: &Peer) -> Option<Entitled> {
        let found = match self.mode {
            CaptureMode::Host => {
                let place = peer.cgroup(&cgroup::unified_mount().ok()??)?;
                let entries = self.entries.lock();
                let groups = entries.iter().filter_map(|(name, e)| Some((e.family.cgroup.as_deref()?, name)));
                by_cgroup(&place, groups).cloned()
            }
            CaptureMode::Namespace => {
                let own = NetworkNamespace::own().ok()?;
                // All of it is one workload's.
                (peer.network() == Some(own)).then(|| self.entries.lock().keys().next().cloned()).flatten()
            }
            CaptureMode::Explicit => {
                let lineage = peer.lineage();
                let entries = self.entries.lock();
                let roots = entries.iter().filter_map(|(name, entry)| {
                    let root = match entry.owner {
                        Owner::Us => entry.process.borrow().process,
                        Owner::Other(owner) => owner,
                    };
                    Some((root?, name))
                });
                let (root, name) = by_lineage(&lineage, roots)?;
                (root.user() == Some(peer.user())).then(|| name.clone())
            }
        };
        let entry = self.entries.lock().get(&found?)?.clone();
        Some(Entitled {
            workload: entry.name.clone(),
            id: entry.id.clone(),
            identity: entry.identity.clone(),
            present: entry.asked.subscribe(),
        })
    }
}

/// Whose cgroup a place is, or is below.
fn by_cgroup<'a, T>(place: &Path, mut groups: impl Iterator<Item = (&'a Path, T)>) -> Option<T> {
    groups.find(|(group, _)| place.starts_with(group)).map(|(_, whose)| whose)
}

/// The nearest of a process and its ancestors that is somebody's, and whose.
fn by_lineage<T>(lineage: &[Member], roots: impl Iterator<Item = (Member, T)>) -> Option<(Member, T)> {
    let depth = |(root, whose)| Some((lineage.iter().position(|member| *member == root)?, (root, whose)));
    roots.filter_map(depth).min_by_key(|(depth, _)| *depth).map(|(_, found)| found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_of_the_workload_whose_cgroup_it_is_in() {
        let groups = [("/cg/tulle/n/shop.a", "a"), ("/cg/tulle/n/shop.ab", "ab")];
        for (place, whose) in [
            ("/cg/tulle/n/shop.a", Some("a")),
            ("/cg/tulle/n/shop.ab", Some("ab")),
            ("/cg/tulle/n/shop.ab/below/it", Some("ab")),
            ("/cg/tulle/n/shop.abc", None),
            ("/cg/tulle/n", None),
            ("/cg/tulle/n/shop.a (deleted)", None),
            ("/cg/../cg/tulle/n/shop.a", None),
            ("/", None),
        ] {
            let groups = groups.iter().map(|(path, whose)| (Path::new(path), *whose));
            assert_eq!(by_cgroup(Path::new(place), groups), whose, "{place}");
        }
    }

    #[test]
    fn a_process_is_of_the_nearest_ancestor_that_is_a_workloads() {
        let member = |pid, started| Member { pid, started };
        let lineage = [member(40, 4), member(30, 3), member(20, 2), member(1, 0)];
        let of = |roots: &[(u32, u64, &'static str)]| {
            let roots = roots.iter().map(|(pid, started, whose)| (member(*pid, *started), *whose));
            by_lineage(&lineage, roots).map(|(_, whose)| whose)
        };
        assert_eq!(of(&[(20, 2, "a"), (50, 5, "b")]), Some("a"));
        assert_eq!(of(&[(40, 4, "a")]), Some("a"), "itself");
        assert_eq!(of(&[(20, 2, "a"), (30, 3, "b")]), Some("b"), "started by another workload");
        assert_eq!(of(&[(20, 1, "a"), (30, 4, "b")]), None, "numbers that were others' before");
        assert_eq!(of(&[]), None);
    }
}
