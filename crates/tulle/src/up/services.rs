//! The services of `tulle up`: each starts once those that it depends on can be reached, and stops
//! before they do.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tulle_model::name::ServiceName;
use tulle_node::workloads::Workloads;

use super::config::{Check, Config, Service};
use super::mesh::Mesh;
use super::replica::Replica;
use super::screen::Screen;
use crate::exit::Result;

/// So long the mesh may take to know of a service that is ready.
const ROUTE_PATIENCE: Duration = Duration::from_secs(5);

/// After so long we say what is waited for.
const START_PATIENCE: Duration = Duration::from_secs(10);

pub struct Services<'a> {
    config: &'a Config,
    workloads: Arc<Workloads>,
    screen: Arc<Screen>,
    /// By service.
    replicas: tokio::sync::Mutex<HashMap<String, Vec<Replica>>>,
    ready: HashMap<String, watch::Sender<bool>>,
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

    /// Once, where the start takes long.
    async fn say_what_is_awaited(&self) {
        tokio::time::sleep(START_PATIENCE).await;
        let is_ready = |name: &str| self.ready.get(name).is_none_or(|ready| *ready.borrow());
        for service in self.config.services.iter().filter(|s| !is_ready(&s.name)) {
            if service.depends_on.iter().all(|d| is_ready(d)) {
                self.screen.state(
                    &service.name,
                    &service.name,
                    &format!("not ready yet: {}", awaited(service)),
                );
            }
        }
        std::future::pending::<()>().await;
    }

    async fn start(&self, service: &Service) -> Result<()> {
        for dependency in &service.depends_on {
            self.wait_until_ready(dependency).await;
            self.wait_until_routed(dependency).await;
        }
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
                        let name = Replica::name(service, index);
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
        self.config.services.iter().find(|s| (0..s.replicas).any(|index| Replica::name(s, index) == workload))
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

/// What has to be for the service to be ready.
fn awaited(service: &Service) -> String {
    let port = |declared: Option<u16>| declared.or_else(|| service.ports.first().map(|p| p.target_port));
    let at = |port: Option<u16>| match port {
        Some(port) if service.replicas == 1 => format!("127.0.0.1:{port}"),
        _ => "127.0.0.1 and its $PORT".to_owned(),
    };
    match service.probe.as_ref().map(|p| &p.check) {
        Some(Check::Http { path, port: asked }) => {
            format!("GET {path} has to succeed at {}", at(port(*asked)))
        }
        Some(Check::Exec(command)) => format!("its probe `{}` has to succeed", command.join(" ")),
        Some(Check::Tcp { port: asked }) => format!("it has to listen at {}", at(port(*asked))),
        None if service.ports.is_empty() => "its process has to run".to_owned(),
        None => format!("it has to listen at {}", at(port(None))),
    }
}
