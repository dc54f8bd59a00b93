//! The services of `tulle up`: each starts once those that it depends on can be reached, and stops
//! before they do.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tokio::sync::watch;
use tulle_model::name::{ServiceName, WorkloadName};
use tulle_node::workloads::{WorkloadStatus, Workloads};

use super::config::{Config, Service};
use super::mesh::Mesh;
use super::replica::{self, Replica};
use super::screen::Screen;
use crate::exit::Result;

/// So long the mesh may take to know of a service that is ready.
const ROUTE_PATIENCE: Duration = Duration::from_secs(5);

/// So long a service may take to be ready before it is said why it is not.
const START_PATIENCE: Duration = Duration::from_secs(1);
/// How long it is until something else is said of the same workload, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often we look.
const LOOK: Duration = Duration::from_millis(250);

pub struct Services<'a> {
    config: &'a Config,
    workloads: Arc<Workloads>,
    screen: Arc<Screen>,
    /// By service.
    replicas: tokio::sync::Mutex<HashMap<String, Vec<Replica>>>,
    ready: HashMap<String, watch::Sender<bool>>,
    /// Those whose own start has begun, as all that they depend on is there.
    begun: Mutex<HashSet<String>>,
    started: Instant,
}

impl<'a> Services<'a> {
    pub fn new(config: &'a Config, mesh: &Mesh, screen: &Arc<Screen>) -> Self {
        Self {
            config,
            workloads: mesh.node.workloads().clone(),
            screen: screen.clone(),
            replicas: Default::default(),
            ready: config.services.iter().map(|s| (s.name.clone(), watch::Sender::new(false))).collect(),
            begun: Mutex::default(),
            started: Instant::now(),
        }
    }

    /// Starts everything and follows it; returns only where something cannot be started.
    pub async fn run(&mut self) -> Result<()> {
        let this = &*self;
        let follow = this.follow();
        let start = async {
            let mut starting: FuturesUnordered<_> =
                this.config.services.iter().map(|s| this.start(s)).collect();
            while let Some(outcome) = starting.next().await {
                outcome?;
            }
            for service in &this.config.services {
                this.wait_until_ready(&service.name).await;
            }
            let took = this.started.elapsed().as_secs_f64();
            this.screen.say(&format!("all services are ready ({took:.1} s)"));
            std::future::pending::<Result<()>>().await
        };
        tokio::select! {
            () = follow => Ok(()),
            outcome = start => outcome,
            () = this.say_what_is_awaited() => Ok(()),
        }
    }

