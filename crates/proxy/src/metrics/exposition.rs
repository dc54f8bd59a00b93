//! The proxy's metrics in Prometheus' text format 0.0.4. All their names stand here.

use std::sync::Arc;

use tulle_model::exposition::{Metric, escaped};
use tulle_model::telemetry::LATENCY_BOUNDS;

use super::authorizations::{AuthorizationKey, sums};
use super::{Count, ERRORS, EXTERNAL, EdgeKey, HANDSHAKES, REJECTIONS, STREAM_WAITS, WorkerRegistry, totals};
use crate::budget::{Budget, Payer, Resource};
use crate::http2::ERROR_CODE_NAMES;
use crate::progress::{SIDES, STALLS};
use crate::reason::REASONS;

const REQUESTS: Metric = Metric::counter(
    "tulle_requests_total",
    "Requests, and opaque connections at the moment they were connected, as the caller's side saw them.",
);
const DURATION: Metric = Metric::histogram(
    "tulle_request_duration_seconds",
    "Seconds until the answer's head; of opaque connections, until they were connected. Not of what was refused.",
);
const RETRIES: Metric = Metric::counter("tulle_retries_total", "Attempts after the first one.");
const SENT: Metric =
    Metric::counter("tulle_sent_bytes_total", "Bytes of bodies and connections towards the destination.");
const RECEIVED: Metric =
    Metric::counter("tulle_received_bytes_total", "Bytes of bodies and connections from the destination.");
const OPENED: Metric =
    Metric::counter("tulle_tcp_connections_opened_total", "Opaque connections that were connected.");
const CLOSED: Metric =
    Metric::counter("tulle_tcp_connections_closed_total", "Opaque connections that have ended.");
const OPEN: Metric =
    Metric::gauge("tulle_tcp_connections_open", "Opaque connections that are connected now.");
const LOG_DROPPED: Metric = Metric::counter(
    "tulle_access_log_dropped_total",
    "Lines of the access log that were not written, as too many waited.",
);
const DOWNSTREAM: Metric =
    Metric::counter("tulle_connections_accepted_total", "Connections that were accepted on all listeners.");
const REJECTED: Metric = Metric::counter(
    "tulle_connections_rejected_total",
    "Connections that were closed before anything was passed on.",
);
const TLS: Metric = Metric::counter(
    "tulle_tls_handshakes_total",
    "TLS handshakes of links by result, as the one who dials (client) or answers (server).",
);
const LINKS: Metric = Metric::gauge("tulle_links", "Links that are open.");
const ABUSED: Metric = Metric::counter(
    "tulle_links_abused_total",
    "Links that were closed because the peer flooded them or broke the protocol.",
);
const REFUSED: Metric = Metric::counter(
    "tulle_requests_refused_total",
    "Requests that the mesh answered itself, by tulle-reason; among them those that were not understood.",
);
const FAULTS: Metric = Metric::counter(
    "tulle_link_faults_total",
    "What peers did wrong on links that were kept nevertheless, as the one who dialed (client) or answered (server).",
);
const ABUSIVE: Metric = Metric::counter(
    "tulle_abusive_clients_total",
    "HTTP/2 connections of workloads that were closed because the client flooded them or broke the protocol.",
);
const STREAMS: Metric =
    Metric::counter("tulle_link_streams_total", "Requests and tunnels that were started on links.");
const WAITING: Metric = Metric::gauge(
    "tulle_streams_waiting",
    "Requests and tunnels that wait for a stream, as the HTTP/2 connections to their peer are full.",
);
const WAITS: Metric =
    Metric::counter("tulle_stream_waits_total", "Waits for a stream of HTTP/2 by how they ended.");
const STALLED: Metric = Metric::counter(
    "tulle_stalls_total",
    "What was cut because a peer did not go on with it: heads, bodies, data it did not take, interim answers.",
);
const IN_FLIGHT: Metric =
    Metric::gauge("tulle_workload_in_flight", "Requests and connections in flight to a workload's process.");
