//! What is kept of runs can be read again, and be gone back in.

use serde_json::json;

use super::super::*;
use super::simulation::{Simulation, World, info};
use super::{WorkflowBuilder, call, constant, expression, faulted, list, simulate, template};
use crate::flow::fault::FaultKind;
use crate::flow::history::{HistoryEntry, lasting};
use crate::flow::workflow::{Catch, Fork, Loop, RetryPolicy, TaskKind, Try};

fn deep(depth: usize) -> Value {
    (0..depth).fold(json!(1), |inner, _| json!([inner]))
}

#[test]
fn a_checkpoint_can_be_read_however_deep_tasks_and_values_are() {
    let mut builder = WorkflowBuilder::default();
    let mut task = builder.task("/do/0/ask", call());
    for level in 0..NESTING {
        let each = TaskKind::For(Loop {
            each: format!("item{level}").into(),
            at: "index".into(),
            items: expression("[.]"),
            condition: None,
            body: list(&[task]),
        });
        task = builder.task("/do/0/each", each);
    }
    let workflow = builder.workflow(&[task]);
    let world: &World = &|_, _| (100, Ok(deep(NESTING)));
    let mut simulation = Simulation::new(&workflow, &info(deep(NESTING - 1), 1), world);
    simulation.happens(1_010, RunEvent::Suspended);
    assert!(simulation.next());
    let checkpoint = simulation.run.checkpoint().unwrap();
    let again = Run::restore(workflow, simulation.run.info.clone(), &checkpoint).unwrap();
    assert_eq!(again.state, simulation.run.state);
}

#[test]
fn an_input_that_is_too_deep_is_none() {
    let mut builder = WorkflowBuilder::default();
    let ask = builder.task("/do/0/ask", call());
    let workflow = builder.workflow(&[ask]);
    assert_eq!(*Run::begin(workflow.clone(), info(deep(NESTING), 1)).phase(), RunPhase::Running);
    let run = Run::begin(workflow, info(deep(NESTING + 1), 1));
    assert_eq!((faulted(&run).status, &*faulted(&run).instance), (400, "/"));
    assert!(run.orders_again().is_empty() && run.question().is_none());
}

#[test]
fn what_branches_make_together_is_no_deeper_than_a_value_may_be() {
    for (depth, expected) in [(NESTING - 1, false), (NESTING, true)] {
        let mut builder = WorkflowBuilder::default();
        let branch = builder.task("/do/0/fork/fork/branches/0/b", TaskKind::Set(template(deep(depth))));
        let fork = TaskKind::Fork(Fork { branches: list(&[branch]), compete: false });
        let fork = builder.task("/do/0/fork", fork);
        let run = simulate(&builder.workflow(&[fork])).ended();
        assert_eq!(matches!(run.run.phase(), RunPhase::Faulted(_)), expected, "{depth}");
        if expected {
            let why = faulted(&run.run).detail.clone().unwrap();
            assert!(why.ends_with("over 100 arrays and objects within one another"), "{why}");
        }
    }
}

#[test]
fn what_was_gone_back_from_is_nothing_of_the_run() {
    let event = |number: u32| RunEvent::Fired { ask: AskId(number) };
    let retried = |entries| RunEvent::Retried { entries, number: 1 };
    let numbers = |first: u32, events: Vec<RunEvent>| {
        let entries: Vec<_> = events.into_iter().map(|event| HistoryEntry::new(1, event)).collect();
        lasting(first, &entries).into_iter().map(|(number, _)| number).collect::<Vec<_>>()
    };
    assert_eq!(numbers(0, vec![]), [0; 0]);
    assert_eq!(numbers(7, vec![event(1), event(2)]), [7, 8]);
    assert_eq!(numbers(0, vec![event(0), event(1), retried(1), event(3)]), [0, 2, 3]);
    assert_eq!(numbers(0, vec![event(0), retried(0), event(2), retried(3), event(4)]), [1, 2, 3, 4]);
    assert_eq!(numbers(0, vec![event(0), event(1), retried(1), event(3), retried(2)]), [0, 1, 4]);
    // Where the rest is in a checkpoint, and where it says what cannot be.
    assert_eq!(numbers(5, vec![event(5), event(6), retried(6), event(8)]), [5, 7, 8]);
    assert_eq!(numbers(5, vec![event(5), retried(2)]), [6]);
    assert_eq!(numbers(0, vec![retried(9), event(1)]), [0, 1]);
}

#[test]
fn what_is_gone_back_to_takes_as_long_as_it_would_have() {
    let mut builder = WorkflowBuilder::default();
    let ask = builder.task("/do/0/try/try/0/ask", call());
    builder.last().timeout = Some(constant(500));
    let retry =
        RetryPolicy { duration: Some(constant(2_000)), delay: Some(constant(600)), ..RetryPolicy::default() };
    let catch = Catch { retry: Some(Arc::new(retry)), variable: "error".into(), ..Catch::default() };
    let attempt = builder.task("/do/0/try", TaskKind::Try(Try { body: list(&[ask]), catch }));
    let world: &World = &|_, _| (100, Err(FaultKind::Communication.fault("away")));
    let mut simulation = Simulation::new(&builder.workflow(&[attempt]), &info(json!({}), 1), world);
    // Long after all of it would have been over.
    simulation.run.take(90_000, RunEvent::Retried { entries: 0, number: 1 });
    let orders = simulation.run.orders_again();
    let due = orders.iter().find_map(|order| match order {
        Order::Timer { due, .. } => Some(*due),
        _ => None,
    });
    assert_eq!(due, Some(90_500));
    assert!(orders.iter().any(|order| matches!(order, Order::Call(call) if call.retries == 1)));
    simulation
        .run
        .take(90_100, RunEvent::Answered { ask: AskId(1), result: Err(FaultKind::Runtime.fault("x")) });
    assert_eq!(*simulation.run.phase(), RunPhase::Running, "there is time for another attempt");
}
