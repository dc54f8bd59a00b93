//! What is counted. Every worker counts in atomics that only it writes (a load and a store, no locked
//! instruction); a reader adds the workers up. All metric names stand in [`exposition`].

pub(crate) mod exposition;

use std::borrow::Borrow;
use std::cell::RefCell;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tulle_model::name::{ServiceName, WorkloadName};
use tulle_model::snapshot::FastMap;
use tulle_model::telemetry::{LATENCY_BUCKETS, latency_bucket};

use crate::budget::Shed;
use crate::progress::{SIDES, STALLS};
use crate::{EdgeCounts, Security};

/// How many edges a worker tells apart; what comes after is counted as [`OTHER`].
const MAX_EDGES: usize = 4096;
/// The destination, without a namespace, that stands for all that found no room.
pub const OTHER: &str = "other";
/// The destination, without a namespace, that stands for all that is no part of the mesh.
pub const EXTERNAL: &str = "external";

/// A number that one thread counts and any thread reads.
#[derive(Default, Debug)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub fn subtract(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).saturating_sub(n), Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

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

    fn to_key(self) -> EdgeKey {
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
    /// By class of the status, as successes and failures.
    requests: [[Count; 2]; CODE_CLASSES.len()],
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
    /// `status`: the HTTP status that the caller got, if there is one.
    pub fn request(&self, status: Option<u16>, success: bool, duration: Duration) {
        let class = status.map_or(0, |s| usize::from(s / 100).min(CODE_CLASSES.len() - 1));
        self.requests[class][usize::from(!success)].add(1);
        self.latency[latency_bucket(duration.as_secs_f64())].add(1);
        self.latency_nanoseconds.add(duration.as_nanos() as u64);
    }

    /// Bytes of bodies or connections towards the destination.
    pub fn sent(&self, bytes: u64) {
        self.bytes_sent.add(bytes);
    }

    /// Bytes of bodies or connections from the destination.
    pub fn received(&self, bytes: u64) {
        self.bytes_received.add(bytes);
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

/// How a TLS handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Handshake {
    Ok,
    NoCertificate,
    ForeignTrustDomain,
    UnknownIssuer,
    InvalidCertificate,
    WrongIdentity,
    NoSuchWorkload,
    Timeout,
    Overload,
    /// No TLS that we speak, or a connection that ended.
    Broken,
}

pub(crate) const HANDSHAKES: [(Handshake, &str); 10] = [
    (Handshake::Ok, "ok"),
    (Handshake::NoCertificate, "no-certificate"),
    (Handshake::ForeignTrustDomain, "foreign-trust-domain"),
    (Handshake::UnknownIssuer, "unknown-issuer"),
    (Handshake::InvalidCertificate, "invalid-certificate"),
    (Handshake::WrongIdentity, "wrong-identity"),
    (Handshake::NoSuchWorkload, "no-such-workload"),
    (Handshake::Timeout, "timeout"),
    (Handshake::Overload, "overload"),
    (Handshake::Broken, "broken"),
];

impl Handshake {
    pub fn as_str(self) -> &'static str {
        HANDSHAKES[self as usize].1
    }
}

/// Why a connection was closed before it was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Rejection {
    /// The process has no memory, or no descriptor, left for who opened it.
    Memory,
    Descriptors,
    /// The destination is the proxy itself.
    Loop,
    UnknownDestination,
    EgressDenied,
    NoEndpoints,
    ConnectFailed,
    /// The workload is no longer on this node.
    NoWorkload,
    /// Another user of this host used a listener of a workload.
    ForeignUser,
    /// The port speaks HTTP only, and what came does not resemble it.
    NotHttp,
    /// What came resembles HTTP and is malformed: it was answered with 400.
    MalformedHttp,
}

