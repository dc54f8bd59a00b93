//! The bar: what Tulle has set itself to reach, each as a ratio to others in the same run.

use crate::run::results::Moment;

use super::digest::{Digest, Measure};
use super::statistics::Summary;

/// What a figure is compared with.
#[derive(Debug, Clone, Copy)]
pub enum Reference {
    /// The best of all other peers.
    Best,
    /// The best of these.
    BestOf(&'static [&'static str]),
    /// Another variant of Tulle.
    Own(&'static str),
    /// A number, in the measure's unit.
    Absolute,
}

#[derive(Debug, Clone, Copy)]
pub struct Bar {
    pub title: &'static str,
    pub unit: &'static str,
    pub subject: &'static str,
    pub measure: Measure,
    pub reference: Reference,
    pub limit: f64,
    pub bound: Bound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    AtMost,
    AtLeast,
}

const TULLE: &str = "tulle";
const ENVOY: Reference = Reference::BestOf(&["envoy-h1", "envoy-h2"]);
const HAPROXY: Reference = Reference::BestOf(&["haproxy-h1", "haproxy-h2"]);
const HAPROXY_H2: Reference = Reference::BestOf(&["haproxy-h2"]);
const ALONE: Reference = Reference::Own("tulle");
const ONE_ROUTE: Reference = Reference::Own("tulle-1");

pub const BARS: &[Bar] = &[
    at_most("HTTP/1.1 flat out: CPU", "s per 100k", Measure::Cpu("http1"), HAPROXY, 1.0),
    at_least("HTTP/1.1 flat out: requests", "per s", Measure::Rate("http1"), Reference::Best, 1.0),
    at_most("HTTP/1.1 at 2,000/s: CPU", "s per 100k", Measure::Cpu("http1-2000"), Reference::Best, 1.0),
    at_most("HTTP/1.1 at 2,000/s: p50", "µs", Measure::P50("http1-2000"), Reference::Best, 0.9),
    at_most("HTTP/1.1 at 2,000/s: p99", "µs", Measure::P99("http1-2000"), Reference::Best, 1.0),
    at_most("gRPC unary: CPU", "s per 100k", Measure::Cpu("grpc-unary"), HAPROXY_H2, 1.0),
    at_most("HTTP/2 clients: CPU", "s per 100k", Measure::Cpu("http2"), HAPROXY_H2, 1.0),
    at_least("A connection per request: rate", "per s", Measure::Rate("http1-connect"), Reference::Best, 1.0),
    at_most(
        "A connection per request: CPU",
        "s per 100k",
        Measure::Cpu("http1-connect"),
        Reference::Best,
        1.0,
    ),
    at_most("Opaque TCP, up: CPU", "s per GB", Measure::Cpu("tcp-bulk-up"), Reference::Best, 0.8),
    at_most("Opaque TCP, down: CPU", "s per GB", Measure::Cpu("tcp-bulk-down"), Reference::Best, 0.8),
    at_least("Opaque TCP, up: throughput", "GB/s", Measure::Throughput("tcp-bulk-up"), Reference::Best, 1.2),
    at_least(
        "Opaque TCP, down: throughput",
        "GB/s",
        Measure::Throughput("tcp-bulk-down"),
        Reference::Best,
        1.2,
    ),
    at_least("Opaque TCP, new connections: rate", "per s", Measure::Rate("tcp-connect"), ENVOY, 3.0),
    at_most("Memory of a node, idle", "MiB", Measure::Resident(Moment::Idle), Reference::Absolute, 12.0),
    at_most(
        "Memory of a node, after load",
        "MiB",
        Measure::Resident(Moment::AfterLoad),
        Reference::Absolute,
        20.0,
    ),
    own("Both workloads on one node, flat out: CPU", "tulle-one-node", Measure::Cpu("http1"), ALONE, 0.5),
    own("Both workloads on one node, 2,000/s: CPU", "tulle-one-node", Measure::Cpu("http1-2000"), ALONE, 0.5),
    own("1,000 services and routes, flat out: CPU", "tulle-1000", Measure::Cpu("http1"), ONE_ROUTE, 1.05),
    own("1,000 services and routes, 2,000/s: CPU", "tulle-1000", Measure::Cpu("http1-2000"), ONE_ROUTE, 1.05),
    own("1,000 routes of one service, flat out: CPU", "tulle-routes", Measure::Cpu("http1"), ONE_ROUTE, 1.05),
    own(
        "1,000 routes of one service, 2,000/s: CPU",
        "tulle-routes",
        Measure::Cpu("http1-2000"),
        ONE_ROUTE,
        1.05,
    ),
    at_most("Start to first request", "ms", Measure::Start, Reference::Absolute, 25.0),
];

