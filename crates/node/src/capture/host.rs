//! Host capture: a cgroup for each workload, and the node's nftables table in step with them.
//!
//! Every change is one transaction of nft. Where that is refused, because a cgroup is not what it was, the table is
//! made anew as a whole, without the workloads that cannot be had; those are closed, say so, and are tried again.

mod entering;
mod passing;
mod tending;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tulle_model::name::WorkloadName;
use tulle_sys::cgroup::{self, Cgroup};
use tulle_sys::nft;
use tulle_sys::nft_watch::Heard;

use super::destinations::{Destinations, egress_of};
use super::entrances::{Entrances, entrance_of};
use super::name_service::NameService;
use super::rules::{self, Extent, Member, Opening};
use super::table::NftTable;
use super::zones::Zones;
use super::{Counts, Slot, cgroup_of, inbound_rules};

/// The folder of all of Tulle's cgroups.
pub(super) const CGROUP: &str = "tulle";

/// Where the nodes of this host keep what has to be the same for all of them, or ends with the host.
pub(super) const RUN: &str = "/run/tulle";

pub(super) struct Host {
    scope: String,
    table: String,
    mount: PathBuf,
    /// Whether processes outlive it.
    keep: bool,
    name_service: Option<NameService>,
    state: Mutex<State>,
    /// Why workloads are closed although they should not be; in a lock of its own, as the other is held while nft runs.
    troubles: Mutex<BTreeMap<WorkloadName, String>>,
    /// Why processes of workloads are not captured that were moved out of their cgroups.
    strays: Mutex<BTreeMap<WorkloadName, String>>,
}

struct State {
    /// Once it is, nothing is made any more.
    ended: bool,
    table: NftTable,
    /// The parent of all workloads' cgroups, and the id by which the rules know it.
    node: Cgroup,
    node_id: u64,
    zones: Zones,
    workloads: BTreeMap<WorkloadName, Workload>,
    /// What is known of destinations, once something is.
    destinations: Option<Arc<Destinations>>,
    /// Where what comes to each workload enters; `None`: that is not asked for.
    entrances: Option<Entrances>,
    /// What was counted and nobody has asked for yet.
    counted: BTreeMap<WorkloadName, Counts>,
}

struct Workload {
    cgroup: Cgroup,
    /// The id by which the rules know it.
    id: u64,
    /// `None`: nobody has said yet that a workload of an earlier process of this node is still there.
    opening: Option<Opening>,
    /// Why it is closed nevertheless.
    trouble: Option<String>,
    /// What the rules had counted of it when they were asked last.
    seen: Counts,
    /// What it began past the proxy when it might has been ended.
    is_held: bool,
}

impl Workload {
    fn new(cgroup: Cgroup, id: u64, opening: Option<Opening>) -> Self {
        Self { cgroup, id, opening, trouble: None, seen: Counts::default(), is_held: false }
    }

    /// What of it stands in the rules.
    fn in_force(&self) -> Option<Opening> {
        self.opening.filter(|_| self.trouble.is_none())
    }
}

impl Host {
    /// `Err` says why host capture cannot be had.
    pub(super) fn open(scope: &str, keep: bool) -> Result<Self, String> {
        if !tulle_sys::is_root() {
            return Err("not running as root".to_owned());
        }
        let mount = cgroup::unified_mount_or_own()
            .map_err(|e| format!("the cgroup v2 hierarchy cannot be found or mounted: {e}"))?
            .ok_or("no cgroup v2 hierarchy is mounted below /sys/fs/cgroup")?;
        if !keep && let Err(e) = cgroup::destroy(&mount.join(CGROUP).join(scope)) {
            // What is left is closed by the rules, as all that nobody has added.
            tracing::warn!("not all that an earlier run has left can be removed: {e}");
        }
        let node = Cgroup::create(&mount, &[CGROUP, scope])
            .map_err(|e| format!("no cgroup can be made below {}: {e}", mount.display()))?;
        let run = Path::new(RUN);
        let zones = Zones::new(scope, run).map_err(|e| format!("{RUN} cannot be used: {e}"))?;
        let name_service = match NameService::open(run.join(scope)) {
            Ok(service) => Some(service),
            Err(e) => {
                tracing::warn!(
                    "workloads see the host's name service: names of the mesh will not resolve where nscd or \
                     systemd-resolved answers, nor where no route leads to the name server ({e})"
                );
                None
            }
        };
        let workloads = leftovers(&mount, scope).map_err(|e| format!("{}: {e}", node.path().display()))?;
        let table = rules::table_name(scope);
        let host = Self {
            scope: scope.to_owned(),
            table: table.clone(),
            mount,
            keep,
            name_service,
            state: Mutex::new(State {
                ended: false,
                table: NftTable::new(table),
                node_id: node.id().map_err(|e| format!("{}: {e}", node.path().display()))?,
                node,
                zones,
                workloads,
                destinations: None,
                entrances: None,
                counted: BTreeMap::new(),
            }),
            troubles: Mutex::default(),
            strays: Mutex::default(),
        };
        let made = host.rebuild(&mut host.state.lock());
        match made {
            Ok(()) => Ok(host),
            Err(e) => {
                if !keep || !has_processes(scope) {
                    host.clear();
                }
                Err(e.to_string())
            }
        }
    }

