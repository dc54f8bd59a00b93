//! Edges: who calls whom, and what became of it.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tulle_model::name::ServiceName;
use tulle_model::snapshot::FastMap;
use tulle_model::telemetry::{LATENCY_BUCKETS, latency_bucket};

use super::{Count, WorkerRegistry, series};
use crate::reason::{VERDICTS, Verdict};
use crate::security::Security;

/// The destination, without a namespace, that stands for all that found no room.
pub const OTHER: &str = "other";
/// The source or destination, without a namespace, that stands for all that is no part of the mesh.
pub const EXTERNAL: &str = "external";
/// The destination, without a namespace, of what does not say, or not in a way that is understood, where it goes.
pub const UNKNOWN: &str = "unknown";

/// What an edge's traffic speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Http,
    Grpc,
    Tcp,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

/// One edge of the graph of who calls whom, as the caller's side sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeKey {
    pub source_namespace: Arc<str>,
    /// [`crate::state::LocalWorkload::service`] of the caller.
    pub source: Arc<str>,
    pub destination: ServiceName,
    pub protocol: Protocol,
    pub security: Security,
}

impl EdgeKey {
    pub fn new(
        source: &crate::state::LocalWorkload,
        destination: &ServiceName,
        protocol: Protocol,
        security: Security,
    ) -> Self {
        Self {
            source_namespace: source.name.namespace.clone(),
            source: source.service.clone(),
            destination: destination.clone(),
            protocol,
            security,
        }
    }
}

/// Gives an edge another source.
pub(super) fn set_source(key: &mut EdgeKey, namespace: &str, name: &str) {
    (key.source_namespace, key.source) = (namespace.into(), name.into());
}

/// An [`EdgeKey`] in borrowed form. A request finds its counters by it: clones of the names would touch
/// counters that all workers share.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Edge<'a> {
    source_namespace: &'a Arc<str>,
    source: &'a Arc<str>,
    destination: &'a ServiceName,
    protocol: Protocol,
    security: Security,
}

impl<'a> Edge<'a> {
    pub fn new(
        source: &'a crate::state::LocalWorkload,
        destination: &'a ServiceName,
        protocol: Protocol,
        security: Security,
    ) -> Self {
        let source_namespace = &source.name.namespace;
        Self { source_namespace, source: &source.service, destination, protocol, security }
    }

    /// What comes to a service from outside of the mesh.
    pub fn from_outside(destination: &'a ServiceName, protocol: Protocol, security: Security) -> Self {
        static NOWHERE: LazyLock<Arc<str>> = LazyLock::new(|| "".into());
        static OUTSIDE: LazyLock<Arc<str>> = LazyLock::new(|| EXTERNAL.into());
        Self { source_namespace: &NOWHERE, source: &OUTSIDE, destination, protocol, security }
    }

    pub(super) fn to_key(self) -> EdgeKey {
        EdgeKey {
            source_namespace: self.source_namespace.clone(),
            source: self.source.clone(),
            destination: self.destination.clone(),
            protocol: self.protocol,
            security: self.security,
        }
    }
}

/// What an edge's counters are found by, owned or borrowed: the two hash alike, as [`Borrow`] demands.
pub trait AsEdge {
    fn as_edge(&self) -> Edge<'_>;
}

impl AsEdge for Edge<'_> {
    fn as_edge(&self) -> Edge<'_> {
        *self
    }
}

impl AsEdge for EdgeKey {
    fn as_edge(&self) -> Edge<'_> {
        let Self { source_namespace, source, destination, protocol, security } = self;
        Edge { source_namespace, source, destination, protocol: *protocol, security: *security }
    }
}

impl<'a> Borrow<dyn AsEdge + 'a> for EdgeKey {
    fn borrow(&self) -> &(dyn AsEdge + 'a) {
        self
    }
}

impl Hash for EdgeKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_edge().hash(state);
    }
}