pub(crate) const REJECTIONS: [(Rejection, &str); 11] = [
    (Rejection::Memory, "memory"),
    (Rejection::Descriptors, "descriptors"),
    (Rejection::Loop, "loop"),
    (Rejection::UnknownDestination, "unknown-service"),
    (Rejection::EgressDenied, "egress-denied"),
    (Rejection::NoEndpoints, "no-endpoints"),
    (Rejection::ConnectFailed, "connect-failed"),
    (Rejection::NoWorkload, "no-workload"),
    (Rejection::ForeignUser, "foreign-user"),
    (Rejection::NotHttp, "not-http"),
    (Rejection::MalformedHttp, "malformed-http"),
];

impl Rejection {
    pub fn as_str(self) -> &'static str {
        REJECTIONS[self as usize].1
    }
}

impl From<Shed> for Rejection {
    fn from(shed: Shed) -> Self {
        match shed {
            Shed::Memory => Self::Memory,
            Shed::Descriptors | Shed::Applications => Self::Descriptors,
        }
    }
}

/// What became of who waited for a stream of HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum StreamWait {
    /// It got one.
    Served,
    /// The peer sent it back, as it takes no more at a time, and it waits again.
    Refused,
    /// It has waited as long as one may.
    Timeout,
    /// As many as may waited already.
    Overflow,
}

pub(crate) const STREAM_WAITS: [(StreamWait, &str); 4] = [
    (StreamWait::Served, "served"),
    (StreamWait::Refused, "refused"),
    (StreamWait::Timeout, "timeout"),
    (StreamWait::Overflow, "overflow"),
];

/// The counters of one worker that belong to no edge.
#[derive(Default)]
pub struct WorkerCounts {
    /// As the one who dials, and as the one who answers; by [`Handshake`].
    pub client_handshakes: [Count; HANDSHAKES.len()],
    pub server_handshakes: [Count; HANDSHAKES.len()],
    /// Links open towards other nodes, and from them.
    pub client_links: Count,
    pub server_links: Count,
    /// Links that were closed because the peer flooded them or broke the protocol.
    pub abused_links: Count,
    /// Requests that were refused at the first door: malformed ones, and those with too large heads or trailers.
    pub malformed_requests: Count,
    pub oversized_requests: Count,
    /// What peers did wrong on links that were opened here, and there, and that was put up with.
    pub client_link_faults: Count,
    pub server_link_faults: Count,
    /// HTTP/2 connections of workloads that were closed because the client flooded them or broke the protocol.
    pub abusive_clients: Count,
    /// Requests and tunnels that were started on them.
    pub client_streams: Count,
    pub server_streams: Count,
    pub rejections: [Count; REJECTIONS.len()],
    pub downstream_connections: Count,
    /// Requests and tunnels that wait for a stream of HTTP/2; and what became of those who did.
    pub streams_waiting: Count,
    pub stream_waits: [Count; STREAM_WAITS.len()],
    /// What was cut because it made no progress, by who was to go on with it and by what.
    pub stalls: [[Count; STALLS.len()]; SIDES.len()],
}

impl WorkerCounts {
    pub fn rejected(&self, why: Rejection) {
        self.rejections[why as usize].add(1);
    }
}

/// One worker's counters as a reader sees them.
#[derive(Default)]
pub struct WorkerRegistry {
    pub(crate) counts: WorkerCounts,
    pub(crate) edges: Mutex<Vec<(EdgeKey, Arc<EdgeMetrics>)>>,
    in_flight: Mutex<FastMap<WorkloadName, Arc<Count>>>,
}

impl WorkerRegistry {
    pub(crate) fn in_flight(&self, workload: &WorkloadName) -> u64 {
        self.in_flight.lock().get(workload).map_or(0, |count| count.get())
    }

    pub(crate) fn in_flight_by_workload(&self) -> Vec<(WorkloadName, u64)> {
        self.in_flight.lock().iter().map(|(name, count)| (name.clone(), count.get())).collect()
    }
}

