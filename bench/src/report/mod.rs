//! The report of a run: medians, spreads and ratios as tables (report.md), and plots beside it.

mod bars;
mod digest;
mod markdown;
mod plots;
mod statistics;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::run::results::Results;
use digest::Digest;

#[derive(clap::Args)]
pub struct ReportOptions {
    /// The results of a run: results.json
    results: PathBuf,
    /// Where the report goes [default: beside the results]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn run(options: &ReportOptions) -> Result<()> {
    let results = Results::read(&options.results)?;
    let beside = options.results.parent().unwrap_or(Path::new("."));
    write(&results, options.out.as_deref().unwrap_or(beside))
}

/// Writes the report into `folder`.
pub fn write(results: &Results, folder: &Path) -> Result<()> {
    let digest = Digest { results };
    let plots = plots::all(&digest);
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let write = |file: &str, text: &str| {
        let path = folder.join(file);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    for plot in &plots {
        write(plot.file, &plot.svg)?;
    }
    write("report.md", &markdown::write(&digest, &plots))?;
    println!("report: {}", folder.join("report.md").display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Latency;
    use crate::run::results::{FORMAT, Load, Machine, Memory, PeerInfo, Sample, Settings, Start};

    /// A run of three rounds with Tulle, two other peers and no proxy.
    pub(super) fn results() -> Results {
        let peer = |name: &str, own| PeerInfo {
            name: name.to_owned(),
            title: name.to_owned(),
            between: "HTTP/2".to_owned(),
            package: "somewhere".to_owned(),
            version: if name == "none" { String::new() } else { "1.0".to_owned() },
            settings: vec!["one worker".to_owned()],
            binary_bytes: Some(1_000_000),
            own,
        };
        let sample = |peer: &str, round, cpu: f64, rate: f64| Sample {
            round,
            scenario: "http1".to_owned(),
            peer: peer.to_owned(),
            load: Load {
                connections: 64,
                seconds: 2.0,
                requests: 100_000,
                rate,
                busy: if peer == "tulle" { 0.95 } else { 0.5 },
                latency: Latency {
                    p50: 100.0,
                    p90: 150.0,
                    p99: 200.0,
                    p99_9: 300.0,
                    max: 400.0,
                    mean: 110.0,
                },
                ..Load::default()
            },
            cpu_client: cpu / 2.0,
            cpu_server: cpu / 2.0,
            cpu_service: 1.0,
            cpu_control: 0.0,
            memory_before_client: Memory::default(),
            memory_before_server: Memory::default(),
            memory_client: Memory::default(),
            memory_server: Memory::default(),
        };
        let mut results = Results {
            format: FORMAT,
            machine: Machine {
                kernel: "6.1".to_owned(),
                cpu: "x".to_owned(),
                cores: 2,
                memory: 1 << 34,
                load_average: 0.0,
            },
            settings: Settings { rounds: 3, seconds: 2.0, warmup: 0.5 },
            peers: vec![
                peer("none", false),
                peer("haproxy-h1", false),
                peer("haproxy-h2", false),
                peer("tulle", true),
            ],
            samples: Vec::new(),
            starts: vec![Start { round: 0, peer: "tulle".to_owned(), milliseconds: 30.0 }],
            memory: vec![crate::run::results::MemorySample {
                round: 0,
                peer: "tulle".to_owned(),
                moment: crate::run::results::Moment::Idle,
                client: Memory { resident: 10 << 20, anonymous: 2 << 20, proportional: 5 << 20 },
                server: Memory::default(),
            }],
            failures: vec!["nginx takes no part: it is not installed\nmore".to_owned()],
        };
        for (round, cpu) in [2.0, 3.0, 4.0].into_iter().enumerate() {
            results.samples.push(sample("none", round, 0.0, 100_000.0));
            results.samples.push(sample("haproxy-h1", round, 5.0, 20_000.0));
            results.samples.push(sample("haproxy-h2", round, 4.0, 50_000.0));
            results.samples.push(sample("tulle", round, cpu, 30_000.0));
        }
        results
    }

    #[test]
    fn a_report_can_be_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("results.json");
        results().write(&file).unwrap();
        run(&ReportOptions { results: file.clone(), out: None }).unwrap();
        let report = std::fs::read_to_string(folder.path().join("report.md")).unwrap();
        assert!(report.contains("(cpu.svg)") && folder.path().join("cpu.svg").is_file());

        let other = std::fs::read_to_string(&file).unwrap().replacen("\"format\": 1", "\"format\": 0", 1);
        std::fs::write(&file, other).unwrap();
        assert!(Results::read(&file).unwrap_err().to_string().contains("format 0"));
    }
}
