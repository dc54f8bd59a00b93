//! The data plane. It is handed a [`state::NodeState`] (snapshot, workloads, certificates) and
//! listeners to serve; it knows no server, no store and no file.
//!
//! Every worker is a thread with a current-thread runtime, listeners (`SO_REUSEPORT`), connection
//! pools and counters of its own: a request never leaves the worker that accepted it.

pub mod app_pool;
pub mod drain;
pub mod endpoints;
pub mod error;
pub mod http;
pub mod inbound;
pub mod link;
pub mod metrics;
pub mod outbound;
pub mod state;
pub mod tls;
pub mod worker;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tulle_model::name::{ServiceName, WorkloadName};

use crate::state::{Demand, StateCell};

/// What a proxy is started with.
pub struct Config {
    /// This node's name, as endpoints carry it.
    pub node: Arc<str>,
    pub workers: usize,
    pub state: Arc<StateCell>,
    pub demand: Demand,
}

/// How the destination of an outbound connection is known.
#[derive(Debug, Clone)]
pub enum Capture {
    /// Redirected by the kernel: the destination is the connection's original address.
    Redirected,
    /// The client speaks to an HTTP proxy: absolute-form requests and CONNECT.
    HttpProxy,
    /// The listener stands for one port of one service.
    Service { service: ServiceName, port: u16 },
}

/// A running proxy. Every call may come from any thread.
pub struct Proxy;

impl Proxy {
    /// Starts the workers.
    pub fn start(_config: Config) -> std::io::Result<Proxy> {
        unimplemented!()
    }

    /// Accepts `workload`'s outbound connections at `address` (port 0: any), on every worker, until
    /// [`Proxy::close`] is called with the address that this returns.
    pub async fn listen_outbound(
        &self,
        _workload: WorkloadName,
        _capture: Capture,
        _address: SocketAddr,
    ) -> std::io::Result<SocketAddr> {
        unimplemented!()
    }

    /// Accepts links from other nodes at `address` (port 0: any); returns the address bound.
    pub async fn listen_links(&self, _address: SocketAddr) -> std::io::Result<SocketAddr> {
        unimplemented!()
    }

    /// Stops accepting at `address`; connections that are open go on.
    pub async fn close(&self, _address: SocketAddr) {}

    /// Requests and connections in flight to `workload`'s process, over all workers.
    pub fn in_flight(&self, _workload: &WorkloadName) -> u64 {
        0
    }

    /// What was counted since the start, one row for each edge, over all workers.
    pub fn edges(&self) -> Vec<EdgeCounts> {
        Vec::new()
    }

    /// All metrics in Prometheus' text format.
    pub fn metrics(&self) -> String {
        String::new()
    }

    /// Stops accepting, lets what is in flight finish, and closes what is left at the deadline.
    pub async fn drain(self, _deadline: Duration) {}
}

/// How an edge's traffic is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Security {
    MutualTls,
    SameNode,
    Plaintext,
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
    pub failures: u64,
    pub latency_buckets: [u64; tulle_model::telemetry::LATENCY_BUCKETS],
    pub bytes_sent: u64,
    pub bytes_received: u64,
}
