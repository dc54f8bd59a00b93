//! The edges that one worker counts, and when it forgets them.
//!
//! A worker finds an edge's counters in a table of its own; readers find the same counters in the registry. What
//! has not been used for a while leaves the worker's table, and the registry once it has left those of all workers:
//! a sum over workers never goes backwards, it vanishes as a whole. Who comes back before that counts on.
//!
//! There is room for a number of edges. A caller with many destinations, and a destination with many callers, take
//! no more than their share of it: the one's further destinations are [`OTHER`], and the other's further sources.
//! Where all the room is taken, destinations are told apart for longer than sources.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tulle_model::name::{NamespacedName, ServiceName};
use tulle_model::snapshot::FastMap;

use super::edges::{AsEdge, EdgeKey, EdgeMetrics, OTHER};
use super::{WorkerRegistry, edges};

/// How many edges a worker tells apart.
pub(crate) const MAX_EDGES: usize = 4096;
/// How many of one source, or of one destination.
pub(crate) const SHARE: usize = MAX_EDGES / 4;
/// How many besides whose sources are not told apart.
pub(crate) const RESERVE: usize = MAX_EDGES / 4;

/// After how long an edge is forgotten that is not used; and one whose source or destination is no more.
pub(crate) const UNUSED: Duration = Duration::from_secs(15 * 60);
pub(crate) const GONE: Duration = Duration::from_secs(2 * 60);

/// One worker's edges.
pub struct Series {
    registry: Arc<WorkerRegistry>,
    known: RefCell<FastMap<EdgeKey, KnownEdge>>,
    shares: RefCell<Shares>,
}

struct KnownEdge {
    metrics: Arc<EdgeMetrics>,
    /// What it had counted when it was last looked at, and since when that is so.
    seen: Cell<u64>,
    since: Cell<Option<Instant>>,
}

/// How many of the known edges a source or destination has.
#[derive(Default)]
struct Shares {
    sources: FastMap<ServiceName, usize>,
    destinations: FastMap<ServiceName, usize>,
}

impl Series {
    pub fn new(registry: Arc<WorkerRegistry>) -> Self {
        Self { registry, known: RefCell::default(), shares: RefCell::default() }
    }

    /// The counters of that edge.
    pub fn of(&self, key: &dyn AsEdge) -> Arc<EdgeMetrics> {
        if let Some(known) = RefCell::borrow(&self.known).get(key) {
            return known.metrics.clone();
        }
        self.find(key)
    }

    #[cold]
    fn find(&self, key: &dyn AsEdge) -> Arc<EdgeMetrics> {
        let mut known = self.known.borrow_mut();
        let shares = &mut *self.shares.borrow_mut();
        let key = shares.place(&known, key.as_edge().to_key());
        if let Some(known) = known.get(&key) {
            return known.metrics.clone();
        }
        shares.add(&key);
        let metrics = self.registry.edges.lock().entry(key.clone()).or_default().clone();
        known.insert(key, KnownEdge { metrics: metrics.clone(), seen: Cell::new(0), since: Cell::new(None) });
        metrics
    }

    /// Forgets what was not used for a while. To be asked from time to time. `exists`: whether both ends of an edge
    /// still do.
    pub fn forget(&self, now: Instant, exists: impl Fn(&EdgeKey) -> bool) {
        let known = &mut *self.known.borrow_mut();
        let before = known.len();
        known.retain(|key, edge| {
            let seen = edge.metrics.activity();
            let rests = edge.seen.replace(seen) == seen;
            let since = edge.since.get().filter(|_| rests);
            // What has it in hand beside this table and the registry is going to count.
            if Arc::strong_count(&edge.metrics) > 2 {
                edge.since.set(None);
                return true;
            }
            let since = since.unwrap_or(now);
            edge.since.set(Some(since));
            let unused = now.duration_since(since);
            unused < UNUSED && (unused < GONE || exists(key))
        });
        if known.len() < before {
            known.shrink_to(known.len() * 2);
            let mut shares = Shares::default();
            known.keys().for_each(|key| shares.add(key));
            *self.shares.borrow_mut() = shares;
        }
    }
}

