//! `tulle-bench run`: starts everything, measures in rounds, keeps the results and makes the report.
//!
//! Rounds are outermost, and in each every contender does every scenario once, right after the others:
//! what else the machine does meanwhile meets all of them alike.

pub mod accounting;
mod certificates;
mod contender;
mod description;
pub mod interrupt;
pub mod machine;
mod measure;
mod mesh;
mod pair;
pub mod ports;
pub mod process;
mod programs;
pub mod results;
pub mod scenarios;
pub mod service;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use contender::Contender;
pub use contender::NONE;
use description::Description;
use mesh::{Mesh, SHAPES};
use pair::Pair;
use ports::Ports;
use programs::Programs;
use results::{FORMAT, MemorySample, Moment, Results, Settings, Start};
use scenarios::{SCENARIOS, Scenario};
use service::Service;

/// What is read before the first load: the pools of allocators have settled by then.
const SETTLE: Duration = Duration::from_millis(500);

/// Compares Tulle with other proxies, side by side.
#[derive(clap::Args)]
pub struct RunOptions {
    /// Where results, report and plots go
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
    /// Tulle's binary; a release build, for figures that mean something
    #[arg(long, value_name = "FILE", default_value = "target/release/tulle")]
    tulle: PathBuf,
    /// Another build of Tulle, to be compared with as NAME (repeatable)
    #[arg(long, value_name = "NAME=FILE", value_parser = parse_build)]
    beside: Vec<(String, PathBuf)>,
    /// Descriptions of further pairs (repeatable)
    #[arg(long, value_name = "FILE")]
    peer: Vec<PathBuf>,
    /// The folder with the descriptions of the project's own pairs
    #[arg(long, value_name = "DIR", default_value = "bench/peers")]
    descriptions: PathBuf,
    /// Where programs are looked for first (repeatable)
    #[arg(long, value_name = "DIR")]
    programs: Vec<PathBuf>,
    /// Only these, by their names: none, tulle, tulle-one-node, tulle-1, tulle-1000, tulle-routes, or a
    /// described pair's [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    peers: Vec<String>,
    /// Only these scenarios [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    scenario: Vec<String>,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// How long each measurement takes
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    seconds: f64,
    /// The load runs for so long before each measurement
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    warmup: f64,
    /// One round of very short measurements: shows that everything runs; its figures mean nothing
    #[arg(long)]
    quick: bool,
}

fn parse_build(text: &str) -> Result<(String, PathBuf), String> {
    let good = |name: &&str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let build = text.split_once('=').filter(|(name, _)| good(name));
    let (name, file) = build.ok_or("expected NAME=FILE, the name of letters, digits and -")?;
    Ok((name.to_owned(), file.into()))
}

pub fn run(options: &RunOptions) -> Result<()> {
    interrupt::watch()?;
    allow_many_files()?;
    let settings = options.settings();
    let scenarios = options.scenarios()?;
    let mut bench = Bench::prepare(options, settings, scenarios)?;
    let absent = bench.results.failures.len();
    for round in 0..bench.results.settings.rounds {
        bench.round(round)?;
        bench.results.write(&options.out.join("results.json"))?;
    }
    crate::report::write(&bench.results, &options.out)?;
    let failures = bench.results.failures.len() - absent;
    ensure!(failures == 0, "{failures} measurements failed; what could be measured is in the report");
    Ok(())
}

/// A thousand idle connections are some thousand files in each proxy, more than shells allow by default. What
/// is started inherits it.
fn allow_many_files() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

impl RunOptions {
    fn settings(&self) -> Settings {
        if self.quick {
            return Settings { rounds: 1, seconds: 0.8, warmup: 0.2 };
        }
        Settings { rounds: self.rounds.max(1), seconds: self.seconds, warmup: self.warmup }
    }

    fn scenarios(&self) -> Result<Vec<&'static Scenario>> {
        if self.scenario.is_empty() {
            return Ok(SCENARIOS.iter().collect());
        }
        let find = |name: &String| {
            let names: Vec<_> = SCENARIOS.iter().map(|s| s.name).collect();
            scenarios::find(name).with_context(|| format!("no scenario `{name}`: {}", names.join(", ")))
        };
        self.scenario.iter().map(find).collect()
    }

    fn wants(&self, name: &str) -> bool {
        self.peers.is_empty() || self.peers.iter().any(|peer| peer == name)
    }
}

