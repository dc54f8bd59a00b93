//! Everything that a developer does: `cargo xtask --help`.

mod bench;
mod circles;
mod code;
mod dependencies;
mod files;
mod fuzz;
mod gates;
mod generated;
mod instructions;
mod mutants;
mod names;
mod order;
mod package;
mod setup;
mod tidy;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Everything that a developer does", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check the house rules, set up what the tests need, run every test, clippy and the gates of the
    /// release build (instructions per request, order of functions), and mutants of what a change touches
    Test {
        /// Only the tests whose name contains this text
        filter: Option<String>,
    },
    /// Break things on purpose and print what users notice: the experiments of `tests/chaos` in full
    Chaos {
        /// Only the experiments whose name contains this text
        filter: Option<String>,
    },
    /// Run conformance tests of others against Tulle: Gateway API's own for a mesh, and its routes (what works, what is refused and
    /// why, what differs), or the kit of the Serverless Workflow DSL (what passes, what is not for us and why, what fails)
    Conformance {
        /// A checkout of kubernetes-sigs/gateway-api or serverlessworkflow/specification, outside of the project, or a
        /// folder of `.feature` files
        folder: PathBuf,
    },
    /// Install what the tests need (nftables, tcpdump, curl, kubectl, systemd, valgrind, packages of PyPI and npm in ./.venv)
    Setup,
    /// Formatting, clippy and the house rules
    Lint,
    /// The house rules alone: direction of dependencies, unused ones, circles of modules, names of types,
    /// file sizes, where `unsafe` may stand
    Tidy,
    /// Write the generated protobuf code anew
    Generate,
    /// Measure Tulle beside other proxies (installs them where it may) and write a report: docs/benchmarks.md
    Bench {
        /// What `tulle-bench run` takes: --quick, --rounds N, --scenario NAMES, --peers NAMES, --peer FILE,
        /// --tulle FILE (built otherwise), --help
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
        options: Vec<OsString>,
    },
    /// Run the fuzz targets, led by coverage: docs/fuzzing.md. Installs cargo-fuzz where it may; needs g++
    Fuzz {
        /// How long each runs
        #[arg(long, default_value_t = 1)]
        minutes: u32,
        /// Only these targets (all otherwise)
        #[arg(value_name = "TARGET")]
        targets: Vec<String>,
    },
    /// Change what guards (TLS, framing, enrolment …) in many small ways, and name the changes that no unit test
    /// notices: docs/mutants.md. Installs cargo-mutants where it may
    Mutants {
        #[command(flatten)]
        selection: mutants::Selection,
    },
    /// Make the Debian package of the release build: target/package/tulle_VERSION_ARCHITECTURE.deb
    Package {
        #[command(flatten)]
        package: package::PackageArgs,
    },
    /// Learn which functions a node runs, for the linker to put them side by side; needs valgrind
    Order {
        /// Only look whether the list that is there fits the binary
        #[arg(long)]
        check: bool,
    },
    /// Count the instructions of requests, and fail where they grew by over 2 %: docs/instructions.md
    Instructions {
        /// Make what is counted the baseline
        #[arg(long)]
        accept: bool,
        /// Count what rules of HTTPRoutes cost, which no baseline has
        #[arg(long, conflicts_with_all = ["accept", "kinds"])]
        rules: bool,
        /// Only these kinds of requests (all otherwise)
        #[arg(value_name = "KIND")]
        kinds: Vec<String>,
    },
}