impl Shares {
    fn add(&mut self, key: &EdgeKey) {
        *self.sources.entry(source(key)).or_default() += 1;
        *self.destinations.entry(key.destination.clone()).or_default() += 1;
    }

    /// What a new edge is counted as.
    fn place(&self, known: &FastMap<EdgeKey, KnownEdge>, mut key: EdgeKey) -> EdgeKey {
        let has_its_share = |shares: &FastMap<ServiceName, usize>, name: &ServiceName| {
            shares.get(name).is_some_and(|count| *count >= SHARE)
        };
        if has_its_share(&self.sources, &source(&key)) {
            key.destination = ServiceName::new("", OTHER);
        } else if has_its_share(&self.destinations, &key.destination) {
            edges::set_source(&mut key, "", OTHER);
        }
        if known.len() >= MAX_EDGES && !known.contains_key(&key) {
            edges::set_source(&mut key, "", OTHER);
        }
        if known.len() >= MAX_EDGES + RESERVE && !known.contains_key(&key) {
            key.destination = ServiceName::new("", OTHER);
        }
        key
    }
}

fn source(key: &EdgeKey) -> NamespacedName {
    NamespacedName { namespace: key.source_namespace.clone(), name: key.source.clone() }
}

/// Removes what no worker knows any more from the registries of all.
pub(super) fn sweep(workers: &[Arc<WorkerRegistry>]) {
    // In the order of the workers, each of which takes but its own: while all are held, nobody takes an edge up.
    let mut all: Vec<_> = workers.iter().map(|worker| worker.edges.lock()).collect();
    let known: HashSet<EdgeKey> = all
        .iter()
        .flat_map(|edges| edges.iter())
        .filter(|(_, metrics)| Arc::strong_count(metrics) > 1)
        .map(|(key, _)| key.clone())
        .collect();
    for edges in &mut all {
        let before = edges.len();
        edges.retain(|key, _| known.contains(key));
        if edges.len() < before {
            let len = edges.len();
            edges.shrink_to(len * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Security;
    use crate::metrics::{Protocol, exposition};
    use crate::reason::Verdict;

    fn key(source: &str, destination: &str) -> EdgeKey {
        EdgeKey {
            source_namespace: "default".into(),
            source: source.into(),
            destination: ServiceName::new("default", destination),
            protocol: Protocol::Http,
            security: Security::MutualTls,
        }
    }

    fn count(series: &Series, source: &str, destination: &str) {
        series.of(&key(source, destination)).request(Some(200), Verdict::Success, Duration::from_millis(1));
    }

    /// How much was counted of the edge by all; `None`: it is not known.
    fn counted(workers: &[Arc<WorkerRegistry>], source: &str, destination: &str) -> Option<u64> {
        let all = edges::totals(workers);
        let found = all
            .into_iter()
            .find(|(known, _)| (&*known.source, &*known.destination.name) == (source, destination));
        found.map(|(_, totals)| totals.requests.iter().flatten().sum())
    }

    fn workers() -> ([Arc<WorkerRegistry>; 2], [Series; 2]) {
        let registries = [Arc::<WorkerRegistry>::default(), Arc::default()];
        let series = registries.clone().map(Series::new);
        (registries, series)
    }

    #[test]
    fn what_is_not_used_is_forgotten_by_all_at_once_and_never_goes_backwards() {
        let (registries, [one, two]) = workers();
        let start = Instant::now();
        let look = |at: Duration| [&one, &two].map(|series| series.forget(start + at, |_| true));
        (0..3).for_each(|_| count(&one, "a", "c"));
        count(&two, "a", "c");
        look(Duration::ZERO);
        // The other is used for longer.
        count(&two, "a", "c");
        look(UNUSED / 2);
        look(UNUSED);
        assert!(one.known.borrow().is_empty() && two.known.borrow().len() == 1);
        assert_eq!(counted(&registries, "a", "c"), Some(5));
        assert_eq!(counted(&registries, "a", "c"), Some(5), "the sum stays while anybody uses it");
        count(&one, "a", "c");
        assert_eq!(counted(&registries, "a", "c"), Some(6), "and goes on");
        look(UNUSED * 3 / 2);
        look(UNUSED * 5 / 2);
        assert_eq!(counted(&registries, "a", "c"), Some(6), "it is seen for the last time");
        assert_eq!(counted(&registries, "a", "c"), None);
        assert!(registries.iter().all(|registry| registry.edges.lock().is_empty()));
        count(&one, "a", "c");
        assert_eq!(counted(&registries, "a", "c"), Some(1), "it begins anew");
    }

    #[test]
    fn what_is_gone_is_forgotten_sooner_and_what_is_in_hand_never() {
        let (_, [series, _]) = workers();
        let start = Instant::now();
        for source in ["here", "gone", "busy"] {
            count(&series, source, "c");
        }
        let in_hand = series.of(&key("busy", "c"));
        let look = |at: Duration| series.forget(start + at, |key| &*key.source == "here");
        let known = || series.known.borrow().keys().map(|key| key.source.to_string()).collect::<Vec<_>>();
        look(Duration::ZERO);
        look(GONE - Duration::from_secs(1));
        assert_eq!(known().len(), 3);
        look(GONE);
        assert!(!known().contains(&"gone".to_owned()), "{:?}", known());
        look(2 * UNUSED);
        assert_eq!(known(), ["busy"]);
        drop(in_hand);
        look(3 * UNUSED);
        assert_eq!(known().len(), 1, "its time begins when it was let go of");
        look(3 * UNUSED + GONE);
        assert!(known().is_empty());
        let shares = series.shares.borrow();
        assert!(shares.sources.is_empty() && shares.destinations.is_empty());
    }

    #[test]
    fn crowds_of_sources_take_no_destination_its_name_nor_the_other_way_round() {
        let (registries, [series, _]) = workers();
        // Many callers of one service, and one caller of many.
        (0..10_000).for_each(|i| count(&series, &format!("a{i}"), "c"));
        (0..10_000).for_each(|i| count(&series, "b", &format!("d{i}")));
        assert_eq!(counted(&registries, "other", "c"), Some(10_000 - SHARE as u64));
        assert_eq!(counted(&registries, "b", "other"), Some(10_000 - SHARE as u64));
        // Crowds of both: all the room is taken, and destinations are still told apart.
        (0..10_000).for_each(|i| count(&series, &format!("e{i}"), &format!("f{}", i % 500)));
        (0..10).for_each(|_| count(&series, "a", "g"));
        assert_eq!(counted(&registries, "other", "g"), Some(10));
        (0..10_000).for_each(|i| count(&series, &format!("h{i}"), &format!("i{i}")));
        let len = series.known.borrow().len();
        assert!((MAX_EDGES + RESERVE..=MAX_EDGES + RESERVE + 12).contains(&len), "{len}");
        let all: u64 =
            edges::totals(&registries).iter().map(|(_, t)| t.requests.iter().flatten().sum::<u64>()).sum();
        assert_eq!(all, 40_010, "nothing is lost");
    }

    #[test]
    fn callers_that_come_and_go_leave_nothing_behind() {
        let (registries, [series, _]) = workers();
        let start = Instant::now();
        let budget = crate::budget::Budget::new(1 << 20, 100);
        let length = || exposition::text(&registries, &budget).len();
        let empty = length();
        let mut most = 0;
        for second in 0..1000u32 {
            (0..10).for_each(|i| count(&series, &format!("a{second}-{i}"), "c"));
            if second % 15 == 0 {
                series.forget(start + Duration::from_secs(second.into()), |_| false);
                edges::totals(&registries);
            }
            most = most.max(registries[0].edges.lock().len());
        }
        assert!(most <= SHARE + 1, "{most}");
        series.forget(start + Duration::from_secs(1000), |_| false);
        series.forget(start + Duration::from_secs(1000) + GONE, |_| false);
        edges::totals(&registries);
        assert_eq!(length(), empty);
        // As docs/metrics.md says.
        let each = size_of::<EdgeMetrics>()
            + size_of::<(EdgeKey, KnownEdge)>()
            + size_of::<(EdgeKey, Arc<EdgeMetrics>)>();
        assert!(each <= 768, "{each}");
        let held = (series.known.borrow().capacity(), registries[0].edges.lock().capacity());
        assert_eq!(held, (0, 0));
    }
}
