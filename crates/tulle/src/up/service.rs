//! One service: keeps its processes as they are wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tulle_node::process_state::LastExit;

use super::config::{Config, Dependency, Service, Until};
use super::init_commands;
use super::replica::{self, Replica};
use super::services::Shared;
use crate::exit::Failure;

/// After how long it is tried again to start what could not be started.
const RETRY: Duration = Duration::from_secs(5);
/// How long a process that was replaced may take to be ready, before the next one of its service is.
const ROLL_PATIENCE: Duration = Duration::from_secs(60);
/// How long a port may be another process's that is about to end.
const PORT_PATIENCE: Duration = Duration::from_secs(30);

/// What is wanted of a service.
#[derive(Clone)]
pub struct WantedService {
    pub config: Arc<Config>,
    pub service: Arc<Service>,
    pub replicas: u32,
    /// Whether it is to run at all.
    pub runs: bool,
    /// Processes of another one start anew.
    pub revision: u64,
    /// Another one with each wish.
    pub wish: u64,
}

impl WantedService {
    /// The names of its processes.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        let count = if self.runs { self.replicas } else { 0 };
        (0..count).map(|index| replica::name(&self.service, index))
    }
}

/// Why a process does not go on that was not asked to stop.
pub type Over = BTreeMap<String, LastExit>;

struct Held {
    replica: Replica,
    revision: u64,
    ports: Vec<u16>,
}

/// Carries out what is wanted of one service.
pub struct ServiceTask {
    wanted: watch::Receiver<WantedService>,
    shared: Arc<Shared>,
    /// The last wish that was fulfilled.
    fulfilled: watch::Sender<u64>,
    failures: mpsc::Sender<Failure>,
    /// Everything is to end at once.
    kill: CancellationToken,
    replicas: BTreeMap<u32, Held>,
    /// The revision for which the commands of `init` have ended well.
    initialized: Option<u64>,
}

/// Why a service is not as it is wanted.
enum NotReached {
    Failed(Failure),
    /// A command of `init` did not end well.
    Uninitialized(String),
}

impl From<Failure> for NotReached {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl ServiceTask {
    pub fn new(
        wanted: watch::Receiver<WantedService>,
        shared: Arc<Shared>,
        fulfilled: watch::Sender<u64>,
        failures: mpsc::Sender<Failure>,
        kill: CancellationToken,
    ) -> Self {
        let replicas = BTreeMap::new();
        Self { wanted, shared, fulfilled, failures, kill, replicas, initialized: None }
    }

    /// Until nothing is wanted any more.
    pub async fn run(mut self) {
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let reached = self.reach(&wanted).await;
            if self.wanted.has_changed().unwrap_or(true) {
                if self.wanted.changed().await.is_err() {
                    break;
                }
                continue;
            }
            match reached {
                Ok(()) => {
                    self.fulfilled.send_replace(wanted.wish);
                    if self.wanted.changed().await.is_err() {
                        break;
                    }
                }
                Err(why) => {
                    let name = &wanted.service.name;
                    match why {
                        NotReached::Failed(failure) => {
                            self.shared.screen.state(name, name, &format!("cannot be started: {failure}"));
                            // Whoever waits for the first start of all ends with it.
                            let _ = self.failures.try_send(failure);
                        }
                        NotReached::Uninitialized(why) => {
                            let why = format!("{why}; it is tried again in {} s", RETRY.as_secs());
                            self.shared.screen.state(name, name, &why);
                            self.shared.initializing.lock().insert(name.clone(), why);
                        }
                    }
                    tokio::select! {
                        () = tokio::time::sleep(RETRY) => {}
                        changed = self.wanted.changed() => if changed.is_err() { break },
                    }
                }
            }
        }
        let all: Vec<u32> = self.replicas.keys().copied().collect();
        self.stop(&all).await;
    }