impl Hash for dyn AsEdge + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_edge().hash(state);
    }
}

impl PartialEq for dyn AsEdge + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.as_edge() == other.as_edge()
    }
}

impl Eq for dyn AsEdge + '_ {}

/// The first digit of an HTTP status; `None` for what has no status.
const CODE_CLASSES: [&str; 6] = ["", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The counters of one edge on one worker.
#[derive(Default, Debug)]
pub struct EdgeMetrics {
    /// By class of the status, and by [`Verdict`].
    requests: [[Count; VERDICTS.len()]; CODE_CLASSES.len()],
    latency: [Count; LATENCY_BUCKETS],
    latency_nanoseconds: Count,
    bytes_sent: Count,
    bytes_received: Count,
    connections_opened: Count,
    connections_closed: Count,
    retries: Count,
}

impl EdgeMetrics {
    /// Counts one finished request, or one opaque connection at the moment it was connected.
    /// `status`: the HTTP status that the caller got, if there is one. What was refused took no time of the
    /// destination's, and of what was given up nobody knows how long it would have.
    pub fn request(&self, status: Option<u16>, verdict: Verdict, duration: Duration) {
        let class = status.map_or(0, |s| usize::from(s / 100).min(CODE_CLASSES.len() - 1));
        self.requests[class][verdict as usize].add(1);
        if matches!(verdict, Verdict::Refused | Verdict::Abandoned) {
            return;
        }
        self.latency[latency_bucket(duration.as_secs_f64())].add(1);
        self.latency_nanoseconds.add(duration.as_nanos() as u64);
    }

    /// Counts connections of which nobody knows how long they took.
    pub fn connections(&self, verdict: Verdict, count: u64) {
        self.requests[0][verdict as usize].add(count);
    }

    /// Bytes of bodies or connections towards the destination.
    pub fn sent(&self, bytes: u64) {
        self.bytes_sent.add(bytes);
    }

    /// Bytes of bodies or connections from the destination.
    pub fn received(&self, bytes: u64) {
        self.bytes_received.add(bytes);
    }

    /// A number that changes with all that is counted.
    pub(super) fn activity(&self) -> u64 {
        let all = [&self.bytes_sent, &self.bytes_received, &self.retries];
        let connections = [&self.connections_opened, &self.connections_closed];
        let counts = self.requests.iter().flatten().chain(all).chain(connections);
        counts.fold(0, |sum, count| sum.wrapping_add(count.get()))
    }

    pub fn retry(&self) {
        self.retries.add(1);
    }

    pub fn opened(&self) {
        self.connections_opened.add(1);
    }

    pub fn closed(&self) {
        self.connections_closed.add(1);
    }
}

/// Adds up one edge over all workers.
#[derive(Default)]
pub(crate) struct EdgeTotals {
    pub requests: [[u64; VERDICTS.len()]; CODE_CLASSES.len()],
    pub latency: [u64; LATENCY_BUCKETS],
    pub latency_seconds: f64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub opened: u64,
    pub closed: u64,
    pub retries: u64,
    /// A worker knows it.
    known: bool,
}

impl EdgeTotals {
    fn add(&mut self, edge: &Arc<EdgeMetrics>) {
        self.known |= Arc::strong_count(edge) > 1;
        for (total, counts) in self.requests.iter_mut().zip(&edge.requests) {
            for (total, count) in total.iter_mut().zip(counts) {
                *total += count.get();
            }
        }
        for (total, count) in self.latency.iter_mut().zip(&edge.latency) {
            *total += count.get();
        }
        self.latency_seconds += edge.latency_nanoseconds.get() as f64 / 1e9;
        self.bytes_sent += edge.bytes_sent.get();
        self.bytes_received += edge.bytes_received.get();
        // Closed first: it never runs ahead of what was opened.
        self.closed += edge.connections_closed.get();
        self.opened += edge.connections_opened.get();
        self.retries += edge.retries.get();
    }

    /// Requests by class of their status and what became of them, without those of which there were none.
    pub fn by_result(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        CODE_CLASSES.iter().zip(&self.requests).flat_map(|(&class, counts)| {
            let results =
                VERDICTS.iter().map(move |&(verdict, name)| (class, name, counts[verdict as usize]));
            results.filter(|(_, _, count)| *count > 0)
        })
    }

    fn of(&self, verdict: Verdict) -> u64 {
        self.requests.iter().map(|counts| counts[verdict as usize]).sum()
    }
}

/// The edges of all workers. Those that none of them knows any more are seen for the last time.
pub(crate) fn totals(workers: &[Arc<WorkerRegistry>]) -> Vec<(EdgeKey, EdgeTotals)> {
    let mut totals: FastMap<EdgeKey, EdgeTotals> = FastMap::default();
    for worker in workers {
        for (key, edge) in worker.edges.lock().iter() {
            totals.entry(key.clone()).or_default().add(edge);
        }
    }
    if totals.values().any(|totals| !totals.known) {
        series::sweep(workers);
    }
    let mut totals: Vec<_> = totals.into_iter().collect();
    totals.sort_by(|(a, _), (b, _)| {
        let order = |k: &EdgeKey| {
            (k.source_namespace.clone(), k.source.clone(), k.destination.clone(), k.protocol, k.security)
        };
        order(a).cmp(&order(b))
    });
    totals
}

/// What the calling side counted of one edge.
#[derive(Debug, Clone)]
pub struct EdgeCounts {
    pub source_namespace: Arc<str>,
    pub source: Arc<str>,
    pub destination: ServiceName,
    pub security: Security,
    /// `http`, `grpc` or `tcp`.
    pub protocol: &'static str,
    pub requests: u64,
    /// Of these, those for which the destination, or the way to it, is to blame.
    pub failures: u64,
    /// Of these, those that the mesh did not serve for what the caller sent, asked for or had used up, and those that
    /// the caller gave up before they were answered.
    pub refused: u64,
    pub latency_buckets: [u64; tulle_model::telemetry::LATENCY_BUCKETS],
    pub bytes_sent: u64,
    pub bytes_received: u64,
}

/// The edges of all workers, as [`crate::Proxy::edges`] gives them.
pub(crate) fn edge_counts(workers: &[Arc<WorkerRegistry>]) -> Vec<EdgeCounts> {
    totals(workers)
        .into_iter()
        .map(|(key, totals)| EdgeCounts {
            source_namespace: key.source_namespace,
            source: key.source,
            destination: key.destination,
            security: key.security,
            protocol: key.protocol.as_str(),
            requests: totals.requests.iter().flatten().sum(),
            failures: totals.of(Verdict::Failure),
            refused: totals.of(Verdict::Refused) + totals.of(Verdict::Abandoned),
            latency_buckets: totals.latency,
            bytes_sent: totals.bytes_sent,
            bytes_received: totals.bytes_received,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::WorkerMetrics;

    #[test]
    fn an_edge_is_the_same_owned_and_borrowed() {
        let metrics = WorkerMetrics::new(Arc::default());
        let (source_namespace, source): (Arc<str>, Arc<str>) = ("default".into(), "web".into());
        let destination = ServiceName::new("shop", "cart");
        for protocol in [Protocol::Http, Protocol::Grpc] {
            let borrowed = Edge {
                source_namespace: &source_namespace,
                source: &source,
                destination: &destination,
                protocol,
                security: Security::MutualTls,
            };
            // Other allocations of the same names.
            let owned = EdgeKey {
                source_namespace: "default".into(),
                source: "web".into(),
                destination: ServiceName::new("shop", "cart"),
                protocol,
                security: Security::MutualTls,
            };
            assert!(Arc::ptr_eq(&metrics.edge(&borrowed), &metrics.edge(&owned)));
        }
        assert_eq!(metrics.registry.edges.lock().len(), 2);
    }
}
