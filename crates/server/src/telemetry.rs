//! The roll-up of what nodes count: who calls whom, over the last minute.
//!
//! Nodes report what they counted since their process started; the differences between two reports
//! go into slots of a second (latencies: of ten). Nothing is kept for longer than a minute, and
//! nothing on disk. At most [`EDGES`] edges are told apart; what comes beyond is counted together:
//! first sources as `other`, and only where there are too many destinations these, too. The first report of a
//! process that this server has not seen before is only a starting point: its counts may be hours old. What is in
//! no report any more is forgotten; a node that counts an edge anew begins with nothing.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;
use tulle_model::legible::legible_start;
use tulle_model::name::NamespacedName;
use tulle_model::telemetry::{LATENCY_BUCKETS, latency_quantile};
use tulle_wire::node as wire;

/// How many edges are told apart, in all and for each node.
pub const EDGES: usize = 10_000;
/// How many edges there may be besides whose sources are not told apart.
const RESERVE: usize = EDGES / 4;
/// After how many seconds without a report a node's last one is forgotten.
const BASELINE_KEPT: u64 = 600;
/// How long counts are kept, in seconds.
const KEPT: u64 = 60;
/// The window of rates, in seconds.
pub const RATE_WINDOW: u64 = 10;
/// How many seconds one latency slot covers.
const LATENCY_SLOT: u64 = 10;

/// One row of who calls whom.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeView {
    pub source: NamespacedName,
    pub destination: NamespacedName,
    pub protocol: Arc<str>,
    pub security: &'static str,
    /// Over the last [`RATE_WINDOW`] seconds.
    pub requests_per_second: f64,
    /// Over the last minute, as all that follows.
    pub requests: u64,
    /// Of these, those that the mesh did not serve for what the caller sent, asked for or had used up.
    pub refused: u64,
    /// 0 to 1, of those that were not refused; none where there was none.
    pub success_rate: Option<f64>,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Of what comes from outside of the mesh: from where it came lately.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}

