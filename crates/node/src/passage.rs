//! Keeps the rules of capture in step with what the node knows of destinations, and the proxy's counts with what the
//! rules have counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tulle_model::exposition::{Metric, escaped};
use tulle_model::name::WorkloadName;
use tulle_proxy::Proxy;
use tulle_proxy::metrics::Rejection;
use tulle_proxy::state::{LocalWorkload, NodeState, StateCell};

use crate::capture::{Counts, Destinations, Rules};

/// How long changes are gathered after the rules were changed: each change takes a process and some milliseconds.
const PAUSE: Duration = Duration::from_millis(20);

/// How often the rules are asked what they have counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// How long after a failure the rules are told again.
const RETRY: Duration = Duration::from_secs(1);

/// The destinations that the rules know, for those who wait for that; `None` where there are no rules.
pub type Known = watch::Receiver<Option<Arc<Destinations>>>;

/// Follows the node's state.
pub(crate) struct Passage {
    rules: Rules,
    state: Arc<StateCell>,
    proxy: Arc<Proxy>,
    known: watch::Sender<Option<Arc<Destinations>>>,
    outside: Arc<Outside>,
}

/// How long it is still said of a workload that is gone what it has done.
const REMEMBERED: Duration = Duration::from_secs(300);

/// What this node's workloads did without the proxy. What one did last is heard of after it has gone, and one may have
/// come and gone since the rules were asked last.
#[derive(Default)]
pub(crate) struct Outside(Mutex<BTreeMap<WorkloadName, Doings>>);

struct Doings {
    workload: Arc<LocalWorkload>,
    /// Connections to the outside.
    begun: u64,
    /// When it was last there.
    seen: Instant,
}

impl Passage {
    /// Tells the rules what is known by now.
    pub async fn start(
        rules: Rules,
        state: Arc<StateCell>,
        proxy: Arc<Proxy>,
        known: watch::Sender<Option<Arc<Destinations>>>,
    ) -> (Self, Arc<Outside>) {
        let outside = Arc::<Outside>::default();
        let passage = Self { rules, state, proxy, known, outside: outside.clone() };
        let now = arc_swap::Guard::into_inner(passage.state.load());
        passage.follow(&now).await;
        (passage, outside)
    }

    /// Follows until the task is aborted.
    pub async fn run(self) {
        tokio::join!(self.follow_always(), self.remember_always(), self.count_always());
    }

