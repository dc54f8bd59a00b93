//! What is counted. Every worker counts in atomics that only it writes (a load and a store, no locked
//! instruction); a reader adds the workers up. All metric names stand in [`exposition`].

mod authorizations;
mod destination;
mod edges;
pub(crate) mod exposition;
mod series;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::time::Instant;
use tulle_model::name::WorkloadName;
use tulle_model::snapshot::{FastMap, Known};
use tulle_model::summary::Summary;

use self::authorizations::Authorizations;
pub use self::destination::DestinationName;
pub use self::edges::{AsEdge, EXTERNAL, Edge, EdgeCounts, EdgeKey, EdgeMetrics, OTHER, Protocol, UNKNOWN};
pub(crate) use self::edges::{EdgeTotals, edge_counts, totals};
use self::series::Series;
use crate::budget::Shed;
use crate::http2;
use crate::progress::{SIDES, STALLS};
use crate::reason::DENIED;
use crate::reason::{REASONS, Reason};
use crate::state::NodeState;

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

/// How a TLS handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum HandshakeResult {
    Ok,
    NoCertificate,
    ForeignTrustDomain,
    UnknownIssuer,
    InvalidCertificate,
    /// Of a node that was revoked.
    Revoked,
    WrongIdentity,
    NoSuchWorkload,
    Timeout,
    Overload,
    /// No TLS that we speak, or a connection that ended.
    Broken,
}

pub(crate) const HANDSHAKES: [(HandshakeResult, &str); 11] = [
    (HandshakeResult::Ok, "ok"),
    (HandshakeResult::NoCertificate, "no-certificate"),
    (HandshakeResult::ForeignTrustDomain, "foreign-trust-domain"),
    (HandshakeResult::UnknownIssuer, "unknown-issuer"),
    (HandshakeResult::InvalidCertificate, "invalid-certificate"),
    (HandshakeResult::Revoked, "revoked"),
    (HandshakeResult::WrongIdentity, "wrong-identity"),
    (HandshakeResult::NoSuchWorkload, "no-such-workload"),
    (HandshakeResult::Timeout, "timeout"),
    (HandshakeResult::Overload, "overload"),
    (HandshakeResult::Broken, "broken"),
];

impl HandshakeResult {
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
    /// The port goes by the servers that clients of TLS name (SNI), and none of its TLSRoutes is for this one's.
    NoRoute,
    /// The same, and what came does not begin like TLS, or not in time.
    NotTls,
    /// A policy does not let its client in.
    Denied,
}

pub(crate) const REJECTIONS: [(Rejection, &str); 14] = [
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
    (Rejection::NoRoute, "no-route"),
    (Rejection::NotTls, "not-tls"),
    (Rejection::Denied, DENIED),
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
    /// As the one who dials, and as the one who answers; by [`HandshakeResult`].
    pub client_handshakes: [Count; HANDSHAKES.len()],
    pub server_handshakes: [Count; HANDSHAKES.len()],
    /// Links open towards other nodes, and from them.
    pub client_links: Count,
    pub server_links: Count,
    /// Links that were closed because the peer flooded them or broke the protocol, by the error that it was told.
    pub abused_links: [Count; ERRORS],
    /// Requests that the mesh answered itself, in place of an application; by [`Reason::index`].
    pub refusals: [Count; REASONS.len()],
    /// What peers did wrong on links that were opened here, and there, and that was put up with.
    pub client_link_faults: Count,
    pub server_link_faults: Count,
    /// HTTP/2 connections of workloads that were closed because the client flooded them or broke the protocol, by
    /// the error that it was told.
    pub abusive_clients: [Count; ERRORS],
    /// Requests and tunnels that were started on them.
    pub client_streams: Count,
    pub server_streams: Count,
    pub rejections: [Count; REJECTIONS.len()],
    /// Lines of the access log that were not written, as too many waited.
    pub access_log_dropped: Count,
    pub downstream_connections: Count,
    /// Requests and tunnels that wait for a stream of HTTP/2; and what became of those who did.
    pub streams_waiting: Count,
    pub stream_waits: [Count; STREAM_WAITS.len()],
    /// What was cut because it made no progress, by who was to go on with it and by what.
    pub stalls: [[Count; STALLS.len()]; SIDES.len()],
}

/// How many errors HTTP/2 has, and one place for all others.
const ERRORS: usize = http2::ERROR_CODE_NAMES.len() + 1;

impl WorkerCounts {
    pub fn rejected(&self, why: Rejection) {
        self.rejections[why as usize].add(1);
    }

    pub(crate) fn refused(&self, why: Reason) {
        self.refusals[why.index()].add(1);
    }

    pub fn abused_link(&self, error: http2::ErrorCode) {
        self.abused_links[(error.0 as usize).min(ERRORS - 1)].add(1);
    }

    pub fn abusive_client(&self, error: http2::ErrorCode) {
        self.abusive_clients[(error.0 as usize).min(ERRORS - 1)].add(1);
    }
}

/// One worker's counters as a reader sees them.
#[derive(Default)]
pub struct WorkerRegistry {
    pub(crate) counts: WorkerCounts,
    pub(crate) edges: Mutex<FastMap<EdgeKey, Arc<EdgeMetrics>>>,
    in_flight: Mutex<FastMap<WorkloadName, Arc<Count>>>,
    authorizations: Authorizations,
    /// What was asked of workloads, until it is taken.
    pub(crate) summaries: Mutex<Vec<Summary>>,
    /// What the worker knew when it ended; else all that it counted would be forgotten with it.
    kept: Mutex<Vec<Arc<EdgeMetrics>>>,
}

impl WorkerRegistry {
    /// Keeps what is counted. To be called when the worker ends.
    pub(crate) fn keep(&self) {
        let edges = self.edges.lock().values().cloned().collect();
        *self.kept.lock() = edges;
    }

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
    series: Series,
}

impl WorkerMetrics {
    pub fn new(registry: Arc<WorkerRegistry>) -> Self {
        let series = Series::new(registry.clone());
        Self { registry, series }
    }

    pub(crate) fn registry(&self) -> &Arc<WorkerRegistry> {
        &self.registry
    }

    pub fn counts(&self) -> &WorkerCounts {
        &self.registry.counts
    }

    /// The counters of that edge.
    pub fn edge(&self, key: &dyn AsEdge) -> Arc<EdgeMetrics> {
        self.series.of(key)
    }

    /// Forgets what is gone, or was not used for a while. To be asked from time to time.
    pub fn forget(&self, now: Instant, state: &NodeState) {
        let own: HashSet<_> = state
            .workloads
            .values()
            .map(|workload| (&*workload.name.namespace, &*workload.service))
            .collect();
        let services = &state.snapshot.services;
        self.series.forget(now, |key| {
            let has_source =
                key.source_namespace.is_empty() || own.contains(&(&*key.source_namespace, &*key.source));
            let destination = &key.destination;
            let has_destination = destination.namespace.is_empty()
                || own.contains(&(&*destination.namespace, &*destination.name))
                || matches!(services.get(destination), Some(Known::Present(_)));
            has_source && has_destination
        });
        self.registry.authorizations.forget(|name| state.workloads.contains_key(name));
        // One that is held is counted in.
        let mut in_flight = self.registry.in_flight.lock();
        in_flight.retain(|name, count| Arc::strong_count(count) > 1 || state.workloads.contains_key(name));
    }

    /// What counts the requests and connections in flight to a process of this node. Takes a lock.
    pub(crate) fn in_flight(&self, workload: &WorkloadName) -> Arc<Count> {
        self.registry.in_flight.lock().entry(workload.clone()).or_default().clone()
    }
}