const AUTHORIZATIONS: Metric = Metric::counter(
    "tulle_authorization_total",
    "Requests and connections to a workload that an AuthorizationPolicy has denied or, where it audits, reported.",
);
const MEMORY_BOUND: Metric = Metric::gauge(
    "tulle_memory_bound_bytes",
    "Bytes of memory that connections and requests may take in all.",
);
const MEMORY: Metric = Metric::gauge(
    "tulle_memory_used_bytes",
    "Bytes of memory that are set aside for a workload, or a peer of links.",
);
const DESCRIPTORS_BOUND: Metric =
    Metric::gauge("tulle_descriptors_bound", "Descriptors that connections may take in all.");
const DESCRIPTORS: Metric = Metric::gauge(
    "tulle_descriptors_used",
    "Descriptors of the connections of a workload, or of a peer of links.",
);
const SHED: Metric = Metric::counter(
    "tulle_shed_total",
    "Connections, requests and streams that were refused because their payer had its share.",
);

/// All metrics of all workers.
pub(crate) fn text(workers: &[Arc<WorkerRegistry>], budget: &Budget) -> String {
    let mut out = String::with_capacity(16 << 10);
    edges(&mut out, workers);
    let sum = |count: &dyn Fn(&WorkerRegistry) -> &Count| workers.iter().map(|w| count(w).get()).sum::<u64>();

    LOG_DROPPED.head(&mut out);
    LOG_DROPPED.line(&mut out, "", "", sum(&|w| &w.counts.access_log_dropped));
    DOWNSTREAM.head(&mut out);
    DOWNSTREAM.line(&mut out, "", "", sum(&|w| &w.counts.downstream_connections));
    REJECTED.head(&mut out);
    for (why, name) in REJECTIONS {
        let labels = format!("reason=\"{name}\"");
        REJECTED.line(&mut out, "", &labels, sum(&|w| &w.counts.rejections[why as usize]));
    }
    TLS.head(&mut out);
    for (result, name) in HANDSHAKES {
        let labels = |side| format!("side=\"{side}\",result=\"{name}\"");
        TLS.line(&mut out, "", &labels("client"), sum(&|w| &w.counts.client_handshakes[result as usize]));
        TLS.line(&mut out, "", &labels("server"), sum(&|w| &w.counts.server_handshakes[result as usize]));
    }
    LINKS.head(&mut out);
    LINKS.line(&mut out, "", "side=\"client\"", sum(&|w| &w.counts.client_links));
    LINKS.line(&mut out, "", "side=\"server\"", sum(&|w| &w.counts.server_links));
    ABUSED.head(&mut out);
    for error in 0..ERRORS {
        ABUSED.line(&mut out, "", &error_label(error), sum(&|w| &w.counts.abused_links[error]));
    }
    REFUSED.head(&mut out);
    for reason in REASONS {
        let labels = format!("reason=\"{}\"", reason.as_str());
        REFUSED.line(&mut out, "", &labels, sum(&|w| &w.counts.refusals[reason.index()]));
    }
    FAULTS.head(&mut out);
    FAULTS.line(&mut out, "", "side=\"client\"", sum(&|w| &w.counts.client_link_faults));
    FAULTS.line(&mut out, "", "side=\"server\"", sum(&|w| &w.counts.server_link_faults));
    ABUSIVE.head(&mut out);
    for error in 0..ERRORS {
        ABUSIVE.line(&mut out, "", &error_label(error), sum(&|w| &w.counts.abusive_clients[error]));
    }
    STREAMS.head(&mut out);
    STREAMS.line(&mut out, "", "side=\"client\"", sum(&|w| &w.counts.client_streams));
    STREAMS.line(&mut out, "", "side=\"server\"", sum(&|w| &w.counts.server_streams));

    WAITING.head(&mut out);
    WAITING.line(&mut out, "", "", sum(&|w| &w.counts.streams_waiting));
    WAITS.head(&mut out);
    for (result, name) in STREAM_WAITS {
        let labels = format!("result=\"{name}\"");
        WAITS.line(&mut out, "", &labels, sum(&|w| &w.counts.stream_waits[result as usize]));
    }

    STALLED.head(&mut out);
    for (side, who) in SIDES {
        for (what, name) in STALLS {
            let labels = format!("side=\"{who}\",what=\"{name}\"");
            STALLED.line(&mut out, "", &labels, sum(&|w| &w.counts.stalls[side as usize][what as usize]));
        }
    }

    let mut in_flight: std::collections::BTreeMap<_, u64> = Default::default();
    for (name, count) in workers.iter().flat_map(|w| w.in_flight_by_workload()) {
        *in_flight.entry(name).or_default() += count;
    }
    IN_FLIGHT.head(&mut out);
    for (name, count) in in_flight {
        let labels =
            format!("namespace=\"{}\",workload=\"{}\"", escaped(&name.namespace), escaped(&name.name));
        IN_FLIGHT.line(&mut out, "", &labels, count);
    }
    AUTHORIZATIONS.head(&mut out);
    for (AuthorizationKey { workload, policy, result }, count) in sums(workers) {
        let policy = policy.map(|policy| policy.to_string()).unwrap_or_default();
        let labels = format!(
            "namespace=\"{}\",workload=\"{}\",policy=\"{}\",result=\"{result}\"",
            escaped(&workload.namespace),
            escaped(&workload.name),
            escaped(&policy)
        );
        AUTHORIZATIONS.line(&mut out, "", &labels, count);
    }
    shares(&mut out, budget);
    out
}

