//! Runs that wait for an hour: they are to cost no CPU, and little memory.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::run::interrupt;

use super::figures::{Figure, Goal};
use super::mesh::{FlowMesh, Used};
use super::requests::Requests;
use super::{CaseSettings, FlowCase};

const CASE: &str = FlowCase::Waiting.name();
const MIB: f64 = (1 << 20) as f64;
/// All have to have begun by then: the first must not be over before the last is measured.
const STARTING: Duration = Duration::from_mins(30);
/// After so many it is said how far it has come.
const PORTION: u64 = 10_000;
/// How long those rest who were told that there are too many just now.
const REFUSED: Duration = Duration::from_secs(1);
/// What is still to be done after the last start is over by then.
const SETTLE: Duration = Duration::from_secs(10);

pub fn measure(mesh: &FlowMesh, settings: &CaseSettings) -> Result<Vec<Figure>> {
    pause(SETTLE)?;
    let (without, before) = (rest(mesh, settings)?, memory(mesh));
    let begun = Instant::now();
    let accepted = start(mesh, settings, begun)?;
    let starting = begun.elapsed().as_secs_f64();
    pause(SETTLE)?;
    let (with, [server, node]) = (rest(mesh, settings)?, memory(mesh));
    // Asked last, as the answer is large.
    let waiting = mesh.runs("waits", "waiting").unwrap_or_else(|error| {
        eprintln!("waiting: those that were accepted are counted, as they cannot be listed: {error:#}");
        accepted
    });
    let core = |used: Used| (used.server + used.node) / settings.rest * 100.0;
    Ok(vec![
        Figure::new(CASE, "runs that wait", waiting as f64, "")
            .against(Goal::AtLeast(settings.waiting as f64)),
        Figure::new(CASE, "starts", accepted as f64 / starting, "/s"),
        Figure::new(CASE, "share of a core at rest, without runs", core(without), "%"),
        Figure::new(CASE, "share of a core at rest", core(with), "%"),
        Figure::new(CASE, "what the runs add to that", core(with) - core(without), "%")
            .against(Goal::AtMost(1.0)),
        Figure::new(CASE, "memory of server and node, without runs", before[0].0 + before[1].0, "MiB"),
        Figure::new(CASE, "memory of server and node", server.0 + node.0, "MiB").against(Goal::AtMost(200.0)),
        Figure::new(CASE, "memory of the server", server.0, "MiB"),
        Figure::new(CASE, "memory of the node", node.0, "MiB"),
        Figure::new(CASE, "of the server without the program's pages", server.1, "MiB"),
        Figure::new(CASE, "of the node without the program's pages", node.1, "MiB"),
    ])
}

/// Starts all runs; returns how many were accepted.
fn start(mesh: &FlowMesh, settings: &CaseSettings, begun: Instant) -> Result<u64> {
    let mut accepted = 0;
    while accepted < settings.waiting {
        interrupt::check()?;
        let left = STARTING.saturating_sub(begun.elapsed());
        ensure!(!left.is_zero(), "{accepted} of {} runs were started within {STARTING:?}", settings.waiting);
        let requests = Requests {
            connections: settings.clients,
            seconds: left.as_secs_f64(),
            at_most: Some((settings.waiting - accepted).min(PORTION)),
            respond_async: true,
            ..Requests::of("waits", mesh.proxy())
        };
        let load = requests.make()?;
        ensure!(load.errors == 0, "{} requests that start runs were not answered", load.errors);
        accepted += load.requests - load.non_2xx;
        eprintln!("waiting: {accepted} of {} runs started, {:.0}/s", settings.waiting, load.rate);
        if load.non_2xx > 0 {
            eprintln!("waiting: {} starts were refused", load.non_2xx);
            pause(REFUSED)?;
        }
    }
    Ok(accepted)
}

/// What is used while nobody asks for anything.
fn rest(mesh: &FlowMesh, settings: &CaseSettings) -> Result<Used> {
    let before = mesh.used();
    pause(Duration::from_secs_f64(settings.rest))?;
    let after = mesh.used();
    Ok(Used { server: after.server - before.server, node: after.node - before.node })
}

/// In MiB, of the server and of the node: all that is resident, and what no file stands behind.
fn memory(mesh: &FlowMesh) -> [(f64, f64); 2] {
    mesh.memory().map(|memory| (memory.resident as f64 / MIB, memory.anonymous as f64 / MIB))
}

fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        interrupt::check()?;
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
    Ok(())
}