/// All that a run needs, started.
struct Bench {
    results: Results,
    scenarios: Vec<&'static Scenario>,
    contenders: Vec<Contender>,
    programs: Programs,
    service: Service,
    // Dropped last: everything above has files there.
    _folder: tempfile::TempDir,
}

impl Bench {
    fn prepare(options: &RunOptions, settings: Settings, scenarios: Vec<&'static Scenario>) -> Result<Self> {
        ensure!(
            settings.seconds > 0.0 && settings.seconds < 3600.0,
            "--seconds: more than 0, less than 3600"
        );
        ensure!(settings.warmup >= 0.0 && settings.warmup < 600.0, "--warmup: 0 to 600");
        fs::create_dir_all(&options.out)
            .with_context(|| format!("cannot make the folder {}", options.out.display()))?;
        let folder = tempfile::Builder::new().prefix("tulle-bench-").tempdir()?;
        let programs = Programs::new(&options.programs);
        let mut ports = Ports::new();
        let service = Service::start(folder.path(), &mut ports)?;
        let certificates = certificates::make(folder.path())?;

        let mut descriptions = Description::all_in(&options.descriptions)?;
        for path in &options.peer {
            descriptions.push(Description::read(path)?);
        }
        let mut names: Vec<_> = descriptions.iter().map(|d| d.name.clone()).collect();
        names.extend(SHAPES.iter().map(|shape| shape.name.to_owned()).chain([NONE.to_owned()]));
        if let Some(unknown) = options.peers.iter().find(|peer| !names.contains(peer)) {
            bail!("no peer `{unknown}`: {}", names.join(", "));
        }
        let mut contenders = Vec::new();
        let mut failures = Vec::new();
        if options.wants(NONE) {
            contenders.push(Contender::none(&service));
        }
        for description in descriptions.into_iter().filter(|d| options.wants(&d.name)) {
            // Whoever asks for it by name is to hear that it is missing; others get the rest.
            if let Err(error) = description.programs(&programs)
                && options.peers.is_empty()
            {
                eprintln!("without {}: {error:#}", description.name);
                failures.push(format!("{} takes no part: {error:#}", description.name));
                continue;
            }
            let place = folder.path().join(&description.name);
            let pair = Pair::new(description, &place, &programs, &certificates, &service, &mut ports)?;
            contenders.push(Contender::Pair(Box::new(pair)));
        }
        let shapes = SHAPES.iter().filter(|shape| options.wants(shape.name));
        // Variants do some scenarios alone.
        let shapes = shapes.filter(|shape| shape.main || scenarios.iter().any(|scenario| scenario.variants));
        let meshes = shapes.map(|shape| (shape.name, *shape, &options.tulle));
        let builds = options.beside.iter().map(|(name, file)| (name.as_str(), SHAPES[0], file));
        for (name, shape, tulle) in meshes.chain(builds) {
            ensure!(!contenders.iter().any(|c: &Contender| c.name() == name), "there are two peers `{name}`");
            let tulle = std::path::absolute(tulle)?;
            ensure!(tulle.is_file(), "there is no {}: build it, or name another: --tulle", tulle.display());
            let mesh = Mesh::new(name, shape, &tulle, &folder.path().join(name), &service, &mut ports)?;
            contenders.push(Contender::Mesh(Box::new(mesh)));
        }
        let results = Results {
            format: FORMAT,
            machine: machine::describe(),
            settings,
            peers: Vec::new(),
            samples: Vec::new(),
            starts: Vec::new(),
            memory: Vec::new(),
            failures,
        };
        Ok(Self { results, scenarios, contenders, programs, service, _folder: folder })
    }

