//! What `cargo xtask test` holds a change against beside the tests: clippy, instructions per request, the
//! order of functions, the mutants of what guards. Setting up and most tests wait for most of their time, so what compiles
//! for the gates does it meanwhile, at idle priority: the tests get the processor whenever they want it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, bail};

use crate::setup::{self, Tools};
use crate::{instructions, mutants, order};

const RELEASE: &str = "release build";
const MUTANTS: &str = "mutants";

/// Runs the tests and every gate, also where one of them fails, and names what failed.
pub fn run(root: &Path) -> Result<()> {
    let idle = Idle::start(root);
    idle.then(RELEASE, crate::release_build(root));
    let tools = setup::run(root)?;
    crate::build(root)?;
    idle.then("clippy", crate::clippy(root));
    if let Some(command) = mutants::of_change(root)? {
        idle.then(MUTANTS, command);
    }

    let mut failed = Vec::new();
    let mut note = |what: &str, result: Result<()>| {
        let passed = result.is_ok();
        if let Err(e) = result {
            eprintln!("error: {e:#}");
            failed.push(what.to_owned());
        }
        passed
    };
    note("tests", crate::run(&mut crate::tests(root, &tools, None)));
    for (what, result) in idle.results() {
        let passed = note(what, result);
        if what == RELEASE && passed {
            note("instructions", count(root, &tools));
            note("order", order::run(root, true));
        }
        if what == MUTANTS {
            // How many were tried, and how many were not.
            println!("{}", last_lines(&said(&crate::target(root).join("gates"), MUTANTS), 1));
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Where every tool is demanded, a figure that cannot be had is a failure too.
fn count(root: &Path, tools: &Tools) -> Result<()> {
    match instructions::run(root, false, &[])? {
        Some(why) if tools.complete => bail!("instructions cannot be counted: {why}"),
        Some(why) => println!("instructions are not counted: {why}"),
        None => {}
    }
    Ok(())
}

/// Commands that run one after the other, each when the processor has nothing else to do. Their own processes end
/// with this program.
struct Idle {
    commands: mpsc::Sender<(&'static str, Command)>,
    results: mpsc::Receiver<(&'static str, Result<()>)>,
}

impl Idle {
    fn start(root: &Path) -> Self {
        let folder = crate::target(root).join("gates");
        let (commands, waiting) = mpsc::channel::<(&'static str, Command)>();
        let (done, results) = mpsc::channel();
        thread::spawn(move || {
            for (what, command) in waiting {
                // Nobody waits for the result where the tests could not be built.
                let _ = done.send((what, run_idle(what, &command, &folder)));
            }
        });
        Self { commands, results }
    }

    fn then(&self, what: &'static str, command: Command) {
        self.commands.send((what, command)).expect("the thread ends after its commands");
    }

    /// What became of each command, as soon as it has ended, in the order of the commands.
    fn results(self) -> impl Iterator<Item = (&'static str, Result<()>)> {
        drop(self.commands);
        self.results.into_iter()
    }
}

/// What the command says is kept in a file, and shown if it fails: tests print meanwhile.
fn run_idle(what: &str, command: &Command, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let said = said(folder, what);
    let output = File::create(&said).with_context(|| said.display().to_string())?;
    let mut idle = Command::new("setpriv");
    idle.args(["--pdeathsig", "KILL", "chrt", "--idle", "0"]);
    idle.arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        idle.current_dir(folder);
    }
    idle.stderr(output.try_clone()?).stdout(output);
    let status = idle.status().context("setpriv (Debian package util-linux) could not be started")?;
    if !status.success() {
        bail!("{what}: {status}\n{}", last_lines(&said, 100));
    }
    Ok(())
}

/// Where what a command says is kept.
fn said(folder: &Path, what: &str) -> PathBuf {
    folder.join(what.replace(' ', "-")).with_extension("txt")
}

/// The end of what a compiler said; the file has the rest.
fn last_lines(said: &Path, shown: usize) -> String {
    let text = std::fs::read_to_string(said).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(shown)..].join("\n")
}
