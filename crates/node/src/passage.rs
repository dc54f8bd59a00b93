//! Keeps the rules of host capture in step with what the node knows of destinations, and the proxy's counts with what the
//! rules have counted.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, sleep};
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

/// Connections of this node's workloads to the outside, and when each workload was last there.
#[derive(Default)]
pub(crate) struct Outside(Mutex<BTreeMap<WorkloadName, (u64, Instant)>>);

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
        tokio::join!(self.follow_always(), self.count_always());
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
        // What a workload did last is heard of after it has gone.
        let mut before = arc_swap::Guard::into_inner(self.state.load());
        loop {
            ticks.tick().await;
            let rules = self.rules.clone();
            let Ok(counts) = spawn_blocking(move || rules.take_counts()).await else { return };
            let now = arc_swap::Guard::into_inner(self.state.load());
            let mut outside = self.outside.0.lock();
            for (name, counts) in counts {
                let workload = now.workloads.get(&name).or_else(|| before.workloads.get(&name));
                if let Some(workload) = workload {
                    self.count(workload, &counts);
                }
                outside.entry(name).or_insert((0, Instant::now())).0 += counts.outside_begun;
            }
            outside.retain(|name, (_, last)| {
                if now.workloads.contains_key(name) {
                    *last = Instant::now();
                }
                last.elapsed() < REMEMBERED
            });
            drop(outside);
            self.proxy.forget_passed_by(&now);
            before = now;
        }
    }

    fn count(&self, workload: &LocalWorkload, counts: &Counts) {
        let Counts { outside_answered, outside_refused, no_service, no_endpoints, egress_denied, .. } =
            *counts;
        self.proxy.count_outside(workload, outside_answered, outside_refused);
        for (why, count) in [
            (Rejection::UnknownDestination, no_service),
            (Rejection::NoEndpoints, no_endpoints),
            (Rejection::EgressDenied, egress_denied),
        ] {
            if count > 0 {
                self.proxy.count_rejected(why, count);
                let (name, reason) = (&workload.name, why.as_str());
                tracing::debug!(reason, "connections refused to the workload {name}: {count}");
            }
        }
    }
}

impl Outside {
    /// In Prometheus' text format.
    pub fn metrics(&self, text: &mut String) {
        let name = "tulle_outside_connections_total";
        let help = "Connections that workloads began to destinations outside of the mesh, past the proxy";
        // Writing to a String cannot fail.
        let _ = write!(text, "# HELP {name} {help}.\n# TYPE {name} counter\n");
        for (workload, (count, _)) in &*self.0.lock() {
            let WorkloadName { namespace, name: workload, .. } = workload;
            let _ = writeln!(text, "{name}{{namespace=\"{namespace}\",workload=\"{workload}\"}} {count}");
        }
    }
}
