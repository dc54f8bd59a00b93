//! The report as Markdown: the bar, a table for each scenario, memory and start, how everything was set up.

use std::fmt::Write as _;

use crate::run::NONE;
use crate::run::results::{Machine, Moment, Settings};
use crate::run::scenarios::{Scenario, Unit};

use super::bars::{BARS, Bar, Bound, Reference, Standing};
use super::digest::{Digest, MEBIBYTE, Measure, unit};
use super::plots::Plot;
use super::statistics::{Summary, number};

/// The generator's share of a core from which on it may have been what was measured.
const BUSY: f64 = 0.9;
const TULLE: &str = "tulle";

pub fn write(digest: &Digest, plots: &[Plot]) -> String {
    let mut text = String::new();
    let out = &mut text;
    let results = digest.results;
    let _ = writeln!(out, "# Tulle beside other proxies\n");
    about(out, &results.machine, &results.settings);
    warnings(out, digest);
    bars(out, digest);
    let _ = writeln!(out, "## The plots\n");
    for plot in plots {
        let _ = writeln!(out, "![{}]({})\n", plot.title, plot.file);
    }
    for scenario in digest.scenarios() {
        match scenario.unit {
            Unit::Time => connections(out, digest, scenario),
            Unit::Requests | Unit::Bytes => load(out, digest, scenario),
        }
    }
    memory(out, digest);
    peers(out, digest);
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn about(out: &mut String, machine: &Machine, settings: &Settings) {
    let Settings { rounds, seconds, warmup } = settings;
    let _ = writeln!(
        out,
        "Each proxy is the pair of a sidecar mesh: client → plain → proxy → TLS 1.3, both sides with certificates → \
         proxy → plain → service, all on one machine. Rounds: {rounds}; in each, every pair does every scenario once, one right \
         after the other, {seconds} s each after {warmup} s that do not count. Figures are medians of the rounds, with the \
         least and the most in brackets.\n"
    );
    let _ = writeln!(
        out,
        "Machine: {} cores ({}), {:.0} GiB, Linux {}. Load average before the run: {:.2}.\n",
        machine.cores,
        machine.cpu,
        machine.memory as f64 / MEBIBYTE / 1024.0,
        machine.kernel,
        machine.load_average
    );
}

fn warnings(out: &mut String, digest: &Digest) {
    let mut lines = Vec::new();
    if digest.results.machine.load_average > 0.5 {
        lines.push(
            "Something else was running on the machine when the run began. Throughput and latency suffer from that; \
             ratios and CPU time suffer less."
                .to_owned(),
        );
    }
    for scenario in digest.scenarios().filter(|s| s.unit != Unit::Time) {
        for peer in digest.peers_in(scenario.name).into_iter().filter(|peer| peer.name != NONE) {
            let busy = digest.median(&peer.name, Measure::Busy(scenario.name)).unwrap_or_default();
            if busy > BUSY {
                lines.push(format!(
                    "{} with {}: the generator was busy for {:.0} % of the time, and may have been the bottleneck.",
                    scenario.name,
                    peer.name,
                    busy * 100.0
                ));
            }
        }
    }
    lines.extend(digest.results.failures.iter().map(|failure| {
        let first = failure.lines().next().unwrap_or_default();
        format!("Not measured: {first}")
    }));
    if !lines.is_empty() {
        let _ = writeln!(out, "## Mind\n");
        for line in lines {
            let _ = writeln!(out, "- {line}");
        }
        let _ = writeln!(out);
    }
}

fn bars(out: &mut String, digest: &Digest) {
    let _ = writeln!(out, "## The bar\n");
    let _ = writeln!(out, "| measure | Tulle | compared with | ratio | bar | |\n|---|---|---|---|---|---|");
    let mut missing = Vec::new();
    for bar in BARS {
        match bar.standing(digest) {
            Some(standing) => {
                let _ = writeln!(out, "{}", bar_row(bar, &standing));
            }
            None => missing.push(bar.title),
        }
    }
    let _ = writeln!(
        out,
        "\nRatio: Tulle's median divided by the other's; in brackets the least and the most of the single rounds.\n"
    );
    if !missing.is_empty() {
        let _ = writeln!(out, "Not measured in this run: {}.\n", missing.join("; "));
    }
}

fn bar_row(bar: &Bar, standing: &Standing) -> String {
    let sign = if bar.bound == Bound::AtMost { "≤" } else { "≥" };
    let limit = match bar.reference {
        Reference::Absolute => format!("{sign} {} {}", bar.limit, bar.unit),
        _ => format!("{sign} {} ×", bar.limit),
    };
    let figure = format!("{} {}", with_spread(standing.figure), bar.unit);
    let (other, ratio) = match &standing.other {
        None => (String::new(), String::new()),
        Some((name, of_other)) => {
            let ratio = match standing.ratios {
                Some(ratios) => with_spread(Summary { median: standing.ratio, ..ratios }),
                None => number(standing.ratio),
            };
            (format!("{name}: {}", with_spread(*of_other)), format!("{ratio} ×"))
        }
    };
    let verdict = if standing.met { "met" } else { "**not met**" };
    format!("| {} | {figure} | {other} | {ratio} | {limit} | {verdict} |", bar.title)
}

fn load(out: &mut String, digest: &Digest, scenario: &Scenario) {
    let name = scenario.name;
    let bytes = scenario.unit == Unit::Bytes;
    let _ = writeln!(out, "## {}\n\nCounted: each {}.\n", scenario.title, scenario.what);
    let rate = if bytes { "GB/s" } else { "per s" };
    let _ = writeln!(
        out,
        "| | CPU, {} | client + server side | × Tulle | {rate} | p50 µs | p99 µs | p99.9 µs | added p50 | added p99 | \
         generator busy | errors |\n|---|---|---|---|---|---|---|---|---|---|---|---|",
        unit(scenario)
    );
    for peer in digest.peers_in(name) {
        let peer = peer.name.as_str();
        let of = |measure| digest.summary(peer, measure);
        let median = |measure| digest.median(peer, measure).map_or_else(|| "–".to_owned(), number);
        let spread = |measure| of(measure).map_or_else(|| "–".to_owned(), with_spread);
        let proxied = peer != NONE;
        let cpu = if proxied { spread(Measure::Cpu(name)) } else { String::new() };
        let sides = match proxied {
            true => format!("{} + {}", median(Measure::CpuClient(name)), median(Measure::CpuServer(name))),
            false => String::new(),
        };
        let ratio = digest.median(TULLE, Measure::Cpu(name)).zip(digest.median(peer, Measure::Cpu(name)));
        let ratio = ratio.filter(|_| proxied).map(|(tulle, own)| number(own / tulle)).unwrap_or_default();
        let rate = spread(if bytes { Measure::Throughput(name) } else { Measure::Rate(name) });
        // A stream of bytes has no latency.
        let has_latency = of(Measure::P50(name)).is_some_and(|p50| p50.median > 0.0);
        let latency = |measure| if has_latency { spread(measure) } else { "–".to_owned() };
        let added = |measure: Measure| {
            let pair = of(measure).zip(digest.summary(NONE, measure)).filter(|_| has_latency && proxied);
            pair.map(|(own, none)| number(own.median - none.median)).unwrap_or_default()
        };
        let busy = of(Measure::Busy(name)).map(|busy| format!("{:.0} %", busy.median * 100.0));
        let _ = writeln!(
            out,
            "| {peer} | {cpu} | {sides} | {ratio} | {rate} | {} | {} | {} | {} | {} | {} | {} |",
            latency(Measure::P50(name)),
            latency(Measure::P99(name)),
            latency(Measure::P999(name)),
            added(Measure::P50(name)),
            added(Measure::P99(name)),
            busy.unwrap_or_default(),
            digest.errors(peer, name)
        );
    }
    if let Some(service) = digest.summary(NONE, Measure::CpuService(name)) {
        let _ = writeln!(
            out,
            "\nThe service itself used {} {} without a proxy; it is not counted above.",
            number(service.median),
            unit(scenario)
        );
    }
    let _ = writeln!(out);
}

fn connections(out: &mut String, digest: &Digest, scenario: &Scenario) {
    let _ = writeln!(out, "## {}\n", scenario.title);
    let _ = writeln!(out, "| | KiB of both proxies for each connection | errors |\n|---|---|---|");
    for peer in digest.peers_in(scenario.name).into_iter().filter(|peer| peer.name != NONE) {
        let needed = digest.summary(&peer.name, Measure::PerConnection(scenario.name));
        let needed = needed.map(with_spread).unwrap_or_default();
        let _ = writeln!(out, "| {} | {needed} | {} |", peer.name, digest.errors(&peer.name, scenario.name));
    }
    let _ = writeln!(
        out,
        "\nA request on each, then a pause, in which memory is read, then another. No other load was there before.\n"
    );
}

fn memory(out: &mut String, digest: &Digest) {
    let _ = writeln!(out, "## Memory, start, size\n");
    let _ = writeln!(
        out,
        "MiB of the larger of the two sides, all its processes together: resident (VmRSS), of that anonymous, and \
         proportional (Pss), in which pages that several processes share count in parts. Start: from the start of the client \
         side's proxy to the first answer through the pair.\n"
    );
    let _ = writeln!(
        out,
        "| | resident idle | after load | anonymous idle | after load | proportional idle | after load | start, ms | binary, MB |\n\
         |---|---|---|---|---|---|---|---|---|"
    );
    for peer in digest.results.peers.iter().filter(|peer| peer.name != NONE) {
        let of = |measure| digest.summary(&peer.name, measure).map(with_spread).unwrap_or_default();
        let (idle, after) = (Moment::Idle, Moment::AfterLoad);
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            peer.name,
            of(Measure::Resident(idle)),
            of(Measure::Resident(after)),
            of(Measure::Anonymous(idle)),
            of(Measure::Anonymous(after)),
            of(Measure::Proportional(idle)),
            of(Measure::Proportional(after)),
            of(Measure::Start),
            peer.binary_bytes.map(|bytes| number(bytes as f64 / 1e6)).unwrap_or_default()
        );
    }
    let _ = writeln!(out);
}