    /// Says what is not ready, and why, here and to who asks the node (`tulle status`).
    async fn say_what_is_awaited(&self) {
        let mut complaints = Complaints::default();
        loop {
            let known = self.workloads.list();
            let known: HashMap<_, _> = known
                .iter()
                .filter(|w| w.namespace == self.config.namespace)
                .map(|w| (&*w.name, w))
                .collect();
            let mut waiting = BTreeMap::new();
            for service in &self.config.services {
                for index in 0..service.replicas {
                    let name = replica::name(service, index);
                    let complaint = match known.get(&*name) {
                        Some(workload) => complaint(workload),
                        None => {
                            let waits = self.waits_for(service, &known);
                            let workload = WorkloadName::new(self.config.namespace.as_str(), name.as_str());
                            waits.clone().map(|why| waiting.insert(workload, why));
                            waits
                        }
                    };
                    if let Some(text) = complaints.heard(&name, complaint, Instant::now()) {
                        self.screen.state(&service.name, &name, &text);
                    }
                }
            }
            self.workloads.announce(waiting);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Which services a service that has not begun to start waits for, and why those are not ready.
    fn waits_for(&self, service: &Service, known: &HashMap<&str, &WorkloadStatus>) -> Option<String> {
        if self.begun.lock().contains(&service.name) {
            return None;
        }
        let is_ready = |name: &str| self.ready.get(name).is_none_or(|ready| *ready.borrow());
        let reasons = service.depends_on.iter().filter(|d| !is_ready(d)).map(|dependency| {
            let of = self.config.services.iter().find(|s| s.name == *dependency);
            let mut replicas =
                of.into_iter().flat_map(|s| (0..s.replicas).map(|index| replica::name(s, index)));
            match replicas.find_map(|name| known.get(&*name).filter(|w| !w.ready)) {
                Some(workload) if !workload.reason.is_empty() => {
                    format!("{dependency} ({})", workload.reason)
                }
                _ => dependency.clone(),
            }
        });
        let reasons: Vec<_> = reasons.collect();
        match reasons.is_empty() {
            true => Some("waits for the mesh to know the way to what it depends on".to_owned()),
            false => Some(format!("waits for {}", reasons.join(", "))),
        }
    }

    async fn start(&self, service: &Service) -> Result<()> {
        for dependency in &service.depends_on {
            self.wait_until_ready(dependency).await;
            self.wait_until_routed(dependency).await;
        }
        self.begun.lock().insert(service.name.clone());
        let starting = (0..service.replicas).map(async |index| {
            let start = Replica::start(self.config, service, index, &self.workloads, self.screen.clone());
            let replica = start.await?;
            // At once: a stop that comes while others start has to find it.
            self.replicas.lock().await.entry(service.name.clone()).or_default().push(replica);
            Ok(())
        });
        join_all(starting).await.into_iter().collect::<Result<()>>()?;
        if service.replicas == 0 {
            self.ready[&service.name].send_replace(true);
        }
        Ok(())
    }

    async fn wait_until_ready(&self, name: &str) {
        if let Some(ready) = self.ready.get(name) {
            // The sender lives as long as we do.
            let _ = ready.subscribe().wait_for(|ready| *ready).await;
        }
    }

    async fn wait_until_routed(&self, name: &str) {
        let service = self.config.services.iter().find(|s| s.name == name);
        if service.is_none_or(|s| s.ports.is_empty() || s.replicas == 0) {
            return;
        }
        let service = ServiceName::new(self.config.namespace.as_str(), name);
        if !self.workloads.can_route_to(&service, ROUTE_PATIENCE).await {
            self.screen.say(&format!("{name} is ready, but the mesh has no way to it yet"));
        }
    }

    /// Says when replicas become ready, or are not any more.
    async fn follow(&self) {
        let mut reports = self.workloads.reports();
        let mut known: HashMap<String, (bool, String)> = HashMap::new();
        loop {
            let now: Vec<_> = reports
                .borrow_and_update()
                .workloads
                .workloads
                .iter()
                .filter(|w| w.namespace == self.config.namespace)
                .map(|w| (w.name.clone(), w.ready, w.reason.clone()))
                .collect();
            for (name, ready, reason) in &now {
                let before = known.insert(name.clone(), (*ready, reason.clone()));
                let Some(service) = self.service_of(name) else { continue };
                if service.ports.is_empty() && service.probe.is_none() {
                    // It is ready while it runs, of which the supervisor tells.
                    continue;
                }
                let was_ready = before.as_ref().is_some_and(|(ready, _)| *ready);
                if *ready && !was_ready {
                    self.screen.state(&service.name, name, "ready");
                } else if was_ready && !*ready {
                    self.screen.state(&service.name, name, &format!("not ready: {reason}"));
                }
            }
            for service in &self.config.services {
                let all = service.replicas > 0
                    && (0..service.replicas).all(|index| {
                        let name = replica::name(service, index);
                        now.iter().any(|(n, ready, _)| *n == name && *ready)
                    });
                if all {
                    // Once ready, it counts as started: who depends on it lives with its ups and downs.
                    self.ready[&service.name].send_replace(true);
                }
            }
            if reports.changed().await.is_err() {
                return;
            }
        }
    }

    fn service_of(&self, workload: &str) -> Option<&Service> {
        self.config.services.iter().find(|s| (0..s.replicas).any(|index| replica::name(s, index) == workload))
    }

    /// Stops all, each before those that it depends on; those that no other needs at the same time.
    pub async fn stop(&self, deadline: Duration) {
        loop {
            let mut replicas = self.replicas.lock().await;
            let needed = |name: &str, replicas: &HashMap<String, Vec<Replica>>| {
                let mut others = self.config.services.iter().filter(|s| replicas.contains_key(&s.name));
                others.any(|s| s.depends_on.iter().any(|d| d == name))
            };
            let next: Vec<_> = replicas.keys().filter(|name| !needed(name, &replicas)).cloned().collect();
            if next.is_empty() {
                return;
            }
            let stopping = replicas.iter_mut().filter(|(name, _)| next.contains(name)).flat_map(|(_, r)| r);
            join_all(stopping.map(|replica| replica.stop(deadline))).await;
            for name in &next {
                replicas.remove(name);
            }
        }
    }

    /// Ends all at once.
    pub async fn kill(&self) {
        let mut replicas = self.replicas.lock().await;
        join_all(replicas.values_mut().flatten().map(Replica::kill)).await;
        replicas.clear();
    }
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

/// What was said of each workload, so that the same is not said twice, and what changes all the time not all the time.
#[derive(Default)]
struct Complaints(HashMap<String, Complaint>);

struct Complaint {
    since: Instant,
    said: String,
    next: Instant,
    pause: Duration,
}

impl Complaints {
    /// What is to be said now of a workload.
    fn heard(&mut self, name: &str, complaint: Option<String>, now: Instant) -> Option<String> {
        let Some(text) = complaint else {
            self.0.remove(name);
            return None;
        };
        // One that is ready has been asked already, and answered wrongly.
        let patience = if text.starts_with("not ready") || text.starts_with("waits") {
            START_PATIENCE
        } else {
            Duration::ZERO
        };
        let known = self.0.entry(name.to_owned()).or_insert_with(|| Complaint {
            since: now,
            said: String::new(),
            next: now,
            pause: START_PATIENCE,
        });
        if now < known.since + patience || now < known.next || known.said == text {
            return None;
        }
        known.next = now + known.pause;
        known.pause = (known.pause * 2).min(LONGEST_PAUSE);
        known.said.clone_from(&text);
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_once_and_not_all_the_time() {
        let mut complaints = Complaints::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut heard = |text: &str, ms| {
            complaints.heard("a", Some(text.to_owned()).filter(|t| !t.is_empty()), at(ms)).is_some()
        };
        assert!(!heard("not ready: x", 0) && !heard("not ready: x", 900), "it may just start");
        assert!(heard("not ready: x", 1000) && !heard("not ready: x", 60_000));
        assert!(heard("not ready: y", 60_100) && !heard("not ready: z", 60_200));
        assert!(heard("not ready: z", 62_100));
        assert!(!heard("", 62_200) && heard("its probe fails (1 of 3): x", 62_300), "that is said at once");
        let changes = (0..10_000).filter(|n| heard(&format!("not ready: {n}"), 70_000 + n * 100)).count();
        assert!((10..40).contains(&changes), "{changes} in 1000 s");
    }
}