fn main() -> ExitCode {
    match perform(Arguments::parse().task, &root()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task, root: &Path) -> Result<()> {
    match task {
        Task::Test { filter } => test(root, filter.as_deref()),
        Task::Chaos { filter } => chaos(root, filter.as_deref()),
        Task::Conformance { folder } => conformance(root, &folder),
        Task::Setup => setup::run(root).map(drop),
        Task::Lint => lint(root),
        Task::Tidy => tidy::run(root),
        Task::Fuzz { minutes, targets } => fuzz::run(root, &targets, minutes),
        Task::Mutants { selection } => mutants::run(root, &selection),
        Task::Package { package } => package::run(root, &package),
        Task::Order { check } => order::run(root, check),
        Task::Generate => generated::write(root),
        Task::Bench { options } => bench::run(root, &options),
        Task::Instructions { rules: true, .. } => instructions::rules(root),
        Task::Instructions { accept, kinds, .. } => {
            if let Some(why) = instructions::run(root, accept, &kinds)? {
                println!("instructions are not counted: {why}");
            }
            Ok(())
        }
    }
}

fn test(root: &Path, filter: Option<&str>) -> Result<()> {
    let started = Instant::now();
    tidy::run(root)?;
    run(cargo(root).args(["fmt", "--all", "--check"])).context("run `cargo fmt --all`")?;
    if filter.is_some() {
        let tools = setup::run(root)?;
        build(root)?;
        run(&mut tests(root, &tools, filter))?;
    } else {
        gates::run(root)?;
    }
    println!("all tests passed in {} s", started.elapsed().as_secs());
    Ok(())
}

/// The stories drive the real binary, so it is built first; the same profile as the tests.
fn build(root: &Path) -> Result<()> {
    run(cargo(root).args(["build", "--workspace", "--all-targets"]))
}

fn tests(root: &Path, tools: &setup::Tools, filter: Option<&str>) -> Command {
    let mut tests = cargo_test(root, tools, "debug");
    tests.args(["--workspace", "--no-fail-fast"]);
    tests.args(filter);
    // Stories share the host's ports and cores: one at a time.
    tests.args(["--", "--test-threads", "2"]);
    tests
}

/// In full they need the release binary: some of them measure.
fn chaos(root: &Path, filter: Option<&str>) -> Result<()> {
    let tools = setup::run(root)?;
    run(&mut release(root))?;
    let mut tests = cargo_test(root, &tools, "release");
    tests.env("TULLE_CHAOS_FULL", "1");
    tests.args(["-p", "tulle-tests", "--test", "chaos", "--no-fail-fast"]);
    tests.args(filter);
    tests.args(["--", "--test-threads", "1", "--nocapture"]);
    run(&mut tests)
}

/// The sources of Gateway API's tests are read, and the requests that they say are sent: there is no Go here.
fn conformance(root: &Path, folder: &Path) -> Result<()> {
    let folder = folder.canonicalize().with_context(|| folder.display().to_string())?;
    for features in [folder.join("ctk/features"), folder.clone()] {
        if has_features(&features) {
            let mut tests = cargo(root);
            tests.env("TULLE_CONFORMANCE", features).args(["test", "-q", "-p", "tulle-flow", "--test", "it"]);
            tests.args(["--", "--ignored", "--nocapture", "--exact", "kit::originals"]);
            return run(&mut tests).context("the report above says what fails");
        }
    }
    setup::run(root)?;
    run(cargo(root).args(["build", "-p", "tulle", "-p", "tulle-tests"]))?;
    let debug = target(root).join("debug");
    let mut command = Command::new(debug.join("tulle-conformance"));
    command.env("TULLE_BIN", debug.join("tulle")).env("TULLE_TEST_PYTHON", setup::python(root));
    run(command.arg(folder)).context("the report above says what differs")
}

/// Whether scenarios of workflows are in a folder.
fn has_features(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.path().extension().is_some_and(|is| is == "feature"))
}

/// `cargo test` with the binary of that profile and the tools of the tests.
fn cargo_test(root: &Path, tools: &setup::Tools, profile: &str) -> Command {
    let mut tests = cargo(root);
    tests.arg("test");
    tests.env("TULLE_BIN", target(root).join(profile).join("tulle"));
    tests.env("TULLE_TEST_PYTHON", setup::python(root));
    if tools.complete {
        tests.env("TULLE_TEST_REQUIRE_ALL", "1");
    }
    tests
}

fn lint(root: &Path) -> Result<()> {
    tidy::run(root)?;
    run(cargo(root).args(["fmt", "--all", "--check"])).context("run `cargo fmt --all`")?;
    run(&mut clippy(root))
}

fn clippy(root: &Path) -> Command {
    let mut clippy = cargo(root);
    clippy.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    clippy
}

/// Builds the binary as it is released, and what counts instructions beside it: in one command both have the features
/// of the binary's dependencies, so that these are compiled once.
fn release_build(root: &Path) -> Command {
    let mut build = release(root);
    build.args(["-p", "tulle", "-p", "tulle-hot-path"]);
    build
}

/// Builds as is released, whatever the shell says of incremental builds: those are in many units, which are slower, and most
/// functions of the list that lie side by side have other names there.
fn release(root: &Path) -> Command {
    let mut build = cargo(root);
    build.args(["build", "--release"]).env("CARGO_INCREMENTAL", "0");
    build
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}

fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

fn run(command: &mut Command) -> Result<()> {
    let line = format!("{command:?}");
    let status = command.status().with_context(|| format!("{line} could not be started"))?;
    if !status.success() {
        bail!("{line}: {status}");
    }
    Ok(())
}
