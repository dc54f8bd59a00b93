//! Namespace capture: all of the network namespace that the node runs in is one workload, whoever has started its processes.
//! The node's table is in that namespace, and goes with it; nothing else is made.
//!
//! While no workload has it, or its node is not there, it is closed: what would be captured is refused.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tulle_model::name::WorkloadName;
use tulle_sys::network::NetworkNamespace;
use tulle_sys::nft::{self, NftError};
use tulle_sys::nft_counters::packets;
use tulle_sys::nft_watch::Heard;

use super::destinations::{Destinations, egress_of};
use super::entrances::{Entrance, Entrances, entrance_of};
use super::rules::{self, Extent, Member, Opening};
use super::table::NftTable;
use super::zones::Zones;
use super::{Counts, begun, namespace_rules};

pub(super) struct Namespace {
    table: String,
    /// Whether the rules stay when the node goes.
    keep: bool,
    /// Where the node itself is reached from elsewhere.
    own_ports: Vec<u16>,
    state: Mutex<NamespaceState>,
    /// Why the rules are not what they should be; in a lock of its own, as the other is held while nft runs.
    trouble: Mutex<Option<String>>,
}

struct NamespaceState {
    /// Once it is, nothing is made any more.
    ended: bool,
    table: NftTable,
    zones: Zones,
    /// Whose the namespace is.
    workload: Option<Tenant>,
    destinations: Option<Arc<Destinations>>,
    /// Where what comes from elsewhere enters; `None`: that is not asked for.
    entrances: Option<Entrances>,
    /// What was counted and nobody has asked for yet.
    counted: BTreeMap<WorkloadName, Counts>,
}

struct Tenant {
    name: WorkloadName,
    opening: Opening,
    /// What the rules had counted when they were asked last.
    seen: Counts,
    /// What it began past the proxy when it might has been ended.
    is_held: bool,
}

impl Namespace {
    /// Whether it can be had where this process runs; `Err` says why not.
    pub(super) fn can_be_had() -> Result<(), String> {
        let own = NetworkNamespace::own().map_err(|e| format!("/proc does not say which one it is: {e}"))?;
        if own.is_the_hosts() {
            return Err("this is the network of the host itself, of which other processes are a part, too: run the node \
                        inside of the network namespace that is to be captured (in the container or pod, or by \
                        `ip netns exec`), or with --capture host"
                .to_owned());
        }
        may_capture()
    }

    /// `Err` says why it cannot be had.
    pub(super) fn open(scope: &str, keep: bool, own_ports: &[u16]) -> Result<Self, String> {
        Self::can_be_had()?;
        let table = rules::table_name(scope);
        let others = nft::tables().map_err(|e| explained(&e))?;
        let is_other = |other: &&String| rules::scope_of(other).is_some() && **other != table;
        if let Some(other) = others.iter().find(is_other) {
            return Err(format!(
                "another node captures in this network namespace, or has left its rules: the nftables table {other} \
                 (`tulle node reset`, with the home of that one, removes it)"
            ));
        }
        let namespace = Self {
            table: table.clone(),
            keep,
            own_ports: own_ports.to_vec(),
            state: Mutex::new(NamespaceState {
                ended: false,
                table: NftTable::new(table.clone()),
                zones: Zones::of_namespace(),
                workload: None,
                destinations: None,
                // Until it is known whether anybody is to be held off: a node that is back has held somebody off, perhaps.
                entrances: Some(Entrances::new()),
                counted: BTreeMap::new(),
            }),
            trouble: Mutex::default(),
        };
        let made = namespace.rebuild(&mut namespace.state.lock());
        match made {
            Ok(()) => Ok(namespace),
            Err(e) => {
                // What an earlier process has left refuses, still.
                if !others.contains(&table) {
                    let _ = nft::apply(&rules::removal(&table), |_| ());
                }
                Err(explained(&e))
            }
        }
    }

    pub(super) fn table(&self) -> &str {
        &self.table
    }