/// The error of HTTP/2 that a peer was told.
fn error_label(error: usize) -> String {
    format!("reason=\"{}\"", ERROR_CODE_NAMES.get(error).unwrap_or(&"other"))
}

fn shares(out: &mut String, budget: &Budget) {
    for (bound, of) in [(MEMORY_BOUND, Resource::Memory), (DESCRIPTORS_BOUND, Resource::Descriptors)] {
        bound.head(out);
        bound.line(out, "", "", budget.total(of));
    }
    let rows: Vec<_> = budget
        .rows()
        .into_iter()
        .map(|row| {
            let (kind, name) = match &row.payer {
                Some(payer @ Payer::Workload(_)) => ("workload", payer.to_string()),
                Some(payer @ Payer::Peer(_)) => ("peer", payer.to_string()),
                Some(payer @ Payer::Handshakes) => ("peer", payer.to_string()),
                Some(Payer::Outside) => ("peer", EXTERNAL.to_owned()),
                None => ("other", String::new()),
            };
            (format!("kind=\"{kind}\",name=\"{}\"", escaped(&name)), row)
        })
        .collect();
    MEMORY.head(out);
    for (labels, row) in &rows {
        MEMORY.line(out, "", labels, row.memory);
    }
    DESCRIPTORS.head(out);
    for (labels, row) in &rows {
        DESCRIPTORS.line(out, "", labels, row.descriptors);
    }
    SHED.head(out);
    for (reason, count) in budget.sheds() {
        SHED.line(out, "", &format!("reason=\"{reason}\""), count);
    }
}

