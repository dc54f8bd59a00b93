//! Plots as SVG, drawn by hand: bars side by side for each scenario, and latency by percentile.

use std::fmt::Write as _;

use crate::run::NONE;
use crate::run::results::Moment;
use crate::run::scenarios::{Scenario, Unit};

use super::digest::{Digest, Measure, unit};
use super::statistics::{Summary, number};

/// A plot and the file that it is to be in.
pub struct Plot {
    pub file: &'static str,
    pub title: &'static str,
    pub svg: String,
}

const WIDTH: f64 = 900.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 130.0;
const BAR: f64 = 16.0;
const GAP: f64 = 4.0;
/// Room for the title of the plot.
const TOP: f64 = 56.0;
/// Room for the title of a group of bars.
const HEAD: f64 = 30.0;
/// Colours that the colour-blind can tell apart; Tulle's and that of no proxy are set.
const COLOURS: &[&str] =
    &["#0072b2", "#56b4e9", "#009e73", "#e69f00", "#f0c862", "#cc79a7", "#8c6bb1", "#7f5539"];
const TULLE: &str = "#d1345b";
const TULLE_VARIANT: &str = "#eea3b5";
const NO_PROXY: &str = "#9aa0a6";

pub fn all(digest: &Digest) -> Vec<Plot> {
    let mut plots = Vec::new();
    let mut add = |file, title, svg: Option<String>| plots.extend(svg.map(|svg| Plot { file, title, svg }));
    add(
        "cpu.svg",
        "CPU time of the pair",
        bars_by_scenario(digest, "CPU time of the pair (less is better)", |s| {
            (s.unit != Unit::Time).then(|| (Measure::Cpu(s.name), unit(s)))
        }),
    );
    add(
        "rate.svg",
        "Throughput",
        bars_by_scenario(digest, "Throughput (more is better)", |s| match s.unit {
            // At a fixed rate all have the same.
            Unit::Requests => (!s.fixed_rate).then_some((Measure::Rate(s.name), "per s")),
            Unit::Bytes => Some((Measure::Throughput(s.name), "GB/s")),
            Unit::Time => None,
        }),
    );
    add("latency.svg", "Latency at a fixed rate", latency(digest));
    add("memory.svg", "Memory", memory(digest));
    plots
}

/// A bar with what stands beside it.
struct ChartBar {
    label: String,
    colour: &'static str,
    value: Summary,
}

/// Bars of one scale.
struct Group {
    title: String,
    bars: Vec<ChartBar>,
}

fn bars_by_scenario(
    digest: &Digest,
    title: &str,
    measure: impl Fn(&'static Scenario) -> Option<(Measure, &'static str)>,
) -> Option<String> {
    let mut groups = Vec::new();
    for scenario in digest.scenarios() {
        let Some((measure, unit)) = measure(scenario) else { continue };
        // Beside no proxy at all the others could not be told apart.
        let peers = digest.peers_in(scenario.name).into_iter().filter(|peer| peer.name != NONE);
        let bar = |name: &str| {
            let value = digest.summary(name, measure)?;
            Some(ChartBar { label: name.to_owned(), colour: colour(digest, name), value })
        };
        let bars: Vec<_> = peers.filter_map(|peer| bar(&peer.name)).collect();
        let none = digest.median(NONE, measure).filter(|value| *value > 0.0);
        let none = none.map(|value| format!(" (no proxy: {})", number(value))).unwrap_or_default();
        groups.push(Group { title: format!("{}, {unit}{none}", scenario.title), bars });
    }
    draw_bars(title, &groups)
}

fn memory(digest: &Digest) -> Option<String> {
    let group = |title: &str, measure| {
        let peers = digest.results.peers.iter();
        let bars = peers.filter_map(|peer| {
            let value = digest.summary(&peer.name, measure)?;
            Some(ChartBar { label: peer.name.clone(), colour: colour(digest, &peer.name), value })
        });
        Group { title: format!("{title}, MiB"), bars: bars.collect() }
    };
    let groups = [
        group("Idle, one request served", Measure::Resident(Moment::Idle)),
        group("After all scenarios", Measure::Resident(Moment::AfterLoad)),
    ];
    draw_bars("Resident memory of the larger side (less is better)", &groups)
}

