//! `tulle-bench flows`: what runs of Flows cost, beside the goals for it. Each case has a mesh of its own, made anew.

mod disk;
mod figures;
mod mesh;
mod overhead;
mod requests;
mod throughput;
mod waiting;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::event;
use crate::run::ports::Ports;
use crate::run::process::complete;
use crate::run::{interrupt, machine};

use figures::{Figure, FlowFigures};
use mesh::FlowMesh;

const VERSION: Duration = Duration::from_secs(30);

/// Measures runs of Flows.
#[derive(clap::Args)]
pub struct FlowOptions {
    /// Tulle's binary; a release build, for figures that mean something
    #[arg(long, value_name = "FILE", default_value = "target/release/tulle")]
    tulle: PathBuf,
    /// Only these
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_enum, default_values_t = FlowCase::ALL)]
    case: Vec<FlowCase>,
    /// Where the stores lie while it measures, in a folder that is removed afterwards: how long a run takes
    /// depends on this disk [default: the folder for temporary files]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// How many clients start runs at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
    /// How long each measurement takes [default: 10; 3 with --short]
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// The load runs for so long before each measurement [default: 2; 1 with --short]
    #[arg(long, value_name = "SECONDS")]
    warmup: Option<f64>,
    /// How many runs wait [default: 100000; 10000 with --short]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    waiting: Option<u64>,
    /// How long they are watched [default: 10; 5 with --short]
    #[arg(long, value_name = "SECONDS")]
    rest: Option<f64>,
    /// Shorter measurements, and fewer runs that wait
    #[arg(long)]
    short: bool,
    /// Writes all figures into this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fails where a goal is missed
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum FlowCase {
    /// Runs a second, and their CPU
    Throughput,
    /// What a Flow adds to its calls
    Overhead,
    /// What runs that wait cost
    Waiting,
}

impl FlowCase {
    const ALL: [Self; 3] = [Self::Throughput, Self::Overhead, Self::Waiting];

    const fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Overhead => "overhead",
            Self::Waiting => "waiting",
        }
    }

    fn measure(self, mesh: &FlowMesh, settings: &CaseSettings) -> Result<Vec<Figure>> {
        match self {
            Self::Throughput => throughput::measure(mesh, settings),
            Self::Overhead => overhead::measure(mesh, settings),
            Self::Waiting => waiting::measure(mesh, settings),
        }
    }
}

/// How long and how much.
struct CaseSettings {
    clients: u32,
    seconds: f64,
    warmup: f64,
    waiting: u64,
    rest: f64,
}

impl FlowOptions {
    fn settings(&self) -> Result<CaseSettings> {
        let default =
            |given: Option<f64>, long, short| given.unwrap_or(if self.short { short } else { long });
        let settings = CaseSettings {
            clients: self.clients,
            seconds: default(self.seconds, 10.0, 3.0),
            warmup: default(self.warmup, 2.0, 1.0),
            waiting: self.waiting.unwrap_or(if self.short { 10_000 } else { 100_000 }),
            rest: default(self.rest, 10.0, 5.0),
        };
        for (name, seconds) in [("--seconds", settings.seconds), ("--rest", settings.rest)] {
            ensure!((0.1..=600.0).contains(&seconds), "{name}: 0.1 to 600");
        }
        ensure!((0.0..=600.0).contains(&settings.warmup), "--warmup: 0 to 600");
        Ok(settings)
    }
}

pub fn run(options: &FlowOptions) -> Result<()> {
    let settings = options.settings()?;
    let tulle = std::path::absolute(&options.tulle)?;
    ensure!(tulle.is_file(), "there is no {}: build it, or name another: --tulle", tulle.display());
    interrupt::watch()?;
    // What is started inherits it.
    event::allow_many_files();
    let parent = options.folder.clone().unwrap_or_else(std::env::temp_dir);
    let folder = tempfile::Builder::new().prefix("tulle-flows-").tempdir_in(std::path::absolute(parent)?)?;
    let version = complete("tulle", Command::new(&tulle).arg("--version"), VERSION)?;
    let mut found = FlowFigures {
        tulle: version.trim().to_owned(),
        machine: machine::describe(),
        disk: disk::look_at(folder.path())?,
        figures: Vec::new(),
        failures: Vec::new(),
    };
    describe(&found);
    let mut ports = Ports::new();
    for case in &options.case {
        match measure(*case, &tulle, folder.path(), &mut ports, &settings) {
            Ok(figures) => {
                figures.iter().for_each(|figure| println!("{}", figure.line()));
                found.figures.extend(figures);
            }
            // The others are still worth measuring.
            Err(error) => {
                interrupt::check()?;
                let failure = format!("{}: {error:#}", case.name());
                eprintln!("{failure}");
                found.failures.push(failure);
            }
        }
    }
    if let Some(path) = &options.json {
        found.write(path)?;
    }
    ensure!(found.failures.is_empty(), "{} of the cases failed", found.failures.len());
    let missed = found.figures.iter().filter(|figure| figure.is_missed()).count();
    ensure!(missed == 0 || !options.strict, "{missed} goals are missed");
    Ok(())
}

fn describe(found: &FlowFigures) {
    let (machine, disk) = (&found.machine, &found.disk);
    println!(
        "{}, {} cores ({}), load {:.1}; 4 KiB are on the disk after {:.2} ms (p99 {:.2} ms)",
        found.tulle, machine.cores, machine.cpu, machine.load_average, disk.sync_p50, disk.sync_p99
    );
    if disk.in_memory {
        eprintln!("the stores lie in memory (tmpfs): name a folder on a disk (--folder)");
    }
}

fn measure(
    case: FlowCase,
    tulle: &Path,
    folder: &Path,
    ports: &mut Ports,
    settings: &CaseSettings,
) -> Result<Vec<Figure>> {
    let mesh = FlowMesh::start(tulle, &folder.join(case.name()), ports)?;
    case.measure(&mesh, settings).map_err(|error| mesh.explain(error))
}
