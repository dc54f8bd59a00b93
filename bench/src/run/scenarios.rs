//! What is measured: the load of each scenario, and what its cost is counted by.

use serde::{Deserialize, Serialize};

/// What a client speaks to the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Http1,
    Http2,
    Grpc,
    Tcp,
}

/// What CPU time is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Seconds per 100,000 requests (round trips, messages, connections).
    Requests,
    /// Seconds per 10^9 bytes of bodies.
    Bytes,
    /// Seconds per second.
    Time,
}

#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub title: &'static str,
    pub protocol: Protocol,
    pub unit: Unit,
    /// What one request is, in the report's head.
    pub what: &'static str,
    /// Arguments of `load`, but for target and duration.
    pub load: &'static [&'static str],
    /// At a fixed rate latency is that of a pair that is not saturated; flat out it is the load's.
    pub fixed_rate: bool,
    /// Also measured with the variants of Tulle's mesh.
    pub variants: bool,
}

const HTTP1: Scenario = Scenario {
    name: "http1",
    title: "HTTP/1.1 keep-alive, 64 connections, flat out",
    protocol: Protocol::Http1,
    unit: Unit::Requests,
    what: "request with an answer of 1 KiB",
    load: &["http1", "--connections", "64"],
    fixed_rate: false,
    variants: true,
};

/// In the order in which they are measured. Idle connections come first: what they need of memory shows only
/// where no load was before that left more behind.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "idle",
        title: "1,000 idle connections",
        unit: Unit::Time,
        what: "request",
        load: &["idle", "--connections", "1000"],
        variants: false,
        ..HTTP1
    },
    HTTP1,
    Scenario {
        name: "http1-2000",
        title: "HTTP/1.1 keep-alive, 16 connections, 2,000 requests/s",
        load: &["http1", "--connections", "16", "--rate", "2000"],
        fixed_rate: true,
        ..HTTP1
    },
    Scenario {
        name: "http1-connect",
        title: "HTTP/1.1, a new connection for each request",
        load: &["http1-connect", "--connections", "16"],
        variants: false,
        ..HTTP1
    },
    Scenario {
        name: "http2",
        title: "HTTP/2 clients, 8 connections with 8 streams each, flat out",
        protocol: Protocol::Http2,
        load: &["http2", "--connections", "8", "--streams", "8"],
        variants: false,
        ..HTTP1
    },
    Scenario {
        name: "grpc-unary",
        title: "gRPC unary, 8 connections with 8 streams each, flat out",
        protocol: Protocol::Grpc,
        what: "call",
        load: &["grpc-unary", "--connections", "8", "--streams", "8"],
        variants: false,
        ..HTTP1
    },
    Scenario {
        name: "grpc-stream",
        title: "gRPC bidirectional streaming, 8 connections with 8 streams each",
        protocol: Protocol::Grpc,
        what: "message there and back",
        load: &["grpc-stream", "--connections", "8", "--streams", "8"],
        variants: false,
        ..HTTP1
    },
    Scenario {
        name: "upload",
        title: "Bodies of 10 MiB up, 4 connections",
        unit: Unit::Bytes,
        what: "upload",
        load: &["upload", "--connections", "4", "--bytes", "10485760"],
        variants: false,
        ..HTTP1
    },
    Scenario {
        name: "download",
        title: "Bodies of 10 MiB down, 4 connections",
        unit: Unit::Bytes,
        what: "download",
        load: &["download", "--connections", "4", "--bytes", "10485760"],
        variants: false,
        ..HTTP1
    },
    Scenario {
        name: "tcp-bulk-up",
        title: "Opaque TCP, one stream up",
        protocol: Protocol::Tcp,
        unit: Unit::Bytes,
        what: "stream",
        load: &["tcp-bulk", "--connections", "1", "--direction", "up"],
        variants: false,
        ..HTTP1
    },
    Scenario {
        name: "tcp-bulk-down",
        title: "Opaque TCP, one stream down",
        protocol: Protocol::Tcp,
        unit: Unit::Bytes,
        what: "stream",
        load: &["tcp-bulk", "--connections", "1", "--direction", "down"],
        variants: false,
        ..HTTP1
    },
    Scenario {
        name: "tcp-pingpong",
        title: "Opaque TCP, small messages there and back on 16 connections",
        protocol: Protocol::Tcp,
        what: "round trip",
        load: &["tcp-pingpong", "--connections", "16"],
        variants: false,
        ..HTTP1
    },
    Scenario {
        name: "tcp-connect",
        title: "Opaque TCP, a new connection for each round trip",
        protocol: Protocol::Tcp,
        what: "connection",
        load: &["tcp-connect", "--connections", "16"],
        variants: false,
        ..HTTP1
    },
];

pub fn find(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = SCENARIOS.iter().map(|s| s.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SCENARIOS.len());
        assert!(find("http1").is_some() && find("nothing").is_none());
    }
}
