//! The services of `tulle up`: each starts once those that it depends on can be reached, and stops
//! before they do. What is wanted of them may change while they run.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tulle_model::name::{ServiceName, WorkloadName};
use tulle_node::workloads::{WorkloadStatus, Workloads};

use super::complaints::Complaints;
use super::config::{Config, Dependency, Service, Until};
use super::control::Inside;
use super::mesh::Mesh;
use super::plan::ServiceChange;
use super::published::Published;
use super::screen::Screen;
use super::service::{Over, ServiceTask, WantedService};
use super::standing::{self, Standings};
use crate::exit::{Failure, Result};

/// So long the mesh may take to know of a service that is ready.
const ROUTE_PATIENCE: Duration = Duration::from_secs(5);
/// How often we look where nobody says that something has changed, and how much time passes at least.
const LOOK: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(100);
/// How many failures wait to be heard of.
const FAILURES: usize = 16;
/// How many processes a service may have, as `replicas` of the file.
pub const MOST_REPLICAS: u32 = 1000;

/// What the tasks of all services know of each other.
pub struct Shared {
    pub workloads: Arc<Workloads>,
    pub screen: Arc<Screen>,
    /// Services all of whose processes are ready, or have ended well.
    pub ready: watch::Sender<BTreeSet<String>>,
    /// Those all of whose processes have ended well.
    pub completed: watch::Sender<BTreeSet<String>>,
    pub ready_replicas: watch::Sender<HashSet<String>>,
    /// How processes have ended that do not start again, by replica.
    pub over: watch::Sender<Over>,
    /// The ports that the file gives to processes, and to which.
    pub ports: watch::Sender<BTreeMap<u16, String>>,
    /// What the process of each replica was started with.
    pub inside: Mutex<BTreeMap<String, Inside>>,
    /// What processes said at last before they ended, by replica.
    pub last_lines: Mutex<BTreeMap<String, Vec<String>>>,
    /// What services do before their processes start, or why that has failed.
    pub initializing: Mutex<BTreeMap<String, String>>,
    /// Those whose own start has begun, as all that they depend on is there.
    pub begun: Mutex<HashSet<String>>,
}

/// What somebody wants of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Start,
    Stop,
    Restart,
    Scale(u32),
}

/// A service that is there.
struct Running {
    wanted: watch::Sender<WantedService>,
    fulfilled: watch::Receiver<u64>,
    _task: AbortOnDropHandle<()>,
}

struct ServiceTable {
    config: Arc<Config>,
    running: BTreeMap<String, Running>,
    wishes: u64,
}

pub struct Services {
    pub shared: Arc<Shared>,
    pub published: Published,
    table: Mutex<ServiceTable>,
    /// The table has changed.
    changed: Notify,
    pub standings: Mutex<Standings>,
    failures: mpsc::Sender<Failure>,
    kill: CancellationToken,
    started: Instant,
    has_started: AtomicBool,
}

impl Services {
    /// Starts everything. What cannot be started is said at the receiver.
    pub fn start(
        config: Arc<Config>,
        mesh: &Mesh,
        screen: &Arc<Screen>,
        published: Published,
    ) -> (Arc<Self>, mpsc::Receiver<Failure>) {
        let shared = Arc::new(Shared {
            workloads: mesh.node.workloads().clone(),
            screen: screen.clone(),
            ready: watch::Sender::default(),
            completed: watch::Sender::default(),
            ready_replicas: watch::Sender::default(),
            over: watch::Sender::default(),
            ports: watch::Sender::default(),
            inside: Mutex::default(),
            begun: Mutex::default(),
            last_lines: Mutex::default(),
            initializing: Mutex::default(),
        });
        let (failures, failed) = mpsc::channel(FAILURES);
        let table = ServiceTable { config: config.clone(), running: BTreeMap::new(), wishes: 0 };
        let services = Arc::new(Self {
            shared,
            published,
            table: Mutex::new(table),
            changed: Notify::new(),
            standings: Mutex::default(),
            failures,
            kill: CancellationToken::new(),
            started: Instant::now(),
            has_started: AtomicBool::new(false),
        });
        let mut table = services.table.lock();
        config.services.iter().for_each(|service| services.add(&mut table, service));
        drop(table);
        (services, failed)
    }