/// One worker's counters as the worker sees them: the lock of the registry is taken only when a new
/// edge or workload appears.
pub struct WorkerMetrics {
    registry: Arc<WorkerRegistry>,
    edges: RefCell<FastMap<EdgeKey, Arc<EdgeMetrics>>>,
    in_flight: RefCell<FastMap<WorkloadName, Arc<Count>>>,
}

/// Something in flight to a process of this node, until it is dropped.
pub struct InFlight(Arc<Count>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.subtract(1);
    }
}

impl WorkerMetrics {
    pub fn new(registry: Arc<WorkerRegistry>) -> Self {
        Self { registry, edges: RefCell::default(), in_flight: RefCell::default() }
    }

    pub(crate) fn registry(&self) -> &Arc<WorkerRegistry> {
        &self.registry
    }

    pub fn counts(&self) -> &WorkerCounts {
        &self.registry.counts
    }

    /// The counters of that edge.
    pub fn edge(&self, key: &dyn AsEdge) -> Arc<EdgeMetrics> {
        if let Some(edge) = RefCell::borrow(&self.edges).get(key) {
            return edge.clone();
        }
        let mut edges = self.edges.borrow_mut();
        let mut key = key.as_edge().to_key();
        if edges.len() >= MAX_EDGES {
            key.destination = ServiceName::new("", OTHER);
        }
        edges
            .entry(key.clone())
            .or_insert_with(|| {
                let edge = Arc::<EdgeMetrics>::default();
                self.registry.edges.lock().push((key, edge.clone()));
                edge
            })
            .clone()
    }

    pub fn in_flight(&self, workload: &WorkloadName) -> InFlight {
        let mut known = self.in_flight.borrow_mut();
        let count = match known.get(workload) {
            Some(count) => count.clone(),
            None => {
                let mut shared = self.registry.in_flight.lock();
                // Names of workloads that are gone are forgotten here, not when they go.
                if known.len() >= MAX_EDGES {
                    known.retain(|_, count| Arc::strong_count(count) > 2 || count.get() > 0);
                    shared.retain(|name, _| known.contains_key(name));
                }
                let count = shared.entry(workload.clone()).or_default().clone();
                known.insert(workload.clone(), count.clone());
                count
            }
        };
        count.add(1);
        InFlight(count)
    }
}

/// Adds up one edge over all workers.
#[derive(Default)]
pub(crate) struct EdgeTotals {
    pub requests: [[u64; 2]; CODE_CLASSES.len()],
    pub latency: [u64; LATENCY_BUCKETS],
    pub latency_seconds: f64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub opened: u64,
    pub closed: u64,
    pub retries: u64,
}

impl EdgeTotals {
    fn add(&mut self, edge: &EdgeMetrics) {
        for (total, counts) in self.requests.iter_mut().zip(&edge.requests) {
            total[0] += counts[0].get();
            total[1] += counts[1].get();
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

    /// Requests by class of their status and whether they succeeded, without those of which there were none.
    pub fn by_result(&self) -> impl Iterator<Item = (&'static str, bool, u64)> {
        CODE_CLASSES.iter().zip(&self.requests).flat_map(|(&class, &[ok, failed])| {
            [(class, true, ok), (class, false, failed)].into_iter().filter(|(_, _, count)| *count > 0)
        })
    }
}

/// The edges of all workers.
pub(crate) fn totals(workers: &[Arc<WorkerRegistry>]) -> Vec<(EdgeKey, EdgeTotals)> {
    let mut totals: FastMap<EdgeKey, EdgeTotals> = FastMap::default();
    for worker in workers {
        for (key, edge) in worker.edges.lock().iter() {
            totals.entry(key.clone()).or_default().add(edge);
        }
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
            failures: totals.requests.iter().map(|counts| counts[1]).sum(),
            latency_buckets: totals.latency,
            bytes_sent: totals.bytes_sent,
            bytes_received: totals.bytes_received,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