const fn at_most(
    title: &'static str,
    unit: &'static str,
    measure: Measure,
    reference: Reference,
    limit: f64,
) -> Bar {
    Bar { title, unit, subject: TULLE, measure, reference, limit, bound: Bound::AtMost }
}

const fn at_least(
    title: &'static str,
    unit: &'static str,
    measure: Measure,
    reference: Reference,
    limit: f64,
) -> Bar {
    Bar { title, unit, subject: TULLE, measure, reference, limit, bound: Bound::AtLeast }
}

const fn own(
    title: &'static str,
    subject: &'static str,
    measure: Measure,
    reference: Reference,
    limit: f64,
) -> Bar {
    Bar { title, unit: "s per 100k", subject, measure, reference, limit, bound: Bound::AtMost }
}

/// How a figure stands to its bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    pub figure: Summary,
    /// With whom it was compared, and what they had.
    pub other: Option<(String, Summary)>,
    /// Of the medians; the figure itself where nothing is compared.
    pub ratio: f64,
    /// Of the single rounds.
    pub ratios: Option<Summary>,
    pub met: bool,
}

impl Bar {
    /// Nothing where something was not measured.
    pub fn standing(&self, digest: &Digest) -> Option<Standing> {
        let figure = digest.summary(self.subject, self.measure)?;
        let Some(other) = self.other(digest)? else {
            let met = self.met(figure.median);
            return Some(Standing { figure, other: None, ratio: figure.median, ratios: None, met });
        };
        let reference = digest.summary(&other, self.measure)?;
        let ratio = figure.median / reference.median;
        let of_other = digest.values(&other, self.measure);
        let in_round = |round| of_other.iter().find(|(other, _)| *other == round).map(|(_, value)| value);
        let ratios = digest.values(self.subject, self.measure).into_iter();
        let ratios = ratios.filter_map(|(round, value)| Some(value / in_round(round)?));
        let ratios = Summary::of(ratios);
        Some(Standing { figure, other: Some((other, reference)), ratio, ratios, met: self.met(ratio) })
    }

    /// Whom it is compared with; `Some(None)`: nobody.
    fn other(&self, digest: &Digest) -> Option<Option<String>> {
        let best = |allowed: &dyn Fn(&str) -> bool| {
            let others = digest.others().filter(|peer| allowed(&peer.name));
            let known =
                others.filter_map(|peer| Some((digest.median(&peer.name, self.measure)?, &peer.name)));
            let better = |a: &(f64, &String), b: &(f64, &String)| match self.bound {
                Bound::AtMost => a.0.total_cmp(&b.0),
                Bound::AtLeast => b.0.total_cmp(&a.0),
            };
            known.min_by(better).map(|(_, name)| name.clone())
        };
        match self.reference {
            Reference::Best => best(&|_| true).map(Some),
            Reference::BestOf(names) => best(&|name| names.contains(&name)).map(Some),
            Reference::Own(name) => Some(Some(name.to_owned())),
            Reference::Absolute => Some(None),
        }
    }

    fn met(&self, ratio: f64) -> bool {
        match self.bound {
            Bound::AtMost => ratio <= self.limit,
            Bound::AtLeast => ratio >= self.limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::results;
    use super::*;
    use crate::run::scenarios;

    fn standing(title: &str) -> Option<Standing> {
        let results = results();
        let bar = BARS.iter().find(|bar| bar.title == title).unwrap();
        bar.standing(&Digest { results: &results })
    }

    #[test]
    fn figures_are_compared_with_the_best() {
        let cpu = standing("HTTP/1.1 flat out: CPU").unwrap();
        // 100,000 requests in each; Tulle used 3 s in the median, HAProxy with HTTP/2 4 s.
        assert_eq!(cpu.other.unwrap().0, "haproxy-h2");
        assert_eq!((cpu.figure.median, cpu.ratio, cpu.met), (3.0, 0.75, true));
        let ratios = cpu.ratios.unwrap();
        assert_eq!((ratios.least, ratios.most), (0.5, 1.0));
        let rate = standing("HTTP/1.1 flat out: requests").unwrap();
        assert_eq!((rate.other.unwrap().0.as_str(), rate.met), ("haproxy-h2", false));
    }

    #[test]
    fn limits_stand_alone_and_gaps_are_left_open() {
        let start = standing("Start to first request").unwrap();
        assert_eq!((start.other, start.ratio, start.met), (None, 30.0, false));
        assert_eq!(standing("gRPC unary: CPU"), None);
        assert_eq!(standing("1,000 services and routes, flat out: CPU"), None);
    }

    #[test]
    fn every_bar_names_a_scenario() {
        for bar in BARS {
            let (Measure::Cpu(name)
            | Measure::Rate(name)
            | Measure::Throughput(name)
            | Measure::P50(name)
            | Measure::P99(name)) = bar.measure
            else {
                continue;
            };
            assert!(scenarios::find(name).is_some(), "{}", bar.title);
        }
    }
}