    fn add(&self, table: &mut ServiceTable, service: &Service) {
        table.wishes += 1;
        let first = WantedService {
            config: table.config.clone(),
            service: Arc::new(service.clone()),
            replicas: service.replicas,
            runs: true,
            revision: 0,
            wish: table.wishes,
        };
        let (wanted, wishes) = watch::channel(first);
        let (tells, fulfilled) = watch::channel(0);
        let task =
            ServiceTask::new(wishes, self.shared.clone(), tells, self.failures.clone(), self.kill.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(task.run()));
        table.running.insert(service.name.clone(), Running { wanted, fulfilled, _task: task });
    }

    pub fn config(&self) -> Arc<Config> {
        self.table.lock().config.clone()
    }

    /// The names of the services that are there.
    pub fn names(&self) -> Vec<String> {
        self.table.lock().running.keys().cloned().collect()
    }

    /// What is wanted of each service now, in the order of the file; those that are about to go come last.
    pub fn wanted(&self) -> Vec<WantedService> {
        let table = self.table.lock();
        let place = |name: &str| table.config.services.iter().position(|s| s.name == name);
        let mut wanted: Vec<_> =
            table.running.values().map(|running| running.wanted.borrow().clone()).collect();
        wanted.sort_by_key(|wanted| place(&wanted.service.name).unwrap_or(usize::MAX));
        wanted
    }

    /// Waits until all services have been ready at the same time once, and published ports lead to them.
    pub async fn all_are_ready(&self) {
        let all = |ready: &BTreeSet<String>| self.names().iter().all(|name| ready.contains(name));
        // The sender lives as long as this.
        let _ = self.shared.ready.subscribe().wait_for(all).await;
        // Nobody of the mesh has asked for them yet, and a browser may be next.
        let config = self.config();
        for service in &config.services {
            if !service.publish.is_empty() {
                self.shared.wait_until_routed(&config, &service.name).await;
            }
        }
        self.has_started.store(true, Ordering::Relaxed);
    }

    pub fn has_started(&self) -> bool {
        self.has_started.load(Ordering::Relaxed)
    }

    /// Follows everything; returns only where something cannot be started.
    pub async fn run(&self, mut failed: mpsc::Receiver<Failure>) -> Result<()> {
        let start = async {
            tokio::select! {
                () = self.all_are_ready() => {}
                Some(failure) = failed.recv() => return Err(failure),
            }
            let took = self.started.elapsed().as_secs_f64();
            self.shared.screen.say(&format!("all services are ready ({took:.1} s)"));
            // What fails later was said, and is tried again.
            while failed.recv().await.is_some() {}
            Ok(())
        };
        tokio::select! {
            () = self.follow() => Ok(()),
            outcome = start => outcome,
            () = self.look() => Ok(()),
        }
    }

    /// Says what is not ready, and why, here and to who asks the node (`tulle status`).
    async fn look(&self) {
        let mut complaints = Complaints::default();
        // Is sent with every change of what is wanted, reported and over.
        let mut changes = self.shared.ready_replicas.subscribe();
        loop {
            changes.mark_unchanged();
            let known = self.shared.workloads.list();
            let wanted = self.wanted();
            let waiting = self.waiting(&wanted, &known);
            let by_name: HashMap<_, _> =
                known.iter().map(|w| ((w.namespace.as_str(), w.name.as_str()), w)).collect();
            for wanted in &wanted {
                let name = &wanted.service.name;
                for replica in wanted.names() {
                    let found = by_name.get(&(wanted.config.namespace.as_str(), replica.as_str())).copied();
                    let is_over = self.shared.over.borrow().contains_key(&replica);
                    let complaint = match found {
                        // Of its end its supervisor tells.
                        Some(_) if is_over => None,
                        Some(workload) => complaint(workload),
                        None => waiting.get(&replica).cloned(),
                    };
                    if let Some(text) = complaints.heard(&replica, complaint, Instant::now()) {
                        self.shared.screen.state(name, &replica, &text);
                    }
                }
            }
            complaints.keep(&wanted.iter().flat_map(WantedService::names).collect());
            self.standings.lock().know(standing::of(&self.shared, &wanted, &known, &waiting));
            let namespace = self.config().namespace.clone();
            let named = |(name, why): (String, String)| (WorkloadName::new(namespace.as_str(), name), why);
            self.shared.workloads.announce(waiting.into_iter().map(named).collect());
            let due = complaints.due().map(|due| due.saturating_duration_since(Instant::now()));
            let rest = due.unwrap_or(LOOK).clamp(PAUSE, LOOK);
            tokio::time::sleep(PAUSE).await;
            let _ = tokio::time::timeout(rest - PAUSE, changes.changed()).await;
        }
    }

