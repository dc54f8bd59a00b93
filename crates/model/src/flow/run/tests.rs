//! Runs whose calls and timers a simulation answers, and a naive interpreter beside them.

mod kept;
mod naive;
mod random;
mod simulation;

use std::sync::Arc;

use serde_json::{Value, json};

use self::simulation::{Simulation, info, settle};

use super::*;
use crate::flow::fault::FaultKind;
use crate::flow::workflow::{
    Backoff, CallEndpoint, Catch, Directive, DurationValue, ErrorFilter, Fork, HttpCall, HttpOutput, Loop,
    RetryPolicy, SwitchCase, Task, TaskKind, TaskList, Transformation, Try, Uri, UriTemplate,
};

/// Builds a workflow from its tasks.
#[derive(Default)]
pub(super) struct WorkflowBuilder {
    tasks: Vec<Task>,
}

impl WorkflowBuilder {
    /// A task under this reference.
    pub fn task(&mut self, reference: &str, kind: TaskKind) -> TaskId {
        self.tasks.push(Task {
            name: reference.rsplit('/').next().unwrap_or_default().into(),
            reference: reference.into(),
            condition: None,
            input: Transformation::default(),
            output: Transformation::default(),
            export: Transformation::default(),
            timeout: None,
            then: Directive::Continue,
            kind,
        });
        TaskId(u32::try_from(self.tasks.len()).unwrap() - 1)
    }

    pub fn last(&mut self) -> &mut Task {
        self.tasks.last_mut().unwrap()
    }

    pub fn workflow(self, steps: &[TaskId]) -> Arc<Workflow> {
        Arc::new(Workflow {
            name: "w".into(),
            version: "1.0.0".into(),
            definition: Arc::new(json!({})),
            input: Transformation::default(),
            output: Transformation::default(),
            timeout: None,
            secrets: vec![],
            tasks: self.tasks,
            steps: steps.into(),
        })
    }
}

const VARIABLES: &[&str] =
    &["context", "input", "output", "task", "workflow", "runtime", "item", "index", "error"];

pub(super) fn expression(text: &str) -> Expression {
    Expression::parse(text, VARIABLES).unwrap()
}

pub(super) fn template(value: Value) -> Template {
    Template::parse(&value, VARIABLES).unwrap()
}

pub(super) fn call() -> TaskKind {
    let literal = crate::flow::workflow::UriPart::Literal("http://a/".into());
    TaskKind::Call(Box::new(HttpCall {
        method: template(json!("get")),
        endpoint: CallEndpoint { uri: Uri::Template(UriTemplate(vec![literal])), authentication: None },
        headers: None,
        query: None,
        body: None,
        output: HttpOutput::Content,
        redirect: false,
    }))
}

pub(super) fn constant(millis: u64) -> DurationValue {
    DurationValue::Constant(std::time::Duration::from_millis(millis))
}

fn list(tasks: &[TaskId]) -> TaskList {
    tasks.into()
}

/// A run that is given `{n: 0, items: [7, 8]}`, and whose calls take 100 ms and say how many of their path were before.
fn simulate(workflow: &Arc<Workflow>) -> Simulation<'static> {
    let world: &'static simulation::World = &|_, before| (100, Ok(json!({ "n": before })));
    Simulation::new(workflow, &info(json!({ "n": 0, "items": [7, 8] }), 1), world)
}

fn completed(run: &Run) -> &Value {
    match run.phase() {
        RunPhase::Completed(output) => output,
        other => panic!("{other:?}"),
    }
}

fn faulted(run: &Run) -> &Fault {
    match run.phase() {
        RunPhase::Faulted(fault) => fault,
        other => panic!("{other:?}"),
    }
}

/// Two calls, one after the other.
fn two_calls() -> Arc<Workflow> {
    let mut builder = WorkflowBuilder::default();
    let tasks = [0, 1].map(|at| builder.task(&format!("/do/{at}/t{at}"), call()));
    builder.workflow(&tasks)
}

#[test]
fn a_run_that_is_suspended_goes_on_with_what_has_happened_meanwhile() {
    let mut simulation = simulate(&two_calls());
    simulation.happens(1_010, RunEvent::Suspended);
    assert_eq!(*simulation.run.phase(), RunPhase::Suspended);
    // Its call is answered, and nothing follows.
    assert!(simulation.next());
    assert!(!simulation.next());
    assert_eq!((simulation.calls.len(), simulation.run.phase()), (1, &RunPhase::Suspended));
    // What is answered is not asked again, although nothing has come of it yet.
    assert!(simulation.run.orders_again().is_empty());
    simulation.happens(5_000, RunEvent::Suspended);
    simulation.happens(9_000, RunEvent::Resumed);
    assert_eq!(*simulation.run.phase(), RunPhase::Running);
    assert_eq!(simulation.calls.last().map(|(at, _)| *at), Some(9_000));
    let again = Run::restore(two_calls(), simulation.run.info.clone(), &simulation.run.checkpoint().unwrap());
    assert_eq!(again.unwrap().state, simulation.run.state);
    let ended = simulation.ended();
    assert_eq!(completed(&ended.run)["n"], 0);
}