/// How a destination fares, whoever calls it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DestinationView {
    pub destination: NamespacedName,
    /// As of an edge, as all that follows.
    pub requests_per_second: f64,
    pub requests: u64,
    pub refused: u64,
    pub success_rate: Option<f64>,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct EdgeKey {
    source: NamespacedName,
    destination: NamespacedName,
    protocol: Arc<str>,
    security: Security,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Security {
    MutualTls,
    SameNode,
    Plaintext,
    Tls,
    Unsent,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Counts {
    requests: u64,
    failures: u64,
    refused: u64,
    bytes_sent: u64,
    bytes_received: u64,
    buckets: Box<[u64]>,
}

impl Counts {
    fn of(edge: &wire::Edge) -> Self {
        let mut buckets = vec![0; LATENCY_BUCKETS];
        for (to, from) in buckets.iter_mut().zip(&edge.latency_buckets) {
            *to = *from;
        }
        Self {
            requests: edge.requests,
            failures: edge.failures,
            refused: edge.refused,
            bytes_sent: edge.bytes_sent,
            bytes_received: edge.bytes_received,
            buckets: buckets.into(),
        }
    }

    /// What was counted since `before`. Where there is less, it was counted anew.
    fn since(&self, before: Option<&Self>) -> Self {
        let Some(before) = before.filter(|before| before.requests <= self.requests) else {
            return self.clone();
        };
        Self {
            requests: self.requests.saturating_sub(before.requests),
            failures: self.failures.saturating_sub(before.failures),
            refused: self.refused.saturating_sub(before.refused),
            bytes_sent: self.bytes_sent.saturating_sub(before.bytes_sent),
            bytes_received: self.bytes_received.saturating_sub(before.bytes_received),
            buckets: self.buckets.iter().zip(&before.buckets).map(|(a, b)| a.saturating_sub(*b)).collect(),
        }
    }

    fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.failures = self.failures.saturating_add(other.failures);
        self.refused = self.refused.saturating_add(other.refused);
        self.bytes_sent = self.bytes_sent.saturating_add(other.bytes_sent);
        self.bytes_received = self.bytes_received.saturating_add(other.bytes_received);
        if self.buckets.is_empty() {
            self.buckets = other.buckets.clone();
        } else {
            for (to, from) in self.buckets.iter_mut().zip(&other.buckets) {
                *to = to.saturating_add(*from);
            }
        }
    }

    fn is_zero(&self) -> bool {
        self.requests == 0
            && self.failures == 0
            && self.refused == 0
            && self.bytes_sent == 0
            && self.bytes_received == 0
            && self.buckets.iter().all(|&count| count == 0)
    }
}

/// One second of an edge.
#[derive(Debug)]
struct Slot {
    second: u64,
    requests: u64,
    failures: u64,
    refused: u64,
    bytes_sent: u64,
    bytes_received: u64,
}

#[derive(Debug)]
struct LatencySlot {
    /// The number of the ten seconds.
    slot: u64,
    buckets: [u32; LATENCY_BUCKETS],
}

#[derive(Debug)]
struct Edge {
    first_second: u64,
    slots: VecDeque<Slot>,
    latencies: VecDeque<LatencySlot>,
}

/// What a node's process reported last.
#[derive(Debug, Default)]
struct Baseline {
    instance: String,
    counts: HashMap<EdgeKey, Counts>,
    /// The second of the report.
    at: u64,
}

/// Who calls whom. Time is given in seconds, from whatever start.
#[derive(Debug, Default)]
pub struct RollUp {
    edges: HashMap<EdgeKey, Edge>,
    baselines: HashMap<Arc<str>, Baseline>,
    swept: u64,
}

impl RollUp {
    /// Takes a node's report at the second `now`.
    pub fn take(&mut self, node: &Arc<str>, instance: &str, edges: &[wire::Edge], now: u64) {
        let baseline = self.baselines.entry(node.clone()).or_default();
        let known = baseline.instance == instance;
        if !known {
            *baseline = Baseline { instance: instance.to_owned(), ..Baseline::default() };
        }
        baseline.at = now;
        let mut reported: Vec<_> = edges.iter().map(|edge| (key(edge), edge)).collect();
        if reported.len() > EDGES {
            // What was told apart in the last report is so in this one.
            reported.sort_by_key(|(key, _)| !baseline.counts.contains_key(key));
        }
        let mut counts: HashMap<EdgeKey, Counts> = HashMap::with_capacity(reported.len().min(EDGES));
        for (key, edge) in reported {
            counts.entry(place(&counts, key)).or_default().add(&Counts::of(edge));
        }
        let mut changes = Vec::new();
        if known {
            for (key, count) in &counts {
                let change = count.since(baseline.counts.get(key));
                if !change.is_zero() {
                    changes.push((key.clone(), change));
                }
            }
        }
        baseline.counts = counts;
        self.sweep(now);
        for (key, change) in changes {
            self.count(key, &change, now);
        }
    }

    /// Forgets a node that is gone for good.
    pub fn forget(&mut self, node: &str) {
        self.baselines.remove(node);
    }

    /// How many edges are known.
    pub fn len(&self) -> usize {
        self.edges.len()
    }

    pub fn is_empty(&self) -> bool {
        self.edges.is_empty()
    }

    /// The edges with traffic in the minute before `now`, by name.
    pub fn view(&self, now: u64) -> Vec<EdgeView> {
        let mut keys: Vec<_> = self.edges.keys().collect();
        keys.sort();
        keys.into_iter().filter_map(|key| view(key, &self.edges[key], now)).collect()
    }

    /// The destinations with traffic in the minute before `now`, by name.
    pub fn destinations(&self, now: u64) -> Vec<DestinationView> {
        let mut sums: BTreeMap<&NamespacedName, LastMinute> = BTreeMap::new();
        for (key, edge) in self.edges.iter().filter(|(_, edge)| edge.has_traffic(now)) {
            sums.entry(&key.destination).or_default().add(edge, now);
        }
        let view = |(destination, sum): (&NamespacedName, LastMinute)| DestinationView {
            destination: destination.clone(),
            requests_per_second: sum.requests_per_second,
            requests: sum.requests,
            refused: sum.refused,
            success_rate: sum.success_rate(),
            p50_ms: sum.latency_ms(0.5),
            p99_ms: sum.latency_ms(0.99),
        };
        sums.into_iter().map(view).collect()
    }

    fn count(&mut self, key: EdgeKey, change: &Counts, now: u64) {
        let edge = self.edges.entry(place(&self.edges, key)).or_insert_with(|| Edge {
            first_second: now,
            slots: VecDeque::new(),
            latencies: VecDeque::new(),
        });
        edge.drop_old(now);
        if edge.slots.back().is_none_or(|slot| slot.second != now) {
            edge.slots.push_back(Slot {
                second: now,
                requests: 0,
                failures: 0,
                refused: 0,
                bytes_sent: 0,
                bytes_received: 0,
            });
        }
        if let Some(slot) = edge.slots.back_mut() {
            slot.requests += change.requests;
            slot.failures += change.failures;
            slot.refused += change.refused;
            slot.bytes_sent += change.bytes_sent;
            slot.bytes_received += change.bytes_received;
        }
        let ten = now / LATENCY_SLOT;
        if edge.latencies.back().is_none_or(|slot| slot.slot != ten) {
            edge.latencies.push_back(LatencySlot { slot: ten, buckets: [0; LATENCY_BUCKETS] });
        }
        if let Some(slot) = edge.latencies.back_mut() {
            for (to, from) in slot.buckets.iter_mut().zip(&change.buckets) {
                *to = to.saturating_add((*from).try_into().unwrap_or(u32::MAX));
            }
        }
    }

    /// Once a second, forgets edges without traffic in the last minute, and nodes that are silent for long.
    fn sweep(&mut self, now: u64) {
        if self.swept != now {
            self.swept = now;
            let before = self.edges.len();
            self.edges.retain(|_, edge| edge.slots.back().is_some_and(|slot| slot.second + KEPT > now));
            if self.edges.len() < before {
                self.edges.shrink_to(2 * self.edges.len());
            }
            self.baselines.retain(|_, baseline| baseline.at + BASELINE_KEPT > now);
        }
    }
}

impl Edge {
    /// The seconds of the last `window` before `now`.
    fn recent(&self, window: u64, now: u64) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(move |slot| slot.second + window > now)
    }

    fn has_traffic(&self, now: u64) -> bool {
        self.recent(KEPT, now).next().is_some()
    }

    fn drop_old(&mut self, now: u64) {
        while self.slots.front().is_some_and(|slot| slot.second + KEPT <= now) {
            self.slots.pop_front();
        }
        while self.latencies.front().is_some_and(|slot| (slot.slot + 1) * LATENCY_SLOT + KEPT <= now) {
            self.latencies.pop_front();
        }
    }
}