    /// Apart from the others, who wait for nft: whoever is there for a moment has to be seen.
    async fn remember_always(&self) {
        let mut changes = self.state.subscribe();
        loop {
            changes.mark_unchanged();
            self.outside.remember(&self.state.load(), Instant::now());
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    async fn follow_always(&self) {
        let mut changes = self.state.subscribe();
        let mut last: Option<Arc<NodeState>> = None;
        loop {
            changes.mark_unchanged();
            let now = arc_swap::Guard::into_inner(self.state.load());
            let same = last.as_ref().is_some_and(|last| {
                Arc::ptr_eq(&last.snapshot, &now.snapshot) && last.virtual_addresses == now.virtual_addresses
            });
            if !same {
                if self.follow(&now).await {
                    last = Some(now);
                    sleep(PAUSE).await;
                } else {
                    last = None;
                    sleep(RETRY).await;
                    continue;
                }
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// `false` where the rules could not be changed.
    async fn follow(&self, state: &Arc<NodeState>) -> bool {
        let (rules, state) = (self.rules.clone(), state.clone());
        let following = spawn_blocking(move || {
            let destinations = Arc::new(Destinations::of(&state));
            rules.follow(destinations.clone()).map(|()| destinations)
        });
        match following.await {
            Ok(Ok(destinations)) => {
                self.known.send_replace(Some(destinations));
                true
            }
            Ok(Err(e)) => {
                tracing::warn!("the capture rules do not know the newest destinations: {e}");
                false
            }
            Err(_) => false,
        }
    }

    async fn count_always(&self) {
        let mut ticks = interval(COUNT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let rules = self.rules.clone();
            let Ok(counts) = spawn_blocking(move || rules.take_counts()).await else { return };
            let now = arc_swap::Guard::into_inner(self.state.load());
            for (name, counts) in counts {
                self.count(&name, self.outside.take_in(&name, &counts).as_deref(), &counts);
            }
            self.outside.remember(&now, Instant::now());
            self.proxy.forget_passed_by(&now);
        }
    }

    fn count(&self, name: &WorkloadName, workload: Option<&LocalWorkload>, counts: &Counts) {
        let Counts { outside_answered, outside_refused, no_service, no_endpoints, egress_denied, .. } =
            *counts;
        if let Some(workload) = workload {
            self.proxy.count_outside(workload, outside_answered, outside_refused);
        }
        for (why, count) in [
            (Rejection::UnknownDestination, no_service),
            (Rejection::NoEndpoints, no_endpoints),
            (Rejection::EgressDenied, egress_denied),
        ] {
            if count > 0 {
                self.proxy.count_rejected(why, count);
                let reason = why.as_str();
                tracing::debug!(reason, "connections refused to the workload {name}: {count}");
            }
        }
    }
}

impl Outside {
    /// Takes note of who is there, and forgets who has been gone for long.
    fn remember(&self, state: &NodeState, now: Instant) {
        let mut outside = self.0.lock();
        for (name, workload) in &state.workloads {
            match outside.get_mut(name) {
                Some(doings) if doings.workload.service == workload.service => doings.seen = now,
                others => {
                    let begun = others.map_or(0, |doings| doings.begun);
                    // Its key is nobody's any more when it has gone.
                    let workload = Arc::new(LocalWorkload {
                        name: workload.name.clone(),
                        service: workload.service.clone(),
                        identity: workload.identity.clone(),
                        app_address: workload.app_address,
                        ports: workload.ports.clone(),
                        certificate: None,
                        draining: workload.draining,
                        in_process: None,
                        outside: None,
                    });
                    outside.insert(name.clone(), Doings { workload, begun, seen: now });
                }
            }
        }
        outside.retain(|_, doings| now.duration_since(doings.seen) < REMEMBERED);
    }

    /// Adds what the rules have counted; answers with the workload that it is of.
    fn take_in(&self, name: &WorkloadName, counts: &Counts) -> Option<Arc<LocalWorkload>> {
        let mut outside = self.0.lock();
        let doings = outside.get_mut(name)?;
        doings.begun += counts.outside_begun;
        Some(doings.workload.clone())
    }

    /// In Prometheus' text format.
    pub fn metrics(&self, text: &mut String) {
        let outside = Metric::counter(
            "tulle_outside_connections_total",
            "Connections that workloads began to destinations outside of the mesh, past the proxy.",
        );
        outside.head(text);
        for (workload, Doings { begun, .. }) in self.0.lock().iter().filter(|(_, doings)| doings.begun > 0) {
            let (namespace, name) = (escaped(&workload.namespace), escaped(&workload.name));
            outside.line(text, "", &format!("namespace=\"{namespace}\",workload=\"{name}\""), begun);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tulle_model::identity::{SpiffeId, TrustDomain};

    use super::*;

    fn state(workload: Option<&WorkloadName>) -> NodeState {
        let domain = TrustDomain::new("mesh.local").unwrap();
        let workloads = workload.into_iter().map(|name| {
            let workload = LocalWorkload {
                name: name.clone(),
                service: name.name.clone(),
                identity: SpiffeId::workload(&domain, &name.namespace, &name.name).unwrap(),
                app_address: Ipv4Addr::LOCALHOST.into(),
                ports: Vec::new(),
                certificate: None,
                draining: false,
                in_process: None,
                outside: None,
            };
            (name.clone(), Arc::new(workload))
        });
        NodeState { workloads: workloads.collect(), ..NodeState::default() }
    }

    #[test]
    fn what_was_there_for_a_moment_has_done_what_it_did() {
        let outside = Outside::default();
        let (now, name) = (Instant::now(), WorkloadName::new("shop", "cart"));
        // It comes and goes before the rules are asked.
        outside.remember(&state(Some(&name)), now);
        outside.remember(&state(None), now);
        let counts = Counts { outside_begun: 2, ..Counts::default() };
        let workload = outside.take_in(&name, &counts).unwrap();
        assert_eq!(&*workload.service, "cart");
        let metrics = || {
            let mut text = String::new();
            outside.metrics(&mut text);
            text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
        };
        let expected = "tulle_outside_connections_total{namespace=\"shop\",workload=\"cart\"} 2";
        assert_eq!(metrics(), [expected]);
        // It is remembered for a while, not for ever.
        outside.remember(&state(None), now + REMEMBERED / 2);
        assert_eq!(metrics(), [expected]);
        outside.remember(&state(None), now + REMEMBERED);
        assert!(metrics().is_empty() && outside.take_in(&name, &counts).is_none());
    }
}