    pub(super) fn table(&self) -> &str {
        &self.table
    }

    /// Opens a workload's way to its listeners. Processes that it has already go on.
    pub(super) fn add(&self, name: &WorkloadName, outbound_port: u16, dns_port: u16) -> io::Result<Slot> {
        let mut state = self.state.lock();
        if state.ended {
            return Err(io::Error::other("the node is stopping"));
        }
        let segments = cgroup_of(&self.scope, name);
        let cgroup = Cgroup::create(&self.mount, &segments.each_ref().map(String::as_str))?;
        let id = cgroup.id()?;
        // Another one at each time: what the kernel remembers of its connections leads to listeners that are gone.
        let zone = state.zones.take()?;
        let entrance = entrance_of(state.entrances.as_ref(), name);
        let egress = egress_of(state.destinations.as_ref(), name);
        let opening = Opening { outbound_port, dns_port, zone, entrance, egress };
        let mut script = String::new();
        state.gather(&self.table);
        let before = state.workloads.remove(name);
        if let Some(before) = &before
            && let Some(opening) = before.in_force()
        {
            rules::close(&mut script, &self.table, Member::Cgroup(&before.cgroup), opening);
        }
        rules::open(&mut script, &self.table, Member::Cgroup(&cgroup), opening);
        state.workloads.insert(name.clone(), Workload::new(cgroup.clone(), id, Some(opening)));
        let applied = self.apply_or_rebuild(&mut state, &script, name);
        if let Some(opening) = before.and_then(|before| before.opening) {
            state.zones.give_back(opening.zone);
        }
        applied.map_err(io::Error::other)?;
        if let Some(why) = state.workloads.get(name).and_then(|workload| workload.trouble.clone()) {
            return Err(io::Error::other(why));
        }
        self.end_begun(state);
        if let Some(service) = &self.name_service {
            // The host may have changed while nobody looked after its processes.
            service.cover(&cgroup);
        }
        let name_service = self.name_service.as_ref().map(|service| service.folder().to_owned());
        Ok(Slot { cgroup: Some(cgroup.path().to_owned()), name_service })
    }

    /// Ends the processes of a workload that an earlier process of this node has left.
    pub(super) fn end_orphan(&self, name: &WorkloadName) -> io::Result<()> {
        let orphan = match self.state.lock().workloads.get(name) {
            Some(orphan) if orphan.opening.is_none() => orphan.cgroup.clone(),
            _ => return Ok(()),
        };
        // Without the lock: it takes seconds where a process cannot be ended, and the others do not wait for that.
        orphan.destroy()
    }

    /// The cgroups of the workloads that nobody has added again.
    pub(super) fn orphans(&self) -> Vec<(WorkloadName, PathBuf)> {
        let state = self.state.lock();
        let orphans = state.workloads.iter().filter(|(_, workload)| workload.opening.is_none());
        orphans.map(|(name, workload)| (name.clone(), workload.cgroup.path().to_owned())).collect()
    }

    /// Ends every process of a workload, and forgets it. Those that cannot be ended stay captured.
    ///
    /// Nobody adds the workload meanwhile: who adds and removes reserves its name (`Workloads::reserve`), and that of one whose
    /// processes are being ended is taken until they are removed (`Workloads::check_orphan`).
    pub(super) fn remove(&self, name: &WorkloadName) -> io::Result<()> {
        let cgroup = self.state.lock().workloads.get(name).map(|workload| workload.cgroup.clone());
        let Some(cgroup) = cgroup else { return Ok(()) };
        // Without the lock, as above.
        cgroup.kill()?;
        let mut state = self.state.lock();
        state.gather(&self.table);
        let Some(workload) = state.workloads.remove(name) else { return Ok(()) };
        self.troubles.lock().remove(name);
        if let Some(opening) = workload.in_force() {
            let mut script = String::new();
            rules::close(&mut script, &self.table, Member::Cgroup(&cgroup), opening);
            // Elements of a cgroup that somebody has removed cannot be named any more.
            self.apply_or_rebuild(&mut state, &script, name).map_err(io::Error::other)?;
        }
        if let Some(opening) = workload.opening {
            state.zones.give_back(opening.zone);
        }
        drop(state);
        // A process that came at the last moment is closed.
        cgroup.destroy()
    }