/// What edges counted in the minute before a moment.
#[derive(Debug)]
struct LastMinute {
    requests_per_second: f64,
    requests: u64,
    failures: u64,
    refused: u64,
    bytes_sent: u64,
    bytes_received: u64,
    buckets: [u64; LATENCY_BUCKETS],
}

impl Default for LastMinute {
    fn default() -> Self {
        Self {
            requests_per_second: 0.0,
            requests: 0,
            failures: 0,
            refused: 0,
            bytes_sent: 0,
            bytes_received: 0,
            buckets: [0; LATENCY_BUCKETS],
        }
    }
}

impl LastMinute {
    fn add(&mut self, edge: &Edge, now: u64) {
        for slot in edge.recent(KEPT, now) {
            self.requests += slot.requests;
            self.failures += slot.failures;
            self.refused += slot.refused;
            self.bytes_sent += slot.bytes_sent;
            self.bytes_received += slot.bytes_received;
        }
        // An edge that is younger than the window would seem slower than it is.
        let window = RATE_WINDOW.min(now.saturating_sub(edge.first_second) + 1);
        let latest: u64 = edge.recent(RATE_WINDOW, now).map(|slot| slot.requests).sum();
        self.requests_per_second += latest as f64 / window as f64;
        for slot in edge.latencies.iter().filter(|slot| (slot.slot + 1) * LATENCY_SLOT + KEPT > now) {
            for (to, from) in self.buckets.iter_mut().zip(&slot.buckets) {
                *to += u64::from(*from);
            }
        }
    }

    fn success_rate(&self) -> Option<f64> {
        let served = self.requests.saturating_sub(self.refused);
        (served > 0).then(|| served.saturating_sub(self.failures) as f64 / served as f64)
    }

    fn latency_ms(&self, quantile: f64) -> Option<f64> {
        latency_quantile(&self.buckets, quantile).map(|seconds| seconds * 1000.0)
    }
}

fn view(key: &EdgeKey, edge: &Edge, now: u64) -> Option<EdgeView> {
    if !edge.has_traffic(now) {
        return None;
    }
    let mut sum = LastMinute::default();
    sum.add(edge, now);
    Some(EdgeView {
        source: key.source.clone(),
        destination: key.destination.clone(),
        protocol: key.protocol.clone(),
        security: match key.security {
            Security::MutualTls => "mTLS",
            Security::SameNode => "same-node",
            Security::Plaintext => "plaintext",
            Security::Tls => "TLS",
            Security::Unsent => "-",
        },
        requests_per_second: sum.requests_per_second,
        requests: sum.requests,
        refused: sum.refused,
        success_rate: sum.success_rate(),
        p50_ms: sum.latency_ms(0.5),
        p99_ms: sum.latency_ms(0.99),
        bytes_sent: sum.bytes_sent,
        bytes_received: sum.bytes_received,
        addresses: Vec::new(),
    })
}

