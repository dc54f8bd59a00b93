//! Removes what nodes of a home have left on this host: processes, cgroups, rules. Needs no server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use tokio::task::spawn_blocking;
use tulle_model::name::WorkloadName;
use tulle_sys::family::Family;

use crate::capture::Remains;
use crate::ending::{self, Ended};
use crate::lock::HomeLock;
use crate::scope::{self, Whose};
use crate::socket_file;
use crate::workload_api;
use crate::workloads::orphans::{STOP_TIMEOUT, marked_workloads};
use crate::workloads::record::Records;

/// What was there, and is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    Processes { workload: WorkloadName, ended: Ended },
    Cgroup(PathBuf),
    Table(String),
}

/// Ends the processes that nodes with the state in `home` have left (or the one of them that is called `node`), after SIGTERM and `grace` (what each has by
/// its owner's wish, where there is none); removes their cgroups and their tables. Tells `told` of each.
///
/// # Errors
/// [`InUse`](crate::InUse) where a node runs with that home: nothing is touched then. Where something cannot be
/// removed; what was told before is.
pub async fn reset(
    home: &Path,
    node: Option<&str>,
    grace: Option<Duration>,
    mut told: impl FnMut(Removed),
) -> anyhow::Result<()> {
    let folder = home.join("node");
    let _lock = if folder.exists() { Some(HomeLock::take(&folder)?) } else { None };
    let whose = match node {
        Some(node) => Whose::Node(scope::of_node(node, home)),
        None => Whose::Home(scope::of_home(home)),
    };
    let records = Records::new(&folder);
    let looked_for = whose.clone();
    let remains = spawn_blocking(move || Remains::of(&looked_for)).await?;
    let remains = remains.context("what is left of the capture cannot be found out")?;

    let mut families: BTreeMap<WorkloadName, Family> = marked_workloads(&whose)
        .into_iter()
        .map(|(name, mark)| (name, Family { mark: Some(mark), ..Family::default() }))
        .collect();
    for (name, path) in &remains.workloads {
        families.entry(name.clone()).or_default().cgroup = Some(path.clone());
    }
    let ending = families.iter().map(|(name, family)| async {
        let kept = || records.load(name).map_or(STOP_TIMEOUT, |record| record.stop_timeout());
        let ended = ending::end(family, grace.unwrap_or_else(kept)).await;
        (name.clone(), ended)
    });
    for (workload, ended) in join_all(ending).await {
        let ended = ended.with_context(|| format!("not all processes of {workload} have ended"))?;
        if ended.members > 0 {
            told(Removed::Processes { workload, ended });
        }
    }
    let (cgroups, tables) = spawn_blocking(move || remains.remove()).await??;
    cgroups.into_iter().for_each(|path| told(Removed::Cgroup(path)));
    tables.into_iter().for_each(|name| told(Removed::Table(name)));
    if node.is_some() {
        families.keys().for_each(|name| records.remove(name));
        return Ok(());
    }
    records.clear()?;
    for place in socket_file::places(home).into_iter().chain(workload_api::places(home)) {
        // Nobody answers there: the lock is ours.
        let _ = std::fs::remove_file(place);
    }
    Ok(())
}