#[test]
fn a_run_that_is_cancelled_waits_for_nothing() {
    for suspended in [false, true] {
        let mut simulation = simulate(&two_calls());
        if suspended {
            simulation.happens(1_010, RunEvent::Suspended);
        }
        simulation.happens(1_020, RunEvent::Cancelled);
        assert_eq!(*simulation.run.phase(), RunPhase::Cancelled);
        assert!(simulation.run.orders_again().is_empty() && !simulation.next());
        simulation.happens(1_030, RunEvent::Resumed);
        assert_eq!(*simulation.run.phase(), RunPhase::Cancelled);
    }
}

#[test]
fn what_was_not_asked_changes_nothing() {
    let mut simulation = simulate(&two_calls());
    let before = simulation.run.checkpoint().unwrap();
    let answer = |ask| RunEvent::Answered { ask: AskId(ask), result: Ok(Arc::new(json!(1))) };
    for event in [answer(7), RunEvent::Fired { ask: AskId(0) }, RunEvent::Resumed] {
        simulation.run.take(1_000, event);
        assert_eq!(simulation.run.checkpoint().unwrap(), before);
    }
    // Nor what is answered twice.
    simulation.happens(1_100, answer(0));
    let before = simulation.run.checkpoint().unwrap();
    simulation.run.take(1_100, answer(0));
    assert_eq!(simulation.run.checkpoint().unwrap(), before);
}

#[test]
fn a_run_that_begins_too_many_tasks_faults() {
    // A task that leads to itself, and a loop with too many turns.
    let mut builder = WorkflowBuilder::default();
    let again = builder.task("/do/0/again", TaskKind::Set(template(json!({}))));
    builder.last().then = Directive::To(0);
    let run = simulate(&builder.workflow(&[again])).ended();
    let fault = faulted(&run.run);
    assert_eq!((fault.status, &*fault.instance), (500, "/do/0/again"));
    assert!(fault.detail.as_deref().unwrap().contains("has begun 200 tasks"), "{fault:?}");
    // Nor does it help to catch that, and to try again at once.
    let mut builder = WorkflowBuilder::default();
    let error = template(json!({ "type": "https://e.test/x", "status": 500 }));
    let raise = builder.task("/do/0/try/try/0/raise", TaskKind::Raise(error));
    let retry = Some(Arc::new(RetryPolicy::default()));
    let catch = Catch { retry, variable: "error".into(), ..Catch::default() };
    let attempt = builder.task("/do/0/try", TaskKind::Try(Try { body: list(&[raise]), catch }));
    let run = simulate(&builder.workflow(&[attempt])).ended();
    assert_eq!(&*faulted(&run.run).instance, "/do/0/try/try/0/raise");
    assert_eq!(run.run.tasks(), 201);
}

#[test]
fn turns_without_tasks_take_no_stack() {
    let mut builder = WorkflowBuilder::default();
    let each = TaskKind::For(Loop {
        each: "item".into(),
        at: "index".into(),
        items: expression("."),
        condition: None,
        body: list(&[]),
    });
    let each = builder.task("/do/0/each", each);
    let workflow = builder.workflow(&[each]);
    let run = std::thread::Builder::new().stack_size(256 << 10).spawn(move || {
        let world: &simulation::World = &|_, _| (0, Ok(json!(1)));
        let items: Vec<u32> = (0..40_000).collect();
        let run = Simulation::new(&workflow, &info(json!(items), 1), world).ended();
        completed(&run.run).as_array().map(Vec::len)
    });
    assert_eq!(run.unwrap().join().unwrap(), Some(40_000));
}

#[test]
fn what_branches_make_together_is_bounded() {
    let mut builder = WorkflowBuilder::default();
    let text = "x".repeat(3_000);
    let branches = [0, 1].map(|at| {
        let value = template(json!({ "text": text }));
        builder.task(&format!("/do/0/fork/fork/branches/{at}/b"), TaskKind::Set(value))
    });
    let fork = TaskKind::Fork(Fork { branches: list(&branches), compete: false });
    let fork = builder.task("/do/0/fork", fork);
    let run = simulate(&builder.workflow(&[fork])).ended();
    let fault = faulted(&run.run);
    assert_eq!(&*fault.instance, "/do/0/fork");
    assert!(fault.detail.as_deref().unwrap().contains("over 4096 bytes"), "{fault:?}");
}