fn key(edge: &wire::Edge) -> EdgeKey {
    let name = |namespace, name| NamespacedName::new(legible_start(namespace, 253), legible_start(name, 253));
    EdgeKey {
        source: name(&edge.source_namespace, &edge.source),
        destination: name(&edge.destination_namespace, &edge.destination),
        protocol: legible_start(&edge.protocol, 32).into(),
        security: match edge.security() {
            wire::Security::MutualTls => Security::MutualTls,
            wire::Security::SameNode => Security::SameNode,
            wire::Security::Plaintext => Security::Plaintext,
            wire::Security::Tls => Security::Tls,
            wire::Security::Unsent => Security::Unsent,
        },
    }
}

/// What an edge is counted as, beside those that are known.
fn place<T>(known: &HashMap<EdgeKey, T>, mut key: EdgeKey) -> EdgeKey {
    let other = || NamespacedName::new("", "other");
    let has_room = |room: usize, key: &EdgeKey| known.len() < room || known.contains_key(key);
    if !has_room(EDGES, &key) {
        key.source = other();
    }
    if !has_room(EDGES + RESERVE, &key) {
        (key.destination, key.protocol) = (other(), "other".into());
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use tulle_model::telemetry::latency_bucket;

    fn edge(source: &str, requests: u64, failures: u64) -> wire::Edge {
        let mut buckets = vec![0; LATENCY_BUCKETS];
        buckets[latency_bucket(0.0012)] = requests;
        wire::Edge {
            source_namespace: "shop".to_owned(),
            source: source.to_owned(),
            destination_namespace: "shop".to_owned(),
            destination: "cart".to_owned(),
            security: wire::Security::SameNode.into(),
            protocol: "http".to_owned(),
            requests,
            failures,
            latency_buckets: buckets,
            bytes_sent: requests * 10,
            bytes_received: requests * 100,
            refused: 0,
        }
    }

    #[test]
    fn differences_are_rolled_up_over_a_minute() {
        let mut roll_up = RollUp::default();
        let node: Arc<str> = "n1".into();
        roll_up.take(&node, "x", &[edge("web", 1000, 500)], 100);
        assert!(roll_up.view(100).is_empty(), "old counts are no traffic of now");
        roll_up.take(&node, "x", &[edge("web", 1050, 500)], 101);
        roll_up.take(&node, "x", &[edge("web", 1100, 510)], 102);
        let view = &roll_up.view(102)[0];
        assert_eq!((view.requests, view.success_rate), (100, Some(0.9)));
        assert_eq!(view.requests_per_second, 50.0, "over the two seconds that it has existed");
        assert_eq!((view.bytes_sent, view.bytes_received), (1000, 10_000));
        assert!((1.0..=1.5).contains(&view.p50_ms.unwrap()), "{view:?}");
        assert_eq!(view.security, "same-node");
        assert_eq!(roll_up.view(111)[0].requests_per_second, 5.0);
        assert_eq!(roll_up.view(112)[0].requests_per_second, 0.0);
        assert_eq!(roll_up.view(161)[0].requests, 50);
        assert!(roll_up.view(162).is_empty());
    }

    #[test]
    fn a_destination_is_all_that_calls_it() {
        let mut roll_up = RollUp::default();
        let node: Arc<str> = "n1".into();
        let slow = |requests| {
            let mut buckets = vec![0; LATENCY_BUCKETS];
            buckets[latency_bucket(1.0)] = requests;
            wire::Edge { latency_buckets: buckets, ..edge("slow", requests, 0) }
        };
        roll_up.take(&node, "x", &[], 1);
        roll_up.take(&node, "x", &[edge("web", 80, 8), wire::Edge { refused: 4, ..slow(24) }], 2);
        let views = roll_up.destinations(2);
        let [view] = &*views else { panic!("{views:?}") };
        assert_eq!((&*view.destination.to_string(), view.requests, view.refused), ("shop/cart", 104, 4));
        assert_eq!((view.requests_per_second, view.success_rate), (104.0, Some(0.92)));
        let (half, most) = (view.p50_ms.unwrap(), view.p99_ms.unwrap());
        assert!((1.0..=1.5).contains(&half) && most > 900.0, "of all requests: {half} {most}");
        assert!(roll_up.destinations(62).is_empty());
    }

    #[test]
    fn what_was_refused_is_no_success_and_not_held_against_the_destination() {
        let mut roll_up = RollUp::default();
        let node: Arc<str> = "n1".into();
        let unsent = wire::Security::Unsent.into();
        roll_up.take(&node, "x", &[], 1);
        let mixed = wire::Edge { refused: 40, ..edge("mixed", 100, 6) };
        let never = wire::Edge { refused: 5, security: unsent, ..edge("never", 5, 0) };
        roll_up.take(&node, "x", &[mixed, never], 2);
        let rows: Vec<_> = roll_up
            .view(2)
            .into_iter()
            .map(|e| (e.security, e.requests, e.refused, e.success_rate))
            .collect();
        assert_eq!(rows, [("same-node", 100, 40, Some(0.9)), ("-", 5, 5, None)]);
    }

    #[test]
    fn a_new_process_starts_from_its_first_report_and_new_edges_from_zero() {
        let mut roll_up = RollUp::default();
        let node: Arc<str> = "n1".into();
        roll_up.take(&node, "x", &[], 1);
        roll_up.take(&node, "x", &[edge("web", 10, 0)], 2);
        assert_eq!(roll_up.view(2)[0].requests, 10);
        roll_up.take(&node, "y", &[edge("web", 3, 0)], 3);
        roll_up.take(&node, "y", &[edge("web", 5, 0)], 4);
        assert_eq!(roll_up.view(4)[0].requests, 12);
    }

    #[test]
    fn what_a_node_forgets_is_forgotten_and_counted_from_nothing_when_it_comes_back() {
        let mut roll_up = RollUp::default();
        let node: Arc<str> = "n1".into();
        roll_up.take(&node, "x", &[], 1);
        roll_up.take(&node, "x", &[edge("web", 10, 0)], 2);
        roll_up.take(&node, "x", &[], 3);
        assert!(roll_up.baselines[&node].counts.is_empty());
        roll_up.take(&node, "x", &[edge("web", 12, 0)], 4);
        assert_eq!(roll_up.view(4)[0].requests, 22);
        // Forgotten and counted anew between two reports.
        roll_up.take(&node, "x", &[edge("web", 5, 0)], 5);
        assert_eq!(roll_up.view(5)[0].requests, 27);
        roll_up.take(&"n2".into(), "y", &[], 5 + BASELINE_KEPT);
        assert_eq!(roll_up.baselines.len(), 1, "a node that is silent for long");
    }

    #[test]
    fn callers_that_come_and_go_leave_nothing_behind() {
        let mut roll_up = RollUp::default();
        let node: Arc<str> = "n1".into();
        roll_up.take(&node, "x", &[], 0);
        for second in 1..=100 {
            let callers: Vec<_> = (0..100).map(|i| edge(&format!("a{second}-{i}"), 1, 0)).collect();
            roll_up.take(&node, "x", &callers, second);
        }
        assert_eq!(roll_up.len(), 100 * KEPT as usize);
        roll_up.take(&node, "x", &[], 100 + KEPT);
        assert_eq!(
            (roll_up.len(), roll_up.edges.capacity(), roll_up.baselines[&node].counts.capacity()),
            (0, 0, 0)
        );
    }

    #[test]
    fn too_many_edges_are_counted_together() {
        let mut roll_up = RollUp::default();
        let node: Arc<str> = "n1".into();
        roll_up.take(&node, "x", &[], 1);
        let many: Vec<_> = (0..EDGES + 50).map(|i| edge(&format!("w{i}"), 1, 0)).collect();
        roll_up.take(&node, "x", &many, 2);
        // However many protocols a node makes up.
        let protocols: Vec<_> =
            (0..EDGES).map(|i| wire::Edge { protocol: format!("p{i}"), ..edge("web", 1, 0) }).collect();
        roll_up.take(&"n2".into(), "x", &[], 1);
        roll_up.take(&"n2".into(), "x", &protocols, 2);
        assert!((EDGES..=EDGES + RESERVE + 1).contains(&roll_up.len()));
        let view = roll_up.view(2);
        assert_eq!(view.iter().map(|e| e.requests).sum::<u64>(), 2 * EDGES as u64 + 50);
        assert!(view.iter().any(|e| &*e.source.name == "other" && &*e.destination.name == "cart"));
        assert!(view.iter().any(|e| &*e.source.name == "other" && &*e.destination.name == "other"));
        assert!(roll_up.view(62).is_empty());
        roll_up.take(&node, "x", &[], 62);
        assert!(roll_up.is_empty());
    }
}