    /// By replica, what those wait for that have not begun to start.
    pub fn waiting(&self, wanted: &[WantedService], known: &[WorkloadStatus]) -> BTreeMap<String, String> {
        let mut waiting = BTreeMap::new();
        for of in wanted {
            if let Some(why) = self.waits_for(of, wanted, known) {
                let unknown = of.names().filter(|name| {
                    !known.iter().any(|w| *w.name == **name && w.namespace == of.config.namespace)
                });
                waiting.extend(unknown.map(|name| (name, why.clone())));
            }
        }
        waiting
    }

    /// Which services a service that has not begun to start waits for, and why those are not as far.
    fn waits_for(
        &self,
        of: &WantedService,
        all: &[WantedService],
        known: &[WorkloadStatus],
    ) -> Option<String> {
        if let Some(why) = self.shared.initializing.lock().get(&of.service.name) {
            return Some(why.clone());
        }
        if self.shared.begun.lock().contains(&of.service.name) {
            return None;
        }
        let is_far = |dependency: &&Dependency| {
            let reached = match dependency.until {
                Until::Ready => &self.shared.ready,
                Until::Completed => &self.shared.completed,
            };
            reached.borrow().contains(&dependency.service)
        };
        let over = self.shared.over.borrow();
        let reasons = of.service.depends_on.iter().filter(|d| !is_far(d)).map(|dependency| {
            let name = &dependency.service;
            let Some(on) = all.iter().find(|wanted| wanted.service.name == *name) else {
                return name.clone();
            };
            if !on.runs {
                return format!("{name} (stopped: `tulle start {name}`)");
            }
            if let Some(exit) = on.names().find_map(|replica| over.get(&replica)) {
                return format!("{name} (it {exit}: `tulle restart {name}` has it run again)");
            }
            let of_it = |name: &String| known.iter().find(|w| *w.name == **name && !w.ready);
            match on.names().find_map(|replica| of_it(&replica)) {
                Some(workload) if !workload.reason.is_empty() => format!("{name} ({})", workload.reason),
                _ => name.clone(),
            }
        });
        let reasons: Vec<_> = reasons.collect();
        match reasons.is_empty() {
            true => Some("waits for the mesh to know the way to what it depends on".to_owned()),
            false => Some(format!("waits for {}", reasons.join(", "))),
        }
    }