fn draw_bars(title: &str, groups: &[Group]) -> Option<String> {
    let groups: Vec<_> = groups.iter().filter(|group| !group.bars.is_empty()).collect();
    if groups.is_empty() {
        return None;
    }
    let height_of = |group: &Group| HEAD + group.bars.len() as f64 * (BAR + GAP) + 14.0;
    let height = TOP + groups.iter().map(|group| height_of(group)).sum::<f64>();
    let mut svg = open(title, height);
    let room = WIDTH - LEFT - RIGHT;
    let mut y = TOP;
    for group in groups {
        let most = group.bars.iter().map(|bar| bar.value.most).fold(0.0, f64::max);
        let scale = if most > 0.0 { room / most } else { 0.0 };
        text(&mut svg, 12.0, y + 16.0, "start", "group", &group.title);
        y += HEAD;
        for bar in &group.bars {
            let middle = y + BAR / 2.0;
            let length = (bar.value.median * scale).max(1.0);
            text(&mut svg, LEFT - 8.0, middle + 4.0, "end", "label", &bar.label);
            let _ = writeln!(
                svg,
                r#"<rect x="{LEFT}" y="{y:.1}" width="{length:.1}" height="{BAR}" rx="2" fill="{}"/>"#,
                bar.colour
            );
            // From the least to the most of the rounds.
            let (from, to) = (LEFT + bar.value.least * scale, LEFT + bar.value.most * scale);
            if to - from > 1.0 {
                let _ = writeln!(
                    svg,
                    r#"<path d="M{from:.1} {middle:.1}H{to:.1}M{from:.1} {a:.1}v6M{to:.1} {a:.1}v6" class="spread"/>"#,
                    a = middle - 3.0
                );
            }
            text(
                &mut svg,
                to.max(LEFT + length) + 6.0,
                middle + 4.0,
                "start",
                "value",
                &number(bar.value.median),
            );
            y += BAR + GAP;
        }
        y += 14.0;
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

/// A line for each peer through its percentiles, on a logarithmic scale, for each scenario of a fixed rate.
fn latency(digest: &Digest) -> Option<String> {
    let scenarios: Vec<_> = digest.scenarios().filter(|scenario| scenario.fixed_rate).collect();
    if scenarios.is_empty() {
        return None;
    }
    let panel = 380.0;
    let mut svg = open("Latency at a fixed rate, µs (less is better)", TOP + panel * scenarios.len() as f64);
    for (i, scenario) in scenarios.into_iter().enumerate() {
        let y = TOP + panel * i as f64;
        text(&mut svg, 12.0, y + 16.0, "start", "group", scenario.title);
        lines(&mut svg, digest, scenario, y + HEAD + 6.0, panel - HEAD - 50.0);
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

fn lines(svg: &mut String, digest: &Digest, scenario: &'static Scenario, top: f64, height: f64) {
    let name = scenario.name;
    let percentiles = [
        ("p50", Measure::P50(name)),
        ("p90", Measure::P90(name)),
        ("p99", Measure::P99(name)),
        ("p99.9", Measure::P999(name)),
    ];
    let lines: Vec<_> = digest
        .peers_in(name)
        .into_iter()
        // Variants of Tulle differ in cost; here they would hide the others.
        .filter(|peer| !peer.own || peer.name == "tulle")
        .map(|peer| {
            let points = percentiles.iter().filter_map(|(_, measure)| digest.median(&peer.name, *measure));
            (peer.name.as_str(), points.map(|value| value.max(1.0)).collect::<Vec<_>>())
        })
        .filter(|(_, points)| points.len() == percentiles.len())
        .collect();
    let values = lines.iter().flat_map(|(_, points)| points.iter().copied());
    let Some(range) = Summary::of(values) else { return };
    // Whole steps of 1, 2, 5 around all values.
    let ticks: Vec<f64> =
        (0..8).flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(power))).collect();
    let low = ticks.iter().copied().filter(|tick| *tick <= range.least).fold(1.0, f64::max);
    let high = ticks.iter().copied().find(|tick| *tick >= range.most).unwrap_or(range.most);
    let (left, right) = (80.0, WIDTH - 190.0);
    let y_of = |value: f64| top + height * (1.0 - (value / low).ln() / (high / low).ln().max(f64::EPSILON));
    let x_of = |i: usize| left + 30.0 + (right - left - 60.0) * i as f64 / (percentiles.len() - 1) as f64;
    for tick in ticks.iter().filter(|tick| (low..=high).contains(*tick)) {
        let y = y_of(*tick);
        let _ = writeln!(svg, r#"<path d="M{left} {y:.1}H{right}" class="grid"/>"#);
        text(svg, left - 8.0, y + 4.0, "end", "label", &number(*tick));
    }
    for (i, (label, _)) in percentiles.iter().enumerate() {
        text(svg, x_of(i), top + height + 20.0, "middle", "label", label);
    }
    // Names beside the ends of their lines, moved apart where they would overlap.
    let mut ends: Vec<_> = lines.iter().map(|(name, points)| (y_of(points[3]), *name)).collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut last = f64::NEG_INFINITY;
    for (y, name) in ends {
        last = y.max(last + 15.0);
        let _ = writeln!(
            svg,
            r#"<path d="M{:.1} {y:.1}L{:.1} {last:.1}" stroke="{}" class="leader"/>"#,
            x_of(3) + 4.0,
            right + 4.0,
            colour(digest, name)
        );
        text(svg, right + 8.0, last + 4.0, "start", "label", name);
    }
    for (name, points) in &lines {
        let colour = colour(digest, name);
        let path: Vec<_> =
            points.iter().enumerate().map(|(i, v)| format!("{:.1} {:.1}", x_of(i), y_of(*v))).collect();
        let _ = writeln!(
            svg,
            r#"<path d="M{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
            path.join("L")
        );
        for (i, value) in points.iter().enumerate() {
            let _ = writeln!(
                svg,
                r#"<circle cx="{:.1}" cy="{:.1}" r="3.5" fill="{colour}"><title>{name}: {} µs</title></circle>"#,
                x_of(i),
                y_of(*value),
                number(*value)
            );
        }
    }
}

fn colour(digest: &Digest, name: &str) -> &'static str {
    if name == NONE {
        return NO_PROXY;
    }
    let own = digest.results.peers.iter().any(|peer| peer.name == name && peer.own);
    if own {
        return if name == "tulle" { TULLE } else { TULLE_VARIANT };
    }
    let place = digest.others().position(|peer| peer.name == name).unwrap_or_default();
    COLOURS[place % COLOURS.len()]
}

fn open(title: &str, height: f64) -> String {
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0}" viewBox="0 0 {WIDTH} {height:.0}" role="img">
<style>
text {{ font: 12px system-ui, sans-serif; fill: #202124 }}
.title {{ font-size: 18px; font-weight: 600 }}
.group {{ font-size: 13px; font-weight: 600 }}
.spread {{ stroke: #202124; stroke-opacity: .6; fill: none }}
.grid {{ stroke: #dadce0; fill: none }}
.leader {{ stroke-opacity: .5; fill: none }}
</style>
<rect width="100%" height="100%" fill="#ffffff"/>
"##
    );
    text(&mut svg, 12.0, 30.0, "start", "title", title);
    svg
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, class: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ =
        writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" class="{class}">{text}</text>"#);
}

#[cfg(test)]
mod tests {
    use super::super::tests::results;
    use super::*;

    #[test]
    fn plots_show_every_peer() {
        let results = results();
        let plots = all(&Digest { results: &results });
        let files: Vec<_> = plots.iter().map(|plot| plot.file).collect();
        assert_eq!(files, ["cpu.svg", "rate.svg", "memory.svg"]);
        let cpu = &plots[0].svg;
        assert!(
            cpu.contains(">tulle</text>")
                && cpu.contains(">haproxy-h2</text>")
                && cpu.contains(">3.00</text>")
        );
        assert!(!cpu.contains(">none</text>") && plots[1].svg.contains("(no proxy: 100,000)"));
        assert!(cpu.trim_end().ends_with("</svg>") && !cpu.contains("NaN"));
    }
}