fn peers(out: &mut String, digest: &Digest) {
    let _ = writeln!(out, "## Who was compared\n");
    for peer in &digest.results.peers {
        if peer.version.is_empty() {
            let _ = writeln!(out, "**{}**: {}\n", peer.name, peer.title);
            continue;
        }
        let _ = writeln!(
            out,
            "**{}**: {}. {}, from {}; between the proxies: {}.\n",
            peer.name, peer.title, peer.version, peer.package, peer.between
        );
        for setting in &peer.settings {
            let _ = writeln!(out, "- {setting}");
        }
        let _ = writeln!(out);
    }
}

fn with_spread(summary: Summary) -> String {
    if summary.least == summary.most {
        return number(summary.median);
    }
    format!("{} ({}–{})", number(summary.median), number(summary.least), number(summary.most))
}

#[cfg(test)]
mod tests {
    use super::super::tests::results;
    use super::*;

    #[test]
    fn the_report_has_everything_that_was_measured() {
        let results = results();
        let text = write(&Digest { results: &results }, &[]);
        for expected in [
            "| HTTP/1.1 flat out: CPU | 3.00 (2.00–4.00) s per 100k | haproxy-h2: 4.00 | 0.750 (0.500–1.00) × | ≤ 1 × | met |",
            "Not measured in this run: HTTP/1.1 at 2,000/s: CPU;",
            "| Start to first request | 30.0 ms |  |  | ≤ 25 ms | **not met** |",
            "| haproxy-h2 | 4.00 | 2.00 + 2.00 | 1.33 | 50,000 |",
            "http1 with tulle: the generator was busy for 95 %",
            "Not measured: nginx takes no part",
            "- one worker",
        ] {
            assert!(text.contains(expected), "{expected}\n\n{text}");
        }
    }
}
