//! Has the product's runner carry out a workflow, in a time of its own; and again with another one that takes over wherever the first may
//! die.

use std::sync::Arc;

use serde_json::Value;
use tulle_flow::evaluator::Evaluator;
use tulle_flow::runner::{Clock as _, GivenRun, Replay, Runner, RunnerLimits};
use tulle_model::flow::history::{HistoryEntry, Outcome as Ended, RunName, Then};
use tulle_model::flow::run::{Order, Run, RunPhase, RunStep, RunStepKind};
use tulle_model::flow::scope::{Millis, RunInfo};
use tulle_model::flow::workflow::Workflow;

use super::services::{Elsewhere, Sent, Service, WorldCaller};
use crate::memory::{Crash, MemoryBook, RunFacts, TestClock, all_wait};

/// 2026-01-02T03:04:05.678Z
pub const STARTED: Millis = 1_767_323_045_678;
/// How much happens in a run at most.
const MOST_EVENTS: usize = 10_000;

/// What a run is given, and what is around it.
#[derive(Clone)]
pub struct World {
    pub input: Value,
    pub secrets: Value,
    pub services: Vec<Service>,
    pub elsewhere: Elsewhere,
    /// When it is cancelled, after its start.
    pub cancelled: Option<Millis>,
    /// Whether what it comes to hangs on what its runner alone knows, such as tokens.
    pub has_one_runner: bool,
}

/// What has become of a run.
pub struct Outcome {
    pub workflow: Arc<Workflow>,
    pub phase: RunPhase,
    pub steps: Vec<RunStep>,
    pub sent: Vec<Sent>,
    pub took: Millis,
    /// All that was kept of it.
    pub kept: String,
    appends: usize,
}

/// Carries it out, and then again with each crash that there may be: all comes to the same.
pub async fn run(workflow: Workflow, world: &World, evaluator: &Evaluator) -> Result<Outcome, String> {
    let workflow = Arc::new(workflow);
    let outcome = carried_out(&workflow, world, evaluator, None).await?;
    for at in 0..if world.has_one_runner { 0 } else { outcome.appends } {
        for is_written in [false, true] {
            let crash = Crash { at, is_written };
            let other = carried_out(&workflow, world, evaluator, Some(crash)).await;
            let other = other.map_err(|why| format!("after {crash:?}: {why}"))?;
            let shown = |outcome: &Outcome| {
                let of_tasks = outcome.sent.iter().filter(|sent| !sent.key.is_empty());
                let mut sent: Vec<_> =
                    of_tasks.map(|sent| format!("{} {} at {}", sent.key, sent.path, sent.at)).collect();
                sent.sort();
                format!("{:?} in {} with {sent:?}", outcome.phase, outcome.took)
            };
            if shown(&outcome) != shown(&other) {
                return Err(format!("after {crash:?} it is {}, and not {}", shown(&other), shown(&outcome)));
            }
        }
    }
    Ok(outcome)
}

async fn carried_out(
    workflow: &Arc<Workflow>,
    world: &World,
    evaluator: &Evaluator,
    crash: Option<Crash>,
) -> Result<Outcome, String> {
    let info = Arc::new(RunInfo {
        id: "run-1".into(),
        input: Arc::new(world.input.clone()),
        started: STARTED,
        seed: 7,
        most_tasks: 500,
        most_bytes: 64 << 10,
    });
    let id = RunName { namespace: "kit".into(), flow: workflow.name.clone(), run: info.id.clone() };
    let listed = |name: &str| workflow.secrets.iter().any(|listed| **listed == *name);
    let secrets = world.secrets.as_object().into_iter().flatten();
    let secrets = secrets.filter(|(name, _)| listed(name)).map(|(name, keys)| (name.clone(), keys.clone()));
    let (book, clock) = (MemoryBook::default(), TestClock::new(STARTED));
    book.begin(RunFacts {
        id: id.clone(),
        info: info.clone(),
        workflow: workflow.clone(),
        secrets: Value::Object(secrets.collect()),
    });
    if let Some(crash) = crash {
        book.crash(crash);
    }
    let caller = WorldCaller::new(world.clone(), clock.clone());
    let new = || {
        let (book, caller, clock) = (book.clone(), caller.clone(), clock.clone());
        Runner::new(book, caller, evaluator.clone(), clock, RunnerLimits::default())
    };
    let mut runner = new();
    let give = |runner: &Runner<_, _, _>| {
        // Somebody else is there at once.
        let given = GivenRun { nobody_since: Some(clock.now()), ..book.lease(&id, Vec::new()) };
        runner.carry_on(given).map_err(|e| e.to_string())
    };
    give(&runner)?;
    let mut cancelled = world.cancelled.map(|after| STARTED + after);
    for _ in 0..MOST_EVENTS {
        all_wait(evaluator).await;
        if book.has_crashed() {
            let (run, steps) = watched(workflow, &info, &book.entered(&id).entries, evaluator).await;
            caller.gives_up(&unended(&run, &steps));
            runner.drop_all();
            runner = new();
            book.crash(Crash { at: usize::MAX, is_written: false });
            if !matches!(book.entered(&id).then, Then::Ends(..)) {
                give(&runner)?;
                continue;
            }
        }
        let (is_held, then) = (!runner.held().is_empty(), book.entered(&id).then);
        if let Then::Ends(at, outcome) = then {
            let entered = book.entered(&id);
            let (run, steps) = watched(workflow, &info, &entered.entries, evaluator).await;
            let phase = match outcome {
                Ended::Completed(output) => RunPhase::Completed(output),
                Ended::Faulted(fault) => RunPhase::Faulted(fault),
                Ended::Cancelled => RunPhase::Cancelled,
            };
            if *run.phase() != phase {
                return Err(format!("its history leads to {:?}, and not to {phase:?}", run.phase()));
            }
            return Ok(Outcome {
                workflow: workflow.clone(),
                phase,
                steps,
                sent: caller.sent()?,
                took: at - STARTED,
                kept: serde_json::to_string(&entered.entries).unwrap_or_default(),
                appends: book.appends(),
            });
        }
        let next = match then {
            Then::Waits(until) if !is_held => until,
            _ => clock.next().ok_or("it waits for nothing")?,
        };
        if let Some(at) = cancelled.take_if(|at| next > *at) {
            clock.set(at);
            book.cancel(&id, at);
            runner.lost(&id, book.entered(&id).lease);
            continue;
        }
        clock.set(next);
        if !is_held {
            give(&runner)?;
        }
    }
    Err("it does not end".to_owned())
}

/// What its history has led to.
async fn watched(
    workflow: &Arc<Workflow>,
    info: &Arc<RunInfo>,
    entries: &[HistoryEntry],
    evaluator: &Evaluator,
) -> (Run, Vec<RunStep>) {
    let mut replay = Replay::new(workflow.clone(), info.clone());
    let added = replay.add(entries.to_vec(), evaluator).await;
    added.expect("what was answered is answered");
    replay.now(evaluator).await
}

/// The calls that it waits for, each with how many of its path were ordered.
fn unended(run: &Run, steps: &[RunStep]) -> Vec<(Arc<str>, usize)> {
    let asked = |path: &str| {
        let is = |step: &&RunStep| matches!(step.what, RunStepKind::Asked { .. }) && *step.path == *path;
        steps.iter().filter(is).count()
    };
    let calls = run.orders_again().into_iter().filter_map(|order| match order {
        Order::Call(call) => Some((call.path.clone(), asked(&call.path))),
        Order::Timer { .. } | Order::Forget(_) => None,
    });
    calls.collect()
}
