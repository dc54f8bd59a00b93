//! What the server counts of itself.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why a connection of a node was refused; the names are those of the links' handshakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum RefusalReason {
    ForeignTrustDomain,
    UnknownIssuer,
    InvalidCertificate,
    WrongIdentity,
    Timeout,
    Overload,
    /// No TLS that we speak, or a connection that ended.
    Broken,
}

/// The reasons in their order.
pub const REFUSAL_REASONS: [&str; 7] = [
    "foreign-trust-domain",
    "unknown-issuer",
    "invalid-certificate",
    "wrong-identity",
    "timeout",
    "overload",
    "broken",
];

/// The server's counters. Gauges are read from their owners when they are asked for.
#[derive(Debug, Default)]
pub struct Metrics {
    pub joins: Counter,
    pub joins_refused: Counter,
    pub signatures_refused: Counter,
    pub reports: Counter,
    pub workloads_refused: Counter,
    pub edges_refused: Counter,
    pub leases_expired: Counter,
    pub nodes_fenced: Counter,
    pub discovery_responses: Counter,
    pub discovery_confirmations: Counter,
    pub discovery_refusals: Counter,
    pub objects_compiled: Counter,
    pub resources_published: Counter,
    pub statuses_written: Counter,
    pub relists: Counter,
    /// By [`REFUSAL_REASONS`].
    pub connections_refused: [Counter; REFUSAL_REASONS.len()],
}

impl Metrics {
    /// Names, descriptions and values of the counters.
    pub fn counters(&self) -> [(&'static str, &'static str, u64); 15] {
        [
            (
                "tulle_server_edges_refused_total",
                "Edges that nodes reported of namespaces of which they may run nothing.",
                self.edges_refused.get(),
            ),
            ("tulle_server_joins_total", "Nodes that joined.", self.joins.get()),
            ("tulle_server_joins_refused_total", "Joins that were refused.", self.joins_refused.get()),
            (
                "tulle_server_signatures_refused_total",
                "Certificates that nodes asked for and may not have.",
                self.signatures_refused.get(),
            ),
            ("tulle_server_reports_total", "Reports taken from nodes.", self.reports.get()),
            (
                "tulle_server_workloads_refused_total",
                "Workloads that nodes reported and that were not taken.",
                self.workloads_refused.get(),
            ),
            (
                "tulle_server_leases_expired_total",
                "Nodes that were silent for longer than their lease.",
                self.leases_expired.get(),
            ),
            (
                "tulle_server_nodes_fenced_total",
                "Nodes that were kept out, as another one bears their name and answers.",
                self.nodes_fenced.get(),
            ),
            (
                "tulle_server_discovery_responses_total",
                "Discovery responses sent to nodes.",
                self.discovery_responses.get(),
            ),
            (
                "tulle_server_discovery_confirmations_total",
                "Discovery responses that nodes confirmed.",
                self.discovery_confirmations.get(),
            ),
            (
                "tulle_server_discovery_refusals_total",
                "Discovery responses that nodes refused.",
                self.discovery_refusals.get(),
            ),
            (
                "tulle_server_objects_compiled_total",
                "Changes of objects that were compiled.",
                self.objects_compiled.get(),
            ),
            (
                "tulle_server_resources_published_total",
                "Changes of discovery resources.",
                self.resources_published.get(),
            ),
            (
                "tulle_server_statuses_written_total",
                "Statuses of objects that were written.",
                self.statuses_written.get(),
            ),
            (
                "tulle_server_relists_total",
                "Times that the controller fell behind the store and started over.",
                self.relists.get(),
            ),
        ]
    }
}