    /// Says when replicas become ready, or are not any more.
    async fn follow(&self) {
        let mut reports = self.shared.workloads.reports();
        let mut over = self.shared.over.subscribe();
        let mut known: HashMap<String, bool> = HashMap::new();
        loop {
            let namespace = self.config().namespace.clone();
            let now: HashMap<String, (bool, String)> = reports
                .borrow_and_update()
                .workloads
                .workloads
                .iter()
                .filter(|w| w.namespace == namespace)
                .map(|w| (w.name.clone(), (w.ready, w.reason.clone())))
                .collect();
            let ended = over.borrow_and_update().clone();
            let (mut ready, mut completed) = (BTreeSet::new(), BTreeSet::new());
            for wanted in self.wanted() {
                let service = &wanted.service;
                for name in wanted.names() {
                    let Some((is_ready, reason)) = now.get(&name) else { continue };
                    let was_ready = known.insert(name.clone(), *is_ready).unwrap_or(false);
                    // Without either it is ready while it runs, of which the supervisor tells.
                    if service.ports.is_empty() && service.probe.is_none() || ended.contains_key(&name) {
                        continue;
                    }
                    if *is_ready && !was_ready {
                        self.shared.screen.state(&service.name, &name, "ready");
                    } else if was_ready && !*is_ready {
                        self.shared.screen.state(&service.name, &name, &format!("not ready: {reason}"));
                    }
                }
                let has_ended_well =
                    |name: &String| ended.get(name).is_some_and(|exit| exit.exit_code == Some(0));
                let is_ready = |name: &String| now.get(name).is_some_and(|(ready, _)| *ready);
                if wanted.runs && wanted.names().all(|name| is_ready(&name) || has_ended_well(&name)) {
                    ready.insert(service.name.clone());
                }
                if wanted.runs && wanted.replicas > 0 && wanted.names().all(|name| has_ended_well(&name)) {
                    completed.insert(service.name.clone());
                }
            }
            known.retain(|name, _| now.contains_key(name));
            self.shared.ready_replicas.send_replace(ready_of(&now));
            self.shared.completed.send_if_modified(|before| replace(before, completed));
            self.shared.ready.send_if_modified(|before| replace(before, ready));
            tokio::select! {
                changed = reports.changed() => if changed.is_err() { return },
                _ = over.changed() => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Has the services be as another description says. Returns what was wanted of each that changes, and is to be waited for.
    pub fn change(&self, config: Arc<Config>, changes: &[(String, ServiceChange)]) -> Vec<(String, u64)> {
        let mut table = self.table.lock();
        table.config = config.clone();
        let mut wishes = Vec::new();
        for service in &config.services {
            match changes.iter().find(|(name, _)| *name == service.name).map(|(_, change)| change) {
                Some(ServiceChange::Added) => {
                    self.add(&mut table, service);
                    wishes.push((service.name.clone(), table.wishes));
                }
                change => {
                    table.wishes += 1;
                    let wish = table.wishes;
                    let Some(running) = table.running.get(&service.name) else { continue };
                    running.wanted.send_modify(|wanted| {
                        // What was scaled by hand stays so until the file says otherwise.
                        if wanted.service.replicas != service.replicas {
                            wanted.replicas = service.replicas;
                        }
                        let mut service = service.clone();
                        // Its processes keep their names.
                        service.is_numbered = wanted.service.is_numbered;
                        (wanted.config, wanted.service, wanted.wish) = (config.clone(), service.into(), wish);
                        if matches!(change, Some(ServiceChange::Restarts(_))) {
                            wanted.revision += 1;
                        }
                    });
                    if change.is_some() {
                        wishes.push((service.name.clone(), wish));
                    }
                }
            }
        }
        drop(table);
        self.changed.notify_one();
        wishes
    }

    /// Drains and ends a service that is described no more, and forgets it.
    pub async fn remove(&self, name: &str) {
        if let Ok(wish) = self.wish(name, Wish::Stop) {
            self.fulfilled(name, wish).await;
        }
        self.table.lock().running.remove(name);
        self.shared.begun.lock().remove(name);
        self.changed.notify_one();
    }

    /// Has something done with a service: which wish that is ([`Services::fulfilled`]).
    ///
    /// # Errors
    /// Says why it cannot be.
    pub fn wish(&self, name: &str, wish: Wish) -> Result<u64, String> {
        let mut table = self.table.lock();
        table.wishes += 1;
        let number = table.wishes;
        if let Wish::Scale(replicas) = wish {
            self.can_scale(&table, name, replicas)?;
        }
        let Some(running) = table.running.get(name) else {
            let known: Vec<&str> = table.running.keys().map(String::as_str).collect();
            let hint = tulle_model::validate::suggest::did_you_mean(name, known.iter().copied());
            return Err(format!("there is no service `{name}`{hint}; there are: {}", known.join(", ")));
        };
        running.wanted.send_modify(|wanted| {
            wanted.wish = number;
            match wish {
                Wish::Start => {
                    wanted.runs = true;
                    // A job that is over runs once more.
                    if wanted.names().any(|name| self.shared.over.borrow().contains_key(&name)) {
                        wanted.revision += 1;
                    }
                }
                Wish::Stop => {
                    wanted.runs = false;
                    self.shared.begun.lock().remove(name);
                }
                Wish::Restart => (wanted.runs, wanted.revision) = (true, wanted.revision + 1),
                Wish::Scale(replicas) => (wanted.runs, wanted.replicas) = (true, replicas),
            }
        });
        drop(table);
        self.changed.notify_one();
        Ok(number)
    }

    fn can_scale(&self, table: &ServiceTable, name: &str, replicas: u32) -> Result<(), String> {
        if replicas > MOST_REPLICAS {
            return Err(format!("{replicas} are too many: a service has {MOST_REPLICAS} processes at most"));
        }
        let Some(running) = table.running.get(name) else { return Ok(()) };
        let scaled = WantedService { replicas, runs: true, ..running.wanted.borrow().clone() };
        let names: BTreeSet<String> = scaled.names().collect();
        for (other, running) in table.running.iter().filter(|(other, _)| *other != name) {
            if let Some(taken) = running.wanted.borrow().names().find(|taken| names.contains(taken)) {
                return Err(format!("`{taken}` would be the name of a process of `{name}` and of `{other}`"));
            }
        }
        Ok(())
    }

    /// Waits until a service is as was wished, or something else is wanted of it by then.
    pub async fn fulfilled(&self, name: &str, wish: u64) {
        let fulfilled = self.table.lock().running.get(name).map(|running| running.fulfilled.clone());
        if let Some(mut fulfilled) = fulfilled {
            let _ = fulfilled.wait_for(|done| *done >= wish).await;
        }
    }

    /// Stops all, each before those that it depends on; those that no other needs at the same time.
    pub async fn stop(&self) {
        let wanted = self.wanted();
        let mut left: BTreeMap<&str, &Service> =
            wanted.iter().map(|wanted| (wanted.service.name.as_str(), &*wanted.service)).collect();
        while !left.is_empty() {
            let needed: BTreeSet<&str> =
                left.values().flat_map(|s| &s.depends_on).map(|d| d.service.as_str()).collect();
            let mut next: Vec<&str> = left.keys().copied().filter(|name| !needed.contains(name)).collect();
            if next.is_empty() {
                next = left.keys().copied().collect();
            }
            join_all(next.iter().map(async |name| {
                if let Ok(wish) = self.wish(name, Wish::Stop) {
                    self.fulfilled(name, wish).await;
                }
            }))
            .await;
            left.retain(|name, _| !next.contains(name));
        }
    }

    /// Ends all at once.
    pub async fn kill(&self) {
        self.kill.cancel();
        let names = self.names();
        join_all(names.iter().map(async |name| {
            if let Ok(wish) = self.wish(name, Wish::Stop) {
                self.fulfilled(name, wish).await;
            }
        }))
        .await;
    }
}

impl Shared {
    /// Waits until the mesh knows the way to a service that is ready.
    pub async fn wait_until_routed(&self, config: &Config, name: &str) {
        let service = config.services.iter().find(|s| s.name == name);
        if service.is_none_or(|s| s.ports.is_empty() || s.replicas == 0) {
            return;
        }
        let service = ServiceName::new(config.namespace.as_str(), name);
        if !self.workloads.can_route_to(&service, ROUTE_PATIENCE).await {
            self.screen.say(&format!("{name} is ready, but the mesh has no way to it yet"));
        }
    }
}

fn ready_of(now: &HashMap<String, (bool, String)>) -> HashSet<String> {
    now.iter().filter(|(_, (ready, _))| *ready).map(|(name, _)| name.clone()).collect()
}

/// Whether that is another one.
fn replace<T: PartialEq>(before: &mut T, now: T) -> bool {
    let is_other = *before != now;
    *before = now;
    is_other
}

/// Why a workload is not ready, or will soon not be.
fn complaint(workload: &WorkloadStatus) -> Option<String> {
    match (workload.ready, workload.reason.as_str()) {
        (_, "") => None,
        (true, doubt) => Some(doubt.to_owned()),
        // Of its end its supervisor tells.
        (false, _) if workload.next_start_ms.is_some() => None,
        (false, why) => Some(format!("not ready: {why}")),
    }
}