fn edges(out: &mut String, workers: &[Arc<WorkerRegistry>]) {
    let edges: Vec<_> = totals(workers).into_iter().map(|(key, totals)| (labels(&key), totals)).collect();
    REQUESTS.head(out);
    for (labels, totals) in &edges {
        for (class, result, count) in totals.by_result() {
            REQUESTS.line(out, "", &format!("{labels},result=\"{result}\",code=\"{class}\""), count);
        }
    }
    DURATION.head(out);
    for (labels, totals) in &edges {
        let mut below = 0;
        for (i, count) in totals.latency.iter().enumerate() {
            below += count;
            let labels = match LATENCY_BOUNDS.get(i) {
                Some(bound) => format!("{labels},le=\"{bound}\""),
                None => format!("{labels},le=\"+Inf\""),
            };
            DURATION.line(out, "_bucket", &labels, below);
        }
        DURATION.line(out, "_sum", labels, totals.latency_seconds);
        DURATION.line(out, "_count", labels, below);
    }
    let mut each = |metric: &Metric, value: &dyn Fn(&super::EdgeTotals) -> u64| {
        metric.head(out);
        for (labels, totals) in &edges {
            metric.line(out, "", labels, value(totals));
        }
    };
    each(&RETRIES, &|t| t.retries);
    each(&SENT, &|t| t.bytes_sent);
    each(&RECEIVED, &|t| t.bytes_received);
    each(&OPENED, &|t| t.opened);
    each(&CLOSED, &|t| t.closed);
    each(&OPEN, &|t| t.opened - t.closed);
}

fn labels(key: &EdgeKey) -> String {
    format!(
        "source_namespace=\"{}\",source=\"{}\",destination_namespace=\"{}\",destination=\"{}\",protocol=\"{}\",security=\"{}\"",
        escaped(&key.source_namespace),
        escaped(&key.source),
        escaped(&key.destination.namespace),
        escaped(&key.destination.name),
        key.protocol.as_str(),
        key.security.as_str()
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use tulle_model::name::ServiceName;

    use super::*;
    use crate::Security;
    use crate::metrics::{Protocol, WorkerMetrics};
    use crate::reason::Verdict;

    #[test]
    fn the_text_is_prometheus_format() {
        let registries = [Arc::<WorkerRegistry>::default(), Arc::default()];
        for registry in &registries {
            let worker = WorkerMetrics::new(registry.clone());
            let key = EdgeKey {
                source_namespace: "default".into(),
                source: "a\"b".into(),
                destination: ServiceName::new("shop", "cart"),
                protocol: Protocol::Http,
                security: Security::MutualTls,
            };
            let edge = worker.edge(&key);
            edge.request(Some(200), Verdict::Success, Duration::from_micros(600));
            edge.request(Some(503), Verdict::Failure, Duration::from_secs(100));
            edge.sent(7);
            edge.opened();
        }
        let text = text(&registries, &Budget::new(1 << 20, 100));
        let labels = "source_namespace=\"default\",source=\"a\\\"b\",destination_namespace=\"shop\",\
                      destination=\"cart\",protocol=\"http\",security=\"mtls\"";
        for line in [
            format!("tulle_requests_total{{{labels},result=\"success\",code=\"2xx\"}} 2"),
            format!("tulle_requests_total{{{labels},result=\"failure\",code=\"5xx\"}} 2"),
            format!("tulle_request_duration_seconds_bucket{{{labels},le=\"0.0005\"}} 0"),
            format!("tulle_request_duration_seconds_bucket{{{labels},le=\"0.00075\"}} 2"),
            format!("tulle_request_duration_seconds_bucket{{{labels},le=\"60\"}} 2"),
            format!("tulle_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 4"),
            format!("tulle_request_duration_seconds_count{{{labels}}} 4"),
            format!("tulle_sent_bytes_total{{{labels}}} 14"),
            format!("tulle_tcp_connections_open{{{labels}}} 2"),
            "tulle_tls_handshakes_total{side=\"server\",result=\"no-certificate\"} 0".to_owned(),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in:\n{text}");
        }
        let types: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")).collect();
        let once: HashSet<&str> = types.iter().filter_map(|l| l.split(' ').next()).collect();
        assert_eq!(once.len(), types.len(), "a metric is declared twice: {types:?}");
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            let family =
                ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name);
            assert!(once.contains(family), "{line} has no type");
        }
        assert!(text.ends_with('\n'));
        let documented = include_str!("../../../../docs/metrics.md");
        for name in once {
            assert!(documented.contains(&format!("`{name}`")), "{name} is not in docs/metrics.md");
        }
    }
}
