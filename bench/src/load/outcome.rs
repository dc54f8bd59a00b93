//! What was measured: collected while it runs, and told as one JSON object.

use serde::{Deserialize, Serialize};

use super::histogram::Histogram;
use crate::event::{self, SECOND};

/// How many errors are told on standard error; the rest is only counted.
const TOLD: u64 = 10;

/// What `load` prints.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Which scenario
    pub scenario: String,
    /// How many connections
    pub connections: usize,
    /// Seconds that were measured
    pub seconds: f64,
    /// Requests (messages, round trips) that were answered
    pub requests: u64,
    /// Requests that were not answered, or not as they should be
    pub errors: u64,
    /// Answers with another status than 2xx, which `requests` counts too
    pub non_2xx: u64,
    /// Requests of a fixed rate that were due and found no free connection until the end
    pub missed: u64,
    /// Times that a connection was opened again after the peer had closed it
    pub reconnects: u64,
    /// `requests` a second
    pub rate: f64,
    /// Bytes of bodies and messages, both ways
    pub bytes: u64,
    /// `bytes` a second, in units of 10^9
    pub gigabytes_per_second: f64,
    /// What the generator used of the processors
    pub cpu_seconds: f64,
    /// The share of one core that the generator used
    pub busy: f64,
    /// Latencies in microseconds
    pub latency: Latency,
    /// What each of the watched processes used of the processors
    pub watched: Vec<f64>,
}

/// Latencies in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub max: f64,
    pub mean: f64,
}

/// What is measured, while it is.
pub struct Record {
    /// When to begin to measure.
    pub from: u64,
    /// When to stop.
    pub until: u64,
    /// Stop after so many requests.
    pub limit: u64,
    histogram: Histogram,
    requests: u64,
    errors: u64,
    non_2xx: u64,
    missed: u64,
    /// Connections opened again.
    pub reconnects: u64,
    bytes: u64,
    cpu_from: Option<u64>,
    cpu_until: Option<u64>,
    watched: Watched,
}

impl Record {
    /// Measures from `from` until `until` or `limit` requests, whatever comes first.
    pub fn new(from: u64, until: u64, limit: u64) -> Self {
        Self {
            from,
            until,
            limit,
            histogram: Histogram::new(),
            requests: 0,
            errors: 0,
            non_2xx: 0,
            missed: 0,
            reconnects: 0,
            bytes: 0,
            cpu_from: None,
            cpu_until: None,
            watched: Watched::default(),
        }
    }

    /// Also takes what these processes use of the processors, in the same window.
    pub fn watch(&mut self, processes: &[i32]) {
        self.watched.processes = processes.to_vec();
    }

    /// Takes the generator's own use of the processors at the window's ends. True once it is over.
    pub fn tick(&mut self, now: u64) -> bool {
        if now >= self.from && self.cpu_from.is_none() {
            self.cpu_from = Some(event::cpu());
            self.watched.from = self.watched.now();
        }
        if now >= self.until && self.cpu_until.is_none() {
            self.cpu_until = Some(event::cpu());
            self.watched.until = Some(self.watched.now());
        }
        now >= self.until
    }

    /// Counts an answer if it belongs into the window: by when it was due if that was `scheduled`, else by
    /// when it came.
    pub fn answered(&mut self, due: u64, now: u64, scheduled: bool, ok: bool, bytes: u64) {
        let counts = if scheduled { due } else { now };
        if counts < self.from || counts >= self.until {
            return;
        }
        self.requests += 1;
        self.bytes += bytes;
        self.non_2xx += u64::from(!ok);
        self.histogram.record(now.saturating_sub(due));
        if self.requests >= self.limit {
            self.until = now;
        }
    }

    /// Counts a connection that moved so many bytes within the window.
    pub fn transferred(&mut self, bytes: u64) {
        self.requests += 1;
        self.bytes += bytes;
    }

    /// Counts a request that found no free connection until the window's end, with the time that it waited at
    /// least.
    pub fn missed(&mut self, due: u64) {
        if due >= self.from && due < self.until {
            self.missed += 1;
            self.histogram.record(self.until - due);
        }
    }

    /// Counts an error. Those before the window count as well: nothing may go wrong.
    pub fn failed(&mut self, what: impl std::fmt::Display) {
        self.errors += 1;
        if self.errors <= TOLD {
            eprintln!("error: {what}");
        } else if self.errors == TOLD + 1 {
            eprintln!("error: more of them, which are only counted");
        }
    }

    /// What was measured.
    pub fn outcome(&self, scenario: &str, connections: usize) -> Outcome {
        let until = self.until.min(event::now());
        let seconds = until.saturating_sub(self.from).max(1) as f64 / SECOND as f64;
        let cpu = self.cpu_until.unwrap_or_else(event::cpu).saturating_sub(self.cpu_from.unwrap_or(0));
        let cpu_seconds = cpu as f64 / SECOND as f64;
        let microseconds = |nanoseconds: u64| nanoseconds as f64 / 1_000.0;
        let quantile = |share| microseconds(self.histogram.quantile(share));
        Outcome {
            scenario: scenario.to_owned(),
            connections,
            seconds,
            requests: self.requests,
            errors: self.errors,
            non_2xx: self.non_2xx,
            missed: self.missed,
            reconnects: self.reconnects,
            rate: self.requests as f64 / seconds,
            bytes: self.bytes,
            gigabytes_per_second: self.bytes as f64 / seconds / 1e9,
            cpu_seconds,
            busy: cpu_seconds / seconds,
            latency: Latency {
                p50: quantile(0.5),
                p90: quantile(0.9),
                p99: quantile(0.99),
                p99_9: quantile(0.999),
                max: microseconds(self.histogram.max()),
                mean: self.histogram.mean() / 1_000.0,
            },
            watched: self.watched.seconds(),
        }
    }
}

/// Processes whose use of the processors is taken together with the generator's.
#[derive(Default)]
struct Watched {
    processes: Vec<i32>,
    from: Vec<u64>,
    until: Option<Vec<u64>>,
}

impl Watched {
    fn now(&self) -> Vec<u64> {
        self.processes.iter().map(|process| event::cpu_of(*process)).collect()
    }

    fn seconds(&self) -> Vec<f64> {
        let until = self.until.clone().unwrap_or_else(|| self.now());
        let used = until.iter().zip(&self.from).map(|(until, from)| until.saturating_sub(*from));
        used.map(|nanoseconds| nanoseconds as f64 / SECOND as f64).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_belongs_into_the_window_is_counted() {
        let mut record = Record::new(100, 200, u64::MAX);
        record.answered(90, 110, true, true, 1);
        record.answered(90, 110, false, true, 2);
        record.answered(150, 450, true, false, 4);
        record.answered(150, 250, false, true, 8);
        record.missed(160);
        record.missed(90);
        let outcome = record.outcome("x", 1);
        assert_eq!((outcome.requests, outcome.non_2xx, outcome.missed, outcome.bytes), (2, 1, 1, 6));
        assert_eq!(record.histogram.max(), 300);
    }

    #[test]
    fn the_limit_ends_the_window() {
        let mut record = Record::new(0, 1_000, 2);
        record.answered(1, 5, false, true, 0);
        record.answered(1, 7, false, true, 0);
        record.answered(1, 8, false, true, 0);
        assert_eq!((record.until, record.requests), (7, 2));
    }
}