    /// Why a workload is closed, or not captured, although it should be.
    pub(super) fn trouble(&self, name: &WorkloadName) -> Option<String> {
        let closed = self.troubles.lock().get(name).map(|why| format!("its traffic is refused: {why}"));
        closed.or_else(|| self.strays.lock().get(name).cloned())
    }

    /// Looks whether all is as it should be, and mends it; `heard` is what the kernel said of the table.
    pub(super) fn attend(&self, heard: &Heard) {
        let mut state = self.state.lock();
        if state.ended {
            return;
        }
        let lost = state.lost_cgroups();
        if state.table.is_due(heard, &lost)
            && let Err(e) = self.rebuild(&mut state)
        {
            tracing::error!(
                "the nftables table {} cannot be made, and traffic is not captured: {e}",
                self.table
            );
        }
        self.end_begun(state);
    }

    /// Changes the table; where nft refuses that, it is made anew. `what`: it is about.
    fn apply_or_rebuild(
        &self,
        state: &mut State,
        script: &str,
        what: &dyn fmt::Display,
    ) -> Result<(), nft::NftError> {
        state.table.apply(script).or_else(|e| {
            tracing::debug!("{what}: {e}: the rules are made anew");
            self.rebuild(state)
        })
    }

    /// Makes the cgroups that are missing, and the whole table in one transaction. A workload that cannot be had is left
    /// out, and has the reason as its trouble.
    fn rebuild(&self, state: &mut State) -> Result<(), nft::NftError> {
        state.table.begins();
        state.gather(&self.table);
        let mut result = state.make_cgroups().map_err(nft::NftError::Io);
        if result.is_ok() {
            let script = state.script(&self.table);
            result = state.table.replace(&script);
        }
        if result.is_err() && state.blame(&self.table) {
            let script = state.script(&self.table);
            result = state.table.replace(&script);
        }
        if result.is_ok() {
            state.workloads.values_mut().for_each(|workload| workload.seen = Counts::default());
        }
        self.tell_troubles(state);
        let is_whole = result.is_ok() && state.workloads.values().all(|workload| workload.trouble.is_none());
        state.table.was_made(is_whole);
        result
    }

    /// Says what has changed about them.
    fn tell_troubles(&self, state: &State) {
        let now = state.workloads.iter().filter_map(|(name, w)| Some((name.clone(), w.trouble.clone()?)));
        let now: BTreeMap<_, _> = now.collect();
        let mut before = self.troubles.lock();
        for (name, why) in now.iter().filter(|(name, why)| before.get(name) != Some(why)) {
            tracing::error!("the workload {name} is closed, its traffic is refused: {why}");
        }
        for name in before.keys().filter(|name| !now.contains_key(name) && state.workloads.contains_key(name))
        {
            tracing::info!("the workload {name} is open again");
        }
        *before = now;
    }

    /// Closes the way of all processes that there are, and removes all else; makes nothing any more.
    pub(super) fn leave(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.ended {
            return Ok(());
        }
        // One that cannot be looked into may have processes.
        let is_empty = |cgroup: &Cgroup| cgroup.is_populated().is_ok_and(|populated| !populated);
        state
            .workloads
            .retain(|_, workload| !is_empty(&workload.cgroup) || workload.cgroup.destroy().is_err());
        if state.workloads.is_empty() {
            drop(state);
            return self.try_clear();
        }
        let openings: Vec<_> =
            state.workloads.values_mut().filter_map(|workload| workload.opening.take()).collect();
        let closed = self.rebuild(&mut state).map_err(io::Error::other);
        openings.into_iter().for_each(|opening| state.zones.give_back(opening.zone));
        state.ended = true;
        closed
    }

    /// The capture is over.
    pub(super) fn end(&self) {
        if !self.keep {
            return self.clear();
        }
        if let Err(e) = self.leave() {
            tracing::warn!("the capture rules of {} cannot be closed: {e}", self.table);
        }
    }

    /// Removes all that it made, processes included; makes nothing any more.
    fn clear(&self) {
        if let Err(e) = self.try_clear() {
            tracing::warn!("the capture rules of {} cannot be removed: {e}", self.table);
        }
    }