    fn round(&mut self, round: usize) -> Result<()> {
        let begin = Instant::now();
        let rounds = self.results.settings.rounds;
        for program in self.contenders.iter().filter_map(Contender::program) {
            if let Err(error) = accounting::read_anew(program) {
                fail(&mut self.results, format!("{} is not read anew: {error}", program.display()));
            }
        }
        let mut running = Vec::new();
        for i in turn(self.contenders.len(), round) {
            interrupt::check()?;
            let contender = &mut self.contenders[i];
            match start(contender, &self.programs, &mut self.results, round) {
                Ok(()) => running.push(i),
                // The others are still worth measuring.
                Err(error) => {
                    contender.stop();
                    fail(&mut self.results, format!("{}, round {}: {error:#}", contender.name(), round + 1));
                }
            }
        }
        std::thread::sleep(SETTLE);
        running.sort_unstable();
        let running: Vec<_> = running.into_iter().map(|i| &self.contenders[i]).collect();
        read_memory(&mut self.results, &running, round, Moment::Idle);
        for scenario in &self.scenarios {
            let able: Vec<_> = running.iter().filter(|contender| contender.does(scenario)).collect();
            for i in turn(able.len(), round) {
                interrupt::check()?;
                let contender = able[i];
                let sample =
                    measure::measure(contender, scenario, &self.service, &self.results.settings, round);
                match sample {
                    Ok(sample) => {
                        print_progress(round, rounds, &sample);
                        self.results.samples.push(sample);
                    }
                    Err(error) => {
                        let which = format!("{} with {}", scenario.name, contender.name());
                        fail(&mut self.results, format!("{which}, round {}: {error:#}", round + 1));
                    }
                }
            }
        }
        interrupt::check()?;
        read_memory(&mut self.results, &running, round, Moment::AfterLoad);
        for contender in &mut self.contenders {
            contender.stop();
        }
        println!("round {} of {rounds} took {} s", round + 1, begin.elapsed().as_secs());
        Ok(())
    }
}

/// Starts a contender, and times the start of its client side.
fn start(contender: &mut Contender, programs: &Programs, results: &mut Results, round: usize) -> Result<()> {
    contender.start()?;
    if let Some(time) = contender.time_start()? {
        let milliseconds = time.as_secs_f64() * 1e3;
        results.starts.push(Start { round, peer: contender.name().to_owned(), milliseconds });
    }
    if !results.peers.iter().any(|peer| peer.name == contender.name()) {
        results.peers.push(contender.info(programs)?);
    }
    Ok(())
}

fn fail(results: &mut Results, failure: String) {
    eprintln!("{failure}");
    results.failures.push(failure);
}

fn read_memory(results: &mut Results, running: &[&Contender], round: usize, moment: Moment) {
    for contender in running {
        let parts = contender.parts();
        if parts.client.is_empty() {
            continue;
        }
        results.memory.push(MemorySample {
            round,
            peer: contender.name().to_owned(),
            moment,
            client: accounting::memory(&parts.client),
            server: accounting::memory(&parts.server),
        });
    }
}

/// The order of so many contenders in a round: forth and back in turn, and beginning with another after that. So, in an even
/// number of rounds, each comes before each other as often as after it; who is always the first is slower by 2 %.
fn turn(contenders: usize, round: usize) -> Vec<usize> {
    let mut order: Vec<_> = (0..contenders).collect();
    if let Some(by) = (round / 2).checked_rem(contenders) {
        order.rotate_left(by);
    }
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

fn print_progress(round: usize, rounds: usize, sample: &results::Sample) {
    let cpu = sample.cpu_client + sample.cpu_server;
    println!(
        "{}/{rounds} {:<14} {:<15} {:>9.0}/s  CPU {cpu:6.2} s  p50 {:>7.0} µs  p99 {:>7.0} µs  errors {}",
        round + 1,
        sample.scenario,
        sample.peer,
        sample.load.rate,
        sample.load.latency.p50,
        sample.load.latency.p99,
        sample.load.errors + sample.load.non_2xx,
    );
}

#[cfg(test)]
mod tests {
    use super::turn;

    #[test]
    fn each_contender_comes_before_each_other_as_often_as_after_it() {
        for contenders in 1..6 {
            let orders: Vec<_> = (0..2 * contenders).map(|round| turn(contenders, round)).collect();
            let place = |order: &[usize], of| order.iter().position(|i| *i == of);
            for (a, b) in (0..contenders).flat_map(|a| (0..a).map(move |b| (a, b))) {
                let before = orders.iter().filter(|order| place(order, a) < place(order, b)).count();
                assert_eq!(before, contenders, "{a} before {b} of {contenders}: {orders:?}");
            }
            for a in 0..contenders {
                let first = orders.iter().filter(|order| order[0] == a).count();
                assert_eq!(first, 2, "{a} first of {contenders}: {orders:?}");
            }
        }
        assert!(turn(0, 3).is_empty());
    }
}
