//! What the samples say of one peer and one measure.

use crate::run::results::{Memory, Moment, PeerInfo, Results, Sample};
use crate::run::scenarios::{Scenario, Unit, find};
use crate::run::{NONE, scenarios::SCENARIOS};

use super::statistics::Summary;

/// Requests by which CPU time is divided.
const REQUESTS: f64 = 100_000.0;
pub const MEBIBYTE: f64 = 1024.0 * 1024.0;
const GIGABYTE: f64 = 1e9;

/// What is known of a peer, most of it in one scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Of the pair: seconds per 100,000 requests, or per GB, as the scenario has it.
    Cpu(&'static str),
    CpuClient(&'static str),
    CpuServer(&'static str),
    /// Of the service behind the pair, in the same unit.
    CpuService(&'static str),
    /// Requests per second.
    Rate(&'static str),
    /// GB per second.
    Throughput(&'static str),
    /// Microseconds.
    P50(&'static str),
    P90(&'static str),
    P99(&'static str),
    P999(&'static str),
    /// The generator's share of a core.
    Busy(&'static str),
    /// KiB of the pair for each connection.
    PerConnection(&'static str),
    /// MiB of the larger side.
    Resident(Moment),
    Anonymous(Moment),
    Proportional(Moment),
    /// Milliseconds.
    Start,
}

pub struct Digest<'a> {
    pub results: &'a Results,
}

impl<'a> Digest<'a> {
    /// One value for each round.
    pub fn values(&self, peer: &str, measure: Measure) -> Vec<(usize, f64)> {
        use Measure::{
            Anonymous, Busy, Cpu, CpuClient, CpuServer, CpuService, P50, P90, P99, P999, PerConnection,
            Proportional, Rate, Resident, Start, Throughput,
        };
        let samples = |scenario, value: fn(&Sample, &Scenario) -> f64| self.samples(peer, scenario, value);
        match measure {
            Cpu(name) => samples(name, |s, scenario| per_unit(s.cpu_client + s.cpu_server, s, scenario)),
            CpuClient(name) => samples(name, |s, scenario| per_unit(s.cpu_client, s, scenario)),
            CpuServer(name) => samples(name, |s, scenario| per_unit(s.cpu_server, s, scenario)),
            CpuService(name) => samples(name, |s, scenario| per_unit(s.cpu_service, s, scenario)),
            Rate(name) => samples(name, |s, _| s.load.rate),
            Throughput(name) => samples(name, |s, _| s.load.bytes as f64 / s.load.seconds / GIGABYTE),
            P50(name) => samples(name, |s, _| s.load.latency.p50),
            P90(name) => samples(name, |s, _| s.load.latency.p90),
            P99(name) => samples(name, |s, _| s.load.latency.p99),
            P999(name) => samples(name, |s, _| s.load.latency.p99_9),
            Busy(name) => samples(name, |s, _| s.load.busy),
            PerConnection(name) => samples(name, |s, _| {
                let now = s.memory_client.resident + s.memory_server.resident;
                let before = s.memory_before_client.resident + s.memory_before_server.resident;
                now.saturating_sub(before) as f64 / 1024.0 / s.load.connections as f64
            }),
            Resident(moment) => self.memory(peer, moment, |memory| memory.resident),
            Anonymous(moment) => self.memory(peer, moment, |memory| memory.anonymous),
            Proportional(moment) => self.memory(peer, moment, |memory| memory.proportional),
            Start => {
                let of_peer = self.results.starts.iter().filter(|start| start.peer == peer);
                of_peer.map(|start| (start.round, start.milliseconds)).collect()
            }
        }
    }

    pub fn summary(&self, peer: &str, measure: Measure) -> Option<Summary> {
        Summary::of(self.values(peer, measure).into_iter().map(|(_, value)| value))
    }

    pub fn median(&self, peer: &str, measure: Measure) -> Option<f64> {
        self.summary(peer, measure).map(|summary| summary.median)
    }

    /// Peers that Tulle is compared with.
    pub fn others(&self) -> impl Iterator<Item = &'a PeerInfo> {
        self.results.peers.iter().filter(|peer| !peer.own && peer.name != NONE)
    }

    /// Scenarios that were measured.
    pub fn scenarios(&self) -> impl Iterator<Item = &'static Scenario> {
        SCENARIOS.iter().filter(|s| self.results.samples.iter().any(|sample| sample.scenario == s.name))
    }

    /// Peers that were measured in a scenario.
    pub fn peers_in(&self, scenario: &str) -> Vec<&'a PeerInfo> {
        let samples = &self.results.samples;
        let did = |peer: &&PeerInfo| samples.iter().any(|s| s.scenario == scenario && s.peer == peer.name);
        self.results.peers.iter().filter(did).collect()
    }

    /// Errors and answers with another status than 2xx, of all rounds.
    pub fn errors(&self, peer: &str, scenario: &str) -> u64 {
        let of_peer = self.results.samples.iter().filter(|s| s.peer == peer && s.scenario == scenario);
        of_peer.map(|s| s.load.errors + s.load.non_2xx + s.load.missed).sum()
    }

    fn samples(
        &self,
        peer: &str,
        scenario: &'static str,
        value: fn(&Sample, &Scenario) -> f64,
    ) -> Vec<(usize, f64)> {
        let Some(found) = find(scenario) else { return Vec::new() };
        let of_peer = self.results.samples.iter().filter(|s| s.peer == peer && s.scenario == scenario);
        of_peer.map(|sample| (sample.round, value(sample, found))).collect()
    }

    /// A node has one side; the larger says what to expect.
    fn memory(&self, peer: &str, moment: Moment, part: fn(&Memory) -> u64) -> Vec<(usize, f64)> {
        let of_peer = self.results.memory.iter().filter(|m| m.peer == peer && m.moment == moment);
        of_peer.map(|m| (m.round, part(&m.client).max(part(&m.server)) as f64 / MEBIBYTE)).collect()
    }
}

fn per_unit(cpu: f64, sample: &Sample, scenario: &Scenario) -> f64 {
    match scenario.unit {
        Unit::Requests => cpu / sample.load.requests as f64 * REQUESTS,
        Unit::Bytes => cpu / sample.load.bytes as f64 * GIGABYTE,
        Unit::Time => cpu / sample.load.seconds,
    }
}

/// What CPU time is counted by, as tables say it.
pub fn unit(scenario: &Scenario) -> &'static str {
    match scenario.unit {
        Unit::Requests => "s per 100k",
        Unit::Bytes => "s per GB",
        Unit::Time => "s per s",
    }
}