    /// Gives the namespace to a workload, and opens its way to its listeners.
    pub(super) fn add(&self, name: &WorkloadName, outbound_port: u16, dns_port: u16) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.ended {
            return Err(io::Error::other("the node is stopping"));
        }
        if let Some(other) = state.workload.as_ref().filter(|other| other.name != *name) {
            return Err(io::Error::other(format!(
                "the workload {} runs on this node already, and all of this network namespace is its (namespace capture): \
                 another one needs a node in a network namespace of its own",
                other.name
            )));
        }
        // Another one at each time: what the kernel remembers of its connections leads to listeners that are gone.
        let zone = state.zones.take()?;
        let entrance = entrance_of(state.entrances.as_ref(), name);
        let egress = egress_of(state.destinations.as_ref(), name);
        let opening = Opening { outbound_port, dns_port, zone, entrance, egress };
        state.gather(&self.table);
        let workload = Tenant { name: name.clone(), opening, seen: Counts::default(), is_held: false };
        let before = state.workload.replace(workload);
        let made = self.rebuild(&mut state);
        if made.is_err() {
            state.workload = None;
            state.zones.give_back(zone);
        }
        if let Some(before) = before {
            state.zones.give_back(before.opening.zone);
        }
        made.map_err(io::Error::other)?;
        end_begun(state);
        Ok(())
    }

    /// Closes the namespace again, if it is this workload's.
    pub(super) fn remove(&self, name: &WorkloadName) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.ended || state.workload.as_ref().is_none_or(|workload| workload.name != *name) {
            return Ok(());
        }
        state.gather(&self.table);
        let before = state.workload.take();
        let made = self.rebuild(&mut state);
        if let Some(before) = before {
            state.zones.give_back(before.opening.zone);
        }
        made.map_err(io::Error::other)
    }

    /// Has the rules go by what is known of destinations.
    pub(super) fn follow(&self, destinations: Arc<Destinations>) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.ended || state.destinations.as_ref() == Some(&destinations) {
            return Ok(());
        }
        let before = state.destinations.replace(destinations.clone());
        let mut script = String::new();
        rules::follow(&mut script, &self.table, Extent::Namespace, before.as_deref(), &destinations);
        if let Some(Tenant { name, opening, .. }) = &mut state.workload {
            let before = std::mem::replace(&mut opening.egress, destinations.leaving(name));
            if opening.egress != before {
                rules::egress(&mut script, "delete", &self.table, Member::Namespace, before);
                rules::egress(&mut script, "add", &self.table, Member::Namespace, opening.egress);
            }
        }
        self.change(&mut state, &script, "what is known of destinations")?;
        end_begun(state);
        Ok(())
    }

    /// Has what comes from elsewhere enter by these; `None`: it is not captured any more.
    pub(super) fn enter_by(&self, entrances: Option<Entrances>) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.ended || state.entrances == entrances {
            return Ok(());
        }
        state.entrances = entrances;
        let entrance = state.entrance();
        let mut script = String::new();
        namespace_rules::enter(&mut script, &self.table, &self.own_ports, entrance);
        self.change(&mut state, &script, "inbound capture")
    }

    /// What the rules have counted since this was called last.
    pub(super) fn take_counts(&self) -> BTreeMap<WorkloadName, Counts> {
        let mut state = self.state.lock();
        state.gather(&self.table);
        std::mem::take(&mut state.counted)
    }

    /// Why it is not captured as it should be.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// Looks whether all is as it should be, and mends it; `heard` is what the kernel said of the table.
    pub(super) fn attend(&self, heard: &Heard) {
        let mut state = self.state.lock();
        if !state.ended
            && state.table.is_due(heard, &[] as &[PathBuf])
            && let Err(e) = self.rebuild(&mut state)
        {
            tracing::error!("the nftables table {} cannot be made: {e}", self.table);
        }
        end_begun(state);
    }

    /// Closes the namespace, and makes nothing any more: until a node is back, or its rules are removed.
    pub(super) fn leave(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.ended {
            return Ok(());
        }
        state.workload = None;
        let closed = self.rebuild(&mut state).map_err(io::Error::other);
        state.ended = true;
        closed
    }

    /// The capture is over.
    pub(super) fn end(&self) {
        let ended = if self.keep { self.leave() } else { self.clear() };
        if let Err(e) = ended {
            tracing::warn!("the capture rules of {} cannot be closed: {e}", self.table);
        }
    }

    fn clear(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.ended = true;
        state.workload = None;
        state.table.apply(&rules::removal(&self.table)).map_err(io::Error::other)
    }

    fn change(&self, state: &mut NamespaceState, script: &str, what: &str) -> io::Result<()> {
        if script.is_empty() {
            return Ok(());
        }
        let applied = state.table.apply(script).or_else(|e| {
            tracing::debug!("{what}: {e}: the rules are made anew");
            self.rebuild(state)
        });
        applied.map_err(io::Error::other)
    }

    /// Makes the whole table in one transaction.
    fn rebuild(&self, state: &mut NamespaceState) -> Result<(), NftError> {
        state.table.begins();
        state.gather(&self.table);
        let script = state.script(&self.table, &self.own_ports);
        let made = state.table.replace(&script);
        state.table.was_made(made.is_ok());
        if made.is_ok()
            && let Some(workload) = &mut state.workload
        {
            workload.seen = Counts::default();
        }
        *self.trouble.lock() =
            made.as_ref().err().map(|e| format!("it is not captured as it should be: {e}"));
        made
    }
}