#[test]
fn calls_are_told_apart_by_their_place_and_turn_alone() {
    let mut builder = WorkflowBuilder::default();
    let ask = builder.task("/use/functions/ask", call());
    let inner = builder.task("/do/0/each/do/0/try/try/0/ask", TaskKind::Function { task: ask, with: None });
    let body = Try {
        body: list(&[inner]),
        catch: Catch {
            retry: Some(Arc::new(RetryPolicy { attempts: Some(1), ..RetryPolicy::default() })),
            variable: "error".into(),
            ..Catch::default()
        },
    };
    let attempt = builder.task("/do/0/each/do/0/try", TaskKind::Try(body));
    let each = TaskKind::For(Loop {
        each: "item".into(),
        at: "index".into(),
        items: expression(".items"),
        condition: None,
        body: list(&[attempt]),
    });
    let each = builder.task("/do/0/each", each);
    // The first attempt of each fails: the second is the same call.
    let world: &simulation::World = &|_, before| match before {
        0 => (10, Err(FaultKind::Communication.fault("away"))),
        _ => (10, Ok(json!({ "n": 1 }))),
    };
    let info = info(json!({ "items": [7, 8] }), 1);
    let run = Simulation::new(&builder.workflow(&[each]), &info, world).ended();
    let place = "@/do/0/each/do/0/try/try/0/ask";
    let path = |turn: usize| format!("/use/functions/ask[{turn}]{place}");
    let calls: Vec<_> = run.calls.iter().map(|(_, path)| path.to_string()).collect();
    assert_eq!(calls, [path(0), path(0), path(1), path(1)]);
    assert_eq!(*completed(&run.run), json!({ "n": 1 }));
}

#[test]
fn who_looks_at_a_run_is_told_of_its_steps() {
    let mut builder = WorkflowBuilder::default();
    let first = builder.task("/do/0/ask", call());
    let skipped = builder.task("/do/1/not", TaskKind::Wait(constant(5)));
    builder.last().condition = Some(expression("false"));
    let wait = builder.task("/do/2/wait", TaskKind::Wait(constant(1_000)));
    builder.last().timeout = Some(constant(10));
    let workflow = builder.workflow(&[first, skipped, wait]);
    let mut run = Run::begin_watched(workflow, info(json!({ "n": 0 }), 1));
    settle(&mut run);
    let result = Ok(Arc::new(json!({ "n": 9 })));
    run.take(1_050, RunEvent::Answered { ask: AskId(0), result });
    settle(&mut run);
    let timeout = run.orders_again().iter().find_map(|order| match order {
        Order::Timer { ask, due: 1_060 } => Some(*ask),
        _ => None,
    });
    run.take(1_060, RunEvent::Fired { ask: timeout.unwrap() });
    let steps = run.take_steps();
    let told: Vec<_> = steps
        .iter()
        .map(|step| {
            let what = format!("{:?}", step.what);
            let what = what.split([' ', '{', '(']).next().unwrap_or_default().to_owned();
            format!("{} {} {what}", step.at, step.path)
        })
        .collect();
    assert_eq!(
        told,
        [
            "1000 /do/0/ask Began",
            "1000 /do/0/ask Asked",
            "1050 /do/0/ask Ended",
            "1050 /do/1/not Began",
            "1050 /do/1/not Skipped",
            "1050 /do/2/wait Began",
            "1050 /do/2/wait Asked",
            "1060 /do/2/wait Faulted",
        ]
    );
    assert_eq!((faulted(&run).status, &*faulted(&run).instance), (408, "/do/2/wait"));
}

#[test]
fn variables_are_of_their_task() {
    let mut builder = WorkflowBuilder::default();
    let set = builder
        .task("/do/0/t", TaskKind::Set(template(json!({ "task": "${ $task }", "was": "${ $input }" }))));
    let workflow = builder.workflow(&[set]);
    let run = simulate(&workflow).ended();
    let output = completed(&run.run);
    assert_eq!(output["was"], json!({ "n": 0, "items": [7, 8] }));
    let task = &output["task"];
    assert_eq!((&task["name"], &task["reference"]), (&json!("t"), &json!("/do/0/t")));
    assert_eq!(
        task["startedAt"],
        json!({ "iso8601": "1970-01-01T00:00:01.000Z", "epoch": { "seconds": 1, "milliseconds": 1000 } })
    );
}

#[test]
fn jitter_is_the_same_in_each_replay() {
    let policy = RetryPolicy {
        jitter: Some([constant(100), constant(100_000)]),
        attempts: Some(5),
        ..RetryPolicy::default()
    };
    let policy = Arc::new(policy);
    let delays = |seed: u64| {
        let mut builder = WorkflowBuilder::default();
        let call = builder.task("/do/0/try/try/0/ask", call());
        let catch = Catch { retry: Some(policy.clone()), variable: "error".into(), ..Catch::default() };
        let attempt = builder.task("/do/0/try", TaskKind::Try(Try { body: list(&[call]), catch }));
        let workflow = builder.workflow(&[attempt]);
        let world: &simulation::World = &|_, _| (0, Err(FaultKind::Communication.fault("away")));
        let run = Simulation::new(&workflow, &info(json!({}), seed), world).ended();
        let at: Vec<_> = run.calls.iter().map(|(at, _)| *at).collect();
        at.windows(2).map(|two| two[1] - two[0]).collect::<Vec<_>>()
    };
    let first = delays(1);
    assert_eq!(first, delays(1));
    assert_ne!(first, delays(2));
    assert!(first.len() == 5 && first.iter().all(|delay| (100..=100_000).contains(delay)), "{first:?}");
    assert_ne!(first[0], first[1]);
}
