//! What `cargo xtask test` holds a change against beside the tests: clippy, instructions per request, the
//! order of functions, the mutants of what guards. Most tests wait for most of their time, so what compiles
//! for the gates does it meanwhile, at idle priority: the tests get the processor whenever they want it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail};

use crate::setup::Tools;
use crate::{instructions, mutants, order};

const MUTANTS: &str = "mutants";

/// Runs the tests and every gate, also where one of them fails, and names what failed.
pub fn run(root: &Path, tools: &Tools, tests: &mut Command) -> Result<()> {
    // Clippy comes late: `cargo test` must have the lock of its folder first.
    let mut commands = vec![("release build", crate::release_build(root)), ("clippy", crate::clippy(root))];
    let mutants = mutants::of_change(root)?;
    let tried = mutants.is_some();
    commands.extend(mutants.map(|command| (MUTANTS, command)));
    let compiling = Idle::start(root, commands);
    let mut failed = Vec::new();
    let mut note = |what: &str, result: Result<()>| {
        if let Err(e) = result {
            eprintln!("error: {e:#}");
            failed.push(what.to_owned());
        }
    };
    note("tests", crate::run(tests));
    for (what, result) in compiling.finish() {
        note(what, result);
    }
    if tried {
        // How many were tried, and how many were not.
        println!("{}", last_lines(&said(&crate::target(root).join("gates"), MUTANTS), 1));
    }
    note("instructions", count(root, tools));
    note("order", order::run(root, true));
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

type Finished = Vec<(&'static str, Result<()>)>;

/// Commands that run one after the other, each when the processor has nothing else to do.
struct Idle(JoinHandle<Finished>);

impl Idle {
    fn start(root: &Path, commands: Vec<(&'static str, Command)>) -> Self {
        let folder = crate::target(root).join("gates");
        let perform = move || {
            commands.into_iter().map(|(what, command)| (what, run_idle(what, &command, &folder))).collect()
        };
        Self(thread::spawn(perform))
    }

    fn finish(self) -> Finished {
        self.0.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// What the command says is kept in a file, and shown if it fails: tests print meanwhile.
fn run_idle(what: &str, command: &Command, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let said = said(folder, what);
    let output = File::create(&said).with_context(|| said.display().to_string())?;
    let mut idle = Command::new("chrt");
    idle.args(["--idle", "0"]).arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        idle.current_dir(folder);
    }
    idle.stderr(output.try_clone()?).stdout(output);
    let status = idle.status().context("chrt (Debian package util-linux) could not be started")?;
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