impl NamespaceState {
    fn script(&self, table: &str, own_ports: &[u16]) -> String {
        let mut script = rules::table(table, Extent::Namespace);
        if let Some(destinations) = &self.destinations {
            rules::follow(&mut script, table, Extent::Namespace, None, destinations);
        }
        namespace_rules::enter(&mut script, table, own_ports, self.entrance());
        if let Some(workload) = &self.workload {
            rules::open(&mut script, table, Member::Namespace, workload.opening);
        }
        script
    }

    /// How the namespace is entered; `None`: as if nothing were captured.
    fn entrance(&self) -> Option<Entrance> {
        let entrances = self.entrances.as_ref()?;
        let workload = self.workload.as_ref();
        Some(workload.map_or(Entrance::Closed, |workload| entrance_of(Some(entrances), &workload.name)))
    }

    /// Asks the rules what they have counted. To be called before what counts is taken away.
    fn gather(&mut self, table: &str) {
        let Some(workload) = &mut self.workload else { return };
        for (index, set) in rules::COUNTERS.into_iter().enumerate() {
            let more = match packets(table, set) {
                Ok(now) => workload.seen.more(index, now),
                // Somebody has taken them away, and that is mended.
                Err(e) => return tracing::debug!("what the rules have counted cannot be read: {e}"),
            };
            if more > 0 {
                *self.counted.entry(workload.name.clone()).or_default().at(index) += more;
            }
        }
    }
}

/// Ends what the workload has begun past the proxy, if it is held to a policy of egress from now on.
fn end_begun(mut state: MutexGuard<'_, NamespaceState>) {
    let NamespaceState { workload: Some(workload), destinations: Some(destinations), .. } = &mut *state
    else {
        return;
    };
    let was_held = workload.is_held;
    workload.is_held = destinations.egress.ends_what_began(&workload.name);
    let is_newly_held = workload.is_held && !was_held;
    drop(state);
    if is_newly_held {
        begun::end_of_namespace();
    }
}

/// Whether this process has the rights: they are asked for one by one, so that it can be said which is missing.
fn may_capture() -> Result<(), String> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string())?;
    // What is redirected goes there. Rules that an earlier process has left may refuse it.
    match socket.local_addr().and_then(TcpStream::connect) {
        Err(e) if e.kind() != io::ErrorKind::ConnectionRefused => {
            return Err(format!("nothing reaches 127.0.0.1 here ({e}): ip link set lo up"));
        }
        _ => {}
    }
    tulle_sys::mark_of_node(&socket).and_then(|()| tulle_sys::take_diverted(&socket)).map_err(|e| {
        format!("sockets cannot be marked ({e}): it needs CAP_NET_ADMIN in this network namespace")
    })
}

fn explained(error: &NftError) -> String {
    match error {
        NftError::Refused(why) if why.contains("not permitted") => {
            format!("{error}: it needs CAP_NET_ADMIN in this network namespace")
        }
        _ => error.to_string(),
    }
}