    /// Returns early where something else is wanted meanwhile.
    async fn reach(&mut self, wanted: &WantedService) -> Result<(), NotReached> {
        let count = if wanted.runs { wanted.replicas } else { 0 };
        self.shared.initializing.lock().remove(&wanted.service.name);
        if !wanted.runs {
            self.initialized = None;
        }
        let extra: Vec<u32> = self.replicas.keys().copied().filter(|index| *index >= count).collect();
        self.stop(&extra).await;
        self.limit(wanted)?;
        let missing: Vec<u32> = (0..count).filter(|index| !self.replicas.contains_key(index)).collect();
        let is_old =
            |index: &u32| self.replicas.get(index).is_some_and(|held| held.revision != wanted.revision);
        let old: Vec<u32> = (0..count).filter(is_old).collect();
        if missing.is_empty() && old.is_empty() {
            return Ok(());
        }
        tokio::select! {
            () = self.shared.dependencies(&wanted.config, &wanted.service.depends_on) => {}
            _ = self.wanted.changed() => {
                self.wanted.mark_changed();
                return Ok(());
            }
        }
        if self.initialized != Some(wanted.revision) && !wanted.service.init.is_empty() {
            if !self.initialize(wanted).await.map_err(NotReached::Uninitialized)? {
                return Ok(());
            }
            self.initialized = Some(wanted.revision);
        }
        self.shared.begun.lock().insert(wanted.service.name.clone());
        let started = join_all(missing.iter().map(|index| self.start(wanted, *index))).await;
        let mut outcome = Ok(());
        for (index, started) in missing.into_iter().zip(started) {
            match started {
                // At once: a stop that comes later has to find it.
                Ok(held) => drop(self.replicas.insert(index, held)),
                Err(failure) => outcome = Err(failure),
            }
        }
        outcome?;
        // One at a time, so that others serve meanwhile.
        for (place, index) in old.iter().copied().enumerate() {
            if self.wanted.has_changed().unwrap_or(true) {
                return Ok(());
            }
            self.stop(&[index]).await;
            let held = self.start(wanted, index).await?;
            self.replicas.insert(index, held);
            if place + 1 < old.len() {
                let name = replica::name(&wanted.service, index);
                tokio::select! {
                    () = self.shared.is_ready(&name) => {}
                    () = tokio::time::sleep(ROLL_PATIENCE) => {}
                    _ = self.wanted.changed() => {
                        self.wanted.mark_changed();
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Runs the commands of `init`; `false`: something else is wanted meanwhile.
    async fn initialize(&mut self, wanted: &WantedService) -> Result<bool, String> {
        let (stop, mut has_changed) = (self.kill.child_token(), false);
        let outcome = {
            let mut running = pin!(init_commands::run(wanted, &self.shared, (&stop, &self.kill)));
            loop {
                tokio::select! {
                    outcome = &mut running => break outcome,
                    changed = self.wanted.changed(), if !stop.is_cancelled() => {
                        // It is not interrupted for what other services become, or how many processes there are to be.
                        let now = self.wanted.borrow_and_update();
                        has_changed = true;
                        if changed.is_err() || !now.runs || now.revision != wanted.revision {
                            stop.cancel();
                        }
                    }
                }
            }
        };
        if has_changed {
            self.wanted.mark_changed();
        }
        self.shared.initializing.lock().remove(&wanted.service.name);
        outcome.map(|()| !stop.is_cancelled())
    }

    /// Has the limits that are wanted hold for the processes that stay as they are.
    fn limit(&mut self, wanted: &WantedService) -> Result<(), Failure> {
        for held in self.replicas.values_mut().filter(|held| held.revision == wanted.revision) {
            let limited = held.replica.limit(wanted.service.limits);
            limited.map_err(|why| Failure::new(format!("limits: they cannot be kept to: {why}")))?;
        }
        Ok(())
    }

    async fn start(&self, wanted: &WantedService, index: u32) -> Result<Held, Failure> {
        let name = replica::name(&wanted.service, index);
        let ports = match index {
            0 => wanted.service.ports.iter().map(|port| port.target_port).collect(),
            _ => Vec::new(),
        };
        self.shared.claim(&name, &ports, PORT_PATIENCE).await;
        self.shared.over.send_modify(|over| drop(over.remove(&name)));
        let started = Replica::start(wanted, index, &self.shared).await;
        if started.is_err() {
            self.shared.release(&name, &ports);
        }
        Ok(Held { replica: started?, revision: wanted.revision, ports })
    }

    /// Drains and ends some of its processes, all at the same time.
    async fn stop(&mut self, indices: &[u32]) {
        let (shared, kill) = (&self.shared, &self.kill);
        let stopping =
            indices.iter().filter_map(|index| self.replicas.remove(index)).map(async |mut held| {
                tokio::select! {
                    () = held.replica.stop() => {}
                    () = kill.cancelled() => held.replica.kill().await,
                }
                let name = &*held.replica.workload.name;
                shared.release(name, &held.ports);
                shared.inside.lock().remove(name);
                shared.last_lines.lock().remove(name);
                shared.over.send_modify(|over| drop(over.remove(name)));
            });
        join_all(stopping).await;
    }
}

impl Shared {
    /// Waits until all that a service depends on is as far as it has to be.
    async fn dependencies(&self, config: &Config, dependencies: &[Dependency]) {
        for dependency in dependencies {
            self.is_as_far(dependency).await;
            if dependency.until == Until::Ready {
                self.wait_until_routed(config, &dependency.service).await;
            }
        }
    }

    async fn is_as_far(&self, Dependency { service, until }: &Dependency) {
        let reached = match until {
            Until::Ready => &self.ready,
            Until::Completed => &self.completed,
        };
        // The sender lives as long as this.
        let _ = reached.subscribe().wait_for(|services: &BTreeSet<String>| services.contains(service)).await;
    }

    async fn is_ready(&self, replica: &str) {
        let _ = self.ready_replicas.subscribe().wait_for(|ready| ready.contains(replica)).await;
    }

    /// Has a process listen at ports, once others of this mesh that are about to end do not any more.
    async fn claim(&self, name: &str, ports: &[u16], patience: Duration) {
        let mut claimed = self.ports.subscribe();
        let free = claimed.wait_for(|claimed| {
            !ports.iter().any(|port| claimed.get(port).is_some_and(|owner| owner != name))
        });
        // Where it is still not free then, its own error says so.
        let _ = tokio::time::timeout(patience, free).await;
        self.ports.send_modify(|claimed| claimed.extend(ports.iter().map(|port| (*port, name.to_owned()))));
    }

    fn release(&self, name: &str, ports: &[u16]) {
        self.ports
            .send_modify(|claimed| claimed.retain(|port, owner| owner != name || !ports.contains(port)));
    }
}