    fn try_clear(&self) -> io::Result<()> {
        {
            let mut state = self.state.lock();
            state.ended = true;
            state.workloads.clear();
        }
        // Without the lock, as above.
        cgroup::destroy(&self.mount.join(CGROUP).join(&self.scope))?;
        // Another node of this host may have cgroups there.
        let _ = fs::remove_dir(self.mount.join(CGROUP));
        match fs::remove_dir_all(Path::new(RUN).join(&self.scope)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut state = self.state.lock();
        state.table.apply(&rules::removal(&self.table)).map_err(io::Error::other)?;
        state.zones.release();
        Ok(())
    }
}

impl State {
    /// Cgroups that are not there any more, or not the ones that the rules know.
    fn lost_cgroups(&self) -> Vec<PathBuf> {
        let workloads = self.workloads.values().filter(|workload| workload.trouble.is_none());
        let known = workloads.map(|workload| (&workload.cgroup, workload.id));
        let lost = known
            .chain([(&self.node, self.node_id)])
            .filter(|(cgroup, id)| !cgroup.id().is_ok_and(|i| i == *id));
        lost.map(|(cgroup, _)| cgroup.path().to_owned()).collect()
    }

    fn make_cgroups(&mut self) -> io::Result<()> {
        self.node.create_again()?;
        self.node_id = self.node.id()?;
        for workload in self.workloads.values_mut() {
            match workload.cgroup.create_again().and_then(|()| workload.cgroup.id()) {
                Ok(id) => (workload.id, workload.trouble) = (id, None),
                Err(e) => {
                    let path = workload.cgroup.path().display();
                    workload.trouble = Some(format!("its cgroup {path} cannot be made: {e}"));
                }
            }
        }
        Ok(())
    }

    /// The table with all workloads that are open.
    fn script(&self, table: &str) -> String {
        let mut script = rules::table(table, Extent::Cgroups(&self.node));
        if let Some(destinations) = &self.destinations {
            rules::follow(&mut script, table, Extent::Cgroups(&self.node), None, destinations);
        }
        if self.entrances.is_some() {
            inbound_rules::turn(&mut script, table, &self.node, true);
        }
        for workload in self.workloads.values() {
            if let Some(opening) = workload.in_force() {
                rules::open(&mut script, table, Member::Cgroup(&workload.cgroup), opening);
            }
        }
        script
    }

    /// Finds the workloads that nft refuses by themselves; `true` where there are some.
    fn blame(&mut self, table: &str) -> bool {
        let mut found = false;
        for workload in self.workloads.values_mut() {
            let Some(opening) = workload.in_force() else { continue };
            let mut script = rules::table(table, Extent::Cgroups(&self.node));
            rules::open(&mut script, table, Member::Cgroup(&workload.cgroup), opening);
            if let Err(e) = nft::check(&script) {
                workload.trouble = Some(e.to_string());
                found = true;
            }
        }
        found
    }
}

/// Whether a node of this scope has left processes that are captured.
pub(super) fn has_processes(scope: &str) -> bool {
    let mount = cgroup::unified_mount().ok().flatten();
    mount.is_some_and(|mount| cgroup::is_populated(&mount.join(CGROUP).join(scope)).unwrap_or(false))
}

/// Ends what is in a cgroup of which no workload is to be made, and nobody waits for.
fn remove_later(path: PathBuf) {
    std::thread::spawn(move || {
        if let Err(e) = cgroup::destroy(&path) {
            tracing::warn!("what an earlier run has left in {} cannot be removed: {e}", path.display());
        }
    });
}

/// The workloads of an earlier process of this node that still have processes. What is wrong with one of them is its own
/// trouble: it is closed, as all that nobody has added.
fn leftovers(mount: &Path, scope: &str) -> io::Result<BTreeMap<WorkloadName, Workload>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(mount.join(CGROUP).join(scope))?.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let directory = entry.file_name();
        let name = directory.to_str().and_then(|directory| directory.split_once('.'));
        let name = name.map(|(namespace, name)| WorkloadName::new(namespace, name));
        // One that cannot be looked into may have processes.
        let populated = cgroup::is_populated(&entry.path()).unwrap_or(true);
        let Some((name, directory)) = name.zip(directory.to_str()) else {
            remove_later(entry.path());
            continue;
        };
        if !populated && cgroup::remove(&entry.path()).is_ok() {
            continue;
        }
        let cgroup = Cgroup::create(mount, &[CGROUP, scope, directory]);
        match cgroup.and_then(|cgroup| Ok((cgroup.id()?, cgroup))) {
            Ok((id, cgroup)) => {
                found.insert(name, Workload::new(cgroup, id, None));
            }
            Err(e) => tracing::warn!("the cgroup {} cannot be used: {e}", entry.path().display()),
        }
    }
    Ok(found)
}
