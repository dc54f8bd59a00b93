//! Carries out a run in a time of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::super::*;
use crate::flow::expression::{Given, LARGEST, Variables};
use crate::flow::fault::FaultKind;

pub fn info(input: Value, seed: u64) -> Arc<RunInfo> {
    Arc::new(RunInfo {
        id: "r".into(),
        input: Arc::new(input),
        started: 1_000,
        seed,
        most_tasks: 200,
        most_bytes: 4_096,
    })
}

/// The answer to a question. Of the simulation's expressions all are simple.
pub fn evaluate(asked: EvaluationKind<'_>, scope: &Scope) -> Result<Value, Fault> {
    let used: Vec<&str> = match asked {
        EvaluationKind::Expression(expression) => expression.variables_used().collect(),
        EvaluationKind::Template(template) => {
            template.expressions().into_iter().flat_map(Expression::variables_used).collect()
        }
        EvaluationKind::Schema(_) => return Ok(Value::Null),
    };
    let values: Vec<_> = used.iter().map(|name| (*name, scope.variable(name).unwrap_or_default())).collect();
    let variables = values.iter().fold(Variables::new(), |all, (name, value)| all.with(name, value));
    let given =
        Given { input: &scope.on, variables: &variables, now: scope.now as f64 / 1000.0, largest: LARGEST };
    let value = match asked {
        EvaluationKind::Expression(expression) => expression.evaluate_simple(given),
        EvaluationKind::Template(template) => template.evaluate_simple(given),
        EvaluationKind::Schema(_) => None,
    };
    value.unwrap().map_err(|error| FaultKind::Expression.fault(error.to_string()))
}

/// What the world answers to a call, and after how long: as its path and how often it was made before say.
pub type World = dyn Fn(&str, u32) -> (Millis, Result<Value, Fault>);

/// A run, with all that it waits for.
pub struct Simulation<'w> {
    pub run: Run,
    pub history: Vec<(Millis, RunEvent)>,
    /// When a call was made, and which.
    pub calls: Vec<(Millis, Arc<str>)>,
    world: &'w World,
    waiting: BTreeMap<(Millis, AskId), RunEvent>,
    now: Millis,
}

impl<'w> Simulation<'w> {
    pub fn new(workflow: &Arc<Workflow>, info: &Arc<RunInfo>, world: &'w World) -> Self {
        let run = Run::begin(workflow.clone(), info.clone());
        let now = info.started;
        let mut simulation =
            Self { run, history: vec![], calls: vec![], world, waiting: BTreeMap::new(), now };
        simulation.settle();
        simulation
    }

    /// Answers all questions, and takes up what is ordered.
    fn settle(&mut self) {
        settle(&mut self.run);
        for order in self.run.take_orders() {
            match order {
                Order::Call(call) => {
                    let before = self.calls.iter().filter(|(_, path)| *path == call.path).count();
                    self.calls.push((self.now, call.path.clone()));
                    let (after, result) = (self.world)(&call.path, before as u32);
                    let result = result.map(Arc::new);
                    self.waiting
                        .insert((self.now + after, call.ask), RunEvent::Answered { ask: call.ask, result });
                }
                Order::Timer { ask, due } => {
                    self.waiting.insert((due, ask), RunEvent::Fired { ask });
                }
                Order::Forget(ask) => self.waiting.retain(|(_, of), _| *of != ask),
            }
        }
    }

    /// What happens next does; whether something did.
    pub fn next(&mut self) -> bool {
        let Some(((at, _), event)) = self.waiting.pop_first() else { return false };
        self.happens(at, event);
        true
    }

    pub fn happens(&mut self, at: Millis, event: RunEvent) {
        self.now = at;
        self.history.push((at, event.clone()));
        self.run.take(at, event);
        self.settle();
    }

    pub fn ended(mut self) -> Self {
        while self.next() {}
        self
    }
}

/// Answers all questions of a run.
pub fn settle(run: &mut Run) {
    while let Some(question) = run.question() {
        let answer = evaluate(question.asked, &question.scope);
        run.answer(answer);
    }
}
